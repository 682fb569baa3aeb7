"""How to differentiate a solve."""

if __name__ != "neuralde.adjoints":
    raise ImportError(f"{__name__} is the package neuralde.adjoints: run `make dev`, then import it by that name")

from .backsolve import BacksolveAdjoint
from .base import Adjoint
from .capabilities import Capabilities, table
from .check import check
from .direct import DirectAdjoint
from .discrete import DiscreteAdjoint
from .forward import ForwardSensitivity
from .implicit import ImplicitAdjoint
from .interpolating import GaussAdjoint, InterpolatingAdjoint
from .reversible import ReversibleAdjoint
from .ways import composability

__all__ = [
    "Adjoint",
    "BacksolveAdjoint",
    "Capabilities",
    "DirectAdjoint",
    "DiscreteAdjoint",
    "ForwardSensitivity",
    "GaussAdjoint",
    "ImplicitAdjoint",
    "InterpolatingAdjoint",
    "ReversibleAdjoint",
    "check",
    "composability",
    "table",
]
