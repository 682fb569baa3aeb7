"""Koopman operators: from data, with their residuals, and inside models."""

from . import scores
from .dictionaries import Delay, Dictionary, Fourier, Polynomial, RadialBasis
from .dmd import DMD
from .edmd import EDMD
from .learned import LearnedDictionary
from .least_squares import fit_operator
from .resdmd import ResDMD
from .spectrum import KoopmanModel
from .windows import Windows, windows

__all__ = [
    "DMD",
    "EDMD",
    "Delay",
    "Dictionary",
    "Fourier",
    "KoopmanModel",
    "LearnedDictionary",
    "Polynomial",
    "RadialBasis",
    "ResDMD",
    "Windows",
    "fit_operator",
    "scores",
    "windows",
]
