"""What importing metatele costs: that of torch, and nothing that draws, writes pages or does statistics."""

import subprocess
import sys

import pytest

HEAVY = {"matplotlib", "scipy", "jinja2", "sklearn", "learn2learn", "jsonargparse", "tensorboard", "huggingface_hub"}


def loaded_by(code: str) -> set[str]:
    """The packages that a new process has loaded when it has run some code."""
    told = subprocess.run(
        [sys.executable, "-c", f"import sys\nhere = {{*sys.modules}}\n{code}\nprint(*{{*sys.modules}} - here)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in told.stdout.split()}


@pytest.mark.parametrize(
    "code",
    [
        "import metatele",
        "from metatele import InnerOptimizer, NeuronTeleport, TaskFamily, Unroll, load_checkpoint, meta_train",
        "import metatele.tasks",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_used(code: str) -> None:
    assert not loaded_by(code) & HEAVY


def test_what_is_loaded_late_is_there() -> None:
    assert HEAVY & loaded_by("import metatele; metatele.evaluate, metatele.report, metatele.draw_orbit")
    assert "scipy" in loaded_by("from metatele import *")


def test_a_name_that_there_is_not() -> None:
    import metatele

    with pytest.raises(AttributeError, match="no attribute 'teleprot'"):
        metatele.teleprot  # noqa: B018
    assert set(metatele.__all__) <= set(dir(metatele))


def test_help_loads_no_command() -> None:
    code = "from metatele.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    assert not loaded_by(code + "\nprint()") & (HEAVY - {"torch"})
