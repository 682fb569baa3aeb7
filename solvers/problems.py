"""What to solve: an initial value problem, or a steady state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from .checks import as_number, number, shown
from .core.packing import check_state
from .core.scalars import as_clock
from .core.vmap import refuse_lanes
from .errors import InvalidProblemError
from .functions.hints import check_order
from .paths.fractional.rates import checked_rates


class Problem:
    """What a problem says of itself; how it is solved is in :mod:`neuralde.solvers.front.kinds`."""

    title: ClassVar[str]
    """What messages call it, with its article."""
    smooth: ClassVar[bool] = True
    """Whether its solution has a slope, so that times can be differentiated and events located."""
    random: ClassVar[bool] = False
    """Whether noise drives it."""
    parts: ClassVar[tuple[str, ...]] = ("f",)
    """The attributes that are the user's functions."""
    declared: ClassVar[tuple[str, ...]] = ()
    """The attributes, other than the state, the times and the arguments, that say more about these."""

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """The user's functions by name."""
        return {name: getattr(self, name) for name in self.parts}


@dataclass(frozen=True, eq=False)
class ODEProblem(Problem):
    r"""An initial value problem for an ordinary differential equation.

    .. math:: y'(t) = f(t, y(t), \text{args}), \qquad y(t_0) = y_0, \qquad t \text{ from } t_0 \text{ to } t_1

    Args:
        f: the vector field, ``f(t, y, *args) -> dy`` with the structure and shapes of ``y``. ``t`` is a 0-d tensor of the
            state's real dtype on its device (shape ``(B, 1, ...)`` when every sample has its own clock).
        y0: the initial state: a tensor of any shape, float32, float64, complex64 or complex128, or a pytree of them.
        tspan: ``(t0, t1)``, floats or 0-d tensors, to which gradients flow; ``t1 < t0`` integrates backwards. With
            ``per_sample`` each may have shape ``(B,)``.
        args: a tuple, unpacked into ``f``; its tensors are differentiable. Controls among them that have ``knots``, or
            ``grid_points`` as the paths of torchcde do, are landed on there, each step on its own side. With ``per_sample``
            the time has shape ``(B, 1)``, at which a path of torchcde returns every sample at every time,
            ``(B, B, 1, c)``: take ``path.derivative(t).diagonal(dim1=0, dim2=1).movedim(-1, 0)[:, 0]``.
        jac: the Jacobian ``jac(t, y, *args)`` for implicit methods, of the flattened state; None: by automatic
            differentiation. A pytree is flattened leaf by leaf.

    Shapes:
        Any, and any pytree of them: a joint solve has one clock for all of it. With ``per_sample`` the first dimension,
        common to all leaves, counts independent systems. ``jac`` returns ``(n, n)``, with ``per_sample`` ``(B, n, n)``.

    Units:
        ``f`` in those of the state per time; tolerances and entries of the state may have units of their own.

    Raises:
        InvalidProblemError: an argument is wrong; the message names it.

    When to take it:
        For everything that a deterministic vector field moves: neural ODEs, flows, a control that is given as a
        function of time. :class:`SDEProblem` where noise drives it; :class:`SteadyStateProblem` where only the rest
        state matters.

    Example:
        >>> import torch, neuralde as nde
        >>> problem = nde.ODEProblem(lambda t, y, k: -k * y, torch.ones(1), (0.0, 1.0), args=(torch.tensor(2.0),))
        >>> nde.solve(problem, rtol=1e-6).y1
        tensor([0.1353])
    """

    title = "an ODEProblem"
    f: Callable[..., Any]
    y0: Any
    tspan: tuple[Any, Any]
    args: tuple[Any, ...] = ()
    jac: Callable[..., Any] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check_parts(self.f, self.y0, self.args)
        if self.jac is not None and not callable(self.jac):
            raise InvalidProblemError(
                f"jac: got {type(self.jac).__name__}; expected a callable jac(t, y, *args), or None"
            )
        _set_tspan(self)


