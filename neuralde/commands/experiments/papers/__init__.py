"""What the papers did, and what they report: the set-ups and numbers that ``neuralde reproduce`` is held against."""

from ..experiment import Table
from .cifar import LOCAL_CIFAR
from .mnist import LOCAL_MNIST, REGNDE_MNIST_ODE
from .physionet import LOCAL_PHYSIONET, REGNDE_PHYSIONET
from .sde import REGNDE_MNIST_SDE, REGNDE_SPIRAL_SDE
from .series import NCDE_CHARACTERS, NCDE_VOWELS

TABLES: dict[str, Table] = {
    "regnde-mnist-ode": REGNDE_MNIST_ODE,
    "regnde-physionet": REGNDE_PHYSIONET,
    "regnde-spiral-sde": REGNDE_SPIRAL_SDE,
    "regnde-mnist-sde": REGNDE_MNIST_SDE,
    "local-mnist": LOCAL_MNIST,
    "local-physionet": LOCAL_PHYSIONET,
    "local-cifar": LOCAL_CIFAR,
    "ncde-characters": NCDE_CHARACTERS,
    "ncde-vowels": NCDE_VOWELS,
}
"""By the name that ``neuralde reproduce`` takes."""

__all__ = ["TABLES"]
