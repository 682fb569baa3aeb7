#!/usr/bin/env bash
# aeon 1.6.0: `load_from_ts_file` of a file with `@timeStamps true` drops the times, and of the values all
# but digits and a point: (0,-1.5) is read as 1.5, and 1.5e-3 as 1.5.
#
# Seen: [[[1.5, 2.5]], [[1.0, 2.0]]] for the values -1.5, 2.5 and 1.0, -2.0, and the same where -1.5 is 1.5e-3.
# Passes as long as aeon behaves so; fails when it changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet aeon==1.6.0
cat > "$work/signs.ts" <<'SERIES'
@problemName signs
@timeStamps true
@missing false
@univariate true
@equalLength true
@classLabel true a b
@data
(0,-1.5),(3,2.5):a
(0,1.0),(1,-2.0):b
SERIES
sed 's/-1.5)/1.5e-3)/' "$work/signs.ts" > "$work/exponents.ts"
"$work/venv/bin/python" -W ignore - "$work" <<'PYTHON'
import sys

import numpy as np
from aeon.datasets import load_from_ts_file

signs, labels = load_from_ts_file(f"{sys.argv[1]}/signs.ts")
print(np.asarray(signs).tolist(), list(labels))
assert np.asarray(signs).tolist() == [[[1.5, 2.5]], [[1.0, 2.0]]]
exponents, _ = load_from_ts_file(f"{sys.argv[1]}/exponents.ts")
print(np.asarray(exponents).tolist())
assert np.asarray(exponents).tolist()[0] == [[1.5, 2.5]]
PYTHON
