"""Tests of gradients, tests that pin what a model costs to solve, and loggers that show it during training.

In a test the fixture ``solver_cost`` does it all; see ``docs/testing_solver_cost.md``.
"""

from .check import SolverCost, SolverCostError
from .gradients import check_gradients
from .loggers import CostLogger, lightning_callback
from .record import CostRecorder, SolveCost

__all__ = [
    "CostLogger",
    "CostRecorder",
    "SolveCost",
    "SolverCost",
    "SolverCostError",
    "check_gradients",
    "lightning_callback",
]
