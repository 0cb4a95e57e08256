"""The inner loop and its meta-gradient by compiled steps: the engine 'compiled'."""

from metatele.unroll.compiled.engine import CompiledUnroll
from metatele.unroll.compiled.programs import Programs

__all__ = ["CompiledUnroll", "Programs"]
