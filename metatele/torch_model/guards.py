"""What must hold before and after a model is teleported."""

import torch
from torch import Tensor, nn

from metatele.errors import SymmetryError
from metatele.landscape import Place
from metatele.support.seeding import generator
from metatele.task.params import Params
from metatele.teleports import Teleport

UNSTEADY = 1e-3  # a relative difference of two losses at one point that rounding does not explain
PREDICTION_ERROR = 64  # the error of a prediction, in units of the machine precision


@torch.no_grad()
def check_steady(here: Place) -> None:
    """Raises: SymmetryError if two forward passes at one point give different losses."""
    again = here.landscape.loss(here.params)
    difference = float((again - here.loss).abs())
    if difference > UNSTEADY * float(here.loss.abs()) + rounding(here):
        raise SymmetryError(
            f"two forward passes with the same parameters gave the losses {float(here.loss):.6g} and "
            f"{float(again):.6g}: call model.eval(), or set the dropout to 0"
        )


@torch.no_grad()
def rounding(here: Place) -> float:
    """By how much rounding of the predictions can change the loss: what counts where the loss is nearly 0."""
    landscape, predictions = here.landscape, here.landscape.predict(here.params)
    if not isinstance(predictions, Tensor) or not predictions.is_floating_point():
        return 0.0
    size = PREDICTION_ERROR * torch.finfo(predictions.dtype).eps
    loss = landscape.loss_function(predictions[0], landscape.targets[0])
    changes = []
    for draw in range(4):
        signs = torch.randint(2, predictions.shape, generator=generator("rounding", draw)) * 2 - 1
        noisy = predictions * (1 + size * signs.to(predictions))
        changes.append(float((landscape.loss_function(noisy[0], landscape.targets[0]) - loss).abs()))
    return max(changes)


def finite(when: str, by: Teleport, place: Place, **values: Tensor) -> dict[str, float]:
    """The values as plain numbers. Raises: SymmetryError for one that is not a single finite number."""
    for name, value in values.items():
        if not isinstance(value, Tensor) or value.shape != (1,):
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r}"
            raise SymmetryError(f"the {name} must be a tensor with one number for each network, [1], got {got}")
        if not bool(value.isfinite()):
            bad = [k for k, p in place.params.items() if not bool(p.isfinite().all())]
            where = f" (the parameter {bad[0]!r} holds numbers that are not finite)" if bad else ""
            raise SymmetryError(
                f"{type(by).__name__}: the {name} is {float(value)} {when}{where}; the model is left as it was"
            )
    return {name: float(value.detach()) for name, value in values.items()}


def check_frozen(named: dict[str, nn.Parameter], params: Params) -> None:
    """Raises: SymmetryError if the parameters {name: [1, ...]} move one that is frozen."""
    for name, p in named.items():
        if not p.requires_grad and not torch.equal(p.detach(), params[name][0]):
            raise SymmetryError(f"the teleport would move {name!r}, which is frozen (requires_grad=False)")
