#!/usr/bin/env bash
# torch 2.13.0: under `torch.compile` a tensor compared with a member of an `enum.IntEnum` gives the Python constant False,
# without an error or a warning; eagerly it compares with the member's number.
#
# What depends on the comparison is silently dropped from the graph. The remedy is to compare with `int(member)`.
# Seen: eager tensor(True), compiled False, compiled with int(...) tensor(True).
# Passes as long as torch behaves so; fails when it changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy setuptools
"$work/venv/bin/python" - <<'PYTHON'
import enum

import torch


class Status(enum.IntEnum):
    SUCCESS = 0
    FAILURE = 1


def compare(status):
    return status == Status.SUCCESS, status == int(Status.SUCCESS)


status = torch.tensor(0)
eager = compare(status)
graph = torch.compile(compare, fullgraph=True, backend="eager")(status)
print(f"torch {torch.__version__}: eager {eager}, compiled {graph}")
assert eager[0].item() is True and eager[1].item() is True
assert graph[1].item() is True
assert graph[0] is False
PYTHON
