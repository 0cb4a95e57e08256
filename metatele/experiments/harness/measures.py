"""Sharpness and curvature of many networks, in bounded memory."""

from dataclasses import replace

import torch
from torch import Tensor

from metatele.experiments.harness.training import Problem, Rows
from metatele.landscape import Curvature, Landscape, Place, Sharpness
from metatele.symmetry import group_of
from metatele.task.params import Params, map_params

FAR_DISTANCES = (1.0, 2.0, 4.0)  # distances at which the loss rises a lot, unlike at those of the paper
DISPLACEMENTS = 20  # displacements evaluated at a time
NETWORKS = 25  # whose curvature is measured at a time


def sharpness_of(problem: Problem, rows: Rows, params: Params, sharpness: Sharpness) -> Tensor:
    """Sharpness on some rows, [B]; one network at a time, `sharpness.chunk` displacements at a time."""
    found = []
    with torch.no_grad():
        for i in range(len(rows[0])):
            one = slice(i, i + 1)
            landscape = Landscape(problem.network, problem.loss_function, rows[0][one], rows[1][one])
            found.append(sharpness(Place(landscape, map_params(lambda p, s=one: p[s], params))))
    return torch.cat(found)


def curvature_of(problem: Problem, params: Params, curvature: Curvature) -> Tensor:
    """Curvature of the curves of the scaling group, [B]. It does not depend on data, because that group is exact."""
    landscape = replace(problem.landscape, group=group_of(problem.network, "scaling"))
    found = []
    with torch.no_grad():
        for i in range(0, len(landscape.inputs), NETWORKS):
            some = slice(i, i + NETWORKS)
            inputs, targets = landscape.inputs[some, :1], landscape.targets[some, :1]
            few = replace(landscape, inputs=inputs, targets=targets)
            found.append(curvature(Place(few, map_params(lambda p, s=some: p[s], params))))
    return torch.cat(found)


def first_rows(rows: Rows, count: int | None) -> Rows:
    """The first `count` rows of each network; all if it is None, or if there are fewer."""
    return rows[0][:, :count], rows[1][:, :count]
