"""Series from ``.ts`` files and arrays: every form of the format, and what is no such file."""

import math

import numpy as np
import pytest
import torch

import neuralde as nde
from neuralde.data import DataError, from_arrays, read_npz, read_ts

NAN = math.nan


@pytest.fixture
def written(tmp_path):
    def write(header, *lines, name="walks.ts"):
        path = tmp_path / name
        path.write_text("\n".join([header, "@data", *lines]) + "\n", "utf-8")
        return path

    return write


def header(**changes):
    """A usual header; None leaves a line out."""
    lines = dict(problemName="Walks", timeStamps="false", missing="false", univariate="true", equalLength="true")
    lines |= dict(classLabel="true slow fast") | changes
    return "# a comment\n%another\n\n" + "\n".join(
        f"@{key} {value}" for key, value in lines.items() if value is not None
    )


def test_one_channel_of_one_length(written):
    series = read_ts(written(header(), "1,2.5,-3e-1:fast", "", "4, 5 ,6 : slow", "# behind", "7,8,9:fast"))
    assert series.name == "Walks"
    assert series.ts.T.tolist() == [[0.0, 1.0, 2.0]] * 3
    assert series.xs.squeeze(-1).T.tolist() == [[1.0, 2.5, -0.3], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]
    assert (series.xs.dtype, series.ts.dtype, series.labels.dtype) == (torch.float64, torch.float64, torch.int64)
    assert (series.classes, series.labels.tolist(), series.lengths.tolist()) == (("slow", "fast"), [1, 0, 1], [3, 3, 3])
    assert series.starts is None


def test_channels_of_unequal_lengths_with_missing_values(written):
    changes = dict(univariate="false", dimensions="2", equalLength="false", missing="true")
    series = read_ts(written(header(**changes), "1,?,3:4,5,NaN:slow", "7:8:fast"))
    assert torch.equal(series.ts.isnan(), torch.tensor([[0, 0], [0, 1], [0, 1]]).bool())
    expected = [[[1, 4], [NAN, 5], [3, NAN]], [[7, 8], [NAN, NAN], [NAN, NAN]]]
    np.testing.assert_array_equal(series.xs.movedim(1, 0).numpy(), expected)
    assert series.lengths.tolist() == [3, 1]


def test_time_stamps_are_kept_and_channels_may_have_their_own(written):
    changes = dict(timeStamps="True", univariate="false", dimension="3", equalLength="false")
    lines = ("(0,-1),(0.5, 2):(0.25,3),(2e0,-4.5e-1):  :slow", "(1,5),(2,6):(1,7),(2,8):(1,9),(2,-10):fast")
    series = read_ts(written(header(**changes), *lines))
    np.testing.assert_array_equal(series.ts.T.numpy(), [[0, 0.25, 0.5, 2], [1, 2, NAN, NAN]])
    expected = [[-1, NAN, 2, NAN], [NAN, 3, NAN, -0.45], [NAN] * 4]
    np.testing.assert_array_equal(series.xs[:, 0].T.numpy(), expected)
    np.testing.assert_array_equal(series.xs[:2, 1].T.numpy(), [[5, 6], [7, 8], [9, -10]])
    assert series.lengths.tolist() == [4, 2]
    path = nde.LinearPath(series.ts, series.xs[..., :2])  # as the paths take it
    assert path(0.25)[0].tolist() == [0.5, 3.0]


def test_dates_become_seconds_since_the_first_of_the_series(written):
    lines = (
        "(2007-01-01 00:00:00,241.97),(2007-01-01 00:01:00.5,-1):slow",
        "(2007-01-02T00:00:00,0),(2007-01-03 00:00:00,1):fast",
    )
    series = read_ts(written(header(timeStamps="true"), *lines))
    assert series.ts.T.tolist() == [[0.0, 60.5], [0.0, 86400.0]]
    assert series.starts.tolist() == [1167609600.0, 1167609600.0 + 86400.0]
    assert series.xs[..., 0].T.tolist() == [[241.97, -1.0], [0.0, 1.0]]


def test_targets_of_a_regression_and_series_without_labels(written):
    series = read_ts(written(header(classLabel=None, targetLabel="true"), "1,2:-3.5", "3,4:2e1"))
    assert (series.labels.tolist(), series.labels.dtype, series.classes) == ([-3.5, 20.0], torch.float64, ())
    for label in ("false", None):
        series = read_ts(written(header(classLabel=label, univariate="false"), "1,2:5,6", "3,4:7,8"))
        assert (series.labels, series.classes, series.channels) == (None, (), 2)


def test_labels_keep_their_case_and_classes_that_are_not_named_are_sorted(written):
    series = read_ts(written(header(classLabel="true"), "1,2:Banana", "3,4:NaN", "5,6:apple"))
    assert (series.classes, series.labels.tolist()) == (("Banana", "NaN", "apple"), [0, 1, 2])


