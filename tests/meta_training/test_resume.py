"""A resumed run gives the same bits as one that was never stopped."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from metatele.tasks import GaussianMixture, TeacherStudent

from metatele import (
    CheckpointError,
    ConfigError,
    CoordinateUpdate,
    GlobalStepSize,
    InnerOptimizer,
    MetaSettings,
    MetaTraining,
    NeuronTeleport,
    OutputError,
    TaskError,
    UnrollSettings,
    ValidationSettings,
    meta_train,
)
from metatele.meta_training import Monitor, read_budget
from metatele.meta_training.identity import alike, sketch_of
from metatele.meta_training.state import read_state
from tests.conftest import heed_ctrl_c

ITERATIONS = 8


def train(
    folder: Path | None,
    iterations: int = ITERATIONS,
    stop_after: int | None = None,
    spread: float = 3,
    **settings,
) -> MetaTraining:
    seen = []
    chosen = {
        "unroll": UnrollSettings(steps=7, window=3, second_order=True),
        "meta": MetaSettings(iterations=iterations, tasks=3, schedule="constant"),
        "validation": ValidationSettings(tasks=2, every=2),
        **settings,
    }

    class Count(Monitor):
        def update(self, iteration) -> None:  # type: ignore[no-untyped-def]
            seen.append(iteration)

    return meta_train(
        InnerOptimizer(CoordinateUpdate(hidden=4), NeuronTeleport(hidden=3)),
        [TeacherStudent(spread=spread, rows=8, batch_size=4), GaussianMixture(rows=16)],
        output=folder,
        monitors=[Count()],
        stop=lambda: stop_after is not None and len(seen) + 1 >= stop_after,
        **chosen,
    )


def weights(folder: Path) -> dict[str, str]:
    """A digest of every file that the results consist of."""
    files = [folder / part / "model.safetensors" for part in ("best", "last")]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def edit(state: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the record of a state file in place."""
    record, tensors = read_state(state)
    change(record)
    metadata = {"format": "metatele.run", "version": "1", "record": json.dumps(record)}
    safetensors.torch.save_file(tensors, state, metadata)


def test_a_run_that_was_stopped_has_the_budget_that_it_has_spent(tmp_path: Path) -> None:
    """Its record tells how many iterations were planned."""
    family = {"class_path": "metatele.tasks.TeacherStudent"}
    plan = {"family": family, "meta": {"iterations": ITERATIONS, "tasks": 3}, "unroll": {"steps": 7, "window": 7}}
    whole, part = (
        train(tmp_path / name, stop_after=after, config=json.dumps(plan))
        for name, after in (("whole", None), ("part", 5))
    )
    for name, result, iterations in (("whole", whole, ITERATIONS), ("part", part, 5)):
        assert result.budget.tasks == 3 * iterations
        for source in (tmp_path / name, tmp_path / name / "last"):
            budget = read_budget(source)
            assert budget is not None
            assert budget.tasks == 3 * iterations
    (tmp_path / "part" / "state.safetensors").write_bytes(b"damaged")
    assert read_budget(tmp_path / "part") is None


