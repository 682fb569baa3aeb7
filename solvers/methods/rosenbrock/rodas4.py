"""The Rosenbrock pair of order 4(3) of the code RODAS, with its dense output.

Source: E. Hairer, G. Wanner, "Solving Ordinary Differential Equations II", 2nd edition (1996), IV.7 and IV.10; coefficients
as in the code that goes with it.
"""

from .base import NamedRosenbrock
from .tableau import RosenbrockTableau, bent_line

_LAST = (1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950)


class Rodas4(NamedRosenbrock):
    r"""Hairer and Wanner's pair: order 4, embedded order 3, six stages, stiffly accurate and L-stable.

    The last stages look at the end of the step: :math:`\hat y_1` is the argument of the last one, and :math:`u_6 = y_1 - \hat y_1`
    the error estimate, which is bounded however stiff the field is.

    Args:
        linear_solver: how the linear systems are solved; None: :class:`DenseLU`.

    Raises:
        InvalidProblemError: in the solve, a field that ``torch.func`` cannot differentiate.

    When to take it:
        For stiff fields at tolerances from 1e-3 to 1e-5, and where a dense output of order 3 is enough. :class:`Rodas5P` for
        tighter ones and for forced problems, on which its order holds.

    References:
        Hairer, Wanner: Solving Ordinary Differential Equations II, IV.7.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -1e6 * (y - torch.cos(t)), torch.zeros(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.Rodas4(), rtol=1e-6).y1
        tensor([0.5403], dtype=torch.float64)
    """

    @staticmethod
    def coefficients() -> RosenbrockTableau:
        """The tableau."""
        m = (*_LAST, 1.0, 1.0)
        return RosenbrockTableau(
            gamma=0.25,
            a=(
                (),
                (1.544,),
                (0.9466785280815826, 0.2557011698983284),
                (3.314825187068521, 2.896124015972201, 0.9986419139977817),
                _LAST,
                (*_LAST, 1.0),
            ),
            c=(
                (),
                (-5.6688,),
                (-2.430093356833875, -0.2063599157091915),
                (-0.1073529058151375, -9.594562251023355, -20.47028614809616),
                (7.496443313967647, -10.24680431464352, -33.99990352819905, 11.70890893206160),
                (8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136, -6.058818238834054),
            ),
            m=m,
            m_embedded=(*_LAST, 1.0, 0.0),
            order=4,
            embedded_order=3,
            dense=bent_line(
                m,
                (10.12623508344586, -7.487995877610167, -34.80091861555747, -7.992771707568823, 1.025137723295662, 0.0),
                (-0.6762803392801253, 6.087714651680015, 16.43084320892478, 24.76722511418386, -6.594389125716872, 0.0),
            ),
            dense_order=3,
        )
