"""Closed-form rules, one class per file.

A new file in this folder is found automatically: its rule becomes a control of `metatele compare`, of every claim, and
of the report (see `rules`).
"""

from metatele.support.modules import import_all
from metatele.teleports.rules.base import CanonicalTeleport
from metatele.teleports.rules.controls import WHEN, Rule, When, rule_named, rules, when_of

__all__ = ["WHEN", "CanonicalTeleport", "Rule", "When", "rule_named", "rules", "when_of"]

import_all(__name__, CanonicalTeleport)
