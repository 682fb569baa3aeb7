"""Stiff problems with references, from the test sets of the field; for tests and benchmarks of implicit methods.

States have their components last, so that each problem also takes a batch of them. Every reference was found again with
SciPy's Radau at tolerances of 1e-12 and below, to the digits that :attr:`StiffProblem.agrees` states.

References:
    Hairer, Wanner: Solving Ordinary Differential Equations II, IV.10. Mazzia, Magherini: Test Set for Initial Value
    Problem Solvers, release 2.4, Bari (2008).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..problems import ODEProblem

__all__ = [
    "BRUSSELATOR",
    "E5",
    "HIRES",
    "OREGONATOR",
    "POLLUTION",
    "PROTHERO_ROBINSON",
    "ROBERTSON",
    "STIFF",
    "VAN_DER_POL_1E3",
    "VAN_DER_POL_1E6",
    "StiffProblem",
    "prothero_robinson",
]


@dataclass(frozen=True, eq=False)
class StiffProblem:
    """An initial value problem with the state at its end.

    Args:
        name: for test ids and tables.
        f: the field.
        y0: the initial state.
        tspan: the interval.
        end: the solution at its end.
        small: the absolute tolerance in units of the relative one, below which components do not matter.
        agrees: how far the reference is known, relative to the size of each component or ``small``.
        source: where problem and reference are from.

    >>> ROBERTSON.error(ROBERTSON.reference())
    0.0
    """

    name: str
    f: Callable[[Tensor, Tensor], Tensor]
    y0: tuple[float, ...]
    tspan: tuple[float, float]
    end: tuple[float, ...]
    small: float
    agrees: float
    source: str

    def problem(self, dtype: torch.dtype = torch.float64) -> ODEProblem:
        """The problem."""
        return ODEProblem(self.f, torch.tensor(self.y0, dtype=dtype), self.tspan)

    def reference(self) -> Tensor:
        """The solution at the end."""
        return torch.tensor(self.end, dtype=torch.float64)

    def error(self, y: Tensor) -> float:
        """The largest error of a component, relative to its size and ``small``.

        At tolerances ``rtol`` and ``atol = small * rtol`` it is in units of ``rtol``.
        """
        end = self.reference()
        return float(((y.to(torch.float64) - end).abs() / (end.abs() + self.small)).max())

    def __repr__(self) -> str:
        return self.name


def _robertson(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    first, second, third = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    return torch.stack([second - first, first - second - third, third], -1)


ROBERTSON = StiffProblem(
    "Robertson",
    _robertson,
    (1.0, 0.0, 0.0),
    (0.0, 1e11),
    (0.2083340149701255e-07, 0.8333360770334713e-13, 0.9999999791665050),
    1e-14,
    1e-8,
    "Robertson (1966); Hairer, Wanner II, IV.10",
)
"""Three reactions at rates from 0.04 to 3e7, followed until almost all is the product."""


def _hires(t: Tensor, y: Tensor) -> Tensor:
    a, b, c, d, e, f, g, h = y.unbind(-1)
    exchange = 280.0 * f * h
    return torch.stack(
        [
            -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
            1.71 * a - 8.75 * b,
            -10.03 * c + 0.43 * d + 0.035 * e,
            8.32 * b + 1.71 * c - 1.12 * d,
            -1.745 * e + 0.43 * f + 0.43 * g,
            -exchange + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
            exchange - 1.81 * g,
            1.81 * g - exchange,
        ],
        -1,
    )


HIRES = StiffProblem(
    "HIRES",
    _hires,
    (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057),
    (0.0, 321.8122),
    (
        0.7371312573325668e-3,
        0.1442485726316185e-3,
        0.5888729740967575e-4,
        0.1175651343283149e-2,
        0.2386356198831331e-2,
        0.6238968252742796e-2,
        0.2849998395185769e-2,
        0.2850001604814231e-2,
    ),
    1e-4,
    1e-9,
    "Schaefer (1975); Bari test set",
)
"""High irradiance responses of photomorphogenesis: eight reactants."""


def _oregonator(t: Tensor, y: Tensor) -> Tensor:
    a, b, c = y.unbind(-1)
    return torch.stack([77.27 * (b + a * (1.0 - 8.375e-6 * a - b)), (c - (1.0 + a) * b) / 77.27, 0.161 * (a - c)], -1)


OREGONATOR = StiffProblem(
    "Oregonator",
    _oregonator,
    (1.0, 2.0, 3.0),
    (0.0, 360.0),
    (0.1000814870318523e01, 0.1228178521549917e04, 0.1320554942846706e03),
    1e-6,
    1e-8,
    "Field, Noyes (1974); Hairer, Wanner II, IV.10",
)
"""The Belousov-Zhabotinskii reaction, through a relaxation oscillation."""


def _e5(t: Tensor, y: Tensor) -> Tensor:
    a, b, c, d = y.unbind(-1)
    decay, both, back, last = 7.89e-10 * a, 1.13e9 * b * c, 1.1e7 * a * c, 1.13e3 * d
    second, fourth = decay - both, back - last
    # What y_2 - y_3 - y_4 was at the start it has to stay, to more digits than the terms have.
    return torch.stack([-decay - back, second, second - fourth, fourth], -1)


E5 = StiffProblem(
    "E5",
    _e5,
    (1.76e-3, 0.0, 0.0, 0.0),
    (0.0, 1e9),
    (3.131714831732008e-14, 1.4840957943496374e-16, 1.4840957952053382e-16, 4.5243728273696105e-26),
    1.7e-24,
    2e-9,
    "Enright, Hull, Lindberg (1975); Hairer, Wanner II, IV.10 (there to 1e13); the reference by SciPy's Radau at 3e-13",
)
"""A pyrolysis with concentrations from 1e-3 to 1e-26. Later than this float64 does not know the small ones any more."""

_POLLUTION_RATES = (
    0.35, 26.6, 1.23e4, 8.6e-4, 8.2e-4, 1.5e4, 1.3e-4, 2.4e4, 1.65e4, 9e3, 0.022, 1.2e4, 1.88,
    1.63e4, 4.8e6, 3.5e-4, 0.0175, 1e8, 4.44e11, 1.24e3, 2.1, 5.78, 0.0474, 1.78e3, 3.12,
)  # fmt: skip
# For each reaction what reacts, and what it makes.
_POLLUTION_REACTIONS: tuple[tuple[Sequence[int], Sequence[int]], ...] = (
    ((1,), (2, 3)), ((2, 4), (1,)), ((5, 2), (6, 1)), ((7,), (5, 5, 8)), ((7,), (8,)), ((7, 6), (5, 8)), ((9,), (5, 8, 10)),
    ((9, 6), (11,)), ((11, 2), (1, 10, 12)), ((11, 1), (13,)), ((13,), (11, 1)), ((10, 2), (1, 14)), ((14,), (7, 5)),
    ((1, 6), (15,)), ((3,), (4,)), ((4,), (16,)), ((4,), (3,)), ((16,), (6, 6)), ((16,), (3,)), ((17, 6), (18, 5)),
    ((19,), (2,)), ((19,), (1, 3)), ((1, 4), (19,)), ((19, 1), (20,)), ((20,), (1, 19)),
)  # fmt: skip


def _stoichiometry() -> tuple[Tensor, Tensor, Tensor]:
    """Where the first and second factor of each reaction are, 20 for none; and what each makes and takes."""
    first = torch.tensor([takes[0] - 1 for takes, _ in _POLLUTION_REACTIONS], dtype=torch.int64)
    places = [takes[1] - 1 if len(takes) > 1 else 20 for takes, _ in _POLLUTION_REACTIONS]
    second = torch.tensor(places, dtype=torch.int64)
    made = torch.zeros(len(_POLLUTION_REACTIONS), 20, dtype=torch.float64)
    for row, (takes, makes) in enumerate(_POLLUTION_REACTIONS):
        for sign, species in ((-1.0, takes), (1.0, makes)):
            for place in species:
                made[row, place - 1] += sign
    return first, second, made


_FIRST, _SECOND, _MADE = _stoichiometry()


def _pollution(t: Tensor, y: Tensor) -> Tensor:
    extended = torch.cat([y, torch.ones_like(y[..., :1])], -1)
    rates = torch.tensor(_POLLUTION_RATES, dtype=y.dtype) * extended[..., _FIRST] * extended[..., _SECOND]
    return rates @ _MADE.to(y.dtype)


POLLUTION = StiffProblem(
    "Pollution",
    _pollution,
    (0.0, 0.2, 0.0, 0.04, 0.0, 0.0, 0.1, 0.3, 0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.007, 0.0, 0.0, 0.0),
    (0.0, 60.0),
    (
        0.5646255480022769e-1,
        0.1342484130422339,
        0.4139734331099427e-8,
        0.5523140207484359e-2,
        0.2018977262302196e-6,
        0.1464541863493966e-6,
        0.7784249118997964e-1,
        0.3245075353396018,
        0.7494013383880406e-2,
        0.1622293157301561e-7,
        0.1135863833257075e-7,
        0.2230505975721359e-2,
        0.2087162882798630e-3,
        0.1396921016840158e-4,
        0.8964884856898295e-2,
        0.4352846369330103e-17,
        0.6899219696263405e-2,
        0.1007803037365946e-3,
        0.1772146513969984e-5,
        0.5682943292316392e-4,
    ),
    1e-4,
    1e-9,
    "Verwer (1994); Bari test set",
)
"""The chemistry of air pollution: 25 reactions of 20 species."""


def _van_der_pol(mu: float) -> Callable[[Tensor, Tensor], Tensor]:
    def field(t: Tensor, y: Tensor) -> Tensor:
        x, v = y.unbind(-1)
        return torch.stack([v, mu * ((1.0 - x * x) * v - x)], -1)

    return field


VAN_DER_POL_1E3 = StiffProblem(
    "van der Pol 1e3",
    _van_der_pol(1e3),
    (2.0, 0.0),
    (0.0, 2.0),
    (1.7632345402034852, -0.8356886816776429),
    1.0,
    1e-9,
    "Hairer, Wanner II, IV.10, in slow time; the reference by SciPy's Radau at 1e-13",
)
"""A relaxation oscillation through two jumps, 1e3 times faster than what lies between them."""
VAN_DER_POL_1E6 = StiffProblem(
    "van der Pol 1e6",
    _van_der_pol(1e6),
    (2.0, 0.0),
    (0.0, 2.0),
    (0.1706167732170483e1, -0.8928097010247975),
    1.0,
    1e-8,
    "Hairer, Wanner II, IV.10; Bari test set",
)
"""The same, a million times faster."""

_CELLS = 20


def _brusselator(t: Tensor, y: Tensor) -> Tensor:
    u, v = y[..., :_CELLS], y[..., _CELLS:]
    diffusion = 0.02 * (_CELLS + 1) ** 2
    bent = [torch.nn.functional.pad(x - ends, (1, 1)).diff(n=2, dim=-1) for x, ends in ((u, 1.0), (v, 3.0))]
    square = u * u * v
    return torch.cat([1.0 + square - 4.0 * u + diffusion * bent[0], 3.0 * u - square + diffusion * bent[1]], -1)


def _brusselator_start() -> tuple[float, ...]:
    x = torch.arange(1, _CELLS + 1, dtype=torch.float64) / (_CELLS + 1)
    return tuple(torch.cat([1.0 + torch.sin(2.0 * torch.pi * x), torch.full_like(x, 3.0)]).tolist())


BRUSSELATOR = StiffProblem(
    "Brusselator",
    _brusselator,
    _brusselator_start(),
    (0.0, 10.0),
    (
        0.8776530097283062,
        0.7658928273838157,
        0.6712478470947681,
        0.5958550017513495,
        0.53864696771408,
        0.49693860187308997,
        0.46767208767274504,
        0.44813203482005326,
        0.43624712600134913,
        0.4306606757476931,
        0.4307112500402548,
        0.4364053271659369,
        0.4484169183817712,
        0.4681131789868378,
        0.49756920417094064,
        0.5394886457356667,
        0.5968897247446852,
        0.6723805302574484,
        0.7669226841236731,
        0.8782943216042884,
        3.1547039090604407,
        3.2955488200908762,
        3.4136432654868556,
        3.505830090092771,
        3.573451166362841,
        3.6204057913837393,
        3.651446867541767,
        3.6710454230898906,
        3.682770846861902,
        3.6890130427684378,
        3.6908875512492494,
        3.688219383002272,
        3.6795566628454814,
        3.662214785967887,
        3.632401031451003,
        3.5855235488192316,
        3.5168399755684425,
        3.42260911210288,
        3.3017784392481753,
        3.1578531172421265,
    ),
    1.0,
    1e-9,
    "Hairer, Wanner II, IV.10 (there with 500 points); the reference by SciPy's Radau at 1e-13",
)
"""A reaction with diffusion along a line, 20 points for each of two species."""


def prothero_robinson(rate: float) -> tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Prothero and Robinson's field, which pulls towards ``sin(t)`` at a rate, and its smooth solution.

    It shows the order that is left of a method's where the field is stiff.

    >>> f, exact = prothero_robinson(1e4)
    >>> f(torch.tensor(0.0), exact(torch.tensor(0.0))).item()
    1.0
    """

    def field(t: Tensor, y: Tensor) -> Tensor:
        return rate * (torch.sin(t) - y) + torch.cos(t)

    return field, torch.sin


PROTHERO_ROBINSON = StiffProblem(
    "Prothero-Robinson",
    prothero_robinson(1e6)[0],
    (0.0,),
    (0.0, 10.0),
    (-0.5440211108893698,),
    1.0,
    1e-15,
    "Prothero, Robinson (1974); sin(10)",
)
"""A forced relaxation at the rate 1e6."""

STIFF = (
    ROBERTSON,
    HIRES,
    OREGONATOR,
    E5,
    POLLUTION,
    VAN_DER_POL_1E3,
    VAN_DER_POL_1E6,
    BRUSSELATOR,
    PROTHERO_ROBINSON,
)
"""Every problem."""
