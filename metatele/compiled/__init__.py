"""The inner loop and its meta-gradient by compiled steps: the engine 'compiled'."""

from metatele.compiled.programs import Programs
from metatele.compiled.unroll import CompiledUnroll

__all__ = ["CompiledUnroll", "Programs"]
