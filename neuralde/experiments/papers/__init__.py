"""What the papers did, and what they report: the set-ups and numbers that ``neuralde reproduce`` is held against."""

from ..experiment import Table
from .mnist import REGNDE_MNIST_ODE
from .sde import REGNDE_MNIST_SDE, REGNDE_SPIRAL_SDE
from .sources import LOCAL, OPENING

TABLES: dict[str, Table] = {
    "regnde-mnist-ode": REGNDE_MNIST_ODE,
    "regnde-physionet": Table(
        "Latent ODE on PhysioNet 2012",
        f"{OPENING}, Table 2",
        missing="the latent ODE model and the PhysioNet reader",
    ),
    "regnde-spiral-sde": REGNDE_SPIRAL_SDE,
    "regnde-mnist-sde": REGNDE_MNIST_SDE,
    "local-mnist": Table(
        "Neural ODE on MNIST, locally regularized",
        LOCAL,
        missing="a set-up of its own (Adam, no final tanh); its arms run in regnde-mnist-ode",
    ),
    "local-physionet": Table(
        "Latent ODE on PhysioNet 2012, locally regularized", LOCAL, missing="the latent ODE model"
    ),
    "local-cifar": Table(
        "Convolutional neural ODE on CIFAR-10",
        LOCAL,
        missing="the convolutional field, and CIFAR-10 itself, whose authors publish it as cifar-10-python.tar.gz",
    ),
}
"""By the name that ``neuralde reproduce`` takes."""

__all__ = ["TABLES"]