def test_an_unsaid_header_is_taken_from_the_data(written):
    series = read_ts(written("@classLabel true a b", "1,?:3,4:a", "5:6:b", name="unsaid.ts"))
    assert (series.channels, series.lengths.tolist(), series.name) == (2, [2, 1], "unsaid")


STAMPED = dict(timeStamps="true")
BAD = {
    "no @data": (None, ["@univariate true", "1,2:slow"], "line 2: got '1,2:slow' above @data"),
    "only a header": (None, ["@univariate true"], "has no @data"),
    "an empty file": (None, [], "has no @data"),
    "words behind @data": (None, ["@univariate true", "@data 1,2"], "line 2: got '1,2' behind @data"),
    "nothing below": (header(), [], "no series below @data"),
    "a flag of neither": (header(missing="maybe"), ["1,2:slow"], "line 6: @missing: got maybe; expected true or false"),
    "a flag of nothing": (header(univariate=""), ["1,2:slow"], "@univariate: got nothing; expected true or false"),
    "a class flag": (header(classLabel="yes a"), ["1,2:slow"], "@classlabel: got yes; expected true or false"),
    "a length of none": (
        header(seriesLength="0"),
        ["1,2:slow"],
        "@serieslength: got 0; expected a positive whole number",
    ),
    "two kinds of label": (header(targetLabel="true"), ["1,2:slow"], "both @classLabel true and @targetLabel true"),
    "an unknown class": (
        header(),
        ["1,2:slow", "3,4:Slow"],
        "@classLabel: labels: got 'Slow'; expected one of slow, fast",
    ),
    "no label": (header(), ["1,2"], "line 11: got no label behind the last channel"),
    "an empty label": (header(), ["1,2:"], "got no label behind the last channel"),
    "no target": (
        header(classLabel=None, targetLabel="true"),
        ["1,2:slow"],
        "could not convert string to float: 'slow'",
    ),
    "channels": (
        header(univariate="false", dimensions="3"),
        ["1,2:3,4:slow"],
        "got 2 channels; expected the 3 of @dimensions",
    ),
    "univariate": (header(), ["1,2:3,4:slow"], "got 2 channels; expected 1, since @univariate is true"),
    "other channels": (
        header(univariate="false"),
        ["1:2:slow", "1:slow"],
        "line 12: got 1 channels; expected 2, as in the first",
    ),
    "unequal flagged equal": (
        header(),
        ["1,2:slow", "3:fast"],
        "line 12: got a series of 1; expected 2 as in the first, since @equal",
    ),
    "not as long": (header(seriesLength="3"), ["1,2:slow"], "got a series of 2; expected the 3 of @seriesLength"),
    "missing flagged none": (header(), ["1,?:slow"], "got a missing value; expected none, since @missing is false"),
    "a word": (
        header(),
        ["1,two:slow"],
        "line 11: channel 0: could not convert string to float: 'two'; expected numbers",
    ),
    "a hole": (header(), ["1,,2:slow"], "channel 0: could not convert string to float: ''"),
    "unequal channels": (
        header(univariate="false"),
        ["1,2:3:slow"],
        "got channels of 2, 1 values; expected one length",
    ),
    "nothing in it": (header(), [":slow"], "got a series without a value"),
    "pairs unannounced": (header(), ["(0,1),(1,2):slow"], "could not convert string to float"),
    "values for pairs": (header(**STAMPED), ["1,2:slow"], r"channel 0: got '1,2'; expected \(time,value\)"),
    "triples": (header(**STAMPED), ["(0,1,2):slow"], r"got '\(0,1,2\)'; expected \(time,value\)"),
    "a comma too many": (header(**STAMPED), ["(0,1),(1,2),:slow"], "got '.0,1.,.1,2.,'; expected"),
    "a bracket too few": (header(**STAMPED), ["(0,1),(1,2:slow"], r"got '\(0,1\),\(1,2'; expected"),
    "times behind": (
        header(**STAMPED),
        ["(1,1),(0,2):slow"],
        "channel 0: got time 0 behind 1; expected increasing times",
    ),
    "equal times": (header(**STAMPED), ["(1,1),(1,2):slow"], "got time 1 behind 1; expected increasing times"),
    "no time": (header(**STAMPED), ["(?,1),(1,2):slow"], "time stamps: .*expected numbers, or dates"),
    "a NaN time": (header(**STAMPED), ["(nan,1),(1,2):slow"], "time stamp that is not finite"),
    "a local date": (
        header(**STAMPED),
        ["(31/12/2019,1):slow"],
        "expected numbers, or dates such as 2007-01-01 00:00:00",
    ),
    "two kinds of time": (
        header(**STAMPED),
        ["(0,1),(1,2):slow", "(2007-01-01,1),(2007-01-02,2):slow"],
        "line 12: got numbers and dates",
    ),
    "two in a series": (
        header(**STAMPED, univariate="false"),
        ["(0,1):(2007-01-01,1):slow"],
        "line 11: got numbers and dates",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_such_file_is_refused_with_its_line(case, tmp_path):
    top, lines, message = BAD[case]
    path = tmp_path / "bad.ts"
    path.write_text("\n".join([*([] if top is None else [top, "@data"]), *lines]) + "\n", "utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_ts(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, (nde.NeuralDEError, ValueError))


def test_without_check_the_data_decide(written):
    changes = dict(dimensions="5", seriesLength="9")
    series = read_ts(written(header(**changes), "1,?:3,4:slow", "5:6:fast"), check=False)
    assert (series.channels, series.lengths.tolist()) == (2, [2, 1])
    with pytest.raises(DataError, match="expected one of slow, fast"):
        read_ts(written(header(), "1:tired"), check=False)


def test_files_that_are_not_there_or_no_text(tmp_path):
    for reader in (read_ts, read_npz):
        with pytest.raises(DataError, match="not found"):
            reader(tmp_path / "none")
    path = tmp_path / "bytes.ts"
    path.write_bytes(b"@data\n\xff\xfe\x00:a\n")
    with pytest.raises(DataError, match="cannot be read as text"):
        read_ts(path)
    with pytest.raises(DataError, match=r"cannot be read as an \.npz"):
        read_npz(path)
    np.savez(tmp_path / "objects.npz", X=np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"cannot be read as an \.npz of plain arrays"):
        read_npz(tmp_path / "objects.npz")


def test_a_set_is_selected_thinned_and_moved():
    series = from_arrays([np.arange(2.0 * n).reshape(2, n) for n in (9, 4, 6)], labels=["b", "a", "b"])
    two = series[[2, 1]]
    assert (two.xs.shape, two.lengths.tolist(), two.labels.tolist()) == ((6, 2, 2), [6, 4], [1, 0])
    assert torch.equal(two.xs[:, 0], series.xs[:6, 2])
    assert len(series[:1]) == len(series[-1]) == 1
    thin = series.thinned(0.5, seed=3)
    assert thin.lengths.tolist() == [5, 2, 3]
    for place in range(3):
        kept = thin.ts[: thin.lengths[place], place]
        assert (kept.diff() > 0).all()
        # What is left are observations of that series, at their own times.
        assert torch.equal(thin.xs[: len(kept), place], series.xs[kept.long(), place])
    assert torch.equal(thin.ts.nan_to_num(-1), series.thinned(0.5, seed=3).ts.nan_to_num(-1))
    assert not torch.equal(thin.ts.nan_to_num(-1), series.thinned(0.5, seed=4).ts.nan_to_num(-1))
    assert series.thinned(0.99, seed=0).lengths.tolist() == [2, 2, 2]
    timed = series.to(torch.float32).with_time(0.5)
    assert (timed.xs.dtype, timed.ts.dtype, timed.channels) == (torch.float32, torch.float64, 3)
    np.testing.assert_array_equal(timed.xs[..., 0].numpy(), 0.5 * series.ts.numpy())
    with pytest.raises(DataError, match=r"got none of 3 series"):
        series[[]]
    with pytest.raises(DataError, match=r"fraction: got 1\.0"):
        series.thinned(1.0, seed=0)


def test_one_clock_is_the_same_path_as_each_its_own():
    times = [np.array([0.0, 1.5, 2.0, 7.0]), np.array([0.0, 2.0, 5.0, 7.0])]
    values = [np.random.default_rng(0).normal(size=(2, 4)) for _ in times]
    series = from_arrays(values, ts=times)
    clock, xs = series.on_one_clock()
    assert clock.tolist() == [0.0, 1.5, 2.0, 5.0, 7.0]
    assert xs.isnan().all(-1).T.tolist() == [[False, False, False, True, False], [False, True, False, False, False]]
    own, one = nde.NaturalCubicPath(series.ts, series.xs), nde.NaturalCubicPath(clock, xs)
    at = torch.linspace(0, 7, 50, dtype=torch.float64)
    torch.testing.assert_close(own(at), one(at), rtol=1e-12, atol=1e-12)


def test_arrays_of_every_kind():
    xs = np.random.default_rng(0).normal(size=(4, 2, 5))
    series = from_arrays(
        torch.as_tensor(xs), labels=torch.tensor([10, 2, 10, 1]), lengths=[5, 3, 1, 5], ts=[0, 1, 2, 4, 8]
    )
    assert (series.classes, series.labels.tolist()) == (("1", "2", "10"), [2, 1, 2, 0])
    assert series.ts[:, 1].tolist()[:3] == [0.0, 1.0, 2.0]
    assert series.xs[3:, 1].isnan().all()
    np.testing.assert_array_equal(series.xs[:, 3].T.numpy(), xs[3])
    targets = from_arrays(xs, labels=[0.5, 1.0, 2.0, 3.0])
    assert (targets.labels.dtype, targets.classes) == (torch.float64, ())
    placed = from_arrays(xs, labels=[1, 0, 1, 1], classes="ab")
    assert (placed.labels.tolist(), placed.classes) == ([1, 0, 1, 1], ("a", "b"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(xs=[]), "xs: got no series"),
        (dict(xs=[np.zeros(3)]), r"xs\[0\]: got shape \(3,\); expected 2 dimensions"),
        (dict(xs=[np.zeros((2, 3)), np.zeros((1, 3))]), r"xs\[1\]: got shape \(1, 3\); expected \(2, T\)"),
        (dict(xs=[np.zeros((2, 0))]), "at least one time"),
        (dict(xs=[[["a"]]]), "no array of numbers"),
        (dict(labels=[1]), "labels: got 1 for 2 series"),
        (dict(labels=[0, 2], classes="ab"), "labels: got 0 to 2; expected the places of 2 classes"),
        (dict(labels=["a", "c"], classes="ab"), "labels: got 'c'; expected one of a, b"),
        (dict(lengths=[3, 4]), "lengths: got .* expected 2 whole numbers from 1 to 3"),
        (dict(lengths=[3, 1.5]), "whole numbers"),
        (dict(lengths=[3]), "expected 2 whole numbers"),
        (dict(xs=[np.zeros((1, 3))], lengths=[3]), "lengths: got some with a list"),
        (dict(ts=[0.0, 1.0]), "ts: got 2 times for series 0 of 3"),
        (dict(ts=[0.0, 1.0, 1.0]), "increasing"),
        (dict(ts=[0.0, 1.0, NAN]), "finite"),
        (dict(ts=[[0.0, 1.0, 2.0]]), "ts: got 1 for 2 series"),
        (dict(ts=[[0.0, 1.0, 2.0], [0.0, 2.0, 1.0]]), r"ts\[1\]: got 3 times"),
    ],
)
def test_arrays_that_do_not_fit_are_named(changes, message):
    with pytest.raises(DataError, match=message):
        from_arrays(**(dict(xs=np.zeros((2, 1, 3))) | changes))


def test_files_of_arrays_in_both_forms(tmp_path):
    xs = np.random.default_rng(0).normal(size=(5, 2, 6)).astype(np.float32)
    parts = dict(X_train=xs[:3], X_test=xs[3:], y_train=np.array(["b", "a", "b"]), y_test=np.array(["c", "a"]))
    np.savez(tmp_path / "split.npz", **parts, len_train=[6, 4, 2], len_test=[3, 6])
    sets = read_npz(tmp_path / "split.npz")
    assert sets["train"].classes == sets["test"].classes == ("a", "b", "c")
    assert (sets["train"].lengths.tolist(), sets["test"].labels.tolist()) == ([6, 4, 2], [2, 0])
    np.testing.assert_array_equal(sets["test"].xs[:, 1].numpy().T, xs[4])
    rows = np.concatenate([xs[0].T[:4], xs[1].T, xs[2].T[:3]])
    whole = dict(
        X=rows, ptr=np.array([0, 4, 10, 13]), y=np.array([1, 0, 1], np.uint8), classes=np.array("xy"), n_train=2
    )
    np.savez(tmp_path / "whole.npz", **whole)
    sets = read_npz(tmp_path / "whole.npz")
    assert (len(sets["train"]), len(sets["test"]), sets["test"].name) == (2, 1, "whole")
    assert (sets["train"].lengths.tolist(), sets["train"].labels.tolist()) == ([4, 6], [1, 0])
    np.testing.assert_array_equal(sets["test"].xs[:, 0].numpy(), xs[2].T[:3])
    for changes, message in (
        (dict(ptr=np.array([0, 4, 13])), "whole.npz: labels: got 3 for 2"),
        (dict(ptr=np.array([0, 4, 10, 12])), "whole.npz: ptr: got"),
        (dict(n_train=3), "n_train: got 3"),
        (dict(y=np.array([1, 0, 2], np.uint8)), "labels: got 0 to 2"),
    ):
        np.savez(tmp_path / "whole.npz", **(whole | changes))
        with pytest.raises(DataError, match=message):
            read_npz(tmp_path / "whole.npz")
    np.savez(tmp_path / "split.npz", X_train=xs)
    with pytest.raises(DataError, match="has no y_train, only X_train; expected"):
        read_npz(tmp_path / "split.npz")
