"""The pytest plugin: what it pins, when it fails and what it then says, and its use without pytest."""

import functools
import json
import re
import sys
import types

import pytest
import torch

import neuralde as nde
from neuralde.listeners import listening
from neuralde.testing import CostLogger, CostRecorder, SolverCost, SolverCostError, lightning_callback

D = torch.float64
MODULE = """
import torch, neuralde as nde

RATE = {rate}

def test_decay(solver_cost):
    problem = nde.ODEProblem(lambda t, y: -RATE * y, torch.ones(3, dtype=torch.float64), (0.0, 1.0))
    solver_cost.check("decay", lambda: nde.solve(problem, rtol=1e-6, atol=1e-6))
"""


def decay(rate=1.0, **options):
    problem = nde.ODEProblem(lambda t, y: -rate * y, torch.ones(3, dtype=D), (0.0, 2.0))
    return nde.solve(problem, **{"rtol": 1e-6, "atol": 1e-6, **options})


@pytest.fixture
def run(pytester):
    def run(rate, *options):
        pytester.makepyfile(test_model=MODULE.format(rate=rate))
        return pytester.runpytest_inprocess("-p", "neuralde.pytest_plugin", "-p", "no:randomly", *options)

    return run


def entries(pytester):
    return json.loads((pytester.path / "test_model.cost.json").read_text())["entries"]


def test_missing_entry_is_an_error_that_says_how_to_make_it(run, pytester):
    result = run(1.0)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*has no entry; make it with pytest --solver-cost-update 'test_model.py::test_decay'*"]
    )
    assert not (pytester.path / "test_model.cost.json").exists()


def test_made_kept_failed_rewritten_and_improved(run, pytester):
    made = run(1.0, "--solver-cost-update")
    made.assert_outcomes(passed=1)
    made.stdout.fnmatch_lines(["*wrote decay; review*"])
    first = entries(pytester)["decay"]
    assert first["total"]["nfe"] == 6 * first["total"]["steps"] + 2
    run(1.0).assert_outcomes(passed=1)

    dearer = run(30.0)
    dearer.assert_outcomes(failed=1)
    text = dearer.stdout.str()
    assert re.search(r"solver cost of 'decay' rose by more than 10 %", text)
    assert re.search(rf"nfe\s+{first['total']['nfe']}\s+\d+\s+\d+\s+\+\d+ %\s+<--", text)
    assert re.search(r"max stiffness\s+1\s+30", text)
    assert entries(pytester)["decay"] == first

    run(30.0, "--solver-cost-update").assert_outcomes(passed=1)
    assert entries(pytester)["decay"]["total"]["nfe"] > first["total"]["nfe"]
    cheaper = run(1.0)
    cheaper.assert_outcomes(passed=1)
    cheaper.stdout.fnmatch_lines(
        ["*test_decay: decay: * -> * field calls (-* %)", "*--solver-cost-update keeps it so*"]
    )


def test_parallel_processes_update_one_file(pytester):
    pytest.importorskip("xdist")
    body = "\n".join(
        f"def test_{i}(solver_cost):\n    solver_cost.check('n{i}', lambda: solve({i + 1}.0))" for i in range(6)
    )
    head = (
        "import torch, neuralde as nde\n"
        "def solve(k):\n"
        "    nde.solve(nde.ODEProblem(lambda t, y: -k * y, torch.ones(2, dtype=torch.float64), (0.0, 1.0)))\n"
    )
    pytester.makepyfile(test_model=head + body)
    command = ("-p", "neuralde.pytest_plugin", "-n", "2")
    pytester.runpytest_subprocess(*command, "--solver-cost-update").assert_outcomes(passed=6)
    assert list(entries(pytester)) == [f"n{i}" for i in range(6)]
    assert len({json.dumps(entry["solves"]) for entry in entries(pytester).values()}) > 1
    assert [path.name for path in pytester.path.glob("*.part")] == []


def test_one_name_belongs_to_one_test(run, pytester):
    pytester.makepyfile(
        test_twice=MODULE.format(rate=1.0) + MODULE.format(rate=2.0).replace("test_decay", "test_other")
    )
    result = pytester.runpytest_inprocess("-p", "neuralde.pytest_plugin", "--solver-cost-update")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*'decay' is checked by test_twice.py::test_decay too*"])


