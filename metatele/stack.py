"""B copies of one network as one module, so that `higher` patches a whole meta-batch at once."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call, vmap

from metatele.params import Params


def stacked_forward(network: nn.Module, params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Run copy b of `network`, with parameters params[...][b], on inputs[b], for all b.

    Args:
        network: the network for ONE task; its own parameter values are not used.
        params: stacked parameters [B, ...].
        inputs: [B, n, ...].
    Returns: predictions [B, n, ...].
    """
    return vmap(lambda p, x: functional_call(network, p, (x,)))(dict(params), inputs)


class StackedNetwork(nn.Module):
    """B copies of one network with parameters [B, ...], called on inputs [B, n, ...].

    The parameters are registered flat (`p0`, `p1`, ...), because `higher` runs this forward on a
    patched module that has this module's parameters and attributes but not its methods.
    """

    def __init__(self, network: nn.Module, params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = tuple(params)
        self.template = (network,)  # in a tuple, so that its own parameters are not registered
        for i, value in enumerate(params.values()):
            self.register_parameter(f"p{i}", nn.Parameter(value.detach()))

    def forward(self, inputs: Tensor) -> Tensor:
        params: Params = {name: getattr(self, f"p{i}") for i, name in enumerate(self.names)}
        return stacked_forward(self.template[0], params, inputs)
