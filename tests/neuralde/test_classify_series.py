"""Irregular series classified: what is read and split, what the models see, and the ODE-RNN against one step after the other."""

import numpy as np
import pytest
import torch
from torch import nn

import neuralde as nde
from neuralde.commands.experiments.papers import TABLES
from neuralde.commands.experiments.tasks.odernn import ODERNN
from neuralde.commands.experiments.tasks.series import Split, by_count, on_grid, standardized
from neuralde.data import DataError, from_arrays

CHARACTERS = TABLES["ncde-characters"]


def walks(count, seed=0, shortest=20):
    generator = np.random.default_rng(seed)
    values = [generator.normal(size=(3, n)).cumsum(1) for n in generator.integers(shortest, 30, count)]
    return from_arrays(values, generator.integers(0, 4, count), classes="abcd")


def kept(folder, name, train, test):
    """A data set in a folder, series end to end."""
    both = [part.xs[:n, i] for part in (train, test) for i, n in enumerate(part.lengths.tolist())]
    ptr = np.cumsum([0, *(len(x) for x in both)])
    y = torch.cat([train.labels, test.labels]).numpy().astype(np.uint8)
    np.savez(folder / f"{name}.npz", X=np.concatenate(both), ptr=ptr, y=y, classes=np.array("abcd"), n_train=len(train))


def test_the_papers_split_of_a_folder(tmp_path):
    kept(tmp_path, "character_trajectories", walks(60), walks(40, 1))
    config, experiment = CHARACTERS.scales["cpu"], CHARACTERS.experiment
    split, warnings = experiment.data(tmp_path, config, "cpu")
    assert ((len(split.train), len(split.test)), warnings) == ((85, 15), [])
    assert split.train.classes == tuple("abcd")
    whole = [x for part in experiment.read(tmp_path).values() for x in part.xs[:5].movedim(1, 0)]
    places = [
        next(i for i, x in enumerate(whole) if torch.equal(x, y)) for part in split for y in part.xs[:5].movedim(1, 0)
    ]
    assert len(set(places)) == 100  # nothing is in both parts
    with pytest.raises(DataError, match="has none of the files; expected the folder with CharacterTrajectories"):
        experiment.data(tmp_path / "none", config, "cpu")
    with pytest.raises(DataError, match="--data: got none"):
        experiment.data(None, config, "cpu")


def test_the_archives_split_of_text_files(tmp_path):
    header = "@timeStamps false\n@univariate false\n@dimensions 2\n@equalLength false\n@classLabel true a b\n@data\n"
    (tmp_path / "JapaneseVowels_TRAIN.ts").write_text(header + "1,2,3:4,5,6:a\n1,2:3,4:b\n")
    (tmp_path / "JapaneseVowels_TEST.ts").write_text(header + "1,2,3,4:4,5,6,7:b\n")
    table = TABLES["ncde-vowels"]
    split, _ = table.experiment.data(tmp_path, table.scales["cpu"], "cpu")
    assert (split.train.lengths.tolist(), split.test.labels.tolist()) == ([3, 2], [1])
    assert table.experiment.identity(split) == {"series": [2, 1, 2]}


def test_what_the_models_see():
    train, test = (walks(8, seed).thinned(0.5, seed) for seed in (0, 1))
    split = standardized(Split(train, test), integrated=False)
    seen = split.train.xs[~split.train.xs[..., 0].isnan()]
    torch.testing.assert_close(seen.mean(0)[1:], torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(seen.std(0)[1:], torch.ones(3, dtype=torch.float64), rtol=1e-12, atol=0)
    assert seen[:, 0].max() == 1
    # The integral of what is observed, along the lines between, is proportional to NumPy's, from a shifted start.
    integrated = standardized(Split(train, test), integrated=True).test
    for place, length in enumerate(test.lengths.tolist()):
        values, ts = split.test.xs[:length, place, 1:].numpy(), split.test.xs[:length, place, 0].numpy()
        areas = [np.trapezoid(values[: k + 1], ts[: k + 1], axis=0) for k in range(length)]
        ours = integrated.xs[:length, place, 1:].numpy()
        ratio = (ours[1:] - ours[:1]) / np.stack(areas)[1:]
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:1], ratio.shape), rtol=1e-6)
        assert (ratio > 0).all()
    assert torch.equal(integrated.xs.isnan(), split.test.xs.isnan())
    grid, count = on_grid(split.train), by_count(split.train)
    assert (grid.clock[0], grid.clock[-1], count.clock[-1]) == (0, 1, 1)
    assert len(grid.clock) > len(count.clock)
    assert torch.equal(grid.xs[~grid.xs.isnan()].sort()[0], count.xs[~count.xs.isnan()].sort()[0])
    batch = count.batch(torch.tensor([int(split.train.lengths.argmin())]))
    assert batch.xs.shape == (int(split.train.lengths.min()), 1, 4)
    torch.testing.assert_close(batch.clock, count.clock[: len(batch.xs)])


def test_an_ode_rnn_is_its_jumps_and_flows_one_after_the_other():
    torch.manual_seed(0)
    series = standardized(Split(walks(5, shortest=4), walks(1)), integrated=False).train
    inputs = by_count(series)
    model = ODERNN(4, 6, 8, rtol=1e-10, atol=1e-10).double()
    states, solution = model(*inputs)
    assert solution.stats.nfe > len(inputs.clock)
    for place, length in enumerate(series.lengths.tolist()):
        z = torch.zeros(1, 6, dtype=torch.float64)
        for k in range(length):
            z = model.cell(inputs.xs[k, [place]], z)
            if k + 1 < length:
                gap = float(inputs.xs[k + 1, place, 0] - inputs.xs[k, place, 0])
                flow = nde.ODEProblem(lambda t, y: model.field(y), z, (0.0, gap))
                z = nde.solve(flow, nde.Dopri8(), rtol=1e-11, atol=1e-11).y1
        torch.testing.assert_close(states[[place]], z, rtol=1e-8, atol=1e-8)
    # And it learns from all of them.
    loss = states.square().sum()
    assert all(x.abs().max() > 0 for x in torch.autograd.grad(loss, list(model.parameters())))


def test_one_observation_needs_no_events():
    model = ODERNN(2, 3, 4)
    xs = torch.tensor([[[0.0, 1.0]], [[1.0, torch.nan]]])
    states, _ = model(torch.tensor([0.0, 1.0]), xs, torch.tensor([1]))
    torch.testing.assert_close(states, model.cell(xs[0], torch.zeros(1, 3)))


def test_each_row_is_held_against_the_one_without_a_price():
    for name, arm in CHARACTERS.arms.items():
        assert arm.base == name.removesuffix("-steps")
        assert bool(arm.terms) == name.endswith("-steps")
    assert len(CHARACTERS.arms) == 18
    assert CHARACTERS.arms["ncde-70"].reported["accuracy"] == (0.994, 0.004)


def test_a_smooth_activation_of_the_matrices():
    field = nde.models.MatrixField(4, 3, hidden=[16], activation=nn.SiLU)
    z = torch.randn(5, 4, dtype=torch.float64)
    first, last = (layer for layer in field.double().layers if isinstance(layer, nn.Linear))
    expected = torch.tanh(last(nn.functional.silu(first(z)))).unflatten(-1, (4, 3))
    torch.testing.assert_close(field(torch.tensor(0.0), z), expected)
