"""The house: imports point one way, inside rooms too, and the public names are those that are listed."""

import ast
import importlib
from collections.abc import Iterator

import pytest
from importlinter.cli import lint_imports

import metatele
from tests.conftest import ROOT

SOURCES = sorted((ROOT / "metatele").rglob("*.py"))
TASKS = sorted((ROOT / "tasks").rglob("*.py"))
LOOSE = {"__init__", "__main__", "checkpoint", "errors", "optimizer", "version"}  # modules in no room


def imports_of(source: str) -> Iterator[tuple[str, str]]:
    """(module, name) of every import in a source, also inside functions; name "" for plain imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (("." * node.level + (node.module or ""), alias.name) for alias in node.names)


def test_imports_point_one_way(monkeypatch, capsys):
    """The contracts in pyproject.toml: the order of the rooms, and no circles anywhere."""
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0, capsys.readouterr().out


def test_the_contracts_can_be_broken(tmp_path, monkeypatch, capsys):
    """A circle of two files inside a room is seen."""
    room = tmp_path / "house" / "room"
    room.mkdir(parents=True)
    for folder in (room.parent, room):
        (folder / "__init__.py").touch()
    (room / "a.py").write_text("from house.room.b import B\n")
    (room / "b.py").write_text("def late():\n    from house.room.a import A\n")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.importlinter]\nroot_package = "house"\n[[tool.importlinter.contracts]]\nname = "none"\n'
        'type = "acyclic_siblings"\nancestors = ["house"]\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert lint_imports(no_cache=True) == 1
    assert "house.room" in capsys.readouterr().out


def test_few_modules_are_in_no_room():
    assert {path.stem for path in (ROOT / "metatele").glob("*.py")} == LOOSE


@pytest.mark.parametrize("path", [*SOURCES, *TASKS], ids=lambda p: str(p.relative_to(ROOT)))
def test_the_conformance_checks_are_for_users_and_tests(path):
    if "testing" not in path.parts:
        assert not any(module.startswith("metatele.testing") for module, _ in imports_of(path.read_text()))


@pytest.mark.parametrize("path", TASKS, ids=lambda p: p.name)
def test_tasks_are_written_as_a_user_would(path):
    for module, name in imports_of(path.read_text()):
        if module.split(".")[0] == "metatele":
            assert module == "metatele", f"{path.name} imports {module}: tasks use the public names only"
            assert name in metatele.__all__, f"{path.name} imports {name}, which is not public"


def test_the_public_names():
    assert metatele.__all__ == sorted(set(metatele.__all__))
    for name in metatele.__all__:
        assert getattr(metatele, name).__doc__, f"{name} has no docstring"
    tree = ast.parse((ROOT / "metatele" / "__init__.py").read_text())
    imported = {a.asname or a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
    assert imported >= set(metatele.__all__)


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


def test_tests_mirror_the_rooms():
    rooms = {path.parent.name for path in (ROOT / "metatele").glob("*/__init__.py")}
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")}
    assert folders - rooms == {"hostile", "repository", "tasks"}
    for path in (ROOT / "tests").rglob("*.py"):
        lines = len(path.read_text().splitlines())
        assert lines <= 600, f"{path.relative_to(ROOT)} has {lines} lines: split it by what it is about"
