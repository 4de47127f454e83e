"""Metrics equal the formulas of their papers, and do not depend on the order of users."""

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.errors import InputError, ModelMissingError
from genrec.evaluation import metrics

NAMES = ["ndcg@10", "recall@20", "hit@10", "precision@5", "mrr@10", "ndcg@1", "mrr@2"]
SIZE = 6
ITEMS = st.lists(st.integers(0, SIZE - 1), max_size=5)
LISTS = st.lists(ITEMS, min_size=1, max_size=6)
CASES = st.lists(st.tuples(st.permutations(range(SIZE)), st.sets(st.integers(0, 9), min_size=1)), min_size=1)


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
def test_accuracy_equals_the_formulas(cases: list[tuple[list[int], set[int]]]) -> None:
    """A known metric name with another value makes every comparison with a paper wrong."""
    found = metrics.accuracy([items for items, _ in cases], [wanted for _, wanted in cases], NAMES)
    assert list(found) == NAMES
    for user, (items, wanted) in enumerate(cases):
        assert {name: values[user] for name, values in found.items()} == pytest.approx(by_hand(items, wanted))


def test_accuracy_equals_ir_measures() -> None:
    """The conversion of lists for ir-measures must not change what it measures."""
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
def test_accuracy_does_not_depend_on_the_order_of_users(cases: list[tuple[list[int], set[int]]], random: Any) -> None:
    """Otherwise two rankers are compared on different users."""
    order = random.sample(range(len(cases)), len(cases))
    lists, targets = [items for items, _ in cases], [wanted for _, wanted in cases]
    found = metrics.accuracy(lists, targets, NAMES)
    moved = metrics.accuracy([lists[user] for user in order], [targets[user] for user in order], NAMES)
    for name in NAMES:
        assert moved[name].tolist() == found[name][order].tolist()
        assert ((found[name] >= 0) & (found[name] <= 1)).all()


def test_ids_are_compared_by_their_text() -> None:
    """Numeric ids are read as text from one file and as numbers from another."""
    lists: list[list[Any]] = [[7, "a b", "\n"], ["7", "x"], [np.int64(3)], []]
    found = metrics.accuracy(lists, [["7", "\n"], [7], {"3"}, ["7"]], ["recall@3", "mrr@3"])
    assert found["recall@3"].tolist() == [1, 1, 1, 0]
    assert found["mrr@3"].tolist() == [1, 1, 1, 0]


def test_a_repeated_item_counts_once_and_keeps_its_ranks() -> None:
    """Otherwise repeats raise recall above 1, or move up the items after them."""
    found = metrics.accuracy([["a", "a", "b"]], [{"a", "b"}], ["precision@2", "recall@3", "ndcg@3"])
    assert found["precision@2"].tolist() == [0.5]
    assert found["recall@3"].tolist() == [1.0]
    assert found["ndcg@3"][0] == pytest.approx((1 + 0.5) / (1 + 1 / math.log2(3)))


@pytest.mark.parametrize(
    "name", ["map@10", "ndcg", "ndcg@0", "ndcg@-1", "NDCG@10", "recall@10 ", "hit@1.5", "hit@\u0663", ""]
)
def test_unknown_metric_error_lists_the_known_metrics(name: str) -> None:
    """A metric that is silently read as another one is worse than none."""
    with pytest.raises(InputError, match=r"choose from hit@k, mrr@k, ndcg@k, precision@k, recall@k"):
        metrics.accuracy([["a"]], [["a"]], [name])


def test_accuracy_rejects_invalid_lists_and_targets() -> None:
    """A user without a target has no accuracy; neither 0 nor 1 would be right."""
    with pytest.raises(InputError, match="user 1, counted from 0, has no target"):
        metrics.accuracy([["a"], ["b"], ["c"]], [["a"], [], []], ["hit@1"])
    with pytest.raises(InputError, match="got 1 lists and 2 targets"):
        metrics.accuracy([["a"]], [["a"], ["b"]], ["hit@1"])
    for lists, targets in (([["a"]], ["a"]), (["a"], [["a"]])):
        with pytest.raises(InputError, match="user 0, counted from 0, has a string"):
            metrics.accuracy(lists, targets, ["hit@1"])
    assert metrics.accuracy([], [], ["hit@1"])["hit@1"].tolist() == []
    assert metrics.accuracy([["a"]], [["a"]], []) == {}


