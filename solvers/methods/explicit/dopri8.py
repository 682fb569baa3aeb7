"""Prince and Dormand's 8(7) pair of thirteen stages, with seventh-order dense output.

A fourteenth stage, f(t1, y1), is shared with the next step, as in torchdiffeq and diffrax: an accepted step costs
thirteen evaluations, and the dense output has its end slope for nothing.

Source: P. J. Prince, J. R. Dormand, "High order embedded Runge-Kutta formulae", J. Comput. Appl. Math. 7 (1981) 67-75
(the pair RK8(7)13M, in fractions good to 18 digits).

The stages alone allow dense output of order 5 and no more, which is what diffrax has. The dense output here is another
one, derived for this library. Four extra stages raise the order in turn: the row of the first (node 0.9) satisfies the
order conditions at its node up to order 5, which makes order 6 possible; the rows of the next three (nodes 0.28, 0.55,
0.69) satisfy them up to order 6, which makes order 7 possible. Of the solutions of these linear systems, and of the
final one for weights of degree 7 that end in b with a continuous slope, each is the smallest in the Euclidean norm;
stages 1 to 4 (counted from 0) and, in the final one, the first extra stage take no part. The nodes came out of a random
search for a small error of order 8. The computation was done with 60 digits; tests/solvers/test_dense_weights.py
repeats it in double precision.
"""

from typing import Any

from ..runge_kutta import NamedRungeKutta
from ..tableau import ButcherTableau, Interpolant

# fmt: off
_B = (
    14005451 / 335480064, 0, 0, 0, 0, -59238493 / 1068277825, 181606767 / 758867731, 561292985 / 797845732,
    -1041891430 / 1371343529, 760417239 / 1151165299, 118820643 / 751138087, -528747749 / 2220607170, 1 / 4,
)
_A = (
    (),
    (1 / 18,),
    (1 / 48, 1 / 16),
    (1 / 32, 0, 3 / 32),
    (5 / 16, 0, -75 / 64, 75 / 64),
    (3 / 80, 0, 0, 3 / 16, 3 / 20),
    (29443841 / 614563906, 0, 0, 77736538 / 692538347, -28693883 / 1125000000, 23124283 / 1800000000),
    (
        16016141 / 946692911, 0, 0, 61564180 / 158732637, 22789713 / 633445777, 545815736 / 2771057229,
        -180193667 / 1043307555,
    ),
    (
        39632708 / 573591083, 0, 0, -433636366 / 683701615, -421739975 / 2616292301, 100302831 / 723423059,
        790204164 / 839813087, 800635310 / 3783071287,
    ),
    (
        246121993 / 1340847787, 0, 0, -37695042795 / 15268766246, -309121744 / 1061227803, -12992083 / 490766935,
        6005943493 / 2108947869, 393006217 / 1396673457, 123872331 / 1001029789,
    ),
    (
        -1028468189 / 846180014, 0, 0, 8478235783 / 508512852, 1311729495 / 1432422823, -10304129995 / 1701304382,
        -48777925059 / 3047939560, 15336726248 / 1032824649, -45442868181 / 3398467696, 3065993473 / 597172653,
    ),
    (
        185892177 / 718116043, 0, 0, -3185094517 / 667107341, -477755414 / 1098053517, -703635378 / 230739211,
        5731566787 / 1027545527, 5232866602 / 850066563, -4093664535 / 808688257, 3962137247 / 1805957418,
        65686358 / 487910083,
    ),
    (
        403863854 / 491063109, 0, 0, -5068492393 / 434740067, -411421997 / 543043805, 652783627 / 914296604,
        11173962825 / 925320556, -13158990841 / 6184727034, 3936647629 / 1978049680, -160528059 / 685178525,
        248638103 / 1413531060, 0,
    ),
    _B,
)
_B_EMBEDDED = (
    13451932 / 455176623, 0, 0, 0, 0, -808719846 / 976000145, 1757004468 / 5645159321, 656045339 / 265891186,
    -3867574721 / 1518517206, 465885868 / 322736535, 53011238 / 667516719, 2 / 45, 0, 0,
)
_C = (
    0, 1 / 18, 1 / 12, 1 / 8, 5 / 16, 3 / 8, 59 / 400, 93 / 200, 5490023248 / 9719169821, 13 / 20,
    1201146811 / 1299019798, 1, 1, 1,
)
_EXTRA_A = (
    (
        0.04145899367305364, 0, 0, 0, 0, 0.12403518262844863, 0.2367362038477497, 0.09666334636628246,
        0.11564281845871915, 0.166852185420628, 0.18273669203875204, -0.021375140811211207, -0.021375140811211214,
        -0.021375140811211182,
    ),
    (
        0.048289257195927776, 0, 0, 0, 0, 0.0654274761947629, 0.20140855711911648, -0.030375440435429474,
        -0.044959674262759736, 0.05022937480704844, 0.0354070939365623, -0.04031864213371518, 0.06093615757848516,
        -0.020885759999999556, -0.04515839999999913,
    ),
    (
        0.05379807850703856, 0, 0, 0, 0, 0.08250031776280167, 0.16386776907821773, 0.0567246524023049,
        0.038677848498008364, 0.02550980933721464, -0.005565982972207169, -0.0035188667122890644,
        -0.009232998492892911, 0.019805072376475608, -0.010084556486717819, 0.13751885670204547,
    ),
    (
        0.04591654604330089, 0, 0, 0, 0, 0.11649257345686927, 0.20844350528133263, 0.061366533955787436,
        0.037479288897805434, 0.05598272422023005, 0.005723141983558949, -0.023261286254497908, 0.009738812980595098,
        0.01063105301435796, 0.001013573436413099, 0.05203064698572874, 0.10844288599851837,
    ),
)
_EXTRA_C = (0.9, 0.28, 0.55, 0.69)
_DENSE = (
    (
        1, -8.21460825097903, 32.302427665611695, -67.94245936090724, 78.50813253819358, -47.0333239632264,
        11.42157886244891,
    ),
    (0,) * 7,
    (0,) * 7,
    (0,) * 7,
    (0,) * 7,
    (
        0, 10.950275364104623, -75.09295145590484, 214.77173859798492, -314.46546037980954, 229.8479676684827,
        -66.06702212346906,
    ),
    (
        0, 20.434820891073866, -122.61570397746162, 309.62987571252177, -396.09946176315987, 253.27319749363983,
        -64.3834155494128,
    ),
    (
        0, 4.803406345198502, -22.943877519968694, 51.86620884138505, -54.870291078269624, 26.825008672089382,
        -4.976944591031212,
    ),
    (
        0, 1.4700877549071194, -8.432554729358785, 5.99297670168077, 13.711139872268893, -24.339747003380683,
        10.838337790068264,
    ),
    (
        0, 6.629612466687604, -54.36709562578924, 192.14581073230426, -329.35944066414095, 271.22571051754386,
        -85.61403439568325,
    ),
    (
        0, 1.5115512346594617, -19.11357983634722, 81.2953622585436, -154.9660376986644, 136.04986417136044,
        -44.61897264704177,
    ),
    (
        0, -3.258872751794356, 38.1089982485387, -156.16839371007808, 292.4388736458907, -254.1809621680003,
        82.82224719669047,
    ),
    (
        0, 2.5450168462205682, -34.120362061383496, 147.35866566100546, -283.07018640929124, 249.57073984999724,
        -82.03387388654856,
    ),
    (
        0, 0.03955415383201069, 4.4842097725381596, -27.425001642321302, 60.58103488287298, -58.021674698094714,
        20.34187753117287,
    ),
    (0,) * 7,
    (
        0, -24.116500746339433, 177.8864534832128, -505.5946761421483, 701.4927676896076, -477.1648171539246,
        127.49677286959195,
    ),
    (
        0, -6.1687880339544385, 10.606421760671203, 44.89179988962338, -133.69251476959582, 121.12788299740862,
        -36.76480184415295,
    ),
    (
        0, -6.6255552736164995, 73.29761427564134, -290.82190753959435, 519.7914441340978, -427.1798463838954,
        131.53825078736713,
    ),
)
# fmt: on


