"""Neural SDEs: on the spiral, and on MNIST."""

from __future__ import annotations

from dataclasses import replace

from ...regularizers import ErrorEstimate, StiffnessEstimate
from .. import classify_sde, spiral
from ..arms import Term
from ..experiment import Arm, Table
from ..images import Classification
from .sources import OPENING

_SPIRAL = spiral.Config("regnde-spiral-sde")
_SPIRAL_ARMS = {
    "vanilla": Arm(
        "vanilla",
        reported={
            "test_loss": (0.0217, 0.0088),
            "nfe": (528.67, 6.11),
            "training_seconds": (178.95, 0.0),
            "prediction_seconds": (0.0755, 0.0),
        },
    ),
    "srnsde": Arm(
        "SRNSDE",
        spiral.ARMS["stiffness"],
        reported={
            "test_loss": (0.0204, 0.0091),
            "nfe": (502.0, 4.0),
            "training_seconds": (166.4, 0.0),
        },
    ),
    "ernsde": Arm(
        "ERNSDE",
        spiral.ARMS["error"],
        reported={
            "test_loss": (0.0227, 0.0090),
            "nfe": (502.0, 4.0),
            "training_seconds": (173.4, 0.0),
        },
    ),
}

REGNDE_SPIRAL_SDE = Table(
    "Neural SDE on the spiral",
    f"{OPENING}, Table 3",
    spiral.Fit(),
    _SPIRAL_ARMS,
    {
        "smoke": replace(_SPIRAL, epochs=2, iterations=2, batch_size=8, hidden=4, times=5, simulated=100),
        "cpu": _SPIRAL,
        "paper": _SPIRAL,
    },
    {"smoke": (1,), "cpu": (1, 5, 35), "paper": (1, 5, 35)},
    notes=("TODO",),
)

_MNIST = classify_sde.Config(
    "regnde-mnist-sde",
    epochs=40,
    batch_size=512,
    hidden=64,
    tolerance=0.14,
    learning_rate=0.01,
    learning_rate_decay=1e-5,
)
_MNIST_ARMS = {
    "vanilla": Arm(
        "vanilla",
        reported={
            "accuracy": (0.9695, 0.0011),
            "train_accuracy": (0.9897, 0.0011),
            "nfe": (411.33, 6.11),
            "training_seconds": (3600 * 6.32, 3600 * 0.19),
            "prediction_seconds": (15.07, 0.93),
        },
    ),
    "srnsde": Arm(
        "SRNSDE",
        (Term(lambda: StiffnessEstimate(reduction="mean"), 0.1, 0.1),),
        reported={
            "accuracy": (0.9680, 0.0007),
            "train_accuracy": (0.9879, 0.0012),
            "nfe": (382.0, 4.0),
            "training_seconds": (3600 * 8.54, 3600 * 0.37),
            "prediction_seconds": (14.50, 0.40),
        },
    ),
    "ernsde": Arm(
        "ERNSDE",
        (Term(ErrorEstimate, 10.0, 10.0),),
        reported={
            "accuracy": (0.9627, 0.0035),
            "train_accuracy": (0.9816, 0.0011),
            "nfe": (184.67, 2.31),
            "training_seconds": (3600 * 4.19, 3600 * 0.04),
            "prediction_seconds": (7.23, 0.14),
        },
    ),
}

REGNDE_MNIST_SDE = Table(
    "Neural SDE on MNIST",
    f"{OPENING}, Table 4",
    Classification(classify_sde.Run),
    _MNIST_ARMS,
    {
        "smoke": replace(
            _MNIST, epochs=2, batch_size=64, hidden=8, latent=4, trajectories=2, train_size=64, test_size=32
        ),
        "cpu": replace(_MNIST, epochs=5, batch_size=128, train_size=6_000, test_size=1_000),
        "paper": _MNIST,
    },
    {"smoke": (0,), "cpu": (0, 1, 2), "paper": (0, 1, 2)},
    notes=("TODO",),
)
