"""Subsets and boosts behave like Python's sets and sums, and cost no more than the items they list."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.subset import Boost, Mask, Subset
from genrec.errors import InputError

SIZES = st.integers(0, 12)


def indices_below(size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, size - 1), max_size=20) if size else st.just([])


def masks(size: int) -> st.SearchStrategy[list[bool]]:
    return st.lists(st.booleans(), min_size=size, max_size=size)


@st.composite
def subsets(draw: st.DrawFn) -> tuple[Subset, set[int]]:
    """A subset made and narrowed at random, and the same as a Python set."""
    size = draw(SIZES)
    truth = set(range(size))
    kind = draw(st.sampled_from(["everything", "indices", "mask"]))
    if kind == "everything":
        subset = Subset.everything(size)
    elif kind == "indices":
        indices = draw(indices_below(size))
        subset, truth = Subset.from_indices(size, indices), set(indices)
    else:
        allowed = draw(masks(size))
        subset = Subset.from_mask(Mask.from_bool(np.array(allowed, dtype=bool)))
        truth = {index for index in truth if allowed[index]}
    for operation in draw(st.lists(st.sampled_from(["without", "intersect"]), max_size=4)):
        indices = draw(indices_below(size))
        subset = subset.without(indices) if operation == "without" else subset.intersect(indices)
        truth = truth - set(indices) if operation == "without" else truth & set(indices)
    return subset, truth


@given(subsets())
def test_a_subset_equals_the_python_set(case: tuple[Subset, set[int]]) -> None:
    """A wrong operation would recommend items that the shop has withdrawn."""
    subset, truth = case
    size = subset.universe
    assert len(subset) == len(truth)
    assert subset.to_indices().tolist() == sorted(truth)
    assert subset.to_indices().dtype == np.int64
    assert subset.to_bool().tolist() == [index in truth for index in range(size)]
    queried = np.arange(size)[::-1]
    assert subset.contains(queried).tolist() == [index in truth for index in queried]


@given(subsets())
def test_counts_of_ranges_equal_counts_by_hand(case: tuple[Subset, set[int]]) -> None:
    """A wrong count would lead the search into branches without allowed items, or prune branches that have some."""
    subset, truth = case
    pairs = [(low, high) for high in range(subset.universe + 1) for low in range(high + 1)]
    low, high = np.array(pairs).T
    found = subset.count(low, high)
    assert found.dtype == np.int64
    assert found.tolist() == [len(truth & set(range(*pair))) for pair in pairs]
    assert subset.count([], []).tolist() == []


@given(subsets())
def test_the_fields_of_a_subset_mean_what_their_documentation_says(case: tuple[Subset, set[int]]) -> None:
    """The search reads these fields to renumber a subset for the trie."""
    subset, truth = case
    listed = subset.listed.tolist()
    assert listed == sorted(set(listed))
    assert subset.listed.dtype == np.int64
    if subset.is_allowlist:
        assert subset.mask is None
        assert set(listed) == truth
    else:
        allowed = set(range(subset.universe)) if subset.mask is None else set(np.flatnonzero(subset.mask.to_bool()))
        assert set(listed) <= allowed
        assert allowed - set(listed) == truth


@given(st.data())
def test_a_mask_counts_the_items_it_allows(data: st.DataObject) -> None:
    """A filter is compiled once; every request with the same filter reads this mask."""
    size = data.draw(SIZES)
    allowed = np.array(data.draw(masks(size)), dtype=bool)
    mask = Mask.from_bool(allowed)
    assert len(mask) == size
    assert mask.prefix_counts.tolist() == [int(allowed[:index].sum()) for index in range(size + 1)]
    assert mask.total == allowed.sum()
    assert mask.to_bool().tolist() == allowed.tolist()
    assert mask.contains(np.arange(size)).tolist() == allowed.tolist()


@given(subsets(), st.data())
def test_narrowing_does_not_change_the_original(case: tuple[Subset, set[int]], data: st.DataObject) -> None:
    """Many requests share one subset; a change by one request would filter all the others."""
    subset, truth = case
    indices = np.array(data.draw(indices_below(subset.universe)), dtype=np.int64)
    before = indices.copy()
    subset.without(indices)
    subset.intersect(indices)
    subset.to_bool()[:] = True
    Subset.from_indices(subset.universe, indices).without(indices)
    assert indices.tolist() == before.tolist()
    assert set(subset.to_indices().tolist()) == truth


def test_a_shared_mask_cannot_be_written_to() -> None:
    """A write would change the filter of every later request."""
    mask = Mask.from_bool(np.array([True, False]))
    with pytest.raises(ValueError, match="read-only"):
        mask.prefix_counts[1] = 0


def test_cost_depends_on_the_listed_items_only() -> None:
    """A request over a million items must not pay for a million."""
    size = 1_000_000
    wide = [Subset.everything(size), Subset.from_mask(Mask.from_bool(np.arange(size) % 3 > 0))]
    indices = np.arange(0, size, size // 50)
    for subset in wide:
        tracemalloc.start()
        try:
            part = subset.without(indices)
            part.contains(indices)
            part.count(indices, indices + 1)
            len(part.intersect(indices).without(indices[:3]))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 50_000


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Subset.from_indices(3, [0, 3]), "index 3 is not within 0 to 2"),
        (lambda: Subset.from_indices(3, [-1]), "index -1 is not within 0 to 2"),
        (lambda: Subset.from_indices(0, [0]), "index 0 is not within"),
        (lambda: Subset.everything(3).without([7]), "index 7"),
        (lambda: Subset.everything(3).intersect([-7]), "index -7"),
        (lambda: Subset.everything(3).contains([5]), "index 5"),
        (lambda: Subset.from_mask(Mask.from_bool(np.ones(3, dtype=bool))).contains([3]), "index 3"),
        (lambda: Mask.from_bool(np.ones(3, dtype=bool)).contains([-1]), "index -1"),
        (lambda: Subset.from_indices(3, [0.5]), r"the indices are \[0\.5\]; give whole numbers"),
        (
            lambda: Subset.from_indices(3, np.ones(3, dtype=bool)),
            r"indices are an array of type bool and shape \(3,\)",
        ),
        (
            lambda: Subset.from_indices(3, np.zeros((1, 1), dtype=np.int64)),
            r"shape \(1, 1\); give whole",
        ),
        (lambda: Subset.everything(-1), "universe is -1"),
        (lambda: Subset.everything(True), "universe is True"),
        (lambda: Subset.everything(3).count([0], [4]), "index 4 is not within 0 to 3"),
        (lambda: Subset.everything(3).count([2], [1]), r"ranges begin at \[2\] and end at \[1\]"),
        (lambda: Subset.everything(3).count([0, 1], [1]), "give pairs with low <= high"),
        (lambda: Mask.from_bool(np.ones(3)), "a NumPy array bool .* not an array of type float64"),
        (lambda: Mask.from_bool([True]), r"not \[True\]"),  # type: ignore[arg-type]
        (lambda: Boost.from_pairs([(0, 1.0), (0, 2.0)]), "index 0 is boosted after index 0"),
        (lambda: Boost.from_pairs([(-1, 1.0)]), "boost index -1 is negative"),
        (lambda: Boost.from_pairs([(4, float("nan"))]), "the boost of index 4 is nan"),
        (lambda: Boost.from_pairs([(4, 1e308)]).add(Boost.from_pairs([(4, 1e308)])), "the boost of index 4 is inf"),
        (lambda: Boost(np.array([1, 0]), np.zeros(2)), "index 0 is boosted after index 1"),
        (lambda: Boost(np.array([1, 0]), np.zeros(3)), r"indices of shape \(2,\) and values of shape \(3,\)"),
    ],
)
def test_invalid_subsets_and_boosts_are_refused(make: Any, words: str) -> None:
    """NumPy counts negative indices from the end, so another item would be allowed instead."""
    with pytest.raises(InputError, match=words):
        make()


BOOSTS = st.dictionaries(st.integers(0, 30), st.floats(-1e6, 1e6))


@given(BOOSTS, BOOSTS)
def test_a_boost_changes_listed_items_only(one: dict[int, float], other: dict[int, float]) -> None:
    """Otherwise a promotion lifts another item."""
    boost = Boost.from_pairs(one.items())
    queried = np.arange(40)[::-1]
    assert boost.indices.tolist() == sorted(one)
    assert len(boost) == len(one)
    assert boost.values_at(queried).tolist() == [one.get(int(index), 0.0) for index in queried]
    both = boost.add(Boost.from_pairs(other.items()))
    expected = [one.get(int(index), 0.0) + other.get(int(index), 0.0) for index in queried]
    assert both.values_at(queried).tolist() == expected
    assert both.indices.tolist() == sorted({*one, *other})


def test_an_unsorted_subset_is_refused() -> None:
    """Look-ups are binary searches: in an unsorted list they would miss a withdrawn item."""
    for listed in ([4, 1], [2, 2]):
        with pytest.raises(InputError, match=f"index {listed[1]} is listed after index {listed[0]}"):
            Subset(5, None, np.array(listed))
    with pytest.raises(InputError, match="index 5 is not within"):
        Subset(5, None, np.array([5]), is_allowlist=True)


def test_writing_to_returned_indices_does_not_change_the_subset() -> None:
    """Otherwise a caller that sorts the result in place changes the filter of the next request."""
    subset = Subset.from_indices(10, np.array([1, 9]))
    subset.to_indices()[:] = 0
    assert subset.to_indices().tolist() == [1, 9]
