"""The groups that come with metatele, one a file: put a file here that defines one, and it is found."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
