"""What to solve: initial value problems, a file for each kind of equation, and steady states."""

from .base import Problem
from .controlled import CDEProblem
from .ordinary import ODEProblem
from .semilinear import SemilinearSDEProblem
from .steady import SteadyStateProblem
from .stochastic import SDEProblem

__all__ = ["CDEProblem", "ODEProblem", "Problem", "SDEProblem", "SemilinearSDEProblem", "SteadyStateProblem"]
