"""Latent ODEs on PhysioNet 2012."""

from __future__ import annotations

from dataclasses import replace

from neuralde.adjoints import InterpolatingAdjoint

from ....regularizers import ErrorEstimate, StiffnessEstimate, TaylorDerivative
from ..arms import Term
from ..experiment import Arm, Table
from ..tasks.latent import Config, LatentSeriesExperiment, StepRun
from .sources import LOCAL, OPENING, local_arms


def _reported(
    train: float, test: float, nfe: tuple[float, float], hours: tuple[float, float], seconds: tuple[float, float]
) -> dict[str, tuple[float, float]]:
    """A row as the paper has it: errors in thousandths, NFE, hours of training and seconds of prediction."""
    return {
        "train_error": (train / 1e3, 0.0),
        "error": (test / 1e3, 0.0),
        "nfe": nfe,
        "training_seconds": (3600 * hours[0], 3600 * hours[1]),
        "prediction_seconds": seconds,
    }


_ERROR = Term(ErrorEstimate, 1000.0, 100.0)
_STIFFNESS = Term(StiffnessEstimate, 10.0, 10.0)
_TAYLOR = Term(lambda: TaylorDerivative(3, points=1), 1e-2, 1e-2)
_STEER = {"steer": 1.0}

_ARMS = {
    "vanilla": Arm("vanilla", reported=_reported(3.48, 3.55, (733.0, 84.29), (1.75, 0.39), (0.53, 0.12))),
    "steer": Arm("STEER", reported=_reported(3.43, 3.48, (699.0, 141.1), (1.62, 0.26), (0.54, 0.06)), options=_STEER),
    "taynode": Arm("TayNODE", (_TAYLOR,), None, _reported(4.21, 4.21, (167.3, 11.93), (12.3, 0.32), (0.22, 0.02))),
    "srnode": Arm("SRNODE", (_STIFFNESS,), None, _reported(3.52, 3.58, (273.0, 0.0), (0.87, 0.09), (0.20, 0.01))),
    "ernode": Arm("ERNODE", (_ERROR,), None, _reported(3.57, 3.62, (287.0, 17.32), (0.94, 0.13), (0.21, 0.02))),
    "steer+ernode": Arm("STEER + ERNODE", (_ERROR,), options=_STEER),
    "srnode+ernode": Arm("SRNODE + ERNODE", (_STIFFNESS, _ERROR)),
}
_PAPER = Config("regnde-physionet")
_SEEDS = {"smoke": (0,), "cpu": (0, 1, 2), "paper": (0, 1, 2)}


def _scales(paper: Config) -> dict[str, Config]:
    return {
        "smoke": replace(
            paper, epochs=2, batch_size=16, hidden=8, tolerance=1e-3, kl_after=0, train_size=32, test_size=16
        ),
        "cpu": replace(paper, epochs=60, batch_size=64, tolerance=1e-6, train_size=1024, test_size=512),
        "paper": paper,
    }


_FLOAT64 = (
    "Everything is float64 here. The papers solve in float32 at a tolerance of 1.4e-8, which is below the rounding of "
    "float32: their NFE and part of their penalty measure rounding, and ours do not. So compare ratios to vanilla."
)
_DATA = (
    "The records are read as they were published: sets a and b, hourly means of the 37 series (weight among them), patients of "
    "whom nothing was measured left out, each channel scaled to [0, 1] by the training part's range. The papers took the same "
    "from a preprocessed file, whose scaling is not at hand, so errors may differ by a factor."
)
_COUNTED = (
    "NFE is counted, and prediction timed, on the first 512 held-out series; prediction includes encoder and decoder."
)
_SIZE = (
    "At cpu scale an epoch has 16 batches, against the paper's 3,600 in all, and the tolerance is 1e-6: the model is "
    "far from trained, and its errors are higher than the paper's. Predicting each channel's mean has an error of 10.3e-3, "
    "which runs leave after 64 to 208 batches."
)

REGNDE_PHYSIONET = Table(
    "Latent ODE on PhysioNet 2012, globally regularized",
    f"{OPENING}, Table 2",
    LatentSeriesExperiment(),
    _ARMS,
    _scales(_PAPER),
    _SEEDS,
    notes=(
        _FLOAT64,
        _DATA,
        _COUNTED,
        _SIZE,
        "The weight of TayNODE is that of Kelly et al.'s latent ODE (0.01), and the integral takes one Gauss point in each step. "
        "Of the two combined rows the paper's numbers are not at hand.",
        "The loss of the held-out series is taken from the latent start's mean; the papers draw it.",
    ),
)

_LOCAL_PAPER = Config("local-physionet", epochs=250, hidden=40, kl_after=100)

LOCAL_PHYSIONET = Table(
    "Latent ODE on PhysioNet 2012, locally regularized, with a continuous adjoint",
    LOCAL,
    LatentSeriesExperiment(StepRun, bounded=True, start_std=1.0),
    local_arms(InterpolatingAdjoint, (100.0, 10.0), (1000.0, 100.0)),
    _scales(_LOCAL_PAPER),
    _SEEDS,
    notes=(
        _FLOAT64,
        _DATA,
        _COUNTED,
        _SIZE,
        "The first two local rows are the paper's: the automatic first step from a random time, weight 100 to 10. The last two "
        "take the step that the solver took there, with the weights of the global table, whose penalty it is in expectation.",
        "The paper's code updates both halves of the encoder's state from one half of the candidate; here each has its own. The "
        "per-dataset numbers of the paper are not at hand; it states NFE ratios between 0.556 and 0.733 over its experiments.",
        "250 epochs of 12 full batches are the paper's 3,000 steps.",
    ),
)