def test_every_solve_inside_is_recorded_with_what_the_solver_knows():
    with CostRecorder() as cost:
        joint = decay()
        lanes = decay(per_sample=True, solver=nde.Dopri5(), trace=True)
        failed = decay(max_steps=2, throw=False)
        fixed = decay(solver=nde.Euler(), dt=0.5)
    decay()  # outside: not recorded
    one, many, broken, euler = cost.solves
    assert cost.totals["solves"] == 4
    assert one.counts == {name: getattr(joint.stats, name) for name in ("nfe", "steps", "accepted", "rejected")}
    assert (one.solver, one.dtype, one.rtol, one.samples, one.status) == ("Tsit5", "float64", 1e-6, None, "SUCCESS")
    assert one.steps_per_time == joint.stats.accepted / 2.0
    assert many.counts["nfe"] == int(lanes.stats.nfe.sum())
    assert (many.samples, many.slowest) == (3, int(lanes.stats.nfe.max()))
    trace = lanes.trace
    assert many.max_error == trace.error[trace.accepted].max()
    assert many.max_stiffness == trace.stiffness[trace.accepted].max()
    assert (broken.status, failed.status) == ("MAX_STEPS", nde.Status.MAX_STEPS)
    assert (euler.max_error, euler.max_stiffness, euler.counts["nfe"]) == (None, None, fixed.stats.nfe)


def test_a_failing_solve_is_recorded_before_it_raises():
    with CostRecorder() as cost, pytest.raises(nde.MaxStepsError):
        decay(max_steps=2)
    assert cost.solves[0].status == "MAX_STEPS"


@pytest.mark.parametrize("adjoint", ["DirectAdjoint", "DiscreteAdjoint", "BacksolveAdjoint", "ForwardSensitivity"])
def test_listening_changes_no_count_and_no_gradient(adjoint):
    def solve():
        rate = torch.tensor(3.0, dtype=D, requires_grad=True)
        sol = decay(rate, adjoint=getattr(nde, adjoint)())
        return sol.stats, torch.autograd.grad(sol.y1.sum(), rate)[0]

    stats, grad = solve()
    with CostRecorder() as cost:
        heard, same = solve()
    assert heard == stats
    assert torch.equal(grad, same)
    assert [solve.counts["nfe"] for solve in cost.solves] == [stats.nfe]


def test_a_solve_in_blocks_is_recorded_as_an_eager_one_is():
    with CostRecorder() as cost:
        decay(3.0)
        decay(3.0, driver=nde.Blocks(size=4))
    eager, blocks = cost.solves
    assert eager.max_stiffness == pytest.approx(3.0)
    assert blocks.max_stiffness == pytest.approx(eager.max_stiffness, rel=1e-9)
    assert blocks.max_error == pytest.approx(eager.max_error, rel=1e-6)
    assert {name: blocks.counts[name] for name in ("steps", "accepted")} == {
        name: eager.counts[name] for name in ("steps", "accepted")
    }


def test_a_compiled_model_is_heard_and_a_compiled_function_says_that_it_is_not(tmp_path, monkeypatch):
    graph = functools.partial(torch.compile, backend="eager")  # the graph, without waiting for its code
    monkeypatch.setattr(torch, "compile", graph)
    model = nde.NeuralODE(nde.models.TimeConditionedMLP(2, hidden=[4]).double(), compile=True).eval()
    x = torch.ones(3, 2, dtype=D)
    with torch.no_grad(), CostRecorder() as cost:
        model(x)
    assert cost.nfe == int(model.stats.nfe)
    assert cost.solves[0].max_error is None
    mine = torch.compile(lambda x: nde.solve(nde.ODEProblem(lambda t, y: -y, x, (0.0, 1.0))).y1)
    mine(x)
    with pytest.raises(SolverCostError, match=r"nothing was solved inside, or only in a function under torch\.compile"):
        SolverCost(tmp_path / "costs.json").check("mine", lambda: mine(x))
    torch._dynamo.reset()


def test_the_tolerance_is_that_of_the_check(tmp_path):
    path = tmp_path / "costs.json"
    SolverCost(path, update=True).check("decay", lambda: decay(1.0))
    costs = SolverCost(path, tolerance=0.0)
    costs.check("decay", lambda: decay(1.0))
    with pytest.raises(SolverCostError, match="more than 0 %"):
        costs.check("decay", lambda: decay(4.0))
    assert costs.check("decay", lambda: decay(4.0), tolerance=2.0).nfe > 0
    assert costs.improved == []


def test_versions_and_changed_solvers_are_in_the_message(tmp_path):
    path = tmp_path / "costs.json"
    SolverCost(path, update=True).check("decay", lambda: decay(1.0))
    path.write_text(path.read_text().replace(torch.__version__.split("+")[0], "2.0.0"))
    with pytest.raises(SolverCostError) as caught:
        SolverCost(path).check("decay", lambda: decay(1.0, solver=nde.Bosh3()))
    assert "solver: pinned Tsit5; now Bosh3" in str(caught.value)
    assert "pinned with torch 2.0.0, now" in str(caught.value)