@dataclass(frozen=True, eq=False)
class CDEProblem(Problem):
    r"""An initial value problem for a controlled differential equation.

    .. math:: y(t) = y_0 + \int_{t_0}^t F(s, y(s), \text{args}) \, dX(s), \qquad
              y'(t) = F(t, y(t), \text{args}) \, X'(t)

    Args:
        field: the vector field, ``field(t, y, *args)``: a matrix for each state, one column for each channel of the path;
            for a pytree of states, the same structure of them.
        path: the control, such as :class:`HermitePath`; any object whose ``derivative(t)`` gives the channels last, those
            of torchcde included. Solves land on the knots of a path that is not smooth, each step on its own side.
        y0: the initial state, as for an :class:`ODEProblem`.
        tspan: ``(t0, t1)`` as for an :class:`ODEProblem`; None: the whole path, its ``interval``.
        args: a tuple, unpacked into ``field``; its tensors are differentiable, as are the path's.

    Shapes:
        A state ``(..., d)``, a path of ``c`` channels and series ``(...)`` or none, a field ``(..., d, c)``. With
        ``per_sample`` the path is asked at each sample's own time, ``(B, 1, ...)``.

    Units:
        ``field`` in those of the state per those of the path.

    Raises:
        InvalidProblemError: an argument is wrong; the path does not cover the interval; the field's last dimension is not
            the number of channels.

    When to take it:
        For a state that data drive: neural CDEs and RDEs, rough paths. A time that should matter by itself is a channel
        of the path. Everything that solves an :class:`ODEProblem` solves it, and all adjoints differentiate it.

    References:
        Kidger, Morrill, Foster, Lyons: Neural controlled differential equations for irregular time series. NeurIPS 2020.

    Example:
        >>> import torch, neuralde as nde
        >>> path = nde.HermitePath([0.0, 0.5, 2.0], torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64))
        >>> problem = nde.CDEProblem(lambda t, y: y.unsqueeze(-1), path, torch.ones(1, dtype=torch.float64))
        >>> nde.solve(problem, rtol=1e-9, atol=1e-9).y1  # exp(X(2) - X(0))
        tensor([20.0855], dtype=torch.float64)
    """

    title = "a CDEProblem"
    parts = ("field",)
    field: Callable[..., Any]
    path: Any
    y0: Any
    tspan: tuple[Any, Any] | None = None
    args: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        _check_parts(self.field, self.y0, self.args, "field")
        if not callable(getattr(self.path, "derivative", None)):
            raise InvalidProblemError(
                f"path: got {type(self.path).__name__}; expected a control path, such as HermitePath(ts, xs)"
            )
        covered = getattr(self.path, "interval", None)
        if self.tspan is None:
            if covered is None:
                raise InvalidProblemError(f"tspan: got None with {type(self.path).__name__}, which has no interval")
            object.__setattr__(self, "tspan", tuple(covered))
        _set_tspan(self)
        if covered is not None:
            _check_cover(self.tspan, covered)


def _check_cover(tspan: Any, covered: Any) -> None:
    """Refuse an interval that the path does not cover."""
    if torch.compiler.is_compiling():
        return
    first, end = (float(x) for x in covered)
    for time in tspan:
        low, high = (float(f(time.detach())) if isinstance(time, Tensor) else time for f in (torch.min, torch.max))
        slack = 1e-6 * max(abs(first), abs(end)) if isinstance(time, Tensor) and time.dtype != torch.float64 else 0.0
        if low < first - slack or high > end + slack:
            raise InvalidProblemError(
                f"tspan: got {shown(time)}; expected times that the path covers, from {first!r} to {end!r}"
            )


NOISES = ("diagonal", "additive", "scalar", "commutative", "general")
CALCULI = ("ito", "stratonovich")


