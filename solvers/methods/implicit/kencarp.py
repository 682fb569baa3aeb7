"""Kennedy and Carpenter's pairs for the implicit part of additive Runge-Kutta schemes, taken for the whole field.

Source: C. A. Kennedy, M. H. Carpenter, "Additive Runge-Kutta schemes for convection-diffusion-reaction equations", Appl. Numer.
Math. 44 (2003) 139-181, tables of ARK3(2)4L[2]SA, ARK4(3)6L[2]SA and ARK5(4)8L[2]SA.
"""

from .esdirk import NamedDiagonallyImplicit
from .tableau import ImplicitTableau


class KenCarp3(NamedDiagonallyImplicit):
    r"""ARK3(2)4L[2]SA, its implicit part: order 3(2), three implicit stages, stiffly accurate and L-stable.

    .. math:: Y_i = y_0 + h \sum_{j<i} a_{ij} f_j + h \gamma f(t_0 + c_i h, Y_i), \qquad y_1 = Y_4

    Args:
        linear_solver: how the linear systems are solved; None: :class:`DenseLU`.
        derivatives: how often a solution can be differentiated, 1 or 2.

    Raises:
        InvalidProblemError: an argument is wrong; in the solve, a field that cannot be differentiated.

    When to take it:
        To compare with other codes; :class:`Kvaerno3` otherwise.

    References:
        Kennedy, Carpenter: Additive Runge-Kutta schemes for convection-diffusion-reaction equations. Appl. Numer. Math. 44
        (2003).

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -1e6 * (y - torch.cos(t)), torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.KenCarp3(), rtol=1e-5).y1
        tensor([0.5403], dtype=torch.float64)
    """

    @staticmethod
    def coefficients() -> ImplicitTableau:
        """The tableau."""
        g = 1767732205903 / 4055673282236
        b = (1471266399579 / 7840856788654, -4482444167858 / 7529755066697, 11266239266428 / 11593286722821, g)
        return ImplicitTableau(
            a=((0.0,), (g, g), (2746238789719 / 10658868560708, -640167445237 / 6845629431997, g), b),
            b=b,
            order=3,
            b_embedded=(
                2756255671327 / 12835298489170,
                -10771552573575 / 22201958757719,
                9247589265047 / 10645013368117,
                2193209047091 / 5459859503100,
            ),
            embedded_order=2,
        )


class KenCarp4(NamedDiagonallyImplicit):
    r"""ARK4(3)6L[2]SA, its implicit part: order 4(3), five implicit stages, stiffly accurate and L-stable.

    .. math:: Y_i = y_0 + h \sum_{j<i} a_{ij} f_j + \tfrac h4 f(t_0 + c_i h, Y_i), \qquad y_1 = Y_6

    Args:
        linear_solver: how the linear systems are solved; None: :class:`DenseLU`.
        derivatives: how often a solution can be differentiated, 1 or 2.

    Raises:
        InvalidProblemError: an argument is wrong; in the solve, a field that cannot be differentiated.

    When to take it:
        For stiff fields at tolerances from 1e-4 to 1e-6, of which a Jacobian is dear.

    References:
        Kennedy, Carpenter: Additive Runge-Kutta schemes for convection-diffusion-reaction equations. Appl. Numer. Math. 44
        (2003).

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -1e6 * (y - torch.cos(t)), torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.KenCarp4(), rtol=1e-5).y1
        tensor([0.5403], dtype=torch.float64)
    """

    @staticmethod
    def coefficients() -> ImplicitTableau:
        """The tableau."""
        g = 0.25
        b = (82889 / 524892, 0.0, 15625 / 83664, 69875 / 102672, -2260 / 8211, g)
        return ImplicitTableau(
            a=(
                (0.0,),
                (g, g),
                (8611 / 62500, -1743 / 31250, g),
                (5012029 / 34652500, -654441 / 2922500, 174375 / 388108, g),
                (15267082809 / 155376265600, -71443401 / 120774400, 730878875 / 902184768, 2285395 / 8070912, g),
                b,
            ),
            b=b,
            order=4,
            b_embedded=(
                4586570599 / 29645900160,
                0.0,
                178811875 / 945068544,
                814220225 / 1159782912,
                -3700637 / 11593932,
                61727 / 225920,
            ),
            embedded_order=3,
        )


class KenCarp5(NamedDiagonallyImplicit):
    r"""ARK5(4)8L[2]SA, its implicit part: order 5(4), seven implicit stages, stiffly accurate and L-stable.

    .. math:: Y_i = y_0 + h \sum_{j<i} a_{ij} f_j + \tfrac{41}{200} h f(t_0 + c_i h, Y_i), \qquad y_1 = Y_8

    Args:
        linear_solver: how the linear systems are solved; None: :class:`DenseLU`.
        derivatives: how often a solution can be differentiated, 1 or 2.

    Raises:
        InvalidProblemError: an argument is wrong; in the solve, a field that cannot be differentiated.

    When to take it:
        To compare with other codes; :class:`Kvaerno5` otherwise, which has a stage less.

    References:
        Kennedy, Carpenter: Additive Runge-Kutta schemes for convection-diffusion-reaction equations. Appl. Numer. Math. 44
        (2003).

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -1e6 * (y - torch.cos(t)), torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.KenCarp5(), rtol=1e-5).y1
        tensor([0.5403], dtype=torch.float64)
    """

    @staticmethod
    def coefficients() -> ImplicitTableau:
        """The tableau."""
        g = 41 / 200
        b = (
            -872700587467 / 9133579230613,
            0.0,
            0.0,
            22348218063261 / 9555858737531,
            -1143369518992 / 8141816002931,
            -39379526789629 / 19018526304540,
            32727382324388 / 42900044865799,
            g,
        )
        return ImplicitTableau(
            a=(
                (0.0,),
                (g, g),
                (41 / 400, -567603406766 / 11931857230679, g),
                (683785636431 / 9252920307686, 0.0, -110385047103 / 1367015193373, g),
                (
                    3016520224154 / 10081342136671,
                    0.0,
                    30586259806659 / 12414158314087,
                    -22760509404356 / 11113319521817,
                    g,
                ),
                (
                    218866479029 / 1489978393911,
                    0.0,
                    638256894668 / 5436446318841,
                    -1179710474555 / 5321154724896,
                    -60928119172 / 8023461067671,
                    g,
                ),
                (
                    1020004230633 / 5715676835656,
                    0.0,
                    25762820946817 / 25263940353407,
                    -2161375909145 / 9755907335909,
                    -211217309593 / 5846859502534,
                    -4269925059573 / 7827059040719,
                    g,
                ),
                b,
            ),
            b=b,
            order=5,
            rounding=1e-11,  # the fractions are good to twelve digits
            b_embedded=(
                -975461918565 / 9796059967033,
                0.0,
                0.0,
                78070527104295 / 32432590147079,
                -548382580838 / 3424219808633,
                -33438840321285 / 15594753105479,
                3629800801594 / 4656183773603,
                4035322873751 / 18575991585200,
            ),
            embedded_order=4,
        )