def test_ir_measures_is_imported_when_first_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond-accuracy metrics need no extra, and a bare ImportError names no remedy."""
    script = (
        "import sys, genrec.evaluation.metrics; print({'ir_measures', 'pandas', 'scipy', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    with pytest.raises(ModelMissingError, match=r"pip install 'genrec\[eval\]'"):
        metrics.accuracy([["a"]], [["a"]], ["hit@1"])


def test_coverage_and_gini_by_hand() -> None:
    """Exposure 3, 1, 0, 0 of four items: coverage 1/2, Gini (-3*0 - 1*0 + 1*1 + 3*3) / (3 * 4)."""
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
def test_coverage_and_gini_do_not_depend_on_the_order_of_users(lists: list[list[int]], random: Any) -> None:
    """Coverage and Gini are properties of the set of lists."""
    shuffled = random.sample(lists, len(lists))
    assert 1 / SIZE <= metrics.coverage(lists, SIZE) == metrics.coverage(shuffled, SIZE) <= 1
    assert 0 <= metrics.gini(lists, SIZE) == metrics.gini(shuffled, SIZE) <= 1
    exposure = np.bincount([item for one in lists for item in one], minlength=SIZE)
    # The other definition: mean absolute difference of all pairs, over twice the mean, for a sample.
    apart = np.abs(exposure[:, None] - exposure[None, :]).sum() / (SIZE * (SIZE - 1))
    assert metrics.gini(lists, SIZE) == pytest.approx(apart / (2 * exposure.mean()))


def test_novelty_popularity_and_length_by_hand() -> None:
    """Counts 5, 1, 0, 0 plus one each: shares 6/10, 2/10, 1/10, 1/10."""
    counts, lists = [5, 1, 0, 0], [[0, 1], [3], [], [-1, 2]]
    bits = -np.log2([0.6, 0.2, 0.1])
    expected = [(bits[0] + bits[1]) / 2, bits[2], math.nan, bits[2]]
    assert metrics.novelty(lists, counts) == pytest.approx(expected, nan_ok=True)
    assert metrics.popularity(lists, counts) == pytest.approx([3, 0, math.nan, 0], nan_ok=True)
    # Over the users with both: lists have 3 and 0, their histories 1 and 3.
    assert metrics.popularity_lift(lists, [[1], [0, 1], [0], []], counts) == pytest.approx(1.5 / 2)
    assert metrics.length_bias(lists, [1, 2, 3, 6]) == pytest.approx([0.5, 2, math.nan, 1], nan_ok=True)


def test_recommending_the_history_has_popularity_lift_1() -> None:
    """The lift must be 1 if lists equal histories."""
    lists = [[0, 1], [2], [3, 0]]
    assert metrics.popularity_lift(lists, lists, [4, 3, 2, 1]) == 1


@given(LISTS, st.lists(st.integers(0, 50), min_size=SIZE, max_size=SIZE))
def test_rarer_items_are_more_novel(lists: list[list[int]], counts: list[int]) -> None:
    """Self-information falls with popularity, and is finite for items without interactions."""
    found, popular = metrics.novelty(lists, counts), metrics.popularity(lists, counts)
    ends = -np.log2((np.array([max(counts), min(counts)]) + 1) / (sum(counts) + SIZE))
    for user, one in enumerate(lists):
        assert math.isnan(found[user]) == math.isnan(popular[user]) == (not one)
        assert not one or ends[0] - 1e-9 <= found[user] <= ends[1] + 1e-9
        assert not one or min(counts) <= popular[user] <= max(counts)


def test_diversity_by_hand() -> None:
    """Two vectors along x, one along y, one against x: 1 - cosine of the pairs is 0, 1, 2, 1, 2, 1."""
    vectors = np.array([[2, 0], [1, 0], [0, 3], [-1, 0], [0, 0]], dtype=np.float32)
    lists = [[0, 1, 2, 3], [0, 1], [0, 3], [1, -1, 2], [0], []]
    expected = [7 / 6, 0, 2, 1, math.nan, math.nan]
    assert metrics.diversity(lists, vectors) == pytest.approx(expected, nan_ok=True)
    with pytest.raises(InputError, match="the vector of item 4 has no direction"):
        metrics.diversity([[0, 4]], vectors)


@given(LISTS, st.integers(0, 2**32))
def test_diversity_is_the_mean_over_pairs(lists: list[list[int]], seed: int) -> None:
    """The sum over unit vectors must equal the mean over pairs, with repeats."""
    vectors = np.random.default_rng(seed).normal(size=(SIZE, 3))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = metrics.diversity(lists, vectors)
    for user, one in enumerate(lists):
        pairs = [1 - unit[a] @ unit[b] for place, a in enumerate(one) for b in one[:place]]
        assert found[user] == pytest.approx(np.mean(pairs) if pairs else math.nan, abs=1e-9, nan_ok=True)


def test_list_defects_by_hand() -> None:
    """Five items: 2 twice, one that is not in the catalog, and 3, which is in the history."""
    found = metrics.list_defects([[2, -1, 3, 2, 4], [1], []], [[3, 3, 0], [-1], [1]], 5)
    assert {name: values[:2].tolist() for name, values in found.items()} == {
        "invalid": [0.2, 0],
        "repeated": [0.2, 0],
        "seen": [0.2, 0],
    }
    assert all(math.isnan(values[2]) for values in found.values())


@given(LISTS, st.data())
def test_list_defects_are_counted_per_user(lists: list[list[int]], data: st.DataObject) -> None:
    """The history or list of one user must not affect the defects of another."""
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
def test_metrics_reject_an_index_outside_the_catalog(measure: Callable[[Any], object], index: int) -> None:
    """numpy would read -2 as the last item but one, and measure another item."""
    with pytest.raises(InputError, match=f"item index {index} of user 1 is not in 0 to 3"):
        measure([[0, -1], [index]])


def test_metrics_reject_undefined_values() -> None:
    """A nan in a mean spoils a table; one that is dropped changes which users are measured."""
    with pytest.raises(InputError, match="the count of item 0 is -1"):
        metrics.novelty([[0]], [-1, 2])
    with pytest.raises(InputError, match="so the bias is undefined"):
        metrics.length_bias([[0]], [0, 0])
    with pytest.raises(InputError, match="so the lift is undefined"):
        metrics.popularity_lift([[0]], [[1]], [3, 0])
