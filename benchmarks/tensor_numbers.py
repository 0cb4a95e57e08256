"""What the tensor workload's update reads off shapes and the step's number, for the contestants that are not metatele.

Written anew from the update's mathematics, with the default settings, so that these contestants stay independent of
metatele; the tests compare them with it.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

Array = Any  # numpy's; a contestant makes it its own library's
MOMENTA, SQUARES = (0.9, 0.99), (0.999, 0.95)  # of the means of gradients (fast, slow), of their squares (long, short)
FLOOR = 0.1  # of a tensor's first root mean square, below which its steps shrink no more
LEAST_SQUARE, LEAST_SIZE, LEAST_SLOPE = 1e-20, 1e-8, 1e-30  # under roots
FAST, SLOW = 0.9, 0.98  # of the means of the loss's logarithm
LEAST_LOSS, MOST_LOSS, SOLVED = 1e-6, 1e6, 1e-12  # of the first loss; a first loss that gives no scale
# The directions: fast / long, fast / short, gradient / short, slow / long, fast, gradient, parameters, last step.
GRADIENT, PARAMS, LAST, MANY = 5, 6, 7, 8
ZERO_START = np.zeros((MANY, 4))  # powers of what (fast, slow, long, short) have of their numbers, for each direction
ZERO_START[0, [0, 2]] = ZERO_START[1, [0, 3]] = ZERO_START[3, [1, 2]] = -1, 0.5
ZERO_START[2, 3], ZERO_START[4, 0] = 0.5, -1


class Shapes(NamedTuple):
    """Numbers about each of T parameter tensors, [T]; features [T, 4].

    Attributes:
        counts: of entries.
        fan_in: columns of a matrix, 1 for vectors.
        step: what a step of a tensor of root mean square 1 is measured in.
        begin: the root mean square that a tensor of zeros is taken to have.
        features: log sizes, whether it is a matrix, its place in the network.
    """

    counts: Array
    fan_in: Array
    step: Array
    begin: Array
    features: Array


class Clock(NamedTuple):
    """What depends on the step's number alone; every array begins with the steps.

    Attributes:
        time: log(1 + t) / 3.
        progress: what is known of the horizon T: 1, t / T, log((T - t + 1) / (T + 1)) / 3, log(1 + T) / 3; and of the
            data: 1, log n / 3 - 1, log N / 3 - 1, log(P / N) / 3 for n rows in a batch, N in all, and P entries; 1 if
            unseen rows count, else -1.
        short: what the short second moment has of its numbers.
        factors: what corrects each direction for the moments' start from zero, [steps, MANY].
    """

    time: Array
    progress: Array
    short: Array
    factors: Array


def shape_numbers(shapes: Sequence[Sequence[int]]) -> Shapes:
    """The numbers of matrices [out, in] and vectors [out]."""
    rows = []
    for i, shape in enumerate(shapes):
        out, *others = shape
        into, matrix = prod(others), bool(others)
        a, b = (out, into) if matrix else (16, 16)
        begin = (3 * into) ** -0.5 if matrix else 0.1
        place = i / max(len(shapes) - 1, 1)
        logs = np.log([out, into]) / 3 - 1
        rows.append([out * into, into, 10 * (a**-0.5 + b**-0.5), begin, *logs, matrix, place])
    counts, fan_in, step, begin, *features = np.array(rows, dtype=np.float64).T
    return Shapes(counts, fan_in, step, begin, np.stack(features, 1))


def clock(steps: int, rows: int, every: int, entries: int, unseen: bool) -> Clock:
    """The numbers of each step of a trajectory, with so many rows in a batch, and in all, and so many parameters."""
    t = np.arange(steps, dtype=np.float64)
    there = 1 - np.array([*MOMENTA, *SQUARES]) ** (t[:, None] + 1)
    progress = [
        np.ones(steps),
        t / steps,
        np.log((steps - t + 1) / (steps + 1)) / 3,
        np.full(steps, np.log1p(steps) / 3),
    ]
    data = [1, np.log(rows) / 3 - 1, np.log(every) / 3 - 1, np.log(entries / every) / 3, 1 if unseen else -1]
    progress += [np.full(steps, number) for number in data]
    return Clock(np.log1p(t) / 3, np.stack(progress, 1), there[:, 3], np.exp(np.log(there) @ ZERO_START.T))
