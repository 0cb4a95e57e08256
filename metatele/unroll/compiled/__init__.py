"""The inner loop and its meta-gradient by compiled steps: the engine 'compiled'."""

from metatele.unroll.compiled.programs import Programs
from metatele.unroll.compiled.unroll import CompiledUnroll

__all__ = ["CompiledUnroll", "Programs"]
