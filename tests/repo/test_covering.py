"""What a thinned product keeps: every value or pair, in the function and in what pytest then runs."""

from itertools import combinations, product
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from neuralde.solvers.testing.covering import covering

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"


@hypothesis.settings(max_examples=50)
@hypothesis.given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), max_size=30), st.integers(1, 3))
def test_whatever_holds_together_in_some_row_holds_in_one_that_is_kept(rows, strength):
    def together(some):
        return {held for row in some for held in combinations(enumerate(row), strength)}

    kept = covering(rows, strength)
    assert together(rows[i] for i in kept) == together(rows)
    assert kept == sorted(set(kept))


def test_it_is_much_smaller_than_the_product():
    rows = list(product(range(12), range(3), range(2)))
    assert len(covering(rows, 1)) == 12
    assert 36 <= len(covering(rows, 2)) <= 40
    assert len(covering(rows, 3)) == len(rows)


@pytest.mark.parametrize(("arguments", "count"), [((), 3), (("-m", "slow"), 3), (("-m", ""), 6)])
def test_the_suite_takes_them_and_the_proofs_take_the_others(arguments, count, pytester):
    pytester.makeconftest(
        CONFTEST.read_text("utf-8").replace('pytest_plugins = ["pytester", "neuralde.pytest_plugin"]', "")
    )
    pytester.makeini("[pytest]\naddopts = -m 'not slow'\nmarkers =\n    slow: x\n    covering: x\n")
    pytester.makepyfile("""
        import pytest

        @pytest.mark.covering(1)
        @pytest.mark.parametrize("lanes", [False, True])
        @pytest.mark.parametrize("name", ["a", "b", "c"])
        def test_product(name, lanes):
            pass
    """)
    pytester.runpytest(*arguments, "-p", "no:cacheprovider").assert_outcomes(passed=count, deselected=6 - count)
