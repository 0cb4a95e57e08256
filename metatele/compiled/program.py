"""A function of tensors and its vector-Jacobian product, traced once and compiled."""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule

from metatele.errors import ConfigError

Tensors = Sequence[Tensor]
Function = Callable[[Tensors], list[Tensor]]


class Program:
    """A function compiled for inputs of fixed shapes, types and layouts.

    The function's operations are traced with real numbers, and with them its backward pass; what the backward pass is
    to find ready and what it is to compute anew is a cut through the joint graph that moves the fewest bytes
    (Chen et al. 2016, arXiv:1604.06174; torch's `min_cut_rematerialization_partition`). Both parts are compiled by
    TorchInductor. Nothing is left of autograd, or of Python's work for each operation.

    Args:
        function: what to compile; it takes no decision on numbers.
        inputs: examples of its inputs.
        wanted: the numbers of the inputs whose gradients are wanted; without any, there is no backward pass.
        linked: how many of the function's outputs, from the first on, gradients come in by.
    Raises: ConfigError if the function cannot be traced or compiled here.
    """

    def __init__(self, function: Function, inputs: Tensors, wanted: Sequence[int] = (), linked: int = 0) -> None:
        self._function, self._wanted, self._linked = function, wanted, linked
        inputs = [t.detach() for t in inputs]
        with torch.no_grad():
            if wanted:
                self._compile_pair(inputs)
            else:
                self._forward = _compiled(_trace(self._played, inputs), inputs)

    def forward(self, inputs: Tensors) -> tuple[list[Tensor], list[Tensor]]:
        """The function's outputs, and what the backward pass needs."""
        with torch.no_grad():
            found = self._forward(*inputs)
        return list(found[: self.outputs]), list(found[self.outputs :])

    def backward(self, saved: Tensors, slopes: Tensors) -> list[Tensor]:
        """The gradients of the wanted inputs, from what `forward` saved and those of the linked outputs."""
        with torch.no_grad():
            return list(self._backward(*saved, *slopes))

    def _compile_pair(self, inputs: Tensors) -> None:
        from functorch.compile import min_cut_rematerialization_partition

        slopes = [torch.zeros_like(t) for t in self._played(inputs)[: self._linked]]
        joint = _trace(self._joint, inputs, slopes)
        joint.graph.eliminate_dead_code()
        forward, backward = min_cut_rematerialization_partition(
            joint, [*inputs, *slopes], num_fwd_outputs=self.outputs
        )
        saved = list(forward(*inputs))[self.outputs :]
        self._forward = _compiled(forward, inputs)
        self._backward = _compiled(backward, [*saved, *slopes])

    def _played(self, primals: Tensors) -> list[Tensor]:
        with torch.enable_grad():
            found = self._function(self._leaves(primals))
        self.outputs = len(found)
        return [t.detach() for t in found]

    def _joint(self, primals: Tensors, tangents: Tensors) -> list[Tensor]:
        """The outputs, then the gradients of the wanted inputs."""
        with torch.enable_grad():
            leaves = self._leaves(primals)
            found = self._function(leaves)
            pairs = [(t, g) for t, g in zip(found, tangents, strict=False) if t.requires_grad]
            gradients = torch.autograd.grad(
                [t for t, _ in pairs],
                [leaves[i] for i in self._wanted],
                [g for _, g in pairs],
                allow_unused=True,
                materialize_grads=True,
            )
        laid = [in_layout(g, primals[i].stride()) for g, i in zip(gradients, self._wanted, strict=True)]
        return [*(t.detach() for t in found), *laid]

    def _leaves(self, primals: Tensors) -> list[Tensor]:
        leaves = list(primals)
        for i in self._wanted:
            leaves[i] = leaves[i].detach().requires_grad_()
        return leaves


def in_layout(tensor: Tensor, strides: Sequence[int]) -> Tensor:
    """The same numbers, lying in memory without gaps in the order that these strides have."""
    order = sorted(range(tensor.dim()), key=lambda d: (-strides[d], d))
    back = [order.index(d) for d in range(tensor.dim())]
    return tensor.permute(order).contiguous().permute(back)


def _trace(function: Callable[..., list[Tensor]], *arguments: Tensors) -> GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx

    if len(arguments) == 1:  # make_fx takes functions, not methods

        def plain(primals: Tensors) -> list[Tensor]:
            return function(primals)

        traced: Callable[..., list[Tensor]] = plain
    else:
        # By these names torch tells what the forward pass is given from what the backward pass is.
        def joint(primals: Tensors, tangents: Tensors) -> list[Tensor]:
            return function(primals, tangents)

        traced = joint
    try:
        return make_fx(traced)(*arguments)
    except RuntimeError as error:
        raise ConfigError(
            f"unroll.engine 'compiled' cannot follow this task family or optimizer: {_first_line(error)}; what it does "
            "must not hang on the values of tensors, so leave unroll.engine at 'higher'"
        ) from error


def _compiled(graph: GraphModule, inputs: Tensors) -> Callable[..., Sequence[Tensor]]:
    import torch._inductor

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch to itself
            run = torch._inductor.compile(graph, list(inputs))
            run(*inputs)  # compiles
    except Exception as error:
        raise ConfigError(
            f"unroll.engine 'compiled' could not compile: {_first_line(error)}; it needs a C++ compiler such as g++ "
            "(on a GPU, triton), else leave unroll.engine at 'higher'"
        ) from error
    return run


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
