"""How a solve can end."""

from enum import IntEnum


class Status(IntEnum):
    """How a solve, or one sample of it, ended.

    Attributes:
        ``SUCCESS`` (0), ``EVENT`` (1), ``MAX_STEPS`` (2), ``STEP_UNDERFLOW`` (3), ``NON_FINITE`` (4), ``NOT_CONVERGED``
            (5); those above 1 are failures.

    Example:
        >>> import torch, neuralde as nde
        >>> status = nde.solve(nde.ODEProblem(lambda t, y: -y, torch.ones(1), (0.0, 1.0))).status
        >>> print(status, status == 0)
        SUCCESS True
    """

    SUCCESS = 0
    """The end of the interval was reached."""
    EVENT = 1
    """A terminal event ended the solve."""
    MAX_STEPS = 2
    """``max_steps`` attempts did not reach the end. Often the field has become stiff, or the tolerance is below rounding."""
    STEP_UNDERFLOW = 3
    """The controller asked for a step below ``dtmin`` or the resolution of time: a singularity, or strong stiffness."""
    NON_FINITE = 4
    """The field returned NaN or infinity for every step size tried."""
    NOT_CONVERGED = 5
    """An iteration did not converge: no steady state was found (``t_max`` was reached, or a root finder came no closer), or
    the equations of an implicit step were not solved, however short the step."""

    def __str__(self) -> str:
        return self.name

    def __format__(self, spec: str) -> str:
        """The name, or the number where the format is one of numbers (``"d"``)."""
        return format(int(self) if spec[-1:] in tuple("bcdoxXneEfFgG%") and spec else self.name, spec)
