"""DistributedDataParallel: two processes on the CPU share their gradients, whatever the adjoint."""

import gc
import subprocess
import sys
from datetime import timedelta

import pytest
import torch
from torch import nn

import neuralde as nde
from neuralde.adjoints.composability import columns

WORLD = 2


class Field(nn.Module):
    """Two layers that share a weight, one that is frozen, and one that nobody uses."""

    def __init__(self, unused):
        super().__init__()
        self.a, self.b, self.frozen = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.b.weight = self.a.weight
        self.frozen.requires_grad_(False)
        if unused:
            self.unused = nn.Linear(2, 2)

    def forward(self, t, y):
        return self.b(torch.tanh(self.a(y))) + torch.cos(t) * self.frozen(y)


def model(kind, unused, per_sample):
    torch.manual_seed(0)
    reversible = kind is not None and kind.capabilities.solvers == "reversible"
    solver = nde.Reversible(nde.Tsit5()) if reversible else nde.Tsit5()
    adjoint = None if kind is None else kind()
    return nde.NeuralODE(Field(unused).double(), solver=solver, adjoint=adjoint, per_sample=per_sample)


def batch(rank):
    return torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))


def gradients(run, module, rank):
    module.zero_grad()
    states, sol = run(batch(rank))
    assert sol.stats.nfe > 0 if not torch.is_tensor(sol.stats.nfe) else (sol.stats.nfe > 0).all()
    states.square().sum().backward()
    return {name: None if x.grad is None else x.grad.clone() for name, x in module.named_parameters()}


def work(rank, where):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{where}", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    for turn, kind in enumerate(columns()):
        for per_sample in (False, True):
            unused = per_sample == bool(turn % 2)  # every adjoint with and without, joint and per sample in turns
            module = model(kind, unused, per_sample)
            alone = [gradients(module, module, other) for other in range(WORLD)]
            shared = gradients(nn.parallel.DistributedDataParallel(module, find_unused_parameters=unused), module, rank)
            for name, mine in shared.items():
                parts = [grads[name] for grads in alone]
                if mine is None or parts[0] is None:
                    assert name.partition(".")[2].startswith(("frozen", "unused")), (kind, name)
                    assert mine is None or not mine.any(), (kind, name)
                    continue
                torch.testing.assert_close(mine, sum(parts) / WORLD, rtol=1e-12, atol=1e-14, msg=f"{kind} {name}")
    # Torch's tree_flatten leaves reference cycles that hold the outputs, and with them their graphs and DDP's hooks. Left to
    # the interpreter's end, 5 of 60 processes aborted there; collected here, none of 56.
    gc.collect()
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_agree_on_the_mean_gradient(tmp_path):
    # As a script: a spawned process would have to import this module, which pytest's importlib mode gives no path to.
    command = [sys.executable, __file__, str(tmp_path / "rendezvous")]
    workers = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(WORLD)
    ]
    said = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * WORLD, "\n".join(said)


if __name__ == "__main__":
    work(int(sys.argv[2]), sys.argv[1])