class Dopri8(NamedRungeKutta):
    r"""Prince and Dormand's pair RK8(7)13M: order 8, embedded order 7, for tight tolerances.

    .. math:: y_{n+1} = y_n + h \sum_{i=1}^{13} b_i k_i, \qquad e = h \sum_{i=1}^{13} (b_i - \hat b_i) k_i

    with local extrapolation; a fourteenth stage, the slope at the end, is the first of the next step; the coefficients
    are in ``tableau``.

    Raises:
        InvalidProblemError: in the solve, an SDE whose calculus is Ito and whose noise is not additive.

    When to take it:
        In float64 for tolerances below about 1e-8, and to compare with other codes of the pair. :class:`Vern7` and
        :class:`Vern9` have more recent coefficients; in float32 order 8 gains nothing.

    References:
        Prince, Dormand: High order embedded Runge-Kutta formulae. J. Comput. Appl. Math. 7 (1981).

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y: -y, torch.ones(1, dtype=torch.float64), (0.0, 1.0))
        >>> nde.solve(problem, nde.Dopri8(), rtol=1e-8, atol=1e-8).y1
        tensor([0.3679], dtype=torch.float64)
    """

    @staticmethod
    def coefficients() -> ButcherTableau:
        """The tableau."""
        return ButcherTableau(
            a=_A,
            b=(*_B, 0),
            c=_C,
            order=8,
            b_embedded=_B_EMBEDDED,
            embedded_order=7,
            interpolant=Interpolant(order=7, weights=_DENSE, a=_EXTRA_A, c=_EXTRA_C),
        )

    @property
    def controller_options(self) -> dict[str, Any]:
        """The factors of Hairer, Norsett, Wanner's DOP853, and the exponents of their other code, DOPRI5.

        Over the DETEST problems these need 3 % fewer field calls at equal error than DOP853's own, 1/8 and 0.
        """
        return {"beta": (0.85 / 8, -0.2 / 8), "factor_min": 1 / 3, "factor_max": 6.0}
