"""How to integrate: problems, Runge-Kutta methods, step-size control, saving. Knows torch only."""

if __name__ != "neuralde.solvers":
    raise ImportError(f"{__name__} is the package neuralde.solvers: run `make dev`, then import it by that name")

from .brownian.path import BrownianPath
from .controllers import ConstantStep, Controller, IController, PIController, PIDController, StepTo
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
from .method import Method, Step
from .problems import ODEProblem, SDEProblem, SteadyStateProblem
from .reversible import Reversible
from .runge_kutta import (
    RK4,
    Bosh3,
    Dopri5,
    Dopri8,
    Euler,
    Heun,
    Midpoint,
    Ralston,
    RungeKutta,
    Tsit5,
    Vern7,
    Vern9,
)
from .sde.euler import EulerHeun, EulerMaruyama, ItoMilstein, StratonovichMilstein
from .sde.method import SDEMethod
from .sde.reversible_heun import ReversibleHeun
from .sde.runge_kutta import SOSRI, SRA1, SRA3, SRIW1, ShARK, SlowRK, SPaRK, StochasticRungeKutta
from .sde.srock import SROCK
from .sde.weak import PL1WM
from .solution import EventLog, Solution, Stats, Status, SteadyStats, Trace
from .steady.roots import Anderson, Newton
from .steady.search import DynamicSS, SteadyStateMethod
from .tableau import ButcherTableau, Interpolant, TableauError

__all__ = [
    "PL1WM",
    "RK4",
    "SOSRI",
    "SRA1",
    "SRA3",
    "SRIW1",
    "SROCK",
    "Anderson",
    "Blocks",
    "Bosh3",
    "BrownianPath",
    "ButcherTableau",
    "ConstantStep",
    "Controller",
    "ConvergenceError",
    "Dopri5",
    "Dopri8",
    "DynamicSS",
    "Euler",
    "EulerHeun",
    "EulerMaruyama",
    "Event",
    "EventLog",
    "Heun",
    "IController",
    "Interpolant",
    "InvalidProblemError",
    "ItoMilstein",
    "MaxStepsError",
    "Method",
    "Midpoint",
    "NeuralDEError",
    "Newton",
    "NonFiniteError",
    "ODEProblem",
    "PIController",
    "PIDController",
    "PrecisionWarning",
    "Ralston",
    "Reversible",
    "ReversibleHeun",
    "RungeKutta",
    "SDEMethod",
    "SDEProblem",
    "SPaRK",
    "ScheduledEvent",
    "ShARK",
    "SlowRK",
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
    "StratonovichMilstein",
    "TableauError",
    "Trace",
    "Tsit5",
    "Vern7",
    "Vern9",
]
