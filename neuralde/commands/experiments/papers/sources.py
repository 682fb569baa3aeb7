"""What the tables of a paper share."""

from __future__ import annotations

from neuralde.adjoints import GaussAdjoint

from ....regularizers import Local
from ..arms import Term
from ..experiment import Arm

OPENING = "Pal, Ma, Shah, Rackauckas: Opening the Blackbox, ICML 2021"
LOCAL = "Pal, Edelman, Rackauckas: Locally Regularized Neural Differential Equations, ICML 2023"


def local_arms(
    adjoint: type[GaussAdjoint], initial: tuple[float, float], solver: tuple[float, float]
) -> dict[str, Arm]:
    """The rows of a table of local regularization, all with a continuous adjoint.

    Args:
        adjoint: which one.
        initial: first and last weight of the paper's rows, which take the automatic first step from the random time.
        solver: of the rows that take the step that the solver took there.
    """

    def arm(label: str, sampling: str, h: str, weights: tuple[float, float]) -> Arm:
        return Arm(label, (Term(lambda: Local(sampling=sampling, h=h), *weights),), adjoint)

    return {
        "vanilla": Arm("vanilla", adjoint=adjoint),
        "unbiased": arm("local, unbiased", "unbiased", "initial", initial),
        "biased": arm("local, biased", "biased", "initial", initial),
        "unbiased-step": arm("local, unbiased, the solver's step", "unbiased", "solver", solver),
        "biased-step": arm("local, biased, the solver's step", "biased", "solver", solver),
    }
