"""Intervals, tests and gaps: coverage, symmetry and reproducibility."""

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from genrec.errors import InputError
from genrec.evaluation import intervals
from genrec.evaluation.intervals import Interval
from genrec.types import FloatArray

GROUPED = st.lists(st.tuples(st.floats(-5, 5), st.sampled_from("abc"))).filter(
    lambda pairs: len({label for _, label in pairs}) > 1
)
VALUES = st.lists(st.floats(-5, 5), min_size=1, max_size=20)


@given(VALUES, st.integers(0, 99), st.randoms())
def test_interval_lies_within_the_values_in_any_order(values: list[float], seed: int, random: Any) -> None:
    """A result that changes with the order of users cannot be reproduced."""
    found = intervals.mean_interval(values, seed=seed, resamples=100)
    slack = 1e-9
    assert min(values) - slack <= found.low <= found.high <= max(values) + slack
    assert found.value == pytest.approx(np.mean(values), abs=1e-9)
    again = intervals.mean_interval(random.sample(values, len(values)), seed=seed, resamples=100)
    assert (again.low, again.high) == (found.low, found.high)


def test_interval_equals_scipy() -> None:
    """SciPy's percentile bootstrap must give the same ends."""
    values = np.random.default_rng(3).exponential(size=80)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", random_state=np.random.default_rng(4)
    ).confidence_interval
    ours = intervals.mean_interval(values, seed=5, resamples=20_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def coverage(found: list[Interval], truth: float) -> float:
    return float(np.mean([one.low <= truth <= one.high for one in found]))


def test_intervals_have_their_nominal_coverage() -> None:
    """95 % intervals that cover the true value in 80 % of cases report noise as a result."""
    rng = np.random.default_rng(6)
    skewed = [intervals.mean_interval(rng.exponential(size=100), seed=one, resamples=500) for one in range(400)]
    assert 0.90 <= coverage(skewed, 1.0) <= 0.98
    pairs = [(base := rng.random(100), base + rng.normal(0.1, 0.3, size=100)) for _ in range(400)]
    paired = [
        intervals.difference_interval(two, one, seed=seed, resamples=500) for seed, (one, two) in enumerate(pairs)
    ]
    assert 0.90 <= coverage(paired, 0.1) <= 0.98


def test_paired_intervals_are_narrower() -> None:
    """Rankers on the same easy and hard users differ by less than either varies."""
    rng = np.random.default_rng(7)
    hard = rng.normal(size=200)
    ours, theirs = hard + 0.1 + rng.normal(0, 0.1, 200), hard + rng.normal(0, 0.1, 200)
    found = intervals.difference_interval(ours, theirs, seed=1)
    assert 0 < found.low < found.value < found.high
    assert found.value == pytest.approx(ours.mean() - theirs.mean())
    alone = intervals.mean_interval(ours, seed=1)
    assert found.high - found.low < 0.3 * (alone.high - alone.low)


def test_p_value_by_hand() -> None:
    """Four users all better by 1: two of 16 sign patterns reach the sum; equal values do not count."""
    p = intervals.randomisation_test([1, 1, 1, 1, 3], [0, 0, 0, 0, 3], seed=1, permutations=100_000)
    assert p == pytest.approx(2 / 16, abs=0.005)
    assert intervals.randomisation_test([1, 2], [1, 2], seed=1) == 1
    assert intervals.randomisation_test([0.1], [0.4], seed=1) == 1
    assert intervals.randomisation_test(np.ones(50), np.zeros(50), seed=1, permutations=999) == 1 / 1000


def test_p_value_equals_the_exact_one_of_scipy() -> None:
    """With ten users all sign patterns can be tried; rounding of equal sums must not matter."""
    rng = np.random.default_rng(8)
    for _ in range(5):
        ours, theirs = rng.integers(0, 5, 10) / 10, rng.integers(0, 5, 10) / 10
        exact = stats.permutation_test(
            (ours - theirs,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
        ).pvalue
        assert intervals.randomisation_test(ours, theirs, seed=2, permutations=50_000) == pytest.approx(exact, abs=0.01)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1), st.integers(0, 99), st.randoms())
