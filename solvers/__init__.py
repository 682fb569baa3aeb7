"""How to integrate: problems, Runge-Kutta methods, step-size control, saving. Knows torch only."""

if __name__ != "neuralde.solvers":
    raise ImportError(f"{__name__} is the package neuralde.solvers: run `make dev`, then import it by that name")

from .core.status import Status
from .drivers.blocks import Blocks
from .errors import (
    ConvergenceError,
    InvalidProblemError,
    MaxStepsError,
    NeuralDEError,
    NonFiniteError,
    PrecisionWarning,
    SolveError,
    StepSizeError,
)
from .events.event import Event, ScheduledEvent
from .front.linear_cde import solve_linear_cde
from .front.solve import solve as solve
from .linear.dense_lu import DenseLU
from .methods import named as _named
from .methods.base import Method, Step
from .methods.implicit.esdirk import DiagonallyImplicit
from .methods.implicit.tableau import ImplicitTableau
from .methods.named import *  # noqa: F403
from .methods.reversible import Reversible
from .methods.rosenbrock.base import Rosenbrock
from .methods.rosenbrock.tableau import RosenbrockTableau
from .methods.runge_kutta import RungeKutta
from .methods.stochastic.base import SDEMethod
from .methods.stochastic.runge_kutta import StochasticRungeKutta
from .methods.tableau import ButcherTableau, Interpolant
from .methods.tableau_checks import TableauError
from .output.solution import EventLog, Solution, Stats, SteadyStats, Trace
from .paths.brownian.path import BrownianPath
from .paths.control.base import ControlPath
from .paths.control.cubic import HermitePath, NaturalCubicPath
from .paths.control.linear import LinearPath, RectilinearPath
from .paths.control.rough import LogSignaturePath
from .paths.filtered.ornstein_uhlenbeck import OrnsteinUhlenbeckPath
from .paths.fractional.estimation import HurstEstimate, estimate_hurst
from .paths.fractional.noise import FractionalNoise
from .paths.fractional.path import FractionalBrownianPath
from .paths.signatures.logsignature import (
    logsignature,
    logsignature_channels,
    logsignature_keys,
    signature_channels,
    signature_inverse,
    signature_multiply,
    signature_to_logsignature,
)
from .paths.signatures.signature import signature
from .problems import CDEProblem, ODEProblem, SDEProblem, SemilinearSDEProblem, SteadyStateProblem
from .steady.root_finding import Anderson, Newton
from .steady.search import DynamicSS, SteadyStateMethod
from .stepping.controllers import ConstantStep, Controller, IController, PIController, PIDController, StepTo

__all__ = [
    "Anderson",
    "Blocks",
    "BrownianPath",
    "ButcherTableau",
    "CDEProblem",
    "ConstantStep",
    "ControlPath",
    "Controller",
    "ConvergenceError",
    "DenseLU",
    "DiagonallyImplicit",
    "DynamicSS",
    "Event",
    "EventLog",
    "FractionalBrownianPath",
    "FractionalNoise",
    "HermitePath",
    "HurstEstimate",
    "IController",
    "ImplicitTableau",
    "Interpolant",
    "InvalidProblemError",
    "LinearPath",
    "LogSignaturePath",
    "MaxStepsError",
    "Method",
    "NaturalCubicPath",
    "NeuralDEError",
    "Newton",
    "NonFiniteError",
    "ODEProblem",
    "OrnsteinUhlenbeckPath",
    "PIController",
    "PIDController",
    "PrecisionWarning",
    "RectilinearPath",
    "Reversible",
    "Rosenbrock",
    "RosenbrockTableau",
    "RungeKutta",
    "SDEMethod",
    "SDEProblem",
    "ScheduledEvent",
    "SemilinearSDEProblem",
    "Solution",
    "SolveError",
    "Stats",
    "Status",
    "SteadyStateMethod",
    "SteadyStateProblem",
    "SteadyStats",
    "Step",
    "StepSizeError",
    "StepTo",
    "StochasticRungeKutta",
    "TableauError",
    "Trace",
    "estimate_hurst",
    "logsignature",
    "logsignature_channels",
    "logsignature_keys",
    "signature",
    "signature_channels",
    "signature_inverse",
    "signature_multiply",
    "signature_to_logsignature",
    "solve_linear_cde",
]
__all__ += _named.__all__