@dataclass(frozen=True, eq=False)
class SDEProblem(Problem):
    r"""An initial value problem for a stochastic differential equation.

    .. math:: dy = f(t, y, \text{args})\, dt + g(t, y, \text{args})\, dW_t \quad (\text{Ito}), \qquad
              dy = f\, dt + g \circ dW_t \quad (\text{Stratonovich})

    ====================  ==================  ==============================================================
    noise                 shape of ``g``      what it promises
    ====================  ==================  ==============================================================
    ``"diagonal"``        ``(..., d)``        each component has a noise of its own, and ``g_i`` depends on
                                              no other component than ``y_i`` (else orders above 0.5 are lost)
    ``"additive"``        ``(..., d, m)``     ``g`` does not depend on ``y``; also ``(..., d)``, one noise each
    ``"scalar"``          ``(..., d, 1)``     one noise for all components
    ``"commutative"``     ``(..., d, m)``     the derivatives of the columns of ``g`` along each other commute
    ``"general"``         ``(..., d, m)``     nothing; correlated noise is one case
    ====================  ==================  ==============================================================

    The last dimension of ``y`` is the one that a column of ``g`` drives; the dimensions before it count systems with
    noises of their own. In a pytree each leaf of ``g`` is shaped like the leaf of ``y``, with ``m`` behind it where
    there is one, and the same ``m`` noises drive all leaves (per sample, where ``solve`` has ``per_sample=True``).
    With ``t1 < t0`` the equation is integrated along the path run backwards: for Stratonovich problems that inverts the
    forward solution, for Ito problems it is another process.

    Args:
        drift: ``drift(t, y, *args)``, with the structure and shapes of ``y``.
        diffusion: ``diffusion(t, y, *args)``.
        y0: the initial state: a tensor or a pytree of tensors.
        tspan: ``(t0, t1)``, floats or tensors. A path has no derivative, so times cannot require grad.
        args: a tuple, unpacked into both; its tensors are differentiable.
        noise: see the table.
        calculus: ``"ito"`` or ``"stratonovich"``.

    Shapes:
        The drift as ``y``; the diffusion as the table says; the increments of the path as the columns of ``g``, with
        the leading dimensions of ``y``.

    Units:
        Drift in state per time, diffusion in state per square root of time: a Brownian path has the unit of the square
        root of time.

    Raises:
        InvalidProblemError: an argument is wrong; the message names it.

    When to take it:
        Where noise acts all along the way. Take ``"ito"`` where ``g`` is a volatility of data that is not looked ahead,
        ``"stratonovich"`` where the noise stands for a smooth one, and for the gradients of :class:`BacksolveAdjoint`;
        the noise as narrow as it is, since higher strong orders rest on it. A random start or random parameters alone
        are an :class:`ODEProblem`.

    Example:
        >>> import torch, neuralde as nde
        >>> y0 = torch.ones(1000, 1, dtype=torch.float64)
        >>> problem = nde.SDEProblem(lambda t, y: -y, lambda t, y: 0.5 * y, y0, (0.0, 1.0))
        >>> sol = nde.solve(problem, nde.EulerMaruyama(), dt=0.01, seed=1)
        >>> bool((sol.y1.mean() - 0.3679).abs() < 0.03), sol.stats.steps
        (True, 100)
    """

    title = "an SDEProblem"
    smooth = False
    random = True
    parts = ("drift", "diffusion")
    declared = ("noise", "calculus")
    drift: Callable[..., Any]
    diffusion: Callable[..., Any]
    y0: Any
    tspan: tuple[Any, Any]
    args: tuple[Any, ...] = ()
    noise: str = "diagonal"
    calculus: str = "ito"

    def __post_init__(self) -> None:
        _check_parts(self.drift, self.y0, self.args, "drift")
        _check_parts(self.diffusion, self.y0, self.args, "diffusion")
        for name, accepted in (("noise", NOISES), ("calculus", CALCULI)):
            if getattr(self, name) not in accepted:
                raise InvalidProblemError(f"{name}: got {getattr(self, name)!r}; expected one of {accepted}")
        _set_tspan(self)
        if any(isinstance(time, Tensor) and time.requires_grad for time in self.tspan):
            raise InvalidProblemError(
                "tspan: requires grad; expected constant times, since a Brownian path has no slope"
            )


