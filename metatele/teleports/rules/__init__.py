"""Closed-form rules, one class in one file each; `RULES` lists them as the controls of a learned teleport.

A new file in this folder is found by itself: its rule becomes a control of `metatele compare`, of every claim, and of
the report.
"""

import pkgutil
from importlib import import_module

from metatele.teleports.rules.base import CanonicalTeleport
from metatele.teleports.rules.controls import WHEN, Rule, When, rule_named, rules, when_of

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["WHEN", "CanonicalTeleport", "Rule", "When", "rule_named", "rules", "when_of"]
