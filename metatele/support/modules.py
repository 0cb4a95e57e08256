"""Importing every module of a package, so that a new file is enough to add a class to it."""

import importlib
import pkgutil


def import_all(package: str) -> None:
    """Import every module of a package that is being imported, so that the classes they define are known."""
    module = importlib.import_module(package)
    for found in pkgutil.iter_modules(module.__path__):
        importlib.import_module(f"{package}.{found.name}")
