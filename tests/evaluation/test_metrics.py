"""Laws of the figures: they are what their papers say, they do not hang on the order of users, and they know doubt."""

import math
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from genrec.errors import InputError, ModelMissingError
from genrec.evaluation import metrics
from genrec.evaluation.metrics import Interval
from genrec.types import FloatArray

NAMES = ["ndcg@10", "recall@20", "hit@10", "precision@5", "mrr@10", "ndcg@1", "mrr@2"]
SIZE = 6
ITEMS = st.lists(st.integers(0, SIZE - 1), max_size=5)
LISTS = st.lists(ITEMS, min_size=1, max_size=6)
CASES = st.lists(st.tuples(st.permutations(range(SIZE)), st.sets(st.integers(0, 9), min_size=1)), min_size=1)
GROUPED = st.lists(st.tuples(st.floats(-5, 5), st.sampled_from("abc"))).filter(
    lambda pairs: len({label for _, label in pairs}) > 1
)
VALUES = st.lists(st.floats(-5, 5), min_size=1, max_size=20)


def by_hand(items: list[int], wanted: set[int]) -> dict[str, float]:
    gains = [1 / math.log2(1 + rank) for rank in range(1, 11)]
    hits = [item in wanted for item in items]
    first = hits.index(True) + 1 if any(hits) else math.inf
    return {
        "ndcg@10": sum(gain for gain, hit in zip(gains, hits[:10], strict=False) if hit) / sum(gains[: len(wanted)]),
        "recall@20": sum(hits[:20]) / len(wanted),
        "hit@10": float(any(hits[:10])),
        "precision@5": sum(hits[:5]) / 5,
        "mrr@10": 1 / first if first <= 10 else 0.0,
        "ndcg@1": float(hits[0]),
        "mrr@2": 1 / first if first <= 2 else 0.0,
    }


@given(CASES)
def test_accuracy_is_what_the_formulas_say(cases: list[tuple[list[int], set[int]]]) -> None:
    """A metric under a known name with another value makes every comparison with a paper false."""
    found = metrics.accuracy([items for items, _ in cases], [wanted for _, wanted in cases], NAMES)
    assert list(found) == NAMES
    for user, (items, wanted) in enumerate(cases):
        assert {name: values[user] for name, values in found.items()} == pytest.approx(by_hand(items, wanted))


def test_accuracy_is_what_ir_measures_makes_of_the_same_run() -> None:
    """The way lists are handed over must not change what the library measures."""
    rng = np.random.default_rng(5)
    lists = [rng.permutation(40)[: rng.integers(1, 30)].tolist() for _ in range(60)]
    targets = [set(rng.permutation(40)[: rng.integers(1, 15)].tolist()) for _ in range(60)]
    run = {f"q{user}": {f"d{item}": -place for place, item in enumerate(one)} for user, one in enumerate(lists)}
    truth = {f"q{user}": {f"d{item}": 1 for item in one} for user, one in enumerate(targets)}
    found = metrics.accuracy(lists, targets, NAMES)
    for name, theirs in zip(NAMES, ["nDCG@10", "R@20", "Success@10", "P@5", "RR@10", "nDCG@1", "RR@2"], strict=True):
        rows = ir_measures.iter_calc([ir_measures.parse_measure(theirs)], truth, run)
        expected = {row.query_id: row.value for row in rows}
        assert dict(zip(truth, found[name].tolist(), strict=True)) == pytest.approx(expected), name


@given(CASES, st.randoms())
def test_accuracy_follows_users_wherever_they_stand(cases: list[tuple[list[int], set[int]]], random: Any) -> None:
    """Otherwise two rankers are paired on different people."""
    order = random.sample(range(len(cases)), len(cases))
    lists, targets = [items for items, _ in cases], [wanted for _, wanted in cases]
    found = metrics.accuracy(lists, targets, NAMES)
    moved = metrics.accuracy([lists[user] for user in order], [targets[user] for user in order], NAMES)
    for name in NAMES:
        assert moved[name].tolist() == found[name][order].tolist()
        assert ((found[name] >= 0) & (found[name] <= 1)).all()


def test_ids_of_any_kind_are_found_by_their_text() -> None:
    """A shop's numbers come back as text from one file and as numbers from the next."""
    lists: list[list[Any]] = [[7, "a b", "\n"], ["7", "x"], [np.int64(3)], []]
    found = metrics.accuracy(lists, [["7", "\n"], [7], {"3"}, ["7"]], ["recall@3", "mrr@3"])
    assert found["recall@3"].tolist() == [1, 1, 1, 0]
    assert found["mrr@3"].tolist() == [1, 1, 1, 0]