class ConstantWeights:
    """Weights as a function of time that they do not depend on."""

    varies = False

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def __call__(self, t: Tensor, y: Any) -> Tensor:
        """The weights."""
        return self.value


class VaryingWeights:
    """The weights at a time, as the function of a field that no state enters."""

    varies = True

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self.function = function

    def __call__(self, t: Tensor, y: Any) -> Any:
        """The weights at ``t``."""
        return self.function(t)


@dataclass(frozen=True, eq=False)
class SemilinearSDEProblem(Problem):
    r"""An initial value problem for a state that filtered white noise drives.

    .. math:: dY_k = \bigl(-\gamma_k Y_k + u(t, y)\bigr)\, dt + dW, \qquad
              dx = b(t, y)\, dt + s(t, y) \circ dZ, \qquad Z(t) = \sum_k \omega_k(t)\, Y_k(t)

    with one Brownian motion W for each entry of x, which drives all K filters Y of that entry. Their linear part is solved
    in closed form, so that rates of any size are exact at any step size; with the weights of a :class:`FractionalNoise` Z is
    fractional Brownian motion. Fixed and adapted steps, rejections, save times and per-sample clocks follow one and the
    same path of W, with its exact law.

    Args:
        drift: ``drift(t, y, *args)``, like x, where ``y`` is the whole state.
        diffusion: ``diffusion(t, y, *args)``, like x; each entry depends on no other entry of x than its own.
        rates: the rates :math:`\gamma`, ``(K,)``, 0 or positive, and increasing; constants.
        weights: the weights :math:`\omega`, ``(K,)``, or a function of time that gives them; differentiable.
        y0: the initial state, a pair ``(x, Y)`` with Y shaped like x and K behind; or a triple ``(x, Y, E)``, whose last leaf
            grows by :math:`\tfrac12 \int |u|^2 dt`, summed over those last dimensions of x that E does not have: the path's
            Kullback-Leibler divergence from the process without control.
        tspan: ``(t0, t1)`` with t0 < t1, constants: a decay cannot be run backwards.
        args: a tuple, unpacked into the functions; its tensors are differentiable.
        control: ``control(t, y, *args)``, u, like x; None: 0.
        noise: ``"diagonal"``, or ``"additive"`` where the diffusion depends on t only.
        calculus: ``"stratonovich"`` or ``"ito"``; of additive noise the same.

    Shapes:
        x of any shape, Y with K behind, the functions' values like x.

    Units:
        Rates in 1/time, Y in the square root of time, the control in its inverse.

    Raises:
        InvalidProblemError: an argument is wrong; the message names it.

    When to take it:
        For fractional noise, coloured noise, and other linear filters with a wide range of rates, at steps much longer
        than the shortest time scale. :class:`SDEProblem` where the noise is white.

    References:
        Daems, Opper, Crevecoeur, Birdal: Variational inference for SDEs driven by fractional noise. ICLR 2024.

    Example:
        >>> import torch, neuralde as nde
        >>> noise = nde.FractionalNoise(0.7, "II")
        >>> x, filters = torch.zeros(500, 1, dtype=torch.float64), torch.zeros(500, 1, 8, dtype=torch.float64)
        >>> problem = nde.SemilinearSDEProblem(
        ...     lambda t, y: 0 * y[0], lambda t, y: torch.ones_like(y[0]), noise.rates, noise.weights, (x, filters), (0.0, 1.0)
        ... )
        >>> sol = nde.solve(problem, dt=0.1, seed=1)
        >>> f"{sol.y1[0].var():.2f}", f"{noise.variance(1.0):.2f}"
        ('0.83', '0.85')
    """

    title = "a SemilinearSDEProblem"
    smooth = False
    random = True
    parts = ("drift", "diffusion", "weights", "control")
    declared = ("rates", "noise", "calculus")
    drift: Callable[..., Any]
    diffusion: Callable[..., Any]
    rates: Any
    weights: Any
    y0: Any
    tspan: tuple[Any, Any]
    args: tuple[Any, ...] = ()
    control: Callable[..., Any] | None = None
    noise: str = "diagonal"
    calculus: str = "stratonovich"

    def __post_init__(self) -> None:
        for name in ("drift", "diffusion", *(() if self.control is None else ("control",))):
            _check_parts(getattr(self, name), self.y0, self.args, name)
        for name, accepted in (("noise", ("diagonal", "additive")), ("calculus", CALCULI)):
            if getattr(self, name) not in accepted:
                raise InvalidProblemError(f"{name}: got {getattr(self, name)!r}; expected one of {accepted}")
        object.__setattr__(self, "rates", checked_rates(self.rates, "II"))
        count = len(self.rates)
        if not callable(self.weights):
            weights = (
                self.weights if isinstance(self.weights, Tensor) else torch.as_tensor(self.weights, dtype=torch.float64)
            )
            if tuple(weights.shape) != (count,):
                raise InvalidProblemError(
                    f"weights: got shape {tuple(weights.shape)}; expected ({count},), one for each rate"
                )
            object.__setattr__(self, "weights", weights)
        _check_filter_state(self.y0, count)
        _set_tspan(self)
        if any(isinstance(time, Tensor) and time.requires_grad for time in self.tspan):
            raise InvalidProblemError(
                "tspan: requires grad; expected constant times, since a Brownian path has no slope"
            )
        _check_forward(self.tspan)

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """The user's functions by name."""
        weights = VaryingWeights(self.weights) if callable(self.weights) else ConstantWeights(self.weights)
        found: dict[str, Any] = {"drift": self.drift, "diffusion": self.diffusion, "weights": weights}
        return found if self.control is None else {**found, "control": self.control}


