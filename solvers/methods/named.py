"""Every method that comes with the library. Written by ``make tables`` from the classes."""

from .explicit.bosh3 import Bosh3
from .explicit.dopri5 import Dopri5
from .explicit.dopri8 import Dopri8
from .explicit.euler import Euler
from .explicit.heun import Heun
from .explicit.midpoint import Midpoint
from .explicit.ralston import Ralston
from .explicit.rk4 import RK4
from .explicit.tsit5 import Tsit5
from .explicit.vern7 import Vern7
from .explicit.vern9 import Vern9
from .implicit.kencarp import KenCarp3, KenCarp4, KenCarp5
from .implicit.kvaerno import Kvaerno3, Kvaerno5
from .implicit.one_stage import ImplicitEuler, ImplicitMidpoint, Trapezoid
from .implicit.trbdf2 import TRBDF2
from .rosenbrock.rodas4 import Rodas4
from .rosenbrock.rodas5p import Rodas5P
from .rosenbrock.rosenbrock23 import Rosenbrock23
from .stochastic.euler import EulerHeun, EulerMaruyama, ItoMilstein, StratonovichMilstein
from .stochastic.exponential import ExponentialEuler, ExponentialHeun
from .stochastic.pl1wm import PL1WM
from .stochastic.reversible_heun import ReversibleHeun
from .stochastic.shark import ShARK
from .stochastic.slowrk import SlowRK
from .stochastic.spark import SPaRK
from .stochastic.sra import SRA1, SRA3
from .stochastic.sri import SOSRI, SRIW1
from .stochastic.srock import SROCK

__all__ = [
    "PL1WM",
    "RK4",
    "SOSRI",
    "SRA1",
    "SRA3",
    "SRIW1",
    "SROCK",
    "TRBDF2",
    "Bosh3",
    "Dopri5",
    "Dopri8",
    "Euler",
    "EulerHeun",
    "EulerMaruyama",
    "ExponentialEuler",
    "ExponentialHeun",
    "Heun",
    "ImplicitEuler",
    "ImplicitMidpoint",
    "ItoMilstein",
    "KenCarp3",
    "KenCarp4",
    "KenCarp5",
    "Kvaerno3",
    "Kvaerno5",
    "Midpoint",
    "Ralston",
    "ReversibleHeun",
    "Rodas4",
    "Rodas5P",
    "Rosenbrock23",
    "SPaRK",
    "ShARK",
    "SlowRK",
    "StratonovichMilstein",
    "Trapezoid",
    "Tsit5",
    "Vern7",
    "Vern9",
]
