"""A run of meta-training: the loop with its folder, checkpoints and resume."""

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from metatele.checkpoint import TRAINING, describe, load_checkpoint, save_checkpoint
from metatele.errors import CheckpointError, ConfigError
from metatele.meta_training.budget import Budget, budget_of
from metatele.meta_training.card import training_card
from metatele.meta_training.identity import alike, difference, identity_of, sketch_of
from metatele.meta_training.monitor import Monitor, TensorBoard
from metatele.meta_training.settings import MetaSettings, UnrollSettings, ValidationSettings
from metatele.meta_training.start import begin_with
from metatele.meta_training.state import STATE, read_state, restore_state, save_state
from metatele.meta_training.trainer import Iteration, MetaTrainer
from metatele.optimizer import InnerOptimizer
from metatele.support.files import write_atomic
from metatele.support.lock import locked
from metatele.support.ranks import joined
from metatele.task.family import TaskFamily

SAVE_SECONDS = 60.0


@dataclass(frozen=True)
class MetaTraining:
    """The result of a run.

    Attributes:
        optimizer: the inner optimizer with the best validation score.
        history: one record per iteration.
        finished: whether all iterations were done.
        budget: what the run has spent, for comparisons at equal budgets.
    """

    optimizer: InnerOptimizer
    history: list[Iteration]
    finished: bool
    budget: Budget


def meta_train(
    optimizer: InnerOptimizer,
    family: TaskFamily | Sequence[TaskFamily],
    unroll: UnrollSettings | None = None,
    meta: MetaSettings | None = None,
    validation: ValidationSettings | None = None,
    seed: int = 0,
    output: str | Path | None = None,
    resume: bool = False,
    initialise: bool = True,
    monitors: Sequence[Monitor] = (),
    stop: Callable[[], bool] = lambda: False,
    device: str = "cpu",
    config: str = "",
    validation_family: TaskFamily | Sequence[TaskFamily] = (),
) -> MetaTraining:
    """Meta-train an inner optimizer on a task family, or on several in turn.

    Processes that torchrun has started together, or that have a process group of torch.distributed, share the tasks of
    each meta-batch; the results are those of one process, to rounding. The first of them reads and writes `output`.

    Args:
        optimizer: what to train; its learned weights are changed in place, to the last iteration's.
        family: where the tasks come from.
        unroll, meta, validation: the settings.
        seed: of the learned weights and of all tasks.
        output: folder for checkpoints (best/, last/), the state to resume from, and TensorBoard
            scalars; nothing is written when None.
        resume: continue from the state in `output`, with bit-identical results.
        initialise: draw the learned weights anew; False to start from those that `optimizer` has.
        monitors: notified of every iteration, in the first process.
        stop: called after every iteration; when it returns True, the run is saved and ends.
        device: where to compute.
        config: the configuration as YAML, to be kept beside the checkpoints.
        validation_family: where the held-out tasks come from, if it is not `family`; then the score also tells how well
            what was learned carries over.
    Raises: ConfigError, TaskError, SymmetryError, OutputError; CheckpointError if there is nothing
        to resume, or if the saved state is damaged or belongs to another run.
    """
    families = [family] if isinstance(family, TaskFamily) else family
    tests = [validation_family] if isinstance(validation_family, TaskFamily) else validation_family
    unroll, meta, validation = unroll or UnrollSettings(), meta or MetaSettings(), validation or ValidationSettings()
    _check_given(
        families, optimizer=(optimizer, InnerOptimizer), unroll=(unroll, UnrollSettings), meta=(meta, MetaSettings)
    )
    with ExitStack() as stack:
        ranks, device = stack.enter_context(joined(device))
        trainer = MetaTrainer(optimizer, list(families), unroll, meta, validation, seed, device, list(tests), ranks)
        stack.callback(trainer.learning.let, "both")
        run = _Run(trainer, None if output is None or not ranks.first else Path(output), config)
        ranks.from_first(lambda: stack.enter_context(run.alone()))
        run.begin(resume, initialise)
        board = [] if run.folder is None else [TensorBoard(run.folder / "tensorboard")]
        watching = [stack.enter_context(m) for m in (*board, *monitors)] if ranks.first else []
        for monitor in watching:
            monitor.start(trainer.done, trainer.meta.iterations)
        for iteration in trainer.iterations():
            stopping, saving = (total > 0 for total in ranks.total(stop(), run.is_due(iteration)))
            run.after(iteration, stopping or saving)
            for monitor in watching:
                monitor.update(iteration)
            if stopping:
                break
    budget = budget_of(families, unroll, meta, trainer.seed, trainer.done)
    return MetaTraining(run.best(), run.history, trainer.done >= trainer.meta.iterations, budget)


