"""Evolution strategies: the meta-gradient from trajectories of perturbed weights, without a derivative."""

import torch
from torch import Tensor

from metatele.errors import ConfigError
from metatele.meta_training.estimators.base import Estimator
from metatele.meta_training.estimators.particles import Particles
from metatele.meta_training.flight import Flight
from metatele.meta_training.meta_loss import task_losses
from metatele.meta_training.settings import COPIES, MetaSettings
from metatele.optimizer import InnerOptimizer
from metatele.parts.base import OptimizerPart
from metatele.support.ranks import Ranks
from metatele.support.seeding import generator
from metatele.unroll import Engine, Position, Unroll


class EvolutionStrategy(Estimator):
    """g = 1 / (2 sigma^2 N) sum_k xi_k (L_k+ - L_k-), with L_k+ and L_k- the meta-losses of the window, on the same
    tasks, of two trajectories with weights theta + eps_k and theta - eps_k, eps_k normal with standard deviation sigma.

    - es: both begin where a third one with weights theta stands, and xi = eps is drawn anew in each window. Truncated.
    - pes: both are trajectories of their own. eps is drawn anew in each window; xi is the sum of a trajectory's eps so
      far (Vicol, Metz and Sohl-Dickstein 2021, arXiv:2112.13835, algorithm 2).
    - nres: likewise, with one xi = eps for a whole trajectory (Li et al. 2023, arXiv:2304.12180, algorithm 1).

    The last two are unbiased estimates of the gradient of the meta-loss of whole trajectories, smoothed by the
    perturbations. Windows are played without a graph, so memory does not grow with their length or the horizon's.

    Args:
        inner: the inner optimizer, bound to a network; all its weights that require a gradient are perturbed.
        meta: the settings.
        seed: of the perturbations, which depend on it, the meta-batch, the window and the pair only.
        ranks: the processes that share the pairs.
    Raises: ConfigError for fewer pairs than processes, and for parts that cannot be perturbed.
    """

    def __init__(self, inner: InnerOptimizer, meta: MetaSettings, seed: int, ranks: Ranks) -> None:
        self.inner, self.meta, self.seed = inner, meta, seed
        self.units = meta.tasks if meta.pairs is None else meta.pairs
        if self.units < ranks.size:
            raise ConfigError(f"meta.pairs is {self.units}, fewer than the {ranks.size} processes; start fewer")
        self.pairs = ranks.share(range(self.units))
        self.copies = COPIES[meta.estimator]
        self.particles = Particles(inner, self.copies * len(self.pairs))
        self.learned = {name: p for name, p in inner.named_parameters() if p.requires_grad}  # what is perturbed
        self.sizes = [p.numel() for p in self.learned.values()]

    def engine(self, flight: Flight) -> Engine:
        """An engine for the tasks of all particles: those of the first pair's, copy by copy, then the next pair's."""
        each = flight.batch.tasks // len(self.pairs)
        tasks = [k * each + task for k in range(len(self.pairs)) for _ in range(self.copies) for task in range(each)]
        self._perturb(torch.zeros(len(self.pairs), sum(self.sizes)))  # to begin with
        return Unroll(self.particles.optimizer, flight.batch.take(tasks), flight.told)

    def particles_of(self) -> frozenset[OptimizerPart]:
        return frozenset(part for part in (self.inner.update, self.inner.teleport) if part.learned)

    def gradient(self, flight: Flight) -> float | None:
        length, weight = flight.length, flight.weight(self.meta.loss)
        noise, xi = self._noise(flight)
        self._perturb(noise)
        assert isinstance(flight.play, Unroll)
        if flight.position.step == 0:  # what a part begins with may depend on its weights
            flight.position = flight.play.start()
        window = flight.play.window(flight.position, length, differentiable=False)
        flight.position = self._together(window.end, flight) if self.meta.estimator == "es" else window.end
        if not flight.counts_at(window.end.step, self.meta.loss):
            return None
        losses = task_losses(window, self.meta, flight.horizon, flight.play.batch)
        plus, minus, *_ = losses.reshape(len(self.pairs), self.copies, -1).mean(2).unbind(1)
        slopes = weight * (plus - minus) / (2 * self.meta.sigma * len(self.pairs))
        flat = slopes.to(xi) @ xi
        parts = flat.split(self.sizes)
        for p, part in zip(self.learned.values(), parts, strict=True):
            p.grad = part.reshape(p.shape).to(p).clone()
        return float((plus + minus).mean() / 2)

    def _noise(self, flight: Flight) -> tuple[Tensor, Tensor]:
        """The perturbations of the next window, and each pair's xi, in units of sigma, [pairs, weights]."""
        if self.meta.estimator == "nres":
            if flight.noise is None:
                flight.noise = self._draw(flight.number, 0)
            return flight.noise, flight.noise
        *before, now = flight.begins()
        drawn = self._draw(flight.number, now)
        if self.meta.estimator == "es":
            return drawn, drawn
        if flight.noise is None:  # at the start, and when a saved run goes on
            flight.noise = torch.zeros_like(drawn)
            for step in before:
                flight.noise += self._draw(flight.number, step)
        flight.noise = flight.noise + drawn
        return drawn, flight.noise

    def _draw(self, number: int, step: int) -> Tensor:
        """Standard normal perturbations for the window of a meta-batch that begins at a step, [pairs, weights]."""
        first = next(iter(self.learned.values()))
        rows = [
            torch.randn(
                sum(self.sizes), generator=generator("perturbation", self.seed, number, step, k), dtype=first.dtype
            )
            for k in self.pairs
        ]
        return torch.stack(rows).to(first.device)

    def _perturb(self, noise: Tensor) -> None:
        """Give the particles their weights: those of the optimizer plus and minus sigma times the noise."""
        signs = noise.new_tensor([1.0, -1.0, 0.0][: self.copies])
        scaled = self.meta.sigma * signs.unsqueeze(1) * noise.unsqueeze(1)  # [pairs, copies, weights]
        parts = scaled.flatten(0, 1).split(self.sizes, dim=1)
        self.particles.weights = {
            name: p.detach() + part.reshape(-1, *p.shape).to(p)
            for (name, p), part in zip(self.learned.items(), parts, strict=True)
        }

    def _together(self, end: Position, flight: Flight) -> Position:
        """Where the third copy of each pair stands, for all three."""
        scales = iter(self.scales(flight))

        def third(t: Tensor) -> Tensor:
            if not next(scales):
                return t
            own = t.unflatten(0, (len(self.pairs), self.copies, -1))
            return own[:, -1:].expand_as(own).flatten(0, 2)

        return end.map(third)