def test_a_repeated_item_is_found_once_and_takes_its_places() -> None:
    """Otherwise a list that says one thing ten times has a recall of ten, or moves up what stands behind."""
    found = metrics.accuracy([["a", "a", "b"]], [{"a", "b"}], ["precision@2", "recall@3", "ndcg@3"])
    assert found["precision@2"].tolist() == [0.5]
    assert found["recall@3"].tolist() == [1.0]
    assert found["ndcg@3"][0] == pytest.approx((1 + 0.5) / (1 + 1 / math.log2(3)))


@pytest.mark.parametrize(
    "name", ["map@10", "ndcg", "ndcg@0", "ndcg@-1", "NDCG@10", "recall@10 ", "hit@1.5", "hit@\u0663", ""]
)
def test_an_unknown_metric_is_refused_with_those_there_are(name: str) -> None:
    """A metric that silently means another one is worse than none."""
    with pytest.raises(InputError, match=r"choose from hit@k, mrr@k, ndcg@k, precision@k, recall@k"):
        metrics.accuracy([["a"]], [["a"]], [name])


def test_what_cannot_be_measured_is_refused_by_name() -> None:
    """Nobody can be right about a user who chose nothing; to count them as 0 or 1 is to invent."""
    with pytest.raises(InputError, match="user 1, counted from 0, has no target"):
        metrics.accuracy([["a"], ["b"], ["c"]], [["a"], [], []], ["hit@1"])
    with pytest.raises(InputError, match="got 1 lists and 2 targets"):
        metrics.accuracy([["a"]], [["a"], ["b"]], ["hit@1"])
    for lists, targets in (([["a"]], ["a"]), (["a"], [["a"]])):
        with pytest.raises(InputError, match="user 0, counted from 0, has a text"):
            metrics.accuracy(lists, targets, ["hit@1"])
    assert metrics.accuracy([], [], ["hit@1"])["hit@1"].tolist() == []
    assert metrics.accuracy([["a"]], [["a"]], []) == {}


