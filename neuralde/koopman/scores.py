"""How far generated windows are from real ones: the scores of TimeGAN, repeated, with the floor that real data themselves have."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from neuralde.solvers import InvalidProblemError
from neuralde.solvers.checks import integer, shown

__all__ = ["Score", "discriminative", "discriminative_floor", "draw", "predictive", "principal_plane"]

RATE = 1e-3
"""Adam's learning rate, for both networks."""


@dataclass(frozen=True)
class Score:
    """A score and its spread.

    Attributes:
        mean: over the repeats.
        std: over the repeats, with n - 1; 0 for a single one.
        values: of each repeat.

    Example:
        >>> import torch, neuralde as nde
        >>> from neuralde.koopman import scores
        >>> x = torch.rand(40, 6, 2)
        >>> found = scores.discriminative(x, x.flip(0), repeats=2, steps=5)
        >>> len(found.values), 0 <= found.mean <= 0.5
        (2, True)
    """

    mean: float
    std: float
    values: tuple[float, ...]


def discriminative(
    real: Tensor,
    made: Tensor,
    *,
    repeats: int = 10,
    steps: int = 2000,
    batch_size: int = 128,
    hidden: int | None = None,
    seed: int = 0,
) -> Score:
    r"""How well a network tells made windows from real ones: :math:`|1/2 - \text{accuracy}|` on held-out windows.

    A recurrent network of one layer is trained on four fifths of both sets and tested on the rest. 0 is what cannot be told apart;
    1/2 what always can. Each repeat splits and begins anew.

    Args:
        real: windows, ``(N, T, c)``.
        made: as many or other windows, ``(M, T, c)``.
        repeats: how many.
        steps: of Adam at 1e-3, in each repeat.
        batch_size: of real and of made windows in a step.
        hidden: the width of the network; ``max(c // 2, 1)`` if None, as TimeGAN's.
        seed: of the first repeat; the others take the next ones.

    Returns:
        A :class:`Score`.

    Raises:
        InvalidProblemError: windows do not fit, are not finite, or are fewer than five, or a size is out of range.

    When to take it:
        To compare generators of one data set. Take :func:`discriminative_floor` beside it: scores within its spread are alike.

    References:
        Yoon, Jarrett, van der Schaar: Time-series generative adversarial networks. NeurIPS 2019, section 5.

    Example:
        >>> import torch, neuralde as nde
        >>> from neuralde.koopman import scores
        >>> _ = torch.manual_seed(0)
        >>> real, made = torch.rand(60, 8, 2), 0.3 * torch.rand(60, 8, 2)
        >>> scores.discriminative(real, made, repeats=1, steps=300, hidden=8).mean > 0.3
        True
    """
    _fit_together(real, made)
    width = max(real.shape[-1] // 2, 1) if hidden is None else integer(hidden, "hidden")
    integer(steps, "steps"), integer(batch_size, "batch_size")

    def one(generator: torch.Generator) -> float:
        kept, held = zip(*(_split(x, generator) for x in (real, made)), strict=True)
        judge = _Judge(real.shape[-1], width, 1, generator).to(real.device)
        optimizer = torch.optim.Adam(judge.parameters(), RATE)
        for _ in range(steps):
            logits = [judge(_batch(x, batch_size, generator))[:, -1] for x in kept]
            loss = functional.softplus(-logits[0]).mean() + functional.softplus(logits[1]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            right = (judge(held[0])[:, -1] > 0).sum() + (judge(held[1])[:, -1] <= 0).sum()
        return abs(0.5 - float(right) / sum(map(len, held)))

    return _repeated(one, repeats, seed)


def discriminative_floor(real: Tensor, **options: Any) -> Score:
    """The discriminative score of one half of the real windows against the other: what sampling alone amounts to.

    Args:
        real: windows, ``(N, T, c)``.
        options: those of :func:`discriminative`.

    Returns:
        A :class:`Score`.

    Raises:
        InvalidProblemError: as :func:`discriminative`.

    When to take it:
        Beside every discriminative score. Windows that overlap are shuffled first, so that both halves are alike.

    Example:
        >>> import torch, neuralde as nde
        >>> from neuralde.koopman import scores
        >>> scores.discriminative_floor(torch.rand(80, 6, 2), repeats=2, steps=20).mean < 0.35
        True
    """
    _windows(real, "real", 10)
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(options.get("seed", 0)))
    half = len(real) // 2
    return discriminative(real[order[:half]], real[order[half:]], **options)


def predictive(
    real: Tensor,
    made: Tensor,
    *,
    repeats: int = 10,
    steps: int = 5000,
    batch_size: int = 128,
    hidden: int | None = None,
    seed: int = 0,
) -> Score:
    r"""The error on real windows of a network that was trained on made ones to foretell the last channel by a step.

    It reads the first ``c - 1`` channels up to a time and gives the last channel at the next: the mean absolute error.
    With the real windows as ``made`` it is the floor.

    Args:
        real: windows, ``(N, T, c)`` with at least two channels.
        made: windows, ``(M, T, c)``.
        repeats: how many.
        steps: of Adam at 1e-3, in each repeat.
        batch_size: of made windows in a step.
        hidden: as for :func:`discriminative`.
        seed: of the first repeat; the others take the next ones.

    Returns:
        A :class:`Score`, in the units of the windows.

    Raises:
        InvalidProblemError: as :func:`discriminative`; there is one channel only.

    When to take it:
        To see whether what is learnt from made windows holds for real ones. It depends much on the last channel.

    References:
        Yoon, Jarrett, van der Schaar: Time-series generative adversarial networks. NeurIPS 2019, section 5.

    Example:
        >>> import torch, neuralde as nde
        >>> from neuralde.koopman import scores
        >>> _ = torch.manual_seed(0)
        >>> x = torch.rand(60, 1, 2).expand(60, 8, 2)
        >>> scores.predictive(x, x, repeats=1, steps=300).mean < 0.3
        True
    """
    _fit_together(real, made)
    if real.shape[-1] < 2:
        raise InvalidProblemError(
            f"real: got {shown(real)}; expected at least two channels, to foretell one from the others"
        )
    width = max(real.shape[-1] // 2, 1) if hidden is None else integer(hidden, "hidden")
    integer(steps, "steps"), integer(batch_size, "batch_size")

    def one(generator: torch.Generator) -> float:
        network = _Judge(real.shape[-1] - 1, width, 1, generator).to(real.device)
        optimizer = torch.optim.Adam(network.parameters(), RATE)

        def error(x: Tensor) -> Tensor:
            return (torch.sigmoid(network(x[:, :-1, :-1])) - x[:, 1:, -1]).abs().mean()

        for _ in range(steps):
            optimizer.zero_grad()
            error(_batch(made, batch_size, generator)).backward()
            optimizer.step()
        with torch.no_grad():
            return float(error(real))

    return _repeated(one, repeats, seed)


class _Judge(nn.Module):
    """A gated recurrent layer and a linear readout at every time: ``(B, T, k)`` to ``(B, T)``."""

    def __init__(self, channels: int, hidden: int, layers: int, generator: torch.Generator) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # torch's own start is drawn from the global generator
            self.layer, self.out = nn.GRU(channels, hidden, layers, batch_first=True), nn.Linear(hidden, 1)
        with torch.no_grad():  # torch's usual start, but from the repeat's own generator
            for x in self.parameters():
                x.copy_((2.0 * torch.rand(x.shape, generator=generator) - 1.0) / math.sqrt(hidden))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.layer(x)[0])[..., 0]
        return out


def _repeated(one: Callable[[torch.Generator], float], repeats: int, seed: int) -> Score:
    count = integer(repeats, "repeats")
    first = integer(seed, "seed", 0)
    with torch.enable_grad():
        values = tuple(one(torch.Generator().manual_seed(first + number)) for number in range(count))
    found = torch.tensor(values, dtype=torch.float64)
    return Score(float(found.mean()), float(found.std()) if count > 1 else 0.0, values)


def _split(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Four fifths and the rest."""
    order = torch.randperm(len(x), generator=generator).to(x.device)
    kept = (4 * len(x)) // 5
    return x[order[:kept]], x[order[kept:]]


def _batch(x: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """So many windows, each once."""
    return x[torch.randperm(len(x), generator=generator)[:size].to(x.device)]


def _windows(x: Tensor, name: str, least: int = 5) -> None:
    if not isinstance(x, Tensor) or x.dim() != 3 or not x.is_floating_point() or len(x) < least or x.shape[1] < 2:
        raise InvalidProblemError(
            f"{name}: got {shown(x)}; expected at least {least} float windows (N, T, c) of two steps or more"
        )
    if not bool(x.isfinite().all()):
        raise InvalidProblemError(f"{name}: has values that are not finite; expected complete windows")


def _fit_together(real: Tensor, made: Tensor) -> None:
    _windows(real, "real")
    _windows(made, "made")
    if made.shape[1:] != real.shape[1:] or made.dtype != real.dtype:
        raise InvalidProblemError(f"made: got {shown(made)}; expected windows like real, {shown(real)}")


def principal_plane(real: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets in the two leading principal components of the real one, of windows averaged over channels: ``(N, 2)`` each.

    Args:
        real: windows, ``(N, T, c)``.
        made: windows, ``(M, T, c)``.

    Returns:
        The coordinates of both.

    Raises:
        InvalidProblemError: as :func:`discriminative`.

    When to take it:
        For the picture of TimeGAN's protocol; :func:`draw` makes it.

    Example:
        >>> import torch, neuralde as nde
        >>> from neuralde.koopman import scores
        >>> real, made = scores.principal_plane(torch.rand(50, 8, 2), torch.rand(40, 8, 2))
        >>> real.shape, made.shape
        (torch.Size([50, 2]), torch.Size([40, 2]))
    """
    _fit_together(real, made)
    flat = [x.mean(-1) for x in (real, made)]
    centre = flat[0].mean(0)
    axes = torch.linalg.svd(flat[0] - centre, full_matrices=False)[2][:2]
    # the sign of an axis is arbitrary: its largest entry is positive
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    return (flat[0] - centre) @ axes.mT, (flat[1] - centre) @ axes.mT


def draw(figure: Any, real: Tensor, made: Tensor, *, points: int = 1000, seed: int = 0) -> None:
    """Draw both sets: principal components, t-SNE where scikit-learn is installed, and how their values are distributed.

    Args:
        figure: a matplotlib figure.
        real: windows, ``(N, T, c)``.
        made: windows, ``(M, T, c)``.
        points: how many of each are drawn at most.
        seed: of the choice, and of t-SNE.

    Returns:
        Nothing; the figure has new axes.

    Raises:
        InvalidProblemError: as :func:`discriminative`.

    When to take it:
        To see what a score does not say: which windows are missing, or made up.

    References:
        Yoon, Jarrett, van der Schaar: Time-series generative adversarial networks. NeurIPS 2019, figure 3.

    Example:
        >>> import torch, neuralde as nde
        >>> from neuralde.koopman import scores
        >>> from matplotlib.figure import Figure
        >>> figure = Figure()
        >>> scores.draw(figure, torch.rand(50, 8, 2), torch.rand(50, 8, 2))
        >>> len(figure.axes) in (2, 3)
        True
    """
    _fit_together(real, made)
    generator = torch.Generator().manual_seed(integer(seed, "seed", 0))
    some = [
        x[torch.randperm(len(x), generator=generator)[: integer(points, "points")]].detach().cpu() for x in (real, made)
    ]
    clouds = {"principal components": principal_plane(*some)}
    joined = _t_sne(torch.cat([x.mean(-1) for x in some]), seed)
    if joined is not None:
        clouds["t-SNE"] = (joined[: len(some[0])], joined[len(some[0]) :])
    axes = figure.subplots(1, len(clouds) + 1)
    for axis, (title, pair) in zip(axes, clouds.items(), strict=False):
        for cloud, label in zip(pair, ("real", "made"), strict=True):
            axis.scatter(*cloud.mT.tolist(), s=3, alpha=0.4, label=label)
        axis.set_title(title)
        axis.legend()
    for x, label in zip(some, ("real", "made"), strict=True):
        axes[-1].hist(x.flatten().tolist(), bins=60, density=True, histtype="step", label=label)
    axes[-1].set_title("values")
    axes[-1].legend()


def _t_sne(x: Tensor, seed: int) -> Tensor | None:
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return None
    perplexity = min(40.0, (len(x) - 1) / 3)
    return torch.from_numpy(TSNE(perplexity=perplexity, random_state=seed).fit_transform(x.numpy()))
