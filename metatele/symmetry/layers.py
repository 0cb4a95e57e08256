"""Which parameters a group between two neighbouring linear layers touches."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HiddenLayer:
    """One hidden layer of an MLP: h neurons between two linear maps.

    Attributes:
        name: what error messages call it.
        width: h.
        weight_in: name of W_in, [B, h, d_in].
        bias_in: name of b_in, [B, h], or None.
        weight_out: name of W_out, [B, d_out, h].
    """

    name: str
    width: int
    weight_in: str
    bias_in: str | None
    weight_out: str
