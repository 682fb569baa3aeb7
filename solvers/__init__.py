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
from .methods.base import Method, Step
from .methods.reversible import Reversible
from .methods.runge_kutta import (
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
from .methods.stochastic.base import SDEMethod
from .methods.stochastic.euler import EulerHeun, EulerMaruyama, ItoMilstein, StratonovichMilstein
from .methods.stochastic.pl1wm import PL1WM
from .methods.stochastic.reversible_heun import ReversibleHeun
from .methods.stochastic.runge_kutta import SOSRI, SRA1, SRA3, SRIW1, ShARK, SlowRK, SPaRK, StochasticRungeKutta
from .methods.stochastic.srock import SROCK
from .methods.tableau import ButcherTableau, Interpolant, TableauError
from .output.solution import EventLog, Solution, Stats, SteadyStats, Trace
from .paths.brownian.path import BrownianPath
from .problems import ODEProblem, SDEProblem, SteadyStateProblem
from .steady.root_finding import Anderson, Newton
from .steady.search import DynamicSS, SteadyStateMethod
from .stepping.controllers import ConstantStep, Controller, IController, PIController, PIDController, StepTo

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
