#!/usr/bin/env bash
# torch 2.13.0: the gradient of `while_loop` by a tensor that its body closes over keeps only the last iteration's share,
# without an error or a warning, when the carry does not require grad before the first iteration.
#
# The documentation calls the operator a prototype. It differentiates all the same: with a carry that requires grad the
# gradient below is right. The remedy is to make the carry require grad, for example by adding a zero that depends on what
# is closed over: `y + 0.0 * w`.
#
# Seen: carry with grad  0.519196, carry without grad -0.146130 (the last iteration alone), carry + 0 * w 0.519196;
# right: 0.519196 by differentiating the same loop in Python and by finite differences.
# Passes as long as torch behaves so; fails when it changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy setuptools
"$work/venv/bin/python" - <<'PYTHON'
import math

import torch
from torch._higher_order_ops.while_loop import while_loop

STEPS, X, W = 4, 0.3, 0.7
D = torch.float64


def in_python(x, w, steps=STEPS):
    for _ in range(steps):
        x = x * math.cos(w) + w
    return x


@torch.compile(backend="aot_eager", fullgraph=True)
def in_a_graph(x, w):
    def going(i, y):
        return i < STEPS

    def body(i, y):
        return i + 1, y * torch.cos(w) + w

    return while_loop(going, body, (torch.zeros((), dtype=torch.int64), x.clone()))[1]


def gradient(x, anchor=False):
    w = torch.tensor(W, dtype=D, requires_grad=True)
    end = in_a_graph(x + 0.0 * w if anchor else x, w)
    assert abs(end.item() - in_python(X, W)) < 1e-12  # the value is right each time
    return torch.autograd.grad(end, w)[0].item()


right = (in_python(X, W + 1e-6) - in_python(X, W - 1e-6)) / 2e-6
last = 1.0 - in_python(X, W, STEPS - 1) * math.sin(W)  # of x cos(w) + w, with x held
found = [
    gradient(torch.tensor(X, dtype=D, requires_grad=True)),
    gradient(torch.tensor(X, dtype=D)),
    gradient(torch.tensor(X, dtype=D), anchor=True),
]
print(f"torch {torch.__version__}: right {right:.6f}, the last iteration alone {last:.6f}")
print("carry with grad {:.6f}, without {:.6f}, without but + 0 * w {:.6f}".format(*found))
assert abs(found[0] - right) < 1e-8
assert abs(found[1] - last) < 1e-12
assert abs(found[2] - right) < 1e-8
PYTHON
