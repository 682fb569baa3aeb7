"""How to differentiate a solve."""

if __name__ != "neuralde.adjoints":
    raise ImportError(f"{__name__} is the package neuralde.adjoints: run `make dev`, then import it by that name")

from .base import Adjoint
from .capabilities import Capabilities, table
from .composability import composability
from .continuous.backsolve import BacksolveAdjoint
from .continuous.interpolating import GaussAdjoint, InterpolatingAdjoint
from .exact.direct import DirectAdjoint
from .exact.discrete import DiscreteAdjoint
from .exact.forward import ForwardSensitivity
from .exact.reversible import ReversibleAdjoint
from .implicit import ImplicitAdjoint

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
    "composability",
    "table",
]