def test_stop_and_resume_is_bit_identical(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    part = train(tmp_path / "parts", stop_after=3)
    assert not part.finished
    assert len(part.history) == 3
    rest = train(tmp_path / "parts", resume=True)
    assert rest.finished
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")
    for a, b in zip(whole.history, rest.history, strict=True):
        assert a._replace(seconds=0) == b._replace(seconds=0)
    for name, value in whole.optimizer.state_dict().items():
        assert torch.equal(value, rest.optimizer.state_dict()[name])


def test_a_run_can_be_made_longer(tmp_path: Path) -> None:
    train(tmp_path / "whole")
    train(tmp_path / "parts", iterations=ITERATIONS // 2)
    train(tmp_path / "parts", resume=True)
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")


def test_equal_seeds_give_equal_runs_and_others_do_not() -> None:
    first, second, other = (train(None, iterations=2, seed=s).optimizer.state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_resume_needs_the_same_settings(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run to resume"):
        train(tmp_path / "run", resume=True)
    train(tmp_path / "run", iterations=2)
    with pytest.raises(ConfigError, match=r"meta\.tasks was 3, now 4"):
        train(tmp_path / "run", resume=True, meta=MetaSettings(iterations=4, tasks=4, schedule="constant"))
    with pytest.raises(ConfigError, match=r"family\.0\.spread was 3, now 7"):
        train(tmp_path / "run", resume=True, spread=7)
    with pytest.raises(ConfigError, match="holds a run already"):
        train(tmp_path / "run")


class Table(GaussianMixture):
    """Tasks of rows that an argument gives, which no plain attribute tells."""

    def __init__(self, table: Any) -> None:
        super().__init__(rows=16, dimensions=2)
        self.table = table

    def sample(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = super().sample(generator)
        values = self.table["x"] if isinstance(self.table, dict) else self.table
        return x + torch.as_tensor(values).float(), y


@pytest.mark.parametrize("make", [torch.tensor, np.array, lambda x: {"x": torch.tensor(x)}, lambda x: {"x": x}])
def test_resume_needs_the_same_data(tmp_path: Path, make: Callable[[Any], Any]) -> None:
    """Whatever kind of argument it comes by."""
    small = {"unroll": UnrollSettings(4, 2), "validation": ValidationSettings(2, 1), "output": tmp_path / "run"}

    def go(values: list[float], iterations: int, **more: Any) -> MetaTraining:
        meta = MetaSettings(iterations=iterations, tasks=2)
        family = Table(make(values))
        return meta_train(InnerOptimizer(CoordinateUpdate(hidden=3)), family, meta=meta, **small, **more)

    go([0.0, 1.0], 1, config="first")
    with pytest.raises(ConfigError, match=r"the tasks of family\.0 are others than they were"):
        go([0.0, 2.0], 2, resume=True, config="second")
    assert (tmp_path / "run" / "training.yaml").read_text() == "first", "not written over before the run is accepted"
    assert len(go([0.0, 1.0], 2, resume=True, config="second").history) == 2
    assert (tmp_path / "run" / "training.yaml").read_text() == "second"


def test_other_last_digits_are_the_same_data() -> None:
    """A processor of another kind draws and multiplies with other roundings."""
    tensors = [torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(7), torch.zeros(0)]
    sketch = sketch_of(tensors)
    assert alike(sketch, sketch_of([t * (1 + 1e-7) if t.is_floating_point() else t for t in tensors]))
    for changed in (tensors[0].flip(0), tensors[0] * 1.001, tensors[0] + 0.01 * torch.eye(20, 3)):
        assert not alike(sketch, sketch_of([changed, *tensors[1:]]))
    assert not alike(sketch, sketch_of([tensors[0], tensors[1].flip(0), tensors[2]]))
    assert not alike(sketch, sketch_of(tensors[:2]))
    assert alike(*[sketch_of([torch.tensor([torch.nan, 1.0])])] * 2)


def test_a_run_from_before_rows_were_shuffled_is_not_gone_on_with_shuffled_ones(tmp_path: Path) -> None:
    class Cut(TeacherStudent):
        shuffle = True

    settings = {"unroll": UnrollSettings(4, 2), "meta": MetaSettings(2, 2), "validation": ValidationSettings(2, 1)}
    small: dict[str, Any] = {**settings, "output": tmp_path / "run"}
    family = Cut(rows=8, parts=(0.5, 0.25, 0.25))
    meta_train(InnerOptimizer(CoordinateUpdate(hidden=3)), family, **small)

    def forget(record: dict[str, Any]) -> None:
        for one in record["settings"]["family"]:
            del one["tasks"], one["shuffle"]

    edit(tmp_path / "run" / "state.safetensors", forget)
    with pytest.raises(ConfigError, match=r"family\.0\.shuffle was False, now True"):
        meta_train(InnerOptimizer(CoordinateUpdate(hidden=3)), family, resume=True, **small)
    Cut.shuffle = False
    assert meta_train(InnerOptimizer(CoordinateUpdate(hidden=3)), family, resume=True, **small).finished


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    """The second is refused, with a line that names the first, and the first is left alone."""
    refusals = []

    class Other(Monitor):
        def update(self, iteration) -> None:  # type: ignore[no-untyped-def]
            for resume in (False, True):
                with pytest.raises(OutputError, match=f"in use by process {os.getpid()} on ") as refused:
                    train(tmp_path / "run", resume=resume)
                refusals.append(refused)

    family, small = TeacherStudent(rows=8), (UnrollSettings(4, 2), MetaSettings(2, 2), ValidationSettings(2, 1))
    inner = InnerOptimizer(CoordinateUpdate(hidden=3))
    assert meta_train(inner, family, *small, output=tmp_path / "run", monitors=[Other()]).finished
    assert len(refusals) == 4
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_run_saved_before_a_setting_came_has_its_default(tmp_path: Path) -> None:
    train(tmp_path / "whole")
    train(tmp_path / "parts", iterations=ITERATIONS // 2)
    edit(tmp_path / "parts" / "state.safetensors", lambda record: record["settings"]["unroll"].pop("engine"))
    with pytest.raises(ConfigError, match=r"unroll\.engine was 'higher', now 'compiled'"):
        train(tmp_path / "parts", resume=True, unroll=UnrollSettings(7, 3, engine="compiled"))
    train(tmp_path / "parts", resume=True)
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")


@pytest.mark.parametrize("unroll", [{"steps": 0}, {"steps": 7, "speed": "high"}, "long"])
def test_a_record_of_impossible_settings_is_refused(tmp_path: Path, unroll: object) -> None:
    train(tmp_path / "run", iterations=2)
    edit(tmp_path / "run" / "state.safetensors", lambda record: record["settings"].update(unroll=unroll))
    with pytest.raises(CheckpointError, match=r"state\.safetensors is damaged"):
        train(tmp_path / "run", resume=True)


@pytest.mark.slow
def test_stop_and_resume_is_bit_identical_by_compiled_steps(tmp_path: Path) -> None:
    unroll = UnrollSettings(steps=7, window=3, engine="compiled")
    train(tmp_path / "whole", iterations=4, unroll=unroll)
    train(tmp_path / "parts", iterations=4, unroll=unroll, stop_after=2)
    train(tmp_path / "parts", iterations=4, unroll=unroll, resume=True)
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")


@pytest.mark.parametrize("length", [0, 9, -1])
def test_a_damaged_state_is_refused(tmp_path: Path, length: int) -> None:
    train(tmp_path / "run", iterations=2)
    state = tmp_path / "run" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="missing, damaged or cut off"):
        train(tmp_path / "run", resume=True)


def test_a_hostile_state_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run", iterations=2)
    state = tmp_path / "run" / "state.safetensors"
    record, tensors = read_state(state)
    name = next(k for k in tensors if k.endswith("exp_avg"))
    changes = [
        ({"done": -5}, {}),
        ({"done": "x"}, {}),
        ({"settings": None}, {}),
        ({"history": [[1]]}, {}),
        ({"best_score": "x"}, {}),
        ({}, {name: torch.zeros(1)}),
        ({}, {name: torch.full_like(tensors[name], torch.nan)}),
    ]
    for new_record, new_tensors in changes:
        text = json.dumps({**record, **new_record})
        metadata = {"format": "metatele.run", "version": "1", "record": text}
        safetensors.torch.save_file({**tensors, **new_tensors}, state, metadata)
        with pytest.raises((CheckpointError, ConfigError)):
            train(tmp_path / "run", resume=True)


def test_losses_that_may_be_negative_need_another_meta_loss_than_log(tmp_path: Path) -> None:
    class Negative(TeacherStudent):
        def loss(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return super().loss(prediction, target) - 10

    def run(name: str) -> MetaTraining:
        return meta_train(
            InnerOptimizer(GlobalStepSize(hidden=3)),
            Negative(rows=8),
            UnrollSettings(steps=4, window=2),
            MetaSettings(iterations=2, tasks=2, loss=name),  # type: ignore[arg-type]
            ValidationSettings(tasks=2, every=1),
        )

    assert run("sum").finished
    with pytest.raises(TaskError, match=r"meta\.loss sum or final"):
        run("log")


CONFIG = """
family: {class_path: metatele.tasks.TeacherStudent, init_args: {rows: 8, spread: 5, batch_size: 4}}
optimizer:
  update: {class_path: CoordinateUpdate, init_args: {hidden: 4}}
  teleport: {class_path: NeuronTeleport, init_args: {hidden: 3}}
unroll: {steps: 20, window: 7, second_order: true}
meta: {iterations: 40, tasks: 4}
validation: {tasks: 4, every: 3}
"""


def command(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "metatele", *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=heed_ctrl_c,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_or_interrupted_and_resumed_is_bit_identical(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "small.yaml").write_text(CONFIG)
    whole = command("meta-train", "--config", "small.yaml", "--output", "whole", cwd=tmp_path)
    assert whole.wait(120) == 0, whole.communicate()[1]

    hit = command("meta-train", "--config", "small.yaml", "--output", "hit", cwd=tmp_path)
    wait_for(tmp_path / "hit" / "state.safetensors", hit)
    hit.send_signal(number)
    _, errors = hit.communicate(timeout=60)
    if number == signal.SIGINT:
        assert hit.returncode == 130
        assert "continue with: metatele meta-train --resume hit" in errors
        assert "Traceback" not in errors
    else:
        assert hit.returncode == -signal.SIGKILL
    assert weights(tmp_path / "hit") != weights(tmp_path / "whole"), "the run was over before it was stopped"

    resumed = command("meta-train", "--resume", "hit", cwd=tmp_path)
    assert resumed.wait(120) == 0, resumed.communicate()[1]
    assert weights(tmp_path / "hit") == weights(tmp_path / "whole")
