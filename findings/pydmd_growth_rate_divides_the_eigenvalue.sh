#!/usr/bin/env bash
# PyDMD 2025.8.1: `DMD.growth_rate` is the real part of the discrete-time eigenvalue divided by dt, not the logarithm of its modulus
# divided by dt. A mode that decays like exp(-0.1 t), sampled every 0.1, is said to grow at 9.7.
#
# `frequency` of the same object is right: the angle of the eigenvalue over 2 pi dt. The growth rate is `np.log(np.abs(dmd.eigs)) / dt`.
# Seen: growth_rate [9.7031 9.7031], log|eigs| / dt [-0.1 -0.1], frequency [-0.3183 0.3183].
# Passes as long as PyDMD behaves so; fails when it changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pydmd==2025.8.1 numpy==2.4.6 scipy==1.17.1
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from pydmd import DMD

dt, decay, angular = 0.1, -0.1, 2.0
t = dt * np.arange(200)
data = np.exp(decay * t) * np.array([np.cos(angular * t), np.sin(angular * t)])
dmd = DMD(svd_rank=2).fit(data)
dmd.original_time["dt"] = dmd.dmd_time["dt"] = dt
right = np.log(np.abs(dmd.eigs)) / dt
print("growth_rate", np.round(dmd.growth_rate, 4), "log|eigs| / dt", np.round(right, 4))
print("frequency", np.round(np.sort(dmd.frequency), 4))
assert np.allclose(right, decay) and np.allclose(np.sort(dmd.frequency), [-1 / np.pi, 1 / np.pi])
assert np.allclose(dmd.growth_rate, dmd.eigs.real / dt) and np.all(dmd.growth_rate > 9.0)
PYTHON
