"""What tests of solvers share: problems with known solutions, measured orders, recording fields, scripted stubs."""

from .ordinary import *  # noqa: F403
