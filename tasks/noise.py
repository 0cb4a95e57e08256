"""Rows that are spoiled on purpose: only those that train the network, so that unseen rows say what is true."""

import torch
from torch import Tensor

from metatele import TaskFamily


def chosen_to_train(family: TaskFamily, rows: int, share: float, generator: torch.Generator) -> Tensor:
    """The numbers of a random share of a task's inner rows, which come first if the family does not shuffle."""
    inner = rows - sum(round(part * rows) for part in family.parts[1:])
    return torch.randperm(inner, generator=generator)[: round(share * inner)]
