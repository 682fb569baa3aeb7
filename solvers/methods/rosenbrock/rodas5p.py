"""Steinebach's Rosenbrock pair of order 5(4) with dense output of order 4.

Source: G. Steinebach, "Construction of Rosenbrock-Wanner method Rodas5P and numerical benchmarks within the Julia
Differential Equations package", BIT Numer. Math. 63 (2023) 27.
"""

from .base import NamedRosenbrock
from .tableau import RosenbrockTableau, bent_line

_LAST = (-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946)


class Rodas5P(NamedRosenbrock):
    r"""Steinebach's pair, the first to take for stiff fields: order 5, embedded order 4, eight stages, stiffly accurate, L-stable.

    .. math:: u_8 = y_1 - \hat y_1, \qquad y_0 + \textstyle\sum_{j<8} a_{8j} u_j = \hat y_1

    so that the error estimate is the last stage itself, bounded however stiff the field is. Built so that the order holds for
    forced problems (Prothero and Robinson's) and semidiscretised partial differential equations, where other methods of its
    kind fall to order 2 or 3.

    Args:
        linear_solver: how the linear systems are solved; None: :class:`DenseLU`.

    Raises:
        InvalidProblemError: in the solve, a field that ``torch.func`` cannot differentiate.

    When to take it:
        For stiff fields at tolerances from 1e-4 to 1e-10, up to some hundred unknowns: every step takes a Jacobian.
        :class:`Rosenbrock23` for cruder tolerances; a method that reuses its Jacobian, such as :class:`Kvaerno5`, where the
        Jacobian is dear.

    References:
        Steinebach: Construction of Rosenbrock-Wanner method Rodas5P and numerical benchmarks within the Julia Differential
        Equations package. BIT Numer. Math. 63 (2023).

    Example:
        >>> import torch, neuralde as nde
        >>> from neuralde.solvers.testing.stiff import ROBERTSON
        >>> sol = nde.solve(ROBERTSON.problem(), nde.Rodas5P(), rtol=1e-6, atol=1e-12)
        >>> ROBERTSON.error(sol.y1) < 1e-5, sol.stats.jacobians == sol.stats.accepted
        (True, True)
    """

    @staticmethod
    def coefficients() -> RosenbrockTableau:
        """The tableau."""
        m = (*_LAST, 1.0, 1.0, 1.0)
        return RosenbrockTableau(
            gamma=0.21193756319429014,
            a=(
                (),
                (3.0,),
                (2.849394379747939, 0.45842242204463923),
                (-6.954028509809101, 2.489845061869568, -10.358996098473584),
                (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
                _LAST,
                (*_LAST, 1.0),
                (*_LAST, 1.0, 1.0),
            ),
            c=(
                (),
                (-14.155112264123755,),
                (-17.97296035885952, -2.859693295451294),
                (147.12150275711716, -1.41221402718213, 71.68940251302358),
                (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
                (24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471),
                (
                    30.91273214028599,
                    -3.1208243349937974,
                    77.79954646070892,
                    34.28646028294783,
                    -19.097331116725623,
                    -28.087943162872662,
                ),
                (
                    37.80277123390563,
                    -3.2571969029072276,
                    112.26918849496327,
                    66.9347231244047,
                    -40.06618937091002,
                    -54.66780262877968,
                    -9.48861652309627,
                ),
            ),
            m=m,
            m_embedded=(*_LAST, 1.0, 1.0, 0.0),
            order=5,
            embedded_order=4,
            dense=bent_line(
                m,
                (
                    25.948786856663858,
                    -2.5579724845846235,
                    10.433815404888879,
                    -2.3679251022685204,
                    0.524948541321073,
                    1.1241088310450404,
                    0.4272876194431874,
                    -0.17202221070155493,
                ),
                (
                    -9.91568850695171,
                    -0.9689944594115154,
                    3.0438037242978453,
                    -24.495224566215796,
                    20.176138334709044,
                    15.98066361424651,
                    -6.789040303419874,
                    -6.710236069923372,
                ),
                (
                    11.419903575922262,
                    2.8879645146136994,
                    72.92137995996029,
                    80.12511834622643,
                    -52.072871366152654,
                    -59.78993625266729,
                    -0.15582684282751913,
                    4.883087185713722,
                ),
            ),
            dense_order=4,
        )
