"""What updates and teleports have in common as parts of an inner optimizer."""

import inspect
from typing import Any

import torch
from torch import nn

from metatele.recurrent import RecurrentCore
from metatele.support.checks import plain_numbers
from metatele.symmetry import ProductGroup
from metatele.task.params import Params


class OptimizerPart(nn.Module):
    """A part of an inner optimizer.

    Every constructor argument is kept as an attribute of the same name (scikit-learn's rule), so
    that a checkpoint can record how to build the part again.
    """

    def arguments(self) -> dict[str, Any]:
        """The constructor arguments, {name: value}."""
        parameters = inspect.signature(type(self)).parameters.values()
        # nn.Module's own constructor, of parts that have none, takes *args and **kwargs.
        named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        return {name: plain_numbers(getattr(self, name)) for name in named}

    def bind(self, params: Params, group: ProductGroup) -> None:
        """Fit the part to a network, once its sizes are known. Parts that run on any size need not.

        Raises: CheckpointError if the part was made for a network of other sizes.
        """

    def initialise(self) -> None:
        """Draw all learned weights anew from torch's global generator."""
        for module in self.modules():
            if isinstance(module, RecurrentCore):
                module.initialise()

    @property
    def learned(self) -> bool:
        """Whether there is anything to meta-train."""
        return any(p.requires_grad for p in self.parameters())

    @torch.no_grad()
    def begin_with(self, other: "OptimizerPart") -> bool:
        """Take over the weights that another part has learned; False, and nothing is changed, if they do not fit."""
        shapes, others = ({k: v.shape for k, v in part.state_dict().items()} for part in (self, other))
        fits = self.learned and type(self) is type(other) and shapes == others
        if fits:
            self.load_state_dict(other.state_dict())
        return fits
