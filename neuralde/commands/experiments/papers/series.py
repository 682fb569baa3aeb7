"""Controlled equations on irregular series: the characters of the neural CDE's paper, and spoken vowels."""

from __future__ import annotations

from dataclasses import replace

from ....regularizers import StepCount
from ..arms import Term
from ..experiment import Arm, Table
from ..tasks.series import Config, SeriesExperiment, as_published, drawn

_CDE = (
    "Kidger, Morrill, Foster, Lyons: Neural Controlled Differential Equations for Irregular Time Series, NeurIPS 2020"
)
_LABELS = {"ncde": "neural CDE", "nrde": "neural RDE", "odernn": "ODE-RNN"}
_WEIGHTS = {"ncde": 0.1, "nrde": 0.03, "odernn": 0.03}
"""Of a step in the loss."""
_REPORTED = {
    "ncde": {30: (0.992, 0.003), 50: (0.993, 0.003), 70: (0.994, 0.004)},
    "odernn": {30: (0.979, 0.004), 50: (0.975, 0.006), 70: (0.967, 0.009)},
}
"""Test accuracies of the authors' published figure."""


def _rows(rates: tuple[int, ...]) -> dict[str, Arm]:
    """For each part of observations that is dropped, each model without and with a price on steps."""
    rows = {}
    for rate in rates:
        for model, label in _LABELS.items():
            name = f"{model}-{rate}" if rate else model
            title = f"{label}, {rate} % dropped" if rate else label
            options = {"model": model, "dropped": rate / 100}
            reported = {"accuracy": _REPORTED[model][rate]} if rate in _REPORTED.get(model, {}) else {}
            rows[name] = Arm(title, reported=reported, options=options, base=name)
            price = Term(StepCount, _WEIGHTS[model], _WEIGHTS[model])
            rows[f"{name}-steps"] = Arm(f"{title}, steps priced", (price,), options=options, base=name)
    return rows


def _scales(cpu: Config, paper: Config) -> dict[str, Config]:
    small = replace(cpu, epochs=2, batch_size=16, hidden=8, width=8, window=6, train_size=32, test_size=16)
    return {"smoke": small, "cpu": cpu, "paper": paper}


_CHARACTERS = Config("ncde-characters", epochs=14, tolerance=1e-2, window=20, integrated=True)
_PRICED = (
    "The rows with priced steps add a weight times the number of steps that the solve needs, made smooth (StepCount), to the loss. "
    "The paper regularizes nothing."
)

NCDE_CHARACTERS = Table(
    "Neural CDE, neural RDE and ODE-RNN on CharacterTrajectories with dropped observations",
    f"{_CDE}, with its authors' published figure for the numbers",
    SeriesExperiment(("CharacterTrajectories", "character_trajectories"), drawn),
    _rows((30, 50, 70)),
    _scales(_CHARACTERS, replace(_CHARACTERS, epochs=200, batch_size=32, learning_rate=1e-3, layers=3, tolerance=1e-4)),
    {"smoke": (0,), "cpu": (0, 1, 2), "paper": (0, 1, 2, 3, 4)},
    notes=(
        "Of all 2,858 series 15 % are held out, as in the paper, and 85 % trained on: the 15 % of its validation too, since the "
        "number of epochs is fixed. Observations are dropped at random, all channels together, once for all seeds.",
        "The path is the running integral of the standardized channels, the pen's way and not its velocity, along the straight "
        "lines between the observations that are left. The paper takes the velocities themselves and up to 1,000 epochs.",
        "Solves are adaptive, where the paper's take a step of RK4 between observations: Tsit5 for the controlled equations, Bosh3 "
        "for the ODE-RNN, which takes at least a step between two observations. NFE is that of one solve of all held-out series.",
        "The neural RDE takes log-signatures of windows of 20 observations to depth 2; at least a step for each.",
        _PRICED,
    ),
)

_VOWELS = Config("ncde-vowels", epochs=60, batch_size=32, window=4)

NCDE_VOWELS = Table(
    "Neural CDE, neural RDE and ODE-RNN on JapaneseVowels, of unequal lengths",
    f"the archive's split; set-up as {_CDE}, which has no numbers for it",
    SeriesExperiment(("JapaneseVowels",), as_published),
    _rows((0,)),
    _scales(_VOWELS, replace(_VOWELS, epochs=300, learning_rate=1e-3, layers=3, tolerance=1e-4)),
    {"smoke": (0,), "cpu": (0, 1, 2), "paper": (0, 1, 2, 3, 4)},
    notes=("270 series of 7 to 26 observations are trained on, 370 held out, in 12 channels.", _PRICED),
)