def test_ir_measures_is_loaded_when_it_is_used_and_named_when_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals and beyond-accuracy figures need no extra, and an ImportError names no remedy."""
    script = (
        "import sys, genrec.evaluation.metrics; print({'ir_measures', 'pandas', 'scipy', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    with pytest.raises(ModelMissingError, match=r"pip install 'genrec\[eval\]'"):
        metrics.accuracy([["a"]], [["a"]], ["hit@1"])


def test_coverage_and_gini_by_hand() -> None:
    """Exposure 3, 1, 0, 0 of four items: half is covered; (-3*0 - 1*0 + 1*1 + 3*3) / (3 * 4) is unequal."""
    lists = [[0, 1], [0], [0, -1]]
    assert metrics.coverage(lists, 4) == 0.5
    assert metrics.gini(lists, 4) == pytest.approx(10 / 12)
    assert metrics.gini([[0, 1], [2, 3]], 4) == 0
    assert metrics.gini([[2], [2]], 4) == 1
    assert metrics.gini([[0]], 1) == 0
    assert metrics.coverage([[], []], 4) == 0
    with pytest.raises(InputError, match="hold no item"):
        metrics.gini([[-1], []], 4)


@given(LISTS.filter(any), st.randoms())
def test_exposure_has_bounds_and_no_order(lists: list[list[int]], random: Any) -> None:
    """Coverage and inequality are of the catalog, not of the order in which people were asked."""
    shuffled = random.sample(lists, len(lists))
    assert 1 / SIZE <= metrics.coverage(lists, SIZE) == metrics.coverage(shuffled, SIZE) <= 1
    assert 0 <= metrics.gini(lists, SIZE) == metrics.gini(shuffled, SIZE) <= 1
    exposure = np.bincount([item for one in lists for item in one], minlength=SIZE)
    # The other definition: mean absolute difference of all pairs, over twice the mean, for a sample.
    apart = np.abs(exposure[:, None] - exposure[None, :]).sum() / (SIZE * (SIZE - 1))
    assert metrics.gini(lists, SIZE) == pytest.approx(apart / (2 * exposure.mean()))


def test_novelty_popularity_and_length_by_hand() -> None:
    """Counts 5, 1, 0, 0 and one more each: shares 6/10, 2/10, 1/10, 1/10."""
    counts, lists = [5, 1, 0, 0], [[0, 1], [3], [], [-1, 2]]
    bits = -np.log2([0.6, 0.2, 0.1])
    expected = [(bits[0] + bits[1]) / 2, bits[2], math.nan, bits[2]]
    assert metrics.novelty(lists, counts) == pytest.approx(expected, nan_ok=True)
    assert metrics.popularity(lists, counts) == pytest.approx([3, 0, math.nan, 0], nan_ok=True)
    # Over the users with both: lists have 3 and 0, their histories 1 and 3.
    assert metrics.popularity_lift(lists, [[1], [0, 1], [0], []], counts) == pytest.approx(1.5 / 2)
    assert metrics.length_bias(lists, [1, 2, 3, 6]) == pytest.approx([0.5, 2, math.nan, 1], nan_ok=True)


def test_recommending_what_people_have_has_no_lift() -> None:
    """The measure has to be 1 where nothing is changed, or no one can read it."""
    lists = [[0, 1], [2], [3, 0]]
    assert metrics.popularity_lift(lists, lists, [4, 3, 2, 1]) == 1


@given(LISTS, st.lists(st.integers(0, 50), min_size=SIZE, max_size=SIZE))
def test_what_is_rarer_is_newer(lists: list[list[int]], counts: list[int]) -> None:
    """Self-information falls with popularity, and stays finite for what nobody met."""
    found, popular = metrics.novelty(lists, counts), metrics.popularity(lists, counts)
    ends = -np.log2((np.array([max(counts), min(counts)]) + 1) / (sum(counts) + SIZE))
    for user, one in enumerate(lists):
        assert math.isnan(found[user]) == math.isnan(popular[user]) == (not one)
        assert not one or ends[0] - 1e-9 <= found[user] <= ends[1] + 1e-9
        assert not one or min(counts) <= popular[user] <= max(counts)


def test_diversity_by_hand() -> None:
    """Two along x, one along y, one against x: pairs of 1 - cosine are 0, 1, 2, 1, 2, 1."""
    vectors = np.array([[2, 0], [1, 0], [0, 3], [-1, 0], [0, 0]], dtype=np.float32)
    lists = [[0, 1, 2, 3], [0, 1], [0, 3], [1, -1, 2], [0], []]
    expected = [7 / 6, 0, 2, 1, math.nan, math.nan]
    assert metrics.diversity(lists, vectors) == pytest.approx(expected, nan_ok=True)
    with pytest.raises(InputError, match="the vector of item 4 has no direction"):
        metrics.diversity([[0, 4]], vectors)


@given(LISTS, st.integers(0, 2**32))
def test_diversity_is_the_mean_over_pairs(lists: list[list[int]], seed: int) -> None:
    """The short way over the sum of vectors must be the long one, repeats and all."""
    vectors = np.random.default_rng(seed).normal(size=(SIZE, 3))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = metrics.diversity(lists, vectors)
    for user, one in enumerate(lists):
        pairs = [1 - unit[a] @ unit[b] for place, a in enumerate(one) for b in one[:place]]
        assert found[user] == pytest.approx(np.mean(pairs) if pairs else math.nan, abs=1e-9, nan_ok=True)


def test_faults_and_sources_by_hand() -> None:
    """Five places: 2 twice, one that does not exist, and 3, which the user has."""
    found = metrics.list_defects([[2, -1, 3, 2, 4], [1], []], [[3, 3, 0], [-1], [1]], 5)
    assert {name: values[:2].tolist() for name, values in found.items()} == {
        "invalid": [0.2, 0],
        "repeated": [0.2, 0],
        "seen": [0.2, 0],
    }
    assert all(math.isnan(values[2]) for values in found.values())
    shares = metrics.source_shares([["generative", "popularity"], ["generative"], [], ["embedding"]])
    assert list(shares.items()) == [("generative", 0.5), ("popularity", 0.25), ("embedding", 0.25)]
    assert metrics.source_shares([[]]) == {}


@given(LISTS, st.data())
def test_faults_count_places(lists: list[list[int]], data: st.DataObject) -> None:
    """One user's history or list must not be held against another's."""
    histories = [data.draw(ITEMS) for _ in lists]
    found = metrics.list_defects(lists, histories, SIZE)
    for user, (one, history) in enumerate(zip(lists, histories, strict=True)):
        if one:
            assert found["repeated"][user] == pytest.approx(1 - len(set(one)) / len(one))
            assert found["seen"][user] == pytest.approx(sum(item in history for item in one) / len(one))
            assert found["invalid"][user] == 0


@pytest.mark.parametrize(
    "measure",
    [
        lambda lists: metrics.coverage(lists, 4),
        lambda lists: metrics.novelty(lists, np.ones(4)),
        lambda lists: metrics.diversity(lists, np.ones((4, 2))),
        lambda lists: metrics.list_defects(lists, [[], []], 4),
    ],
)
@pytest.mark.parametrize("index", [4, -2])
def test_an_index_outside_the_catalog_is_refused(measure: Callable[[Any], object], index: int) -> None:
    """numpy would take -2 for the last but one, and measure another item."""
    with pytest.raises(InputError, match=f"item index {index} of user 1 is not 0 to 3"):
        measure([[0, -1], [index]])


def test_figures_that_are_none_are_refused() -> None:
    """A nan that is averaged over spoils a table, and one that is dropped changes who was asked."""
    with pytest.raises(InputError, match="the value of user 1 is nan"):
        metrics.mean_interval([1.0, math.nan], seed=1)
    with pytest.raises(InputError, match="got an array of shape"):
        metrics.mean_interval([], seed=1)
    with pytest.raises(InputError, match="the count of item 0 is -1"):
        metrics.novelty([[0]], [-1, 2])
    with pytest.raises(InputError, match="got 2 ours and 1 theirs"):
        metrics.difference_interval([1, 2], [1], seed=1)
    with pytest.raises(InputError, match="nothing to compare with"):
        metrics.length_bias([[0]], [0, 0])
    with pytest.raises(InputError, match="nothing to compare with"):
        metrics.popularity_lift([[0]], [[1]], [3, 0])


@given(VALUES, st.integers(0, 99), st.randoms())
def test_an_interval_lies_within_the_values_and_has_no_order(values: list[float], seed: int, random: Any) -> None:
    """A figure that changes when users are asked in another order cannot be repeated."""
    found = metrics.mean_interval(values, seed=seed, resamples=100)
    slack = 1e-9
    assert min(values) - slack <= found.low <= found.high <= max(values) + slack
    assert found.value == pytest.approx(np.mean(values), abs=1e-9)
    again = metrics.mean_interval(random.sample(values, len(values)), seed=seed, resamples=100)
    assert (again.low, again.high) == (found.low, found.high)


def test_an_interval_is_scipys() -> None:
    """Another program that draws the same way must come to the same ends."""
    values = np.random.default_rng(3).exponential(size=80)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", random_state=np.random.default_rng(4)
    ).confidence_interval
    ours = metrics.mean_interval(values, seed=5, resamples=20_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def covered(intervals: list[Interval], truth: float) -> float:
    return float(np.mean([one.low <= truth <= one.high for one in intervals]))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """95 % that are 80 % make a habit of announcing noise."""
    rng = np.random.default_rng(6)
    skewed = [metrics.mean_interval(rng.exponential(size=100), seed=one, resamples=500) for one in range(400)]
    assert 0.90 <= covered(skewed, 1.0) <= 0.98
    pairs = [(base := rng.random(100), base + rng.normal(0.1, 0.3, size=100)) for _ in range(400)]
    paired = [metrics.difference_interval(two, one, seed=seed, resamples=500) for seed, (one, two) in enumerate(pairs)]
    assert 0.90 <= covered(paired, 0.1) <= 0.98


def test_pairing_takes_out_what_users_share() -> None:
    """Two rankers on the same easy and hard users differ by less than either varies."""
    rng = np.random.default_rng(7)
    hard = rng.normal(size=200)
    ours, theirs = hard + 0.1 + rng.normal(0, 0.1, 200), hard + rng.normal(0, 0.1, 200)
    found = metrics.difference_interval(ours, theirs, seed=1)
    assert 0 < found.low < found.value < found.high
    assert found.value == pytest.approx(ours.mean() - theirs.mean())
    alone = metrics.mean_interval(ours, seed=1)
    assert found.high - found.low < 0.3 * (alone.high - alone.low)


def test_a_p_value_by_hand() -> None:
    """Four users all better by 1: of 16 sets of signs two reach the sum; equal values take no part."""
    p = metrics.randomisation_test([1, 1, 1, 1, 3], [0, 0, 0, 0, 3], seed=1, permutations=100_000)
    assert p == pytest.approx(2 / 16, abs=0.005)
    assert metrics.randomisation_test([1, 2], [1, 2], seed=1) == 1
    assert metrics.randomisation_test([0.1], [0.4], seed=1) == 1
    assert metrics.randomisation_test(np.ones(50), np.zeros(50), seed=1, permutations=999) == 1 / 1000


def test_a_p_value_is_scipys_exact_one() -> None:
    """With ten users every set of signs can be tried; rounding in sums that are equal must not show."""
    rng = np.random.default_rng(8)
    for _ in range(5):
        ours, theirs = rng.integers(0, 5, 10) / 10, rng.integers(0, 5, 10) / 10
        exact = stats.permutation_test(
            (ours - theirs,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
        ).pvalue
        assert metrics.randomisation_test(ours, theirs, seed=2, permutations=50_000) == pytest.approx(exact, abs=0.01)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1), st.integers(0, 99), st.randoms())
def test_a_p_value_has_no_order_and_no_sides(pairs: list[tuple[float, float]], seed: int, random: Any) -> None:
    """Whose ranker is called ours, and who was asked first, says nothing of either."""
    ours, theirs = zip(*pairs, strict=True)
    found = metrics.randomisation_test(ours, theirs, seed=seed, permutations=99)
    assert 1 / 100 <= found <= 1
    one, other = zip(*random.sample(pairs, len(pairs)), strict=True)
    assert metrics.randomisation_test(other, one, seed=seed, permutations=99) == pytest.approx(found)


def test_p_values_are_uniform_where_nothing_differs() -> None:
    """A test that finds more than 5 % at 5 % in noise publishes noise."""
    rng = np.random.default_rng(9)
    found = [
        metrics.randomisation_test(rng.exponential(size=40), rng.exponential(size=40), seed=seed, permutations=199)
        for seed in range(600)
    ]
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.027)
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_fifty_thousand_users_fit_into_little_memory() -> None:
    """All draws at once would take 800 MB for an interval, and 4 GB for a test."""
    values = np.random.default_rng(10).random((2, 50_000))
    tracemalloc.start()
    try:
        metrics.mean_interval(values[0], seed=1)
        metrics.randomisation_test(values[0], values[1], seed=1, permutations=1000)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_parity_by_hand() -> None:
    """Means, sizes and the widest pair; where no value varies in a group, nothing is uncertain."""
    found = metrics.parity([1, 4, 1, 2, 4, 2], ["new", "old", "new", 3, "old", 3], seed=1)
    assert list(found.means.items()) == [(3, 2), ("new", 1), ("old", 4)]
    assert found.users == {3: 2, "new": 2, "old": 2}
    assert (found.highest, found.lowest, found.gap) == ("old", "new", Interval(3, 3, 3))
    with pytest.raises(InputError, match="every user is in group 'all'"):
        metrics.parity([1, 2], ["all", "all"], seed=1)
    with pytest.raises(InputError, match="got 2 values and 1 groups"):
        metrics.parity([1, 2], ["all"], seed=1)


def gaps(means: FloatArray, sizes: list[int]) -> list[Interval]:
    rng = np.random.default_rng(11)
    labels = np.repeat(np.arange(len(means)), sizes).tolist()
    return [
        metrics.parity(rng.exponential(size=len(labels)) + means[labels], labels, seed=seed, resamples=400).gap
        for seed in range(300)
    ]


def test_the_widest_of_many_gaps_is_not_news_by_itself() -> None:
    """Among eight equal groups some two always lie apart: an interval of that pair alone would call it a difference."""
    assert covered(gaps(np.zeros(8), [40] * 8), 0.0) >= 0.90
    assert covered(gaps(np.array([0.0, 1.0, 0.5]), [60, 90, 120]), 1.0) >= 0.90


@given(GROUPED, st.randoms())
def test_parity_has_no_order(pairs: list[tuple[float, str]], random: Any) -> None:
    """The same users in another order are the same groups."""
    found, again = (
        metrics.parity([value for value, _ in own], [label for _, label in own], seed=1, resamples=50)
        for own in (pairs, random.sample(pairs, len(pairs)))
    )
    assert list(again.means) == list(found.means)
    assert again.users == found.users
    assert again.gap.value == pytest.approx(found.gap.value, abs=1e-9)
    assert again.gap.high == pytest.approx(found.gap.high, abs=1e-9)
    assert found.gap.value == pytest.approx(max(found.means.values()) - min(found.means.values()))