def _check_filter_state(y0: Any, count: int) -> None:
    """Refuse a state that is no pair of x and filters, or a triple with what collects energy."""
    leaves = list(y0) if isinstance(y0, (tuple, list)) else []
    shapes = [tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__ for leaf in leaves]
    fits = len(leaves) in (2, 3) and all(isinstance(leaf, Tensor) for leaf in leaves)
    if not fits or shapes[1] != (*shapes[0], count) or (len(leaves) == 3 and shapes[0][: len(shapes[2])] != shapes[2]):
        got = shapes if leaves else type(y0).__name__
        wanted = f"(x, Y) with shapes (...) and (..., {count}), or (x, Y, E) with E of leading dimensions of x"
        raise InvalidProblemError(f"y0: got {got}; expected {wanted}")
    if any(leaf.is_complex() for leaf in leaves) or len({leaf.dtype for leaf in leaves}) > 1:
        raise InvalidProblemError(f"y0: got {[leaf.dtype for leaf in leaves]}; expected one real dtype")


def _check_forward(tspan: tuple[Any, Any]) -> None:
    if torch.compiler.is_compiling():
        return
    if bool((as_clock(tspan[1]) < as_clock(tspan[0])).any()):
        raise InvalidProblemError(
            f"tspan: got {shown(tspan)}; expected t0 <= t1, since a decay cannot be run backwards"
        )