def test_p_value_is_symmetric_and_does_not_depend_on_order(
    pairs: list[tuple[float, float]], seed: int, random: Any
) -> None:
    """Which ranker comes first, and the order of users, must not change the result."""
    ours, theirs = zip(*pairs, strict=True)
    found = intervals.randomisation_test(ours, theirs, seed=seed, permutations=99)
    assert 1 / 100 <= found <= 1
    one, other = zip(*random.sample(pairs, len(pairs)), strict=True)
    assert intervals.randomisation_test(other, one, seed=seed, permutations=99) == pytest.approx(found)


def test_p_values_are_uniform_under_the_null_hypothesis() -> None:
    """A test that rejects more than 5 % of equal rankers at the 5 % level publishes noise."""
    rng = np.random.default_rng(9)
    found = [
        intervals.randomisation_test(rng.exponential(size=40), rng.exponential(size=40), seed=seed, permutations=199)
        for seed in range(600)
    ]
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.027)
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_fifty_thousand_users_take_less_than_100_mb() -> None:
    """All draws at once would take 800 MB for an interval, and 4 GB for a test."""
    values = np.random.default_rng(10).random((2, 50_000))
    tracemalloc.start()
    try:
        intervals.mean_interval(values[0], seed=1)
        intervals.randomisation_test(values[0], values[1], seed=1, permutations=1000)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_parity_by_hand() -> None:
    """Means, sizes and the widest pair; groups without variance have an interval of one point."""
    found = intervals.parity([1, 4, 1, 2, 4, 2], ["new", "old", "new", 3, "old", 3], seed=1)
    assert list(found.means.items()) == [(3, 2), ("new", 1), ("old", 4)]
    assert found.users == {3: 2, "new": 2, "old": 2}
    assert (found.highest, found.lowest, found.gap) == ("old", "new", Interval(3, 3, 3))
    with pytest.raises(InputError, match="every user is in group 'all'"):
        intervals.parity([1, 2], ["all", "all"], seed=1)
    with pytest.raises(InputError, match="got 2 values and 1 groups"):
        intervals.parity([1, 2], ["all"], seed=1)


def gaps(means: FloatArray, sizes: list[int]) -> list[Interval]:
    rng = np.random.default_rng(11)
    labels = np.repeat(np.arange(len(means)), sizes).tolist()
    return [
        intervals.parity(rng.exponential(size=len(labels)) + means[labels], labels, seed=seed, resamples=400).gap
        for seed in range(300)
    ]


def test_largest_gap_has_a_simultaneous_interval() -> None:
    """Among eight equal groups some pair always differs; an interval of that pair alone would call it a difference."""
    assert coverage(gaps(np.zeros(8), [40] * 8), 0.0) >= 0.90
    assert coverage(gaps(np.array([0.0, 1.0, 0.5]), [60, 90, 120]), 1.0) >= 0.90


@given(GROUPED, st.randoms())
def test_parity_does_not_depend_on_the_order_of_users(pairs: list[tuple[float, str]], random: Any) -> None:
    """The same users in another order are the same groups."""
    found, again = (
        intervals.parity([value for value, _ in own], [label for _, label in own], seed=1, resamples=50)
        for own in (pairs, random.sample(pairs, len(pairs)))
    )
    assert list(again.means) == list(found.means)
    assert again.users == found.users
    assert again.gap.value == pytest.approx(found.gap.value, abs=1e-9)
    assert again.gap.high == pytest.approx(found.gap.high, abs=1e-9)
    assert found.gap.value == pytest.approx(max(found.means.values()) - min(found.means.values()))


def test_intervals_reject_undefined_values() -> None:
    """A nan in a mean spoils a table; one that is dropped changes which users are measured."""
    with pytest.raises(InputError, match="the value of user 1 is nan"):
        intervals.mean_interval([1.0, math.nan], seed=1)
    with pytest.raises(InputError, match="got an array of shape"):
        intervals.mean_interval([], seed=1)
    with pytest.raises(InputError, match="got 2 ours and 1 theirs"):
        intervals.difference_interval([1, 2], [1], seed=1)
