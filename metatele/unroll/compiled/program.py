"""A function of tensors and its vector-Jacobian product, traced once and compiled."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import GraphModule, Node

from metatele.errors import ConfigError, MetateleError
from metatele.support.messages import lacks_memory, named_line
from metatele.unroll.compiled.inductor import compile_graph

Tensors = Sequence[Tensor]
TensorFunction = Callable[[Tensors], list[Tensor]]
# Makes a product add to a copy of its bias instead of to the bias itself.
NOT_IN_PLACE = {
    torch.ops.aten.baddbmm.default: lambda bias, a, b, *, beta=1, alpha=1: beta * bias + alpha * torch.bmm(a, b),
}
SAME = (torch.ops.aten.detach.default, torch.ops.aten.alias.default)  # the identity to all but autograd


class Program:
    """A function compiled for inputs of fixed shapes, types and layouts.

    The function's operations are traced together with its backward pass. Which tensors the backward pass reads from
    memory and which it recomputes is decided by the cut through the joint graph that moves the fewest bytes
    (Chen et al. 2016, arXiv:1604.06174; torch's `min_cut_rematerialization_partition`). Both parts are compiled by
    TorchInductor. Nothing is left of autograd, or of Python's work for each operation.

    Args:
        function: what to compile; it must not branch on the values of tensors.
        inputs: examples of its inputs.
        wanted: the numbers of the inputs whose gradients are wanted; without any, there is no backward pass.
        linked: how many of the function's outputs, from the first on, are given gradients in the backward pass.
    Raises: CannotFollowError if the function cannot be traced; ConfigError if it cannot be compiled here.
    """

    def __init__(self, function: TensorFunction, inputs: Tensors, wanted: Sequence[int] = (), linked: int = 0) -> None:
        self._function, self._wanted, self._linked = function, wanted, linked
        inputs = [t.detach() for t in inputs]
        with torch.no_grad():
            with following():
                outputs = self._played(inputs)
                slopes = [torch.zeros_like(t) for t in outputs[:linked]]
                graph = _trace(self._joint, inputs, slopes) if wanted else _trace(self._played, inputs)
                if wanted:
                    forward, backward = _parted(graph, inputs, slopes, len(outputs))
            self._outputs = len(outputs)
            if not wanted:
                self._forward = _Compiled(graph, inputs, len(outputs))
                return
            self._forward = _Compiled(forward, inputs, len(outputs))
            self._backward = _Compiled(backward, [*self._forward(inputs)[len(outputs) :], *slopes], len(wanted))

    def forward(self, inputs: Tensors) -> tuple[list[Tensor], list[Tensor]]:
        """The function's outputs, and what the backward pass needs; to be called without a graph."""
        found = self._forward(inputs)
        return found[: self._outputs], found[self._outputs :]

    def backward(self, saved: Tensors, slopes: Tensors) -> list[Tensor | None]:
        """The gradients of the wanted inputs, from what `forward` saved and those of the linked outputs; None for those
        that these do not depend on."""
        found = iter(self._backward([*saved, *slopes]))
        return [next(found) if used else None for used in self._used]

    def _played(self, primals: Tensors) -> list[Tensor]:
        with torch.enable_grad():
            return [t.detach() for t in self._function(self._leaves(primals))]

    def _joint(self, primals: Tensors, tangents: Tensors) -> list[Tensor]:
        """The outputs, then the gradients of the wanted inputs that the linked ones depend on."""
        with torch.enable_grad():
            leaves = self._leaves(primals)
            found = self._function(leaves)
            linked = [(t, g) for t, g in zip(found, tangents, strict=False) if t.requires_grad]
            gradients = torch.autograd.grad(
                [t for t, _ in linked],
                [leaves[i] for i in self._wanted],
                [g for _, g in linked],
                allow_unused=True,
            )
        self._used = [g is not None for g in gradients]
        pairs = [(g, primals[i]) for g, i in zip(gradients, self._wanted, strict=True) if g is not None]
        laid = [in_layout(g, of.stride()) for g, of in pairs]
        return [*(t.detach() for t in found), *laid]

    def _leaves(self, primals: Tensors) -> list[Tensor]:
        leaves = list(primals)
        for i in self._wanted:
            leaves[i] = leaves[i].detach().requires_grad_()
        return leaves


class CannotFollowError(ConfigError):
    """What a step does cannot be traced."""


@contextmanager
def following() -> Iterator[None]:
    """Inside, any error is taken to mean that something cannot be traced, except metatele's own and a lack of memory.

    Raises: CannotFollowError.
    """
    try:
        yield
    except MetateleError:
        raise
    except Exception as error:
        if lacks_memory(error):
            raise
        raise CannotFollowError(f"steps seem to depend on the values of tensors ({named_line(error)})") from error


class _Compiled:
    """A graph, compiled for inputs like those given. Results that occur twice, or are inputs, are left out of the
    compiled graph, where each would cost one more view at every call.

    Args:
        graph: what to compile.
        inputs: examples of its inputs.
        laid: how many of its results, from the first on, are to lie in memory as they were traced. The compiler may
            lay out others as it likes, and makes of some a view of something larger.
    """

    def __init__(self, graph: GraphModule, inputs: Tensors, laid: int) -> None:
        given = list(graph.graph.find_nodes(op="placeholder"))
        (end,) = graph.graph.find_nodes(op="output")
        results = [n for n in end.args[0] if isinstance(n, Node)]
        kept = list(dict.fromkeys(n for n in results if n.op != "placeholder"))
        places = {n: i for i, n in enumerate([*given, *kept])}
        self._places = [places[n] for n in results]
        end.args = (tuple(kept),)
        layouts = [n.meta["val"].stride() for n in results[:laid]]
        for node in graph.graph.nodes:
            node.meta.clear()  # of another tracing
        graph.recompile()
        self._run = compile_graph(graph, inputs)
        self._amiss: list[tuple[int, tuple[int, ...]]] = []
        found = zip(self(inputs), layouts, strict=False)
        self._amiss = [(i, strides) for i, (t, strides) in enumerate(found) if not _lies(t, strides)]

    def __call__(self, inputs: Tensors) -> list[Tensor]:
        found = [*inputs, *self._run(list(inputs))]
        results = [found[i] for i in self._places]
        for i, strides in self._amiss:
            results[i] = in_layout(results[i], strides)
        return results


def _lies(tensor: Tensor, strides: Sequence[int]) -> bool:
    """Whether a tensor has these strides, where they matter."""
    return all(a == b or n == 1 for a, b, n in zip(tensor.stride(), strides, tensor.shape, strict=True))


def in_layout(tensor: Tensor, strides: Sequence[int]) -> Tensor:
    """The same numbers, lying in memory without gaps in the order that these strides have."""
    order = sorted(range(tensor.dim()), key=lambda d: (-strides[d], d))
    back = [order.index(d) for d in range(tensor.dim())]
    return tensor.permute(order).contiguous().permute(back)


def _trace(function: Callable[..., list[Tensor]], *arguments: Tensors) -> GraphModule:
    """The graph of a function of one list of tensors or of two, which takes all tensors one by one."""
    from torch._inductor.decomposition import select_decomp_table
    from torch.fx.experimental.proxy_tensor import make_fx

    sizes = [len(a) for a in arguments]

    def flat(*tensors: Tensor) -> list[Tensor]:
        return function(*(tensors[sum(sizes[:i]) : sum(sizes[: i + 1])] for i in range(len(sizes))))

    inputs = [t for a in arguments for t in a]

    def traced(run: Callable[..., Any], table: dict[Any, Any]) -> GraphModule:
        return make_fx(run, table, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)

    # Twice: what works in place can be told from the rest only when autograd is out of the way.
    graph = traced(functionalize(traced(flat, {})), {**select_decomp_table(), **NOT_IN_PLACE})
    for node in list(graph.graph.nodes):
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise CannotFollowError(f"random numbers are drawn: {node.target}")
        if node.target in SAME:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _parted(joint: GraphModule, inputs: Tensors, slopes: Tensors, outputs: int) -> tuple[GraphModule, GraphModule]:
    """The forward pass of a joint graph, with what it is to save behind its outputs, and the backward pass."""
    from functorch.compile import min_cut_rematerialization_partition

    for i, node in enumerate(joint.graph.find_nodes(op="placeholder")):  # the passes are told apart by these names
        node.target = f"primals_{i}" if i < len(inputs) else f"tangents_{i}"
    joint.recompile()
    return min_cut_rematerialization_partition(joint, [*inputs, *slopes], num_fwd_outputs=outputs)