def _check_given(families: object, **given: tuple[object, type]) -> None:
    """Raises: ConfigError for an argument of another type, {name: (argument, type)}."""
    for name, (value, expected) in given.items():
        if not isinstance(value, expected):
            raise ConfigError(f"{name} must be an object of {expected.__name__}, got {type(value).__name__}")
    if not isinstance(families, (list, tuple)):
        raise ConfigError(f"family must be an object of a class of TaskFamily, or a list of them, got {families!r}")


class _Saved(NamedTuple):
    """What a run has saved: where, its record and tensors (see `read_state`), and the best weights."""

    state: Path
    record: dict[str, Any]
    tensors: dict[str, Tensor]
    best: dict[str, Tensor]


class _Run:
    """What a run keeps besides the trainer: history, the best score, and the folder."""

    def __init__(self, trainer: MetaTrainer, folder: Path | None, config: str) -> None:
        self.trainer, self.folder, self.config = trainer, folder, config
        self.history: list[Iteration] = []
        self.best_score = math.inf
        self.best_weights: dict[str, Any] = {}
        self.saved_at = time.monotonic()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, the folder is this run's alone. Raises: OutputError."""
        if self.folder is None:
            yield
            return
        with locked(self.folder) as self.folder:
            yield

    def begin(self, resume: bool, initialise: bool) -> None:
        """Start a new run, or restore the one in the folder. Raises: ConfigError, CheckpointError, OutputError."""
        saved = self.trainer.ranks.from_first(lambda: self._saved(resume))
        if saved is not None:
            self._restore(saved)
        else:
            if initialise:
                self.trainer.initialise()
            if self.trainer.meta.start is not None:
                begin_with(self.trainer.inner, self.trainer.meta.start)
            self.trainer.enter()
        self._check_shared()
        self.trainer.tests.refer()
        self._write_config()

    def _check_shared(self) -> None:
        """Raises: ConfigError if the processes that share the tasks are not about to do the same."""
        trainer = self.trainer
        if trainer.ranks.size == 1:
            return
        mine = trainer.done, trainer.meta.iterations, self._settings(), sketch_of(trainer.inner.state_dict().values())
        others = trainer.ranks.gather(mine)
        if not all(o[:2] == mine[:2] and difference(o[2], mine[2]) is None and alike(o[3], mine[3]) for o in others):
            raise ConfigError(
                f"the {trainer.ranks.size} processes share the tasks of each meta-batch, but were given different "
                "seeds, families, settings or weights to start from; give all the same, or end the process group first"
            )

    def _saved(self, resume: bool) -> "_Saved | None":
        """What the run in the folder has saved; None for a new run."""
        state = None if self.folder is None else self.folder / STATE
        if not resume:
            if state is not None and state.exists():
                raise ConfigError(
                    f"{self.folder} holds a run already; resume it (--resume {self.folder}) or choose another --output"
                )
            return None
        if state is None or not state.is_file():
            raise CheckpointError(f"there is no run to resume in {self.folder}: it holds no {STATE}")
        record, tensors = read_state(state)
        best = load_checkpoint(state.parent / "best").state_dict() if record.get("best_score") is not None else {}
        return _Saved(state, record, tensors, best)

    def _write_config(self) -> None:
        if self.folder is not None and self.config:
            write_atomic(self.folder / TRAINING, self.config)

    def _restore(self, saved: "_Saved") -> None:
        """Go back to where the run was saved."""
        state, record, tensors, self.best_weights = saved
        try:
            recorded, history, best = dict(record["settings"]), record["history"], record["best_score"]
            # A setting that was introduced after the run was saved takes its default.
            recorded["unroll"] = _plain(asdict(UnrollSettings(**recorded["unroll"])))
            recorded["meta"] = _plain(_without_iterations(MetaSettings(**recorded["meta"])))
            recorded["validation"] = _plain(asdict(ValidationSettings(**recorded["validation"])))
            self.history = [Iteration(*row) for row in history]
            self.best_score = math.inf if best is None else float(best)
        except (KeyError, TypeError, ValueError, OverflowError, ConfigError) as error:
            raise CheckpointError(f"{state} is damaged: its record cannot be used ({error})") from error
        self._check_same(recorded, state.parent)
        try:
            self.trainer.tests.references = self._references(record.get("references", []))
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{state} is damaged: {error}") from error
        restore_state(state, self.trainer, record, tensors)

    def _references(self, saved: Any) -> list[float]:
        """The scores of the best baselines, as they were saved. Raises: TypeError, ValueError."""
        found = [float(score) for score in saved]
        expected = len(self.trainer.tests.families) if self.trainer.validation.baselines else 0
        if len(found) != expected or not all(map(math.isfinite, found)):
            raise ValueError(f"references are {saved!r}")
        return found

    def is_due(self, iteration: Iteration) -> bool:
        """Whether it is time to save, which the process that writes decides."""
        late = time.monotonic() - self.saved_at > SAVE_SECONDS
        return self.folder is not None and (iteration.validation is not None or late)

    def after(self, iteration: Iteration, saving: bool) -> None:
        """Take note of an iteration, and save if it is time to. All processes are asked together."""
        self.history.append(iteration)
        trainer = self.trainer
        better = iteration.validation is not None and iteration.validation < self.best_score
        if better:
            assert iteration.validation is not None
            self.best_score = iteration.validation
            self.best_weights = {k: v.detach().clone() for k, v in trainer.current.state_dict().items()}
        flights = [f.gather(trainer.ranks, trainer.estimator.scales) for f in trainer.flights] if saving else []
        if self.folder is None:
            return
        card = training_card(trainer, self.best_score)
        if better:
            save_checkpoint(trainer.current, self.folder / "best", card, self.config)
        if saving:
            save_checkpoint(trainer.current, self.folder / "last", card, self.config)
            save_state(self.folder / STATE, trainer, self._record(), flights)
            self.saved_at = time.monotonic()

    def best(self) -> InnerOptimizer:
        """A copy of the optimizer with the best weights, or with the latest ones if there was no validation."""
        best = copy.deepcopy(self.trainer.current)
        if self.best_weights:
            best.load_state_dict(self.best_weights)
        return best

    @cached_property
    def _families(self) -> list[dict[str, Any]]:
        return [identity_of(f, self.trainer.seed) for f in self.trainer.families]

    @cached_property
    def _validation_families(self) -> list[dict[str, Any]]:
        return [identity_of(f, self.trainer.seed) for f in self.trainer.validation_families]

    def _record(self) -> dict[str, Any]:
        best = self.best_score if math.isfinite(self.best_score) else None
        history = [list(row) for row in self.history]
        references = {"references": self.trainer.tests.references} if self.trainer.tests.references else {}
        return {"settings": self._settings(), "best_score": best, "history": history, **references}

    def _settings(self) -> dict[str, Any]:
        """What must be the same for a resumed run to give the same results."""
        trainer = self.trainer
        optimizer = {k: v for k, v in describe(trainer.inner).items() if k != "metatele"}
        settings = {
            "seed": trainer.seed,
            "family": self._families,
            **({"validation_family": self._validation_families} if self._validation_families else {}),
            "optimizer": optimizer,
            "unroll": asdict(trainer.unroll),
            "meta": _without_iterations(trainer.meta),
            "validation": asdict(trainer.validation),
        }
        return _plain(settings)

    def _check_same(self, recorded: dict[str, Any], folder: Path) -> None:
        changed = difference(recorded, self._settings())
        if changed is not None:
            raise ConfigError(f"cannot resume {folder} with other settings: {changed}")


def _without_iterations(meta: MetaSettings) -> dict[str, Any]:
    """What a resumed run must have in common with before: it may be made longer, if it has no phases."""
    return {k: v for k, v in asdict(meta).items() if k != "iterations"}


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back."""
    return dict(json.loads(json.dumps(settings, default=str)))
