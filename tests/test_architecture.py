"""The house: imports point one way, and the public names are those that are listed.

The source is read with ast; nothing is executed to find what imports what.
"""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import metatele

ROOT = Path(__file__).parents[1]
ROOMS = [  # from the ground up: a room imports only rooms before it
    "version",
    "errors",
    "presume",
    "checks",
    "params",
    "seeding",
    "files",
    "device",
    "figures",
    "images",
    "stack",
    "task",
    "sampling",
    "symmetry",
    "functions",
    "landscape",
    "point",
    "torch_state",
    "recurrent",
    "dense_rule",
    "part",
    "update",
    "teleports",
    "torch_model",
    "optimizer",
    "inner_loop",
    "unroll",
    "compiled",
    "checkpoint",
    "meta_training",
    "evaluation",
    "report",
    "pictures",
    "experiments",
    "testing",
    "tasks",  # the folder tasks/, written as a user would; the commands know them by name
    "cli",
    "__main__",
]
SOURCES = sorted((ROOT / "metatele").rglob("*.py"))


def room_of(path: Path) -> str:
    """The room that a file of the package is in."""
    return path.relative_to(ROOT / "metatele").with_suffix("").parts[0]


def imports_of(source: str, package: str) -> Iterator[tuple[str, str]]:
    """(module, name) of every import in a source, also inside functions; name "" for plain imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import starts from the package that the file is in.
            base = package.split(".")[: -(node.level - 1) or None] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)


def rooms_imported(source: str, package: str) -> set[str]:
    """The rooms of metatele that a source imports; "" for metatele itself."""
    rooms = set()
    for module, name in imports_of(source, package):
        first, *rest = module.split(".")
        if first == "metatele":
            rooms.add(rest[0] if rest else name if name in ROOMS else "")
    return rooms


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_to_earlier_rooms(path):
    room = room_of(path)
    if room == "__init__":
        return
    assert room in ROOMS, f"{path} is in no room that is listed: say where it stands"
    package = ".".join(path.relative_to(ROOT).parent.parts)
    for other in rooms_imported(path.read_text(), package):
        assert other in ROOMS, f"{path} imports {other or 'metatele itself'!r}; name the room"
        if other != room:
            assert ROOMS.index(other) < ROOMS.index(room), f"{room} must not import {other}: it comes later"
            assert other != "testing", f"{room} must not import the conformance checks"


def test_nothing_but_users_and_tests_imports_the_checks():
    for path in [*SOURCES, *(ROOT / "tasks").rglob("*.py")]:
        if room_of_any(path) != "testing":
            assert "testing" not in rooms_imported(path.read_text(), ""), path


def room_of_any(path: Path) -> str:
    return room_of(path) if path.is_relative_to(ROOT / "metatele") else "tasks"


@pytest.mark.parametrize("path", sorted((ROOT / "tasks").rglob("*.py")), ids=lambda p: p.name)
def test_tasks_are_written_as_a_user_would(path):
    own = "metatele.tasks"
    for module, name in imports_of(path.read_text(), own):
        if module.split(".")[0] == "metatele" and not module.startswith(own):
            assert module == "metatele", f"{path.name} imports {module}: tasks use the public names only"
            assert name in metatele.__all__, f"{path.name} imports {name}, which is not public"


@pytest.mark.parametrize(
    ("source", "package", "rooms"),
    [
        ("from metatele.task import X", "metatele", {"task"}),
        ("import metatele.update.dense", "metatele", {"update"}),
        ("from metatele import optimizer, TaskFamily", "metatele", {"optimizer", ""}),
        ("def f():\n    from .base import X", "metatele.update", {"update"}),
        ("from ..unroll import X", "metatele.update", {"unroll"}),
        ("from .errors import X", "metatele", {"errors"}),
        ("import torch, metateleport", "metatele", set()),
    ],
)
def test_imports_are_read_as_python_does(source, package, rooms):
    assert rooms_imported(source, package) == rooms


def test_every_room_exists():
    rooms = {room_of(path) for path in SOURCES} - {"__init__"}
    assert rooms | {"tasks"} == set(ROOMS)


def test_the_public_names():
    assert metatele.__all__ == sorted(set(metatele.__all__))
    for name in metatele.__all__:
        assert getattr(metatele, name).__doc__, f"{name} has no docstring"
    tree = ast.parse((ROOT / "metatele" / "__init__.py").read_text())
    imported = {a.asname or a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
    assert imported == set(metatele.__all__)


@pytest.mark.parametrize("room", ["symmetry", "landscape", "update", "teleports", "testing", "tasks"])
def test_the_names_of_a_package(room):
    module = importlib.import_module(f"metatele.{room}")
    assert module.__all__ == sorted(module.__all__)
    assert all(getattr(module, name).__doc__ for name in module.__all__ if isinstance(getattr(module, name), type))


def test_every_package_is_installed():
    listed = (ROOT / "setup.cfg").read_text()
    for path in SOURCES:
        if path.name == "__init__.py":
            package = ".".join(path.relative_to(ROOT).parent.parts)
            assert f"\n    {package}\n" in listed, f"setup.cfg does not list {package}"
