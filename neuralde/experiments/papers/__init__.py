"""What the papers did, and what they report: the set-ups and numbers that ``neuralde reproduce`` is held against."""

from ..experiment import Table
from .cifar import LOCAL_CIFAR
from .mnist import LOCAL_MNIST, REGNDE_MNIST_ODE
from .physionet import LOCAL_PHYSIONET, REGNDE_PHYSIONET
from .sources import OPENING

TABLES: dict[str, Table] = {
    "regnde-mnist-ode": REGNDE_MNIST_ODE,
    "regnde-physionet": REGNDE_PHYSIONET,
    "regnde-spiral-sde": Table(
        "Neural SDE on the spiral", f"{OPENING}, Table 3", missing="the experiment; `neuralde train spiral-sde` is near"
    ),
    "regnde-mnist-sde": Table("Neural SDE on MNIST", f"{OPENING}, Table 4", missing="the experiment"),
    "local-mnist": LOCAL_MNIST,
    "local-physionet": LOCAL_PHYSIONET,
    "local-cifar": LOCAL_CIFAR,
}
"""By the name that ``neuralde reproduce`` takes."""

__all__ = ["TABLES"]
