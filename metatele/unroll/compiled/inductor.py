"""Calling TorchInductor, which finds in its cache folder what earlier processes have compiled."""

import contextlib
import gc
import os
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor
from torch.fx import GraphModule

from metatele.errors import ConfigError
from metatele.support.messages import named_line
from metatele.unroll.memory import keep_freed_memory

Run = Callable[[list[Tensor]], Sequence[Tensor]]  # may empty the list that it is given


def compile_graph(graph: GraphModule, inputs: Sequence[Tensor]) -> Run:
    """What runs a graph for inputs like those given. Raises: ConfigError if it cannot be compiled here."""
    from torch._inductor import config

    on_cpu = all(t.device.type == "cpu" for t in inputs)
    if on_cpu:
        keep_freed_memory()
    try:
        # On a CPU, Python's part of a call would take as long as small kernels do, and so do checks of sizes. Padding
        # would change layouts.
        with (
            warnings.catch_warnings(),
            config.patch(size_asserts=False, cpp_wrapper=on_cpu, comprehensive_padding=False),
            config.patch(fx_graph_cache=config.fx_graph_cache and has_cache_of_its_own()),
        ):
            warnings.simplefilter("ignore")  # of torch to itself
            run = _found_or_made(graph, inputs, on_cpu)
            run(list(inputs))
    except Exception as error:
        raise ConfigError(
            f"unroll.engine 'compiled' could not compile: {_cause(error)}; it needs a C++ compiler such as g++ "
            f"(on a GPU, triton) and a temporary folder without spaces (it is {tempfile.gettempdir()}); else set "
            "unroll.engine to 'higher'"
        ) from error
    return run


def _found_or_made(graph: GraphModule, inputs: Sequence[Tensor], cpp_wrapper: bool) -> Run:
    """What TorchInductor makes of a graph, or has made of it in an earlier process.

    The key in its cache is made of all that matters: the graph with its constants, the shapes, types and layouts of the
    inputs, the settings, torch's version, the processor.
    """
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # Without a shape environment nothing is cached; the numbers in real inputs would be part of the key.
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    examples = [mode.from_tensor(t, static_shapes=True) for t in inputs]
    with tracing(TracingContext(mode)):
        return compile_fx_inner(graph, examples, cpp_wrapper=cpp_wrapper)


def has_cache_of_its_own() -> bool:
    """Whether nobody but this user writes into TorchInductor's cache folder: what is found there is executed."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    found = os.stat(cache_dir())
    return not found.st_mode & stat.S_IWOTH and (not hasattr(os, "getuid") or found.st_uid == os.getuid())


def _cause(error: Exception) -> str:
    """The compiler's own line, if it has one; else the error's."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "error:" in line), named_line(error))


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Inside, Python does not look for garbage, which would take a tenth of the time. Compiling leaves millions of
    objects behind for good; afterwards they are exempted from being looked through at every later collection."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        if enabled:
            gc.enable()
