"""What remains of a teleport without its feedback: its mean schedule, and random elements of its size.

Both are controls. A learned teleport that does no better than its own mean schedule has learned when to
teleport, not where from; one that does no better than random elements of its size, not even that.
"""

from collections.abc import Sequence
from types import TracebackType

import torch
from torch import Tensor

from metatele.errors import ConfigError, SymmetryError
from metatele.parts.point import Point, State
from metatele.support.checks import LARGEST, at_least, is_number
from metatele.symmetry import Kind, ProductGroup
from metatele.task.params import Params, per_task
from metatele.teleports.base import Teleport
from metatele.teleports.classical import normal_draws
from metatele.teleports.orbit import AlgebraTeleport


class PlayedTeleport(AlgebraTeleport):
    """A teleport that plays entry i of a list at step first + i * every, and nothing after its end.

    Args:
        length: number of entries; 0 plays nothing.
        symmetry, first, every: see `OrbitTeleport`.
    """

    def __init__(self, length: int, symmetry: Kind, first: int, every: int) -> None:
        super().__init__(symmetry, first, None, every)
        at_least(0, length=length)
        self.length = length

    @property
    def moves(self) -> bool:
        return self.length > 0

    def active(self, step: int) -> bool:
        return super().active(step) and self.entry(step) < self.length

    def entry(self, step: int) -> int:
        """The number of the entry that is played at a step."""
        return (step - self.first) // self.every


class MeanSchedule(PlayedTeleport):
    """A fixed sequence of Lie algebra elements, the same for every task, whatever the task looks like.

    The elements are buffers `factor_0`, `factor_1`, ..., [length, *shape]; `of` makes a schedule from them.
    It belongs to the network that it was made for.

    Args:
        length: number of steps that it plays.
        shapes: shapes of one T, one for each factor of the group.
        symmetry, first, every: see `OrbitTeleport`.
    """

    def __init__(
        self,
        length: int = 0,
        shapes: Sequence[Sequence[int]] = (),
        symmetry: Kind = "auto",
        first: int = 0,
        every: int = 1,
    ) -> None:
        super().__init__(length, symmetry, first, every)
        self.shapes = [list(shape) for shape in shapes]
        for i, shape in enumerate(self.shapes):
            at_least(1, **{f"shapes[{i}][{k}]": size for k, size in enumerate(shape)})
            self.register_buffer(f"factor_{i}", torch.zeros(length, *shape))

    @classmethod
    def of(
        cls, schedule: Sequence[Sequence[Tensor]], symmetry: Kind = "auto", first: int = 0, every: int = 1
    ) -> "MeanSchedule":
        """The schedule that plays the elements `schedule[step][factor]`, [*algebra_shape].

        Raises: ConfigError if the steps differ in their shapes, or a number is not finite.
        """
        shapes = [[tuple(t.shape) for t in step] for step in schedule]
        for i, (found, step) in enumerate(zip(shapes, schedule, strict=True)):
            if found != shapes[0]:
                raise ConfigError(
                    f"every step of a schedule needs the shapes {shapes[0]} of step 0, got {found} at {i}"
                )
            if not all(bool(t.isfinite().all()) for t in step):
                raise ConfigError(f"a schedule must be finite, step {i} is not")
        made = cls(len(schedule), shapes[0] if shapes else (), symmetry, first, every)
        for i, elements in enumerate(zip(*schedule, strict=True)):
            made.register_buffer(f"factor_{i}", torch.stack(elements).detach().clone())
        return made

    def bind(self, params: Params, group: ProductGroup) -> None:
        """Raises: SymmetryError if the network's group is not the one that the schedule was made for."""
        found = [list(shape) for shape in group.algebra_shapes]
        if self.length > 0 and found != self.shapes:
            raise SymmetryError(
                f"this schedule was made for Lie algebra elements of shapes {self.shapes} and cannot be played on "
                f"{found}; record it on this network"
            )

    def choose(self, point: Point, group: ProductGroup, state: State) -> tuple[list[Tensor], State]:
        like = next(iter(point.params.values()))
        if not self.active(point.step):
            return [like.new_zeros(len(like), *shape) for shape in group.algebra_shapes], state
        elements = [self.get_buffer(f"factor_{i}")[self.entry(point.step)] for i in range(len(self.shapes))]
        return [t.to(like).expand(len(like), *t.shape) for t in elements], state


