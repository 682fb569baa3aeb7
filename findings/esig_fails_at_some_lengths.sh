#!/usr/bin/env bash
# esig 1.0.0 (on roughpy 0.3.0): `stream2logsig` and `stream2sig` refuse paths of 50, 99, 104 and 108 points, of all lengths
# from 3 to 129, with "mismatch between number of rows in data and number of indices".
#
# The package spaces its indices by a floating-point step of 1 / (points - 1) up to 1, and for these lengths rounding yields one
# index too many. The remedy is to drop or repeat a point (a repeated point changes no signature), or another package.
# Seen: [50, 99, 104, 108] for both functions; with the last point repeated, 51 points, it works.
# Passes as long as esig behaves so; fails when it changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet esig==1.0.0 roughpy==0.3.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import esig
import numpy as np

path = np.random.default_rng(0).standard_normal((129, 2))
for function in (esig.stream2logsig, esig.stream2sig):
    refused = []
    for points in range(3, 130):
        try:
            function(path[:points], 2)
        except ValueError as error:
            assert "mismatch between number of rows" in str(error)
            refused.append(points)
    print(function.__name__, refused)
    assert refused == [50, 99, 104, 108]
    function(np.concatenate([path[:50], path[49:50]]), 2)
PYTHON
