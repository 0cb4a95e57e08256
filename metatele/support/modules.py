"""Finding the classes of a package that a file is enough to add to."""

import importlib
import pkgutil


def import_all(package: str) -> None:
    """Import every module of a package that is being imported, so that the classes they define are known."""
    module = importlib.import_module(package)
    for found in pkgutil.iter_modules(module.__path__):
        importlib.import_module(f"{package}.{found.name}")
