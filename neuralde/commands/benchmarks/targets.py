"""What the library wants to reach: ratios in one run, a peer's number divided by the library's unless it says "at most"."""

from __future__ import annotations

SPEED: dict[tuple[str, str, str, str], dict[str, float]] = {
    ("forward", "neuralde", "eager", "torchdiffeq"): dict(small=2.2, middle=2.2, large=2.2),
    ("forward+backward", "neuralde direct", "eager", "torchdiffeq"): dict(small=1.8, middle=1.8, large=1.8),
    ("forward+backward", "neuralde discrete", "eager", "torchdiffeq"): dict(small=2.0, middle=1.6, large=1.6),
    ("forward+backward", "neuralde discrete", "eager", "torchdiffeq adjoint"): dict(small=4.5, middle=4.5, large=4.5),
    ("forward", "neuralde", "compiled", "torchdiffeq"): dict(small=6.0, middle=4.5, large=2.4),
    ("forward+backward", "neuralde", "compiled", "torchdiffeq"): dict(small=4.0, middle=2.7, large=1.7),
    ("forward", "neuralde", "compiled", "diffrax"): dict(small=1 / 3, middle=1.0, large=1.0),
    ("forward+backward", "neuralde", "compiled", "diffrax"): dict(small=1 / 3, middle=1.0, large=1.0),
}
"""By what is computed, which of ours, how it runs, and the peer; the least ratio at each size.

The default adjoint, whose memory is bounded, is compared with both of the peer's gradients, with autograd through the steps
and with its adjoint in the memory of the states. Against Diffrax a third is asked for at the small size first.
"""
CALLS_AT_EQUAL_ERROR = 1.0
"""A peer's field calls divided by ours, geometric mean over the problems."""
ROWS_AT_MOST = 1.1
"""Field rows of a compact per-sample solve, at most so many times the sum of what each sample needs alone."""
IMPORT_AT_MOST = 1.35
"""The time to import the library, at most so many times that of torch."""
SYNCS_PER_STEP_AT_MOST = 1.0
"""Host syncs of an eager joint solve for each further step; what is read once, before the first step, is extra."""
CUDA_SPEED: dict[tuple[str, str], dict[str, float]] = {
    ("forward", "captured blocks"): dict(small=10.0),
    ("forward", "compiled"): dict(small=10.0),
}
"""torchdiffeq's time divided by ours on a GPU, by what is computed and what drives our solve."""
SYNCS_PER_BLOCK_AT_MOST = 1.0
"""Host syncs of a solve in blocks for each further block; what is read once, before the first, is extra."""
SDE_AGAINST_TORCHSDE = 20.0
"""torchsde's time divided by ours, the same method and steps, eager."""
SDE_COMPILED_AGAINST_TORCHSDE = 60.0
"""torchsde's time divided by that of our compiled solve, the same method and steps."""
SDE_AGAINST_LOOP_AT_MOST = 1.3
"""Our time divided by that of a loop over ``torch.randn``, Euler's method, eager."""
EVENTS_AGAINST_SCIPY_AT_MOST = 3.0
"""Our time with 128 event functions divided by that of SciPy's ``solve_ivp`` with the same ones."""
SIGNATURES = {"signax": 5.0, "pysiglib": 0.5}
"""A peer's time for a signature and its gradient, divided by ours, one thread."""
KOOPMAN = {"pydmd": 1.0}
"""PyDMD's processor time for a decomposition of rank 20, divided by ours."""
FILTERED_AT_MOST = 2.0
"""The time of a solve with 8 filters of fractional noise divided by that of the same equation with white noise."""
FRACTIONAL_PATHS = {"fbm": 20.0, "stochastic": 20.0, "torchfbm": 1.0}
"""A peer's time for exact paths of fractional Brownian motion, divided by ours in the same precision."""