@dataclass(frozen=True, eq=False)
class SteadyStateProblem(Problem):
    r"""A state at which a differential equation stands still.

    .. math:: f(t, y^*, \text{args}) = 0, \qquad t \text{ held fixed}

    :func:`neuralde.solve` finds one: with :class:`DynamicSS` the one to which the equation itself goes from ``y0``, with
    :class:`Newton` or :class:`Anderson` one near ``y0``. Its gradient is that of the equilibrium, by implicit
    differentiation (:class:`neuralde.ImplicitAdjoint`). A fixed point :math:`z = g(z)`, as in a deep-equilibrium model,
    is the steady state of :math:`f = g(z) - z`.

    Args:
        f: the field, ``f(t, y, *args) -> dy``, as for an :class:`ODEProblem`.
        y0: where the search starts: a tensor or a pytree, as for an :class:`ODEProblem`. With ``per_sample`` the first
            dimension counts independent systems.
        args: a tuple, unpacked into ``f``; its tensors are differentiable.
        t: the time that ``f`` is given, whatever the clock of an integration says; it matters only to a field that
            depends on time.

    Shapes:
        As for an :class:`ODEProblem`; the solution's ``ts`` has one entry, ``ys`` a leading 1.

    Units:
        ``f`` in those of the state per time; the stopping rule needs no unit of time.

    Raises:
        InvalidProblemError: an argument is wrong; the message names it.

    When to take it:
        For equilibria, fixed points and deep-equilibrium layers, whose gradient needs no transient. An
        :class:`ODEProblem` over a long time is dearer, and its gradient is that of the transient.

    Example:
        >>> import torch, neuralde as nde
        >>> c = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        >>> problem = nde.SteadyStateProblem(lambda t, y, c: c - y**2, torch.ones((), dtype=torch.float64), args=(c,))
        >>> sol = nde.solve(problem, nde.Newton(), rtol=1e-12, atol=1e-12)
        >>> sol.y1.detach(), torch.autograd.grad(sol.y1, c)[0]  # sqrt(2), and 1 / (2 sqrt(2))
        (tensor(1.4142, dtype=torch.float64), tensor(0.3536, dtype=torch.float64))
    """

    title = "a SteadyStateProblem"
    f: Callable[..., Any]
    y0: Any
    args: tuple[Any, ...] = ()
    t: float = 0.0

    def __post_init__(self) -> None:
        _check_parts(self.f, self.y0, self.args)
        object.__setattr__(self, "t", number(self.t, "t"))


def _check_parts(f: Any, y0: Any, args: Any, name: str = "f") -> None:
    if not callable(f):
        raise InvalidProblemError(f"{name}: got {type(f).__name__}; expected a callable {name}(t, y, *args)")
    check_order(f, name)
    check_state(y0)
    if not isinstance(args, tuple):
        raise InvalidProblemError(f"args: got {type(args).__name__}; expected a tuple, such as args=(k,)")


def _set_tspan(problem: ODEProblem | CDEProblem | SDEProblem | SemilinearSDEProblem) -> None:
    """Check the ends of the interval; what is a number of another library becomes one of Python."""
    tspan: Any = problem.tspan
    if not isinstance(tspan, (tuple, list)) or len(tspan) != 2:
        raise InvalidProblemError(f"tspan: got {shown(tspan)}; expected a pair (t0, t1){_meant(tspan)}")
    ends = tuple([_checked_time(time, end) for time, end in zip(tspan, ("start", "end"), strict=True)])
    if any(new is not old for new, old in zip(ends, tspan, strict=True)):
        object.__setattr__(problem, "tspan", ends)


def _meant(tspan: Any) -> str:
    """What times in the place of the interval were meant for."""
    several = len(tspan) > 2 if isinstance(tspan, (tuple, list)) else getattr(tspan, "shape", ()) != ()
    return "; for the states at times ts: tspan=(ts[0], ts[-1]), and solve(..., saveat=ts)" if several else ""


def _checked_time(time: Any, end: str) -> Any:
    """A tensor as it is, any other number as Python's."""
    if isinstance(time, Tensor):
        refuse_lanes(time, "tspan", "times")
        if time.dim() > 1 or not (time.is_floating_point() or time.dtype in (torch.int32, torch.int64)):
            raise InvalidProblemError(
                f"tspan: got a {time.dtype} tensor of shape {tuple(time.shape)} for its {end}; "
                "expected a float, a real 0-d tensor, or (B,) with per_sample"
            )
        if not torch.compiler.is_compiling() and not bool(time.isfinite().all()):
            raise InvalidProblemError(f"tspan: got {time.tolist()} for its {end}; expected a finite time")
        return time
    found = as_number(time)
    if found is None:
        raise InvalidProblemError(f"tspan: got {type(time).__name__} {shown(time)} for its {end}; expected a number")
    if not torch.compiler.is_compiling() and not math.isfinite(found):
        raise InvalidProblemError(f"tspan: got {found} for its {end}; expected a finite time")
    return found
