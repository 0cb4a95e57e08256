"""Finding the classes of a package, so that a new file is enough to add one."""

import importlib
import pkgutil
from typing import TypeVar

T = TypeVar("T")


def import_all(package: str, base: type) -> None:
    """Import every module of a package that is being imported, so that the classes they define are known.

    Public classes below `base` become attributes of the package, as those that it imports by name are.
    """
    here = importlib.import_module(package)
    for found in pkgutil.iter_modules(here.__path__):
        module = importlib.import_module(f"{package}.{found.name}")
        for name, value in vars(module).items():
            own = isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
            if own and not name.startswith("_"):
                setattr(here, name, value)


def enter(table: dict[str, type[T]], name: str, cls: type[T]) -> None:
    """Enter a class into a table of classes by name. A class that is defined anew, as in a notebook, replaces itself.

    Raises: TypeError if another class has the name.
    """
    other = table.get(name, cls)
    if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise TypeError(
            f"the name {name!r} of {cls.__module__}.{cls.__qualname__} is that of {other.__module__}."
            f"{other.__qualname__}; choose another"
        )
    table[name] = cls
