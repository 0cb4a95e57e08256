"""The rule that leads to the singular vectors."""

import torch
from torch import Tensor

from metatele.symmetry import GeneralLinear, Kind, ProductGroup, only_scales
from metatele.task.params import Params
from metatele.teleports.rules.balance import Balance
from metatele.teleports.rules.layers import eye_like, incoming_gram


class Svd(Balance, rule="svd"):
    """Balance, then rotate GL(h) to the eigenbasis that both sides then share, largest first.

    On a network of two layers W_in and W_out become the halves of the singular value decomposition
    of their product. Eigenvectors have no derivative where eigenvalues coincide.
    """

    otherwise = "on positive scalings it is the balance rule"

    def __init__(self, first: int = 0, last: int | None = 0, every: int = 1, symmetry: Kind = "auto") -> None:
        super().__init__(first, last, every, symmetry)

    def finish(self, factor: GeneralLinear, params: Params) -> Tensor | None:
        incoming = incoming_gram(factor.layer, params, type(self).__name__)
        good = incoming.detach().isfinite().all(2, keepdim=True).all(1, keepdim=True)
        vectors = torch.linalg.eigh(torch.where(good, incoming, eye_like(incoming)))[1].flip(-1)
        largest = vectors.gather(1, vectors.detach().abs().argmax(1, keepdim=True))
        turned = (vectors * largest.detach().sign()).mT  # one sign for each vector, whatever the solver's
        return torch.where(good, turned, torch.nan)

    @classmethod
    def differs_on(cls, group: ProductGroup) -> bool:
        return not only_scales(group)  # else there is nothing to rotate