class SizedRandom(PlayedTeleport):
    """T in a random direction, of a given Frobenius norm at each step; drawn as `RandomTeleport` draws.

    Args:
        norms: the norm of T at each step, for each factor of the group, [steps][factors].
        symmetry, first, every: see `OrbitTeleport`.
    """

    def __init__(
        self, norms: Sequence[Sequence[float]] = (), symmetry: Kind = "auto", first: int = 0, every: int = 1
    ) -> None:
        super().__init__(len(norms), symmetry, first, every)
        for row in norms:
            if len(row) != len(norms[0]) or not all(is_number(norm) and 0 <= norm <= LARGEST for norm in row):
                raise ConfigError(f"norms must be finite, at least 0, and {len(norms[0])} at every step, got {row!r}")
        self.norms = [[float(norm) for norm in row] for row in norms]

    def bind(self, params: Params, group: ProductGroup) -> None:
        """Raises: SymmetryError if the network's group has another number of factors."""
        if self.length > 0 and len(group.factors) != len(self.norms[0]):
            raise SymmetryError(
                f"these random teleports have a size for {len(self.norms[0])} layers, and the network has "
                f"{len(group.factors)} with a symmetry; record them on this network"
            )

    def start(self, params: Params, group: ProductGroup, seeds: Tensor) -> State:
        return State(memory=(seeds,))

    def choose(self, point: Point, group: ProductGroup, state: State) -> tuple[list[Tensor], State]:
        draws = normal_draws(point, group, state.memory[0])
        norms = self.norms[self.entry(point.step)] if self.active(point.step) else [0.0] * len(draws)
        return [t * per_task(norm / t.flatten(1).norm(dim=1), t) for t, norm in zip(draws, norms, strict=True)], state


class Recording:
    """Means over tasks of what a teleport chooses at each step, for the controls made from it.

        with Recording(inner.teleport) as recording:
            ...  # play any number of meta-batches of one network, from step 0 on
        controls = [recording.mean_schedule(), recording.sized_random()]

    Only tasks that are alive and have a finite T are counted. Only sums are kept.

    Args:
        teleport: the teleport to listen to.
    Raises: SymmetryError if it chooses no Lie algebra elements, as closed-form rules do not.
    """

    def __init__(self, teleport: Teleport) -> None:
        if not isinstance(teleport, AlgebraTeleport):
            raise SymmetryError(
                f"{type(teleport).__name__} chooses no Lie algebra element, so it has no mean schedule; derive it from "
                "AlgebraTeleport"
            )
        self.teleport = teleport
        self._tasks: dict[int, int] = {}
        self._algebra: dict[int, list[Tensor]] = {}  # sums of T, by step
        self._norms: dict[int, list[Tensor]] = {}  # sums of its norms

    def __enter__(self) -> "Recording":
        self.teleport.recorder = self.note
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.teleport.recorder = None

    def note(self, step: int, algebra: list[Tensor], alive: Tensor | None = None) -> None:
        """Add a teleport to the means: T [B, *algebra_shape] of each factor, and which tasks are alive, [B]."""
        good = torch.stack([t.detach().flatten(1).isfinite().all(1) for t in algebra]).all(0)
        if alive is not None:
            good = good & alive
        kept = [t.detach()[good].cpu().double() for t in algebra]
        sums = [t.sum(0) for t in kept], [t.flatten(1).norm(dim=1).sum() for t in kept]
        self._tasks[step] = self._tasks.get(step, 0) + len(kept[0])
        for record, new in zip((self._algebra, self._norms), sums, strict=True):
            record[step] = [a + b for a, b in zip(record.get(step, [torch.zeros(())] * len(new)), new, strict=True)]

    def mean_schedule(self) -> MeanSchedule:
        """The mean T of each step, for every task; zero where no task was counted."""
        return MeanSchedule.of(self._means(self._algebra), *self._when())

    def sized_random(self) -> SizedRandom:
        """Random T with the mean norm that each step had at each layer; zero where no task was counted."""
        return SizedRandom([[float(n) for n in row] for row in self._means(self._norms)], *self._when())

    def _means(self, sums: dict[int, list[Tensor]]) -> list[list[Tensor]]:
        when = range(self.teleport.first, max(sums, default=-1) + 1, self.teleport.every)
        nothing = [torch.zeros_like(t) for t in next(iter(sums.values()), [])]
        return [[t / max(self._tasks.get(k, 0), 1) for t in sums.get(k, nothing)] for k in when]

    def _when(self) -> tuple[Kind, int, int]:
        return self.teleport.symmetry, self.teleport.first, self.teleport.every
