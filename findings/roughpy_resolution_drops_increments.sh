#!/usr/bin/env bash
# roughpy 0.3.0: the `resolution` of a query does not only say how fine the dyadic cells are; increments that the stream holds
# are missing from the result, the earlier or the later ones, and a finer resolution need not bring them back.
#
# A stream of the increments 1, 10, 100, 1000 at the times 0.1, 0.3, 0.6, 0.9 is asked for its signature over [0, 2), whose
# first level is their sum. The remedy is to give no `resolution` to the query.
# Seen: none 1111; 1 gives 11; 4 gives 111; 12 and 20 give 1110. With a resolution of 12 for the stream instead: 1111.
# Passes as long as roughpy behaves so; fails when it changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet roughpy==0.3.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import roughpy as rp

context = rp.get_context(1, 1, rp.DPReal)
increments, times = np.array([[1.0], [10.0], [100.0], [1000.0]]), np.array([0.1, 0.3, 0.6, 0.9])
stream = rp.LieIncrementStream.from_increments(increments, indices=times, ctx=context)
whole = rp.RealInterval(0.0, 2.0)
seen = {None: float(np.array(stream.signature(whole))[1])}
for resolution in (1, 4, 12, 20):
    seen[resolution] = float(np.array(stream.signature(whole, resolution=resolution))[1])
print(seen)
assert seen == {None: 1111.0, 1: 11.0, 4: 111.0, 12: 1110.0, 20: 1110.0}
fine = rp.LieIncrementStream.from_increments(increments, indices=times, ctx=context, resolution=12)
assert float(np.array(fine.signature(whole))[1]) == 1111.0
PYTHON
