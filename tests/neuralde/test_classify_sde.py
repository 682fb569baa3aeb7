"""The neural SDE classifier and its table."""

import dataclasses

import torch

from neuralde.commands import cli
from neuralde.commands.experiments.papers import TABLES
from neuralde.commands.experiments.tasks.classify_sde import EVALUATION, Config, NoisyClassifier, Run
from neuralde.commands.experiments.tasks.data import digits

TABLE = TABLES["regnde-mnist-sde"]


def test_the_paper_scale_is_the_papers_but_for_the_weight():
    config = TABLE.scales["paper"]
    assert (config.epochs, config.batch_size, config.tolerance, config.trajectories) == (40, 512, 0.14, 10)
    model = NoisyClassifier(784, config, ())
    assert sum(p.numel() for p in model.parameters()) == 30_698
    (term,) = TABLE.arms["ernsde"].terms
    assert term.weight(0, 40) == term.weight(39, 40) == 0.3  # the paper's is 10, for steps that are many times shorter


def test_logits_are_the_mean_over_trajectories_solved_together():
    torch.manual_seed(0)
    model = NoisyClassifier(6, Config(latent=3, hidden=5, tolerance=0.14), ()).double()
    x = torch.randn(4, 6, dtype=torch.float64)
    logits, _ = model(x, 3, EVALUATION)
    states, solution = model.node(model.encoder(x).repeat(3, 1), seed=EVALUATION)
    torch.testing.assert_close(logits, model.head(states).reshape(3, 4, 10).mean(0))
    assert torch.equal(logits, model(x, 3, EVALUATION)[0])
    assert not torch.equal(states[:4], states[4:8])  # every trajectory has noise of its own
    assert solution.stats.nfe == model.node.stats.nfe


def test_measuring_takes_nothing_from_the_trainings_noise(tmp_path):
    smoke = dataclasses.replace(TABLE.scales["smoke"], latent=3)
    data = digits(torch.float64).head(16, 8)
    run = Run("ernsde", 0, smoke, data, tmp_path / "run.pt", TABLE.arms["ernsde"].terms)
    torch.manual_seed(0)
    model = run.build().eval()
    before = torch.get_rng_state()
    with torch.no_grad():
        run.measure(model)
        run.measure_last(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_table_runs_and_goes_on_where_it_stopped(tmp_path, monkeypatch, numbers):
    command = ["reproduce", "regnde-mnist-sde", "--scale", "smoke", "--quiet", "--train-size", "32", "--test-size", "8"]
    assert cli.main([*command, "--out", str(tmp_path / "whole")]) == 0
    text = (tmp_path / "whole" / "table.md").read_text()
    (row,) = (line for line in text.splitlines() if line.startswith("| ERNSDE") and "x" in line)
    # The paper's: -0.68 points, NFE 184.67 / 411.33, prediction 7.23 / 15.07, training 4.19 / 6.32.
    assert [cell.strip() for cell in row.split("|")[3::2]][:5] == ["-0.68", "x0.45", "–", "x0.48", "x0.66"]
    assert all(result["nfe_finer"] > result["nfe"] for result in numbers(tmp_path / "whole"))

    task = Run.task

    def interrupted(self, model, batch, step):
        if self.arm == "srnsde" and step == 1:
            raise KeyboardInterrupt
        return task(self, model, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "task", interrupted)
        assert cli.main([*command, "--out", str(tmp_path / "parts")]) == 130
    assert [result["arm"] for result in numbers(tmp_path / "parts")] == ["vanilla"]
    assert cli.main([*command, "--out", str(tmp_path / "parts")]) == 0
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
