"""What is refused, and in which words."""

import math

import numpy as np
import pytest
import torch

import neuralde as nde
from neuralde.koopman import (
    DMD,
    EDMD,
    Delay,
    Fourier,
    LearnedDictionary,
    Polynomial,
    RadialBasis,
    ResDMD,
    fit_operator,
)

X = torch.randn(30, 2, dtype=torch.float64)
NAN = torch.full((30, 2), math.nan, dtype=torch.float64)
FITTED = DMD().fit(X)
DRIVEN = DMD().fit(X, control=torch.randn(29, 1))

REFUSED = {
    "points of integers": ("z0", lambda: fit_operator(torch.ones(3, 2, dtype=torch.int64), X)),
    "points that are an array": ("z0", lambda: fit_operator(np.ones((3, 2)), X)),
    "no points": ("z0", lambda: fit_operator(X[:0], X[:0])),
    "points that do not fit": ("z1", lambda: fit_operator(X, X[1:])),
    "points of two dtypes": ("z1", lambda: fit_operator(X, X.float())),
    "nan points": ("z1", lambda: fit_operator(X, NAN)),
    "negative ridge": ("ridge", lambda: fit_operator(X, X, -1.0)),
    "nan ridge": ("ridge", lambda: EDMD(ridge=math.nan)),
    "one snapshot": ("X", lambda: DMD().fit(X[:1])),
    "a vector": ("X", lambda: DMD().fit(X[:, 0])),
    "nan data": ("X", lambda: DMD().fit(NAN)),
    "zero data": ("X", lambda: DMD().fit(torch.zeros(5, 2))),
    "zero data, optimized": ("X", lambda: DMD(2, "optimized").fit(torch.zeros(5, 2))),
    "other shape": ("Y", lambda: DMD().fit(X, X[:, :1])),
    "nan after": ("Y", lambda: DMD().fit(X, NAN)),
    "fewer snapshots than observables": ("X", lambda: EDMD(Polynomial(8)).fit(X)),
    "delays longer than the series": ("X", lambda: EDMD(Delay(31)).fit(X)),
    "delays as long as the series": ("X", lambda: EDMD(Delay(30)).fit(X)),
    "pairs without windows": ("X", lambda: EDMD(Delay(3)).fit(X, X)),
    "dt of zero": ("dt", lambda: DMD().fit(X, dt=0.0)),
    "dt beside ts": ("dt", lambda: DMD().fit(X, dt=1.0, ts=torch.arange(30))),
    "ts beside Y": ("ts", lambda: DMD().fit(X, X, ts=torch.arange(30))),
    "times that do not increase": ("ts", lambda: DMD().fit(X, ts=torch.arange(30).flip(0))),
    "other count of times": ("ts", lambda: DMD().fit(X, ts=torch.arange(29))),
    "uneven times": ("ts", lambda: DMD().fit(X, ts=torch.arange(30.0) ** 2)),
    "unknown method": ("method", lambda: DMD(method="forward-backward")),
    "rank of zero": ("rank", lambda: DMD(0)),
    "pairs, optimized": ("X", lambda: DMD(2, "optimized").fit(X, X)),
    "as many exponentials as snapshots": ("rank", lambda: DMD(2, "optimized").fit(X[:2])),
    "control, optimized": ("control", lambda: DMD(2, "optimized").fit(X, control=X[1:])),
    "weights, optimized": ("weights", lambda: DMD(2, "optimized").fit(X, weights=X[1:, 0].abs())),
    "ridge, optimized": ("ridge", lambda: DMD(2, "optimized", ridge=1.0)),
    "control of another length": ("control", lambda: DMD().fit(X, control=X)),
    "control without channels": ("control", lambda: DMD().fit(X, control=X[1:, 0])),
    "control that is zero": ("control", lambda: DMD().fit(X, control=torch.zeros(29, 1))),
    "control that follows from the state": ("control", lambda: DMD().fit(X, control=X[:-1] @ X[:2])),
    "negative weights": ("weights", lambda: EDMD().fit(X, weights=-torch.ones(29))),
    "weights of another length": ("weights", lambda: EDMD().fit(X, weights=torch.ones(30))),
    "a function as dictionary": ("dictionary", lambda: EDMD(lambda x: x)),
    "a dictionary with values that are not finite": (
        "dictionary",
        lambda: EDMD(RadialBasis(1, width=1e-300)).fit(X * 1e300),
    ),
    "delays of delays": ("dictionary", lambda: Delay(2, Delay(2))),
    "one delay": ("delays", lambda: Delay(1)),
    "degree of zero": ("degree", lambda: Polynomial(0)),
    "order of half": ("order", lambda: Fourier(0.5)),
    "negative period": ("period", lambda: Fourier(1, -1.0)),
    "unknown kernel": ("kernel", lambda: RadialBasis(3, kernel="cubic")),
    "centres before the data": ("centers", lambda: RadialBasis(3)(X)),
    "more centres than states": ("centers", lambda: EDMD(RadialBasis(3)).fit(X[:1].expand(30, 2))),
    "width of zero": ("width", lambda: RadialBasis(3, width=0.0)),
    "network without outputs": ("size", lambda: LearnedDictionary(2, 0)),
    "negative steps": ("steps", lambda: LearnedDictionary(2, 1, steps=-1)),
    "before the fit": ("DMD", lambda: DMD().eigenvalues),
    "prediction before the fit": ("EDMD", lambda: EDMD().predict(X[0], [1.0])),
    "pseudospectrum before the fit": ("ResDMD", lambda: ResDMD().pseudospectrum(0.0)),
    "start of another size": ("x", lambda: FITTED.predict(torch.zeros(3), [1.0])),
    "nan times": ("ts", lambda: FITTED.predict(X[0], [math.nan])),
    "a number as times": ("ts", lambda: FITTED.predict(X[0], 1.0)),
    "control that was not fitted": ("control", lambda: FITTED.predict(X[0], [1.0], control=X)),
    "no control": ("control", lambda: DRIVEN.predict(X[0], [1.0])),
    "control that ends before": ("control", lambda: DRIVEN.predict(X[0], [3.0], control=X[:2, :1])),
    "control of other channels": ("control", lambda: DRIVEN.predict(X[0], [1.0], control=X)),
    "times between steps of a control": ("ts", lambda: DRIVEN.predict(X[0], [0.5], control=X[:, :1])),
    "times before the control": ("ts", lambda: DRIVEN.predict(X[0], [-1.0], control=X[:, :1])),
    "other shape of held pairs": ("Y", lambda: FITTED.residuals_on(X, X[1:])),
    "tolerance of zero": ("tolerance", lambda: ResDMD().fit(X).verified(0.0)),
    "nan point": ("z", lambda: ResDMD().fit(X).pseudospectrum(math.nan)),
    "a word as point": ("z", lambda: ResDMD().fit(X).pseudospectrum("one")),
    "a solution beside dt": ("dt", lambda: DMD().fit(nde.solve(DECAY, saveat=[0.0, 0.5, 1.0]), dt=1.0)),
    "a solution without times": ("X", lambda: DMD().fit(nde.solve(DECAY))),
}
DECAY = nde.ODEProblem(lambda t, y: -y, torch.ones(2), (0.0, 1.0))


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_named(case):
    name, call = REFUSED[case]
    with pytest.raises(nde.InvalidProblemError, match=rf"^{name}: "):
        call()


def test_more_observables_than_pairs_with_a_rank():
    model = EDMD(Polynomial(8), rank=5).fit(X)
    assert model.modes.shape == (5, 2)
    wide = torch.randn(20, 3, dtype=torch.float64) @ torch.randn(3, 500, dtype=torch.float64)
    assert DMD().fit(wide).modes.shape == (3, 500)


def test_constant_channels_are_no_trouble():
    x = torch.cat([X, torch.ones(30, 1, dtype=torch.float64)], 1)
    for model in (DMD(), DMD(method="tls"), DMD(2, "optimized"), EDMD(Polynomial(2)), EDMD(RadialBasis(5))):
        model.fit(x)
        assert model.eigenvalues.isfinite().all()
        assert model.modes.isfinite().all()
        assert model.predict(x[0], [0.0, 1.5]).isfinite().all()
