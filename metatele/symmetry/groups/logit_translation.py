"""Translations of the logits under softmax and cross-entropy."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from metatele.symmetry.base import Symmetry
from metatele.symmetry.sequential import last_layer
from metatele.task.params import Params
from metatele.task.stack import is_plain


class LogitTranslation(
    Symmetry,
    kind="softmax",
    where="(translation of the logits), if you know that the loss is softmax cross-entropy",
):
    """The group R^{h+1}: softmax is invariant to a number that is added to all logits of a row.

    W_out <- W_out + 1 v^T,  b_out <- b_out + c 1;  exact, for any data, if the loss sees the output
    through a softmax only. T = g = (v, c), [B, h + 1], or v, [B, h], without a bias; exp is the
    identity map, composition is +.

    The gradient does not change (`moves_gradient` is False): at every row 1^T dL/dlogits = 0, so
    what flows to lower layers, W_out^T dL/dlogits, is the same, and so is the gradient of W_out.
    Hence plain gradient descent gains nothing; weight decay, norms and adaptive methods are affected.
    Source: Kunin et al. 2021, arXiv:2012.04728 (translation symmetry).

    Args:
        weight: name of W_out, [B, d_out, h].
        bias: name of b_out, [B, d_out], or None.
        width: h, the number of the last layer's inputs.
    """

    moves_gradient = False

    def __init__(self, weight: str, bias: str | None, width: int) -> None:
        self.weight, self.bias, self.width = weight, bias, width

    @classmethod
    def find(cls, network: nn.Module) -> Iterator[Symmetry]:
        """The group of the last linear layer, if nothing but a softmax follows it."""
        last = last_layer(network)
        if last is not None and all(is_plain(m, nn.Softmax, nn.LogSoftmax) and m.dim != 0 for m in last.behind):
            yield cls(last.weight, last.bias, last.width)

    @property
    def name(self) -> str:
        return f"the logits of '{self.weight}'"

    @property
    def algebra_shape(self) -> tuple[int, ...]:
        return (self.width + (self.bias is not None),)

    def exp(self, algebra: Tensor) -> Tensor:
        return algebra

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        return g + h

    def inverse(self, g: Tensor) -> Tensor:
        return -g

    def act(self, g: Tensor, params: Mapping[str, Tensor], inputs: Tensor) -> Params:
        out = dict(params)
        out[self.weight] = params[self.weight] + g[:, : self.width].unsqueeze(1)
        if self.bias is not None:
            out[self.bias] = params[self.bias] + g[:, self.width :]
        return out

    def dual(
        self,
        g: Tensor,
        params: Mapping[str, Tensor],
        moved: Mapping[str, Tensor],
        gradient: Mapping[str, Tensor],
        inputs: Tensor,
    ) -> Params:
        return dict(gradient)

    def dual_square(
        self,
        g: Tensor,
        params: Mapping[str, Tensor],
        moved: Mapping[str, Tensor],
        square: Mapping[str, Tensor],
        inputs: Tensor,
    ) -> Params:
        return dict(square)