def test_an_update_that_changes_no_count_changes_no_byte(tmp_path):
    path = tmp_path / "costs.json"
    SolverCost(path, update=True).check("b", lambda: decay(1.0))
    SolverCost(path, update=True).check("a", lambda: decay(2.0))
    assert list(json.loads(path.read_text())["entries"]) == ["a", "b"]
    path.write_text(path.read_text().replace(torch.__version__.split("+")[0], "2.0.0"))
    before = path.read_bytes()
    costs = SolverCost(path, update=True)
    costs.check("a", lambda: decay(2.0))
    assert path.read_bytes() == before
    assert costs.written == {}


def test_a_check_has_its_own_random_numbers_and_leaves_others_alone(tmp_path):
    def noisy():
        return decay(float(1.0 + 30.0 * torch.rand(())))

    path = tmp_path / "costs.json"
    torch.manual_seed(1)
    first = SolverCost(path, update=True).check("noisy", noisy)
    after = torch.rand(())
    torch.manual_seed(1)
    assert torch.equal(torch.rand(()), after)
    assert SolverCost(path, tolerance=0.0).check("noisy", noisy).totals == first.totals


def test_equal_solves_take_one_line(tmp_path):
    path = tmp_path / "costs.json"
    SolverCost(path, update=True).check("loop", lambda: [decay() for _ in range(50)])
    (entry,) = json.loads(path.read_text())["entries"].values()
    assert entry["total"]["solves"] == 50
    assert [solve["times"] for solve in entry["solves"]] == [50]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda costs: costs.check("", decay), r"name: got ''"),
        (lambda costs: costs.check("x", 3), r"run: got int"),
        (lambda costs: costs.check("x", decay, tolerance=-1.0), r"tolerance: got -1\.0"),
        (lambda costs: CostLogger(3), r"log: got int"),
        (lambda costs: CostLogger(print, every=0), r"every: got 0"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, call, message):
    with pytest.raises(nde.InvalidProblemError, match=message):
        call(SolverCost(tmp_path / "costs.json"))


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 99, "entries": {}}'])
def test_a_broken_file_is_refused_and_kept(tmp_path, text):
    path = tmp_path / "costs.json"
    path.write_text(text)
    for update in (False, True):
        with pytest.raises(nde.InvalidProblemError, match=r"costs\.json"):
            SolverCost(path, update=update).check("decay", decay)
    assert path.read_text() == text


def test_a_logger_sums_between_its_steps():
    seen = []
    with CostLogger(lambda metrics, step: seen.append((step, metrics)), every=2) as logger:
        for _ in range(4):
            sol = decay()
            logger.step()
    assert [step for step, _ in seen] == [1, 3]
    for _, metrics in seen:
        assert metrics["solver/nfe"] == 2 * sol.stats.nfe
        assert metrics["solver/steps_per_time"] == sol.stats.accepted / 2.0
        assert 0 < metrics["solver/max_error"] <= 1


def test_lightning_logs_every_batch(monkeypatch):
    package, inner = types.ModuleType("lightning"), types.ModuleType("lightning.pytorch")
    inner.Callback = type("Callback", (), {})
    monkeypatch.setitem(sys.modules, "lightning", package)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", inner)
    logged = {}

    class Module:
        def log(self, name, value, prog_bar=False):
            logged[name] = (value, prog_bar)

    callback = lightning_callback(progress_bar=True)
    callback.on_train_batch_start(None, Module(), None, 0)
    sol = decay()
    callback.on_train_batch_end(None, Module(), None, None, 0)
    decay()  # between batches
    callback.on_validation_batch_start(None, Module(), None, 0)
    decay()
    callback.on_validation_batch_end(None, Module(), None, None, 0)
    assert logged["solver/nfe"] == (sol.stats.nfe, True)
    assert logged["val_solver/solves"] == (1.0, False)
    callback.on_train_batch_start(None, Module(), None, 0)
    callback.on_exception(None, Module(), RuntimeError())
    from neuralde import listeners

    assert listeners._LISTENERS == []


def test_without_lightning_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(nde.InvalidProblemError, match="Lightning is not installed"):
        lightning_callback()


def test_listeners_leave_when_the_block_fails():
    heard = []
    listener = heard.append
    with pytest.raises(nde.MaxStepsError), listening(listener), listening(listener):
        decay(max_steps=1)
    decay()
    assert len(heard) == 2
