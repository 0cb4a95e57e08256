"""The tensor workload's trajectory of one task in plain torch, tensor by tensor."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks import tensor_numbers as numbers
from benchmarks.plain_trajectory import Memory, Rule, Trajectory, minibatches
from benchmarks.tensor_numbers import GRADIENT, LAST, MANY, PARAMS, Clock, Shapes
from metatele.task.batch import MetaBatch


class Seen(NamedTuple):
    """What is made of one tensor's gradient.

    Attributes:
        directions: [MANY, entries].
        products: their inner products, [MANY, MANY].
        scale: brings each of them to order one, [MANY].
        step, power: what steps are measured in; the gradient's log size.
        features: without how the gradient's size has changed, [inputs - 1].
    """

    directions: Tensor
    products: Tensor
    scale: Tensor
    step: Tensor
    power: Tensor
    features: Tensor


class TensorTrajectory(Trajectory):
    """An LSTM that runs once a parameter tensor, on an MLP: theta <- theta + f, f in the span of a few directions."""

    LR = 0.01

    def __init__(self, batch: MetaBatch, task: int, rules: Sequence[Rule], steps: int, second: bool) -> None:
        super().__init__(batch, task, rules, steps, second)
        like = self.params[0].detach()
        self.meta = batch.inputs["meta"][task], batch.targets["meta"][task]
        self.rows = [minibatches(batch, part, steps + 1, task) for part in ("inner", "meta")]
        self.about = Shapes(*(like.new_tensor(n) for n in numbers.shape_numbers([p.shape for p in self.params])))
        amounts = self.rows[0].shape[1], len(self.x), sum(p.numel() for p in self.params), len(batch.own_parts) > 1
        self.clock = Clock(*(like.new_tensor(n) for n in numbers.clock(steps, *amounts)))
        squares = torch.stack([p.detach().square().mean() for p in self.params])
        rms = (squares + numbers.LEAST_SQUARE).sqrt()
        self.begin = torch.where(squares > numbers.LEAST_SQUARE, rms, self.about.begin)
        self.moments = [[torch.zeros_like(p)] * 4 for p in self.params]
        self.last = [torch.zeros_like(p) for p in self.params]
        self.slopes = torch.zeros_like(self.begin)
        self.course = [torch.zeros_like(self.initial)] * 2

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        *layers, (weight, bias) = zip(self.params[::2], self.params[1::2], strict=True)
        for w, b in layers:
            x = (x @ w.T + b).relu()
        return cross_entropy(x @ weight.T + bias, y)

    def start(self) -> list[Memory]:
        return [rule.start(len(self.params), self.x) for rule in self.rules]

    def window(self, length: int) -> Tensor:
        self.moments = [[m.detach() for m in moments] for moments in self.moments]
        self.last = [f.detach() for f in self.last]
        self.slopes, self.course = self.slopes.detach(), [mean.detach() for mean in self.course]
        return super().window(length)

    def step(self) -> Tensor:
        inner, meta = (rows[self.taken + k] for k, rows in enumerate(self.rows))
        here = self.loss(self.x[inner], self.y[inner])
        gradient = torch.autograd.grad(here, self.params, create_graph=self.second)
        seen = [self._see(i, g) for i, g in enumerate(gradient)]
        power = torch.stack([s.power for s in seen])
        if self.taken == 0:
            self.first_power, self.first_loss = power.detach(), here.detach()
        change = (power - self.first_power) / 3
        features = self._features(change, seen, here if self.second else here.detach())
        out, self.memories[0] = self.rules[0](features, self.memories[0])
        out, differs = out.chunk(2, 1)
        out = out + self.clock.progress[self.taken, -1] * differs
        mixes = [self._mix(o, s) for o, s in zip(out, seen, strict=True)]
        pairs = list(zip(mixes, seen, strict=True))
        self.slopes = torch.stack([s.products[GRADIENT, :LAST] @ mix for mix, s in pairs])
        self.last = [(mix @ s.directions[:LAST]).view_as(p) for (mix, s), p in zip(pairs, self.params, strict=True)]
        self.params = [p + f for p, f in zip(self.params, self.last, strict=True)]
        return self.loss(self.meta[0][meta], self.meta[1][meta])

    def _see(self, i: int, g: Tensor) -> Seen:
        """What is made of a tensor's gradient; its moments move."""
        p, count, least = self.params[i], self.about.counts[i], numbers.LEAST_SQUARE
        betas, seen = (*numbers.MOMENTA, *numbers.SQUARES), (g, g, g.square(), g.square())
        self.moments[i] = [b * m + (1 - b) * x for b, m, x in zip(betas, self.moments[i], seen, strict=True)]
        fast, slow, long, short = self.moments[i]
        over, lately = (long + least).rsqrt(), (short + least).rsqrt()
        rows = [fast * over, fast * lately, g * lately, slow * over, fast, g, p, self.last[i]]
        directions = torch.stack([row.flatten() for row in rows])
        products = directions @ directions.T
        power = (short.sum() / (self.clock.short[self.taken] * count) + least).sqrt()
        square = products[PARAMS, PARAMS] / count
        unit = (square + (numbers.FLOOR * self.begin[i]).square()).sqrt()
        step, one = self.LR * self.about.step[i] * unit, torch.ones_like(unit)
        scale = self.clock.factors[self.taken] / torch.stack([one, one, one, one, power, power, unit, step])
        growth = (square / self.begin[i].square() + numbers.FLOOR**2).log() / 2
        absolute = (square * self.about.fan_in[i] + numbers.FLOOR**4).log() / 6
        gram = products * torch.outer(scale, scale) / count
        size = (gram.diagonal() + numbers.LEAST_SIZE).sqrt()
        above = torch.ones(MANY, MANY, dtype=torch.bool).triu(1)
        columns = torch.stack([growth, absolute, *_secant(products[GRADIENT, LAST], self.slopes[i])])
        features = [(gram / torch.outer(size, size))[above], size.log() / 2, columns, self.about.features[i]]
        return Seen(directions, products, scale, step, power.log(), torch.cat(features))

    def _features(self, change: Tensor, seen: list[Seen], loss: Tensor) -> Tensor:
        """What the LSTM sees, [T, inputs]; the loss's course moves on."""
        cut = MANY * (MANY - 1) // 2 + MANY  # where the change of the gradient's size has its place
        rows = torch.stack([s.features for s in seen])
        own = torch.cat([rows[:, :cut], change.unsqueeze(1), rows[:, cut:]], 1)
        after = torch.stack([s.products[GRADIENT, LAST] for s in seen]).sum()
        shared = [*_secant(after, self.slopes.sum()), *self._went(loss)]
        time, progress = self.clock.time[self.taken].view(1), self.clock.progress[self.taken]
        mean = torch.cat([own.mean(0), time, progress, torch.stack(shared)])
        return torch.cat([own, mean.expand(len(own), -1)], 1)

    def _went(self, loss: Tensor) -> list[Tensor]:
        """Where the loss stands, how it has fallen lately, how the last one differs."""
        first = self.first_loss
        size = first.abs() if first.abs() > numbers.SOLVED else torch.ones_like(first)
        relative = loss / size + (1 - first / size)
        now = (relative.clamp(0, numbers.MOST_LOSS) + numbers.LEAST_LOSS).log()
        spans = numbers.FAST, numbers.SLOW
        fast, slow = self.course = [b * mean + (1 - b) * now for b, mean in zip(spans, self.course, strict=True)]
        return [fast / 4, (fast - slow).tanh(), (now - fast).tanh()]

    def _mix(self, out: Tensor, seen: Seen) -> Tensor:
        """The weights of the directions in a tensor's step, [LAST], from the LSTM's outputs."""
        chosen, (relative, absolute, log_size) = 2 * out[:PARAMS].tanh(), out[PARAMS:]
        adam = torch.zeros_like(chosen)
        adam[0] = 1
        pull = 2 * (relative.tanh() * seen.scale[PARAMS] + absolute.tanh())
        weights = torch.cat([(adam + chosen) * seen.scale[:PARAMS], pull.view(1)])
        return -seen.step * (5 * (log_size / 2.5).tanh()).exp() * weights


def _secant(after: Tensor, before: Tensor) -> list[Tensor]:
    """How the slopes along a step changed, as a point on the circle."""
    size = (after.square() + before.square() + numbers.LEAST_SLOPE).sqrt()
    return [-after / size, -before / size]
