"""``neuralde reproduce``: the whole path at smoke scale, interruption, other data, and what cannot be run."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

import neuralde as nde
from neuralde.commands import cli
from neuralde.commands.experiments.arms import Term
from neuralde.commands.experiments.papers import TABLES
from neuralde.commands.experiments.tasks import classify
from neuralde.commands.reproduce import _checked, _seeds
from neuralde.data import DataError
from neuralde.regularizers import ErrorEstimate

COMMAND = ["reproduce", "regnde-mnist-ode", "--scale", "smoke", "--quiet"]


def test_every_row_of_the_table_from_one_command(tmp_path, capsys):
    assert cli.main([*COMMAND, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    table = (tmp_path / "table.md").read_text()
    assert table in printed
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    arms = TABLES["regnde-mnist-ode"].arms
    whole = json.loads((tmp_path / "results.json").read_text())
    assert [result["arm"] for result in whole["results"]] == list(arms)
    assert whole["seeds"] == [0]
    assert whole["versions"]["torch"] == torch.__version__
    assert whole["paper"]["ernode"]["nfe"] == [177.0, 0.0]
    assert all(arm.label in table for arm in arms.values())
    # The paper's ratios stand beside ours: NFE 177 / 253, prediction 0.060 / 0.094, training 0.82 / 0.98.
    (row,) = (line for line in table.splitlines() if line.startswith("| ERNODE") and "x" in line)
    assert [cell.strip() for cell in row.split("|")[3::2]][:4] == ["-0.62", "x0.70", "x0.64", "x0.84"]
    # It says itself that it is not the real thing.
    assert "not MNIST" in table
    assert "No number means anything" in table


SMOKED = {
    "regnde-physionet": ["vanilla", "taynode", "steer+ernode", "srnode+ernode"],
    "local-physionet": ["vanilla", "unbiased", "biased-step"],
    "local-mnist": ["vanilla", "biased", "unbiased-step"],
    "local-cifar": ["vanilla", "unbiased"],
    "ncde-characters": ["ncde-50", "ncde-50-steps", "nrde-70", "odernn-70-steps"],
    "ncde-vowels": ["ncde", "nrde-steps"],
}


@pytest.mark.parametrize("name", SMOKED)
def test_the_other_tables_from_one_command(name, tmp_path, numbers):
    command = ["reproduce", name, "--scale", "smoke", "--quiet", "--out", str(tmp_path), "--arms", *SMOKED[name]]
    assert cli.main([*command, "--epochs", "1"]) == 0
    table = (tmp_path / "table.md").read_text()
    assert "a run of the machinery, not a reproduction" in table
    quality = TABLES[name].experiment.measures[0].key
    results = numbers(tmp_path)
    assert [result["arm"] for result in results] == SMOKED[name]
    assert all(result["nfe"] >= 8 and 0 <= result[quality] < 10 for result in results)
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["reproduce", name, "--scale", "cpu", "--out", str(tmp_path / "cpu")]) == 2  # needs --data


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, numbers):
    command = [*COMMAND, "--arms", "vanilla", "steer+ernode", "local-unbiased"]
    assert cli.main([*command, "--out", str(tmp_path / "whole")]) == 0
    calls, forward = [0], classify.Classifier.forward

    def interrupted(self, x):
        calls[0] += 1
        if self.training and calls[0] > 25:  # in the second row
            raise KeyboardInterrupt
        return forward(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(classify.Classifier, "forward", interrupted)
        assert cli.main([*command, "--out", str(tmp_path / "parts")]) == 130
    assert [result["arm"] for result in numbers(tmp_path / "parts")] == ["vanilla"]
    calls[0] = 0

    def counted(self, x):
        calls[0] += self.training
        return forward(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(classify.Classifier, "forward", counted)
        assert cli.main([*command, "--out", str(tmp_path / "parts")]) == 0
        first = calls[0]
        assert cli.main([*command, "--out", str(tmp_path / "parts")]) == 0
    assert 0 < first < 6  # the finished row was not trained again
    assert calls[0] == first  # nor anything, the third time
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "parts")


def test_another_configuration_is_refused(tmp_path, capsys, monkeypatch):
    command = [*COMMAND, "--arms", "vanilla", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    path = tmp_path / "runs" / "vanilla-0.json"
    path.write_text(path.read_text().replace('"hidden": 8', '"hidden": 9'))
    assert cli.main(command) == 2
    assert "--fresh" in capsys.readouterr().err
    path.unlink()
    # A version whose row has another weight, or another adjoint.
    for change in ({"terms": (Term(ErrorEstimate, 2.0, 1.0),)}, {"adjoint": nde.GaussAdjoint}):
        with monkeypatch.context() as patch:
            patch.setitem(TABLES[COMMAND[1]].arms, "vanilla", replace(TABLES[COMMAND[1]].arms["vanilla"], **change))
            assert cli.main(command) == 2
        assert '"terms": []' in capsys.readouterr().err
    assert cli.main([*command, "--fresh", "--tolerance", "1e-2", "--epochs", "1"]) == 0
    table = (tmp_path / "table.md").read_text()
    assert "Changed: tolerance 0.01 instead of 0.001." in table
    assert "- epochs: 1\n" in table


def test_times_are_the_processors_and_a_checkpoint_without_them_is_taken_up(tmp_path, numbers):
    command = [*COMMAND, "--arms", "vanilla", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    assert "processor seconds" in (tmp_path / "table.md").read_text()
    whole = numbers(tmp_path)
    (tmp_path / "runs" / "vanilla-0.json").unlink()
    path = tmp_path / "checkpoints" / "vanilla-0.pt"
    state = torch.load(path, weights_only=True)
    del state["history"]["cpu_seconds"]
    torch.save(state, path)
    assert cli.main(command) == 0
    assert "processor seconds" not in (tmp_path / "table.md").read_text()
    (again,) = json.loads((tmp_path / "results.json").read_text())["results"]
    assert again["training_cpu_seconds"] is None
    assert again["training_seconds"] > 0
    assert (again["loss"], again["nfe"]) == (whole[0]["loss"], whole[0]["nfe"])


def test_seeds_are_the_tables_first():
    assert _seeds((1, 5, 35), None) == [1, 5, 35]
    assert _seeds((1, 5, 35), 2) == [1, 5]
    assert _seeds((1, 5, 35), 5) == [1, 5, 35, 0, 2]


def test_an_option_that_the_set_up_lacks_is_refused():
    @dataclass(frozen=True)
    class Few:
        experiment: str = "few"
        epochs: int = 1

    assert _checked({"epochs": 3}, Few()) == {"epochs": 3}
    with pytest.raises(DataError, match="--train-size: got 7, which few has not; expected --epochs"):
        _checked({"train_size": 7}, Few())


def test_the_list_names_every_table_and_its_data_and_bad_input_is_named(capsys):
    assert cli.main(["reproduce", "--list"]) == 0
    listed = capsys.readouterr().out
    for name, table in TABLES.items():
        assert name in listed
        assert table.experiment.data_help in listed
    assert cli.main(["reproduce", "regnde-mnist-ode", "--scale", "cpu"]) == 2
    assert "--data" in capsys.readouterr().err
    assert cli.main([*COMMAND, "--arms", "magic"]) == 2
    assert "magic" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["reproduce", "nothing"])


def test_the_paper_scale_is_the_papers():
    config = TABLES["regnde-mnist-ode"].scales["paper"]
    assert (config.epochs, config.batch_size, config.hidden, config.tolerance) == (75, 512, 100, 1.4e-8)
    field = classify.Classifier(784, config, ())
    assert sum(p.numel() for p in field.parameters()) == 166_418
    term = TABLES["regnde-mnist-ode"].arms["ernode"].terms[0]
    assert term.weight(0, 75) == pytest.approx(10 * term.weight(75, 75))  # a hundredth of the paper's 100 to 10


def test_the_latent_tables_at_paper_scale_are_the_papers():
    for name, hidden, steps, parameters in (
        ("regnde-physionet", 50, 300 * 12, 45_467),
        ("local-physionet", 40, 3000, 43_827),
    ):
        table = TABLES[name]
        config = table.scales["paper"]
        assert (config.batch_size, config.hidden, config.tolerance) == (512, hidden, 1.4e-8)
        assert config.epochs * (6393 // config.batch_size) == steps
        series = table.experiment.data(None, replace(config, train_size=2, test_size=1), "smoke")[0]
        run = table.experiment.run("vanilla", table.arms["vanilla"], 0, config, series, Path("none"))
        model = run.build()
        assert sum(p.numel() for p in model.parameters()) == parameters
        assert isinstance(run.optimizer(model), torch.optim.Adamax)
    weights = [run._kl_weight(step) for step in (0, 100, 101, 200)]  # by the step, from the hundredth on
    assert weights == [0.0, 0.0, pytest.approx(0.01), pytest.approx(1 - 0.99**100)]
    local = TABLES["local-physionet"].arms["biased"]
    assert (local.terms[0].weight(0, 3000), local.terms[0].weight(3000, 3000)) == (100.0, pytest.approx(10.0))
    assert local.adjoint is nde.InterpolatingAdjoint
