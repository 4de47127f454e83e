"""Laws of subsets and boosts: they mean what Python's sets and sums mean, and cost what they list."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.subset import Boost, Mask, Subset
from genrec.errors import InputError

SIZES = st.integers(0, 12)


def places_below(size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, size - 1), max_size=20) if size else st.just([])


def masks(size: int) -> st.SearchStrategy[list[bool]]:
    return st.lists(st.booleans(), min_size=size, max_size=size)


@st.composite
def subsets(draw: st.DrawFn) -> tuple[Subset, set[int]]:
    """A subset that was made and narrowed in any way, and the set it should be."""
    size = draw(SIZES)
    truth = set(range(size))
    kind = draw(st.sampled_from(["everything", "of", "mask"]))
    if kind == "everything":
        subset = Subset.everything(size)
    elif kind == "of":
        places = draw(places_below(size))
        subset, truth = Subset.from_indices(size, places), set(places)
    else:
        allowed = draw(masks(size))
        subset = Subset.from_mask(Mask.from_bool(np.array(allowed, dtype=bool)))
        truth = {place for place in truth if allowed[place]}
    for step in draw(st.lists(st.sampled_from(["without", "within", "within_mask"]), max_size=4)):
        if step == "within_mask":
            allowed = draw(masks(size))
            subset = subset.intersect_mask(Mask.from_bool(np.array(allowed, dtype=bool)))
            truth &= {place for place in range(size) if allowed[place]}
        else:
            places = draw(places_below(size))
            subset = subset.without(places) if step == "without" else subset.intersect(places)
            truth = truth - set(places) if step == "without" else truth & set(places)
    return subset, truth


@given(subsets())
def test_a_subset_is_the_set_it_says(case: tuple[Subset, set[int]]) -> None:
    """An algebra that is wrong in one corner recommends what a shop took out of stock."""
    subset, truth = case
    size = subset.universe
    assert len(subset) == len(truth)
    assert subset.to_indices().tolist() == sorted(truth)
    assert subset.to_indices().dtype == np.int64
    assert subset.to_bool().tolist() == [place in truth for place in range(size)]
    asked = np.arange(size)[::-1]
    assert subset.contains(asked).tolist() == [place in truth for place in asked]


@given(subsets())
def test_a_range_holds_as_many_as_counted_by_hand(case: tuple[Subset, set[int]]) -> None:
    """A branch of the tree with no allowed item in it is a dead end, and one with some that is left out is a loss."""
    subset, truth = case
    pairs = [(low, high) for high in range(subset.universe + 1) for low in range(high + 1)]
    low, high = np.array(pairs).T
    found = subset.count(low, high)
    assert found.dtype == np.int64
    assert found.tolist() == [len(truth & set(range(*pair))) for pair in pairs]
    assert subset.count([], []).tolist() == []


@given(subsets())
def test_what_is_listed_is_kept_as_promised(case: tuple[Subset, set[int]]) -> None:
    """Whoever reads the parts, as the search does to carry them into its own order, relies on their meaning."""
    subset, truth = case
    listed = subset.listed.tolist()
    assert listed == sorted(set(listed))
    assert subset.listed.dtype == np.int64
    if subset.is_allowlist:
        assert subset.mask is None
        assert set(listed) == truth
    else:
        let = set(range(subset.universe)) if subset.mask is None else set(np.flatnonzero(subset.mask.to_bool()))
        assert set(listed) <= let
        assert let - set(listed) == truth


@given(st.data())
def test_masks_count_and_intersect(data: st.DataObject) -> None:
    """It is compiled once and read by every request under the same filter."""
    size = data.draw(SIZES)
    one, other = (np.array(data.draw(masks(size)), dtype=bool) for _ in range(2))
    mask = Mask.from_bool(one)
    assert len(mask) == size
    assert mask.prefix_counts.tolist() == [int(one[:place].sum()) for place in range(size + 1)]
    assert mask.total == one.sum()
    assert mask.to_bool().tolist() == one.tolist()
    assert mask.contains(np.arange(size)).tolist() == one.tolist()
    assert mask.intersect(Mask.from_bool(other)).to_bool().tolist() == (one & other).tolist()


@given(subsets(), st.data())
def test_narrowing_leaves_the_wider_one_as_it_was(case: tuple[Subset, set[int]], data: st.DataObject) -> None:
    """Many requests share one subset; a request that changed it would filter everybody's."""
    subset, truth = case
    places = np.array(data.draw(places_below(subset.universe)), dtype=np.int64)
    given_places = places.copy()
    subset.without(places)
    subset.intersect(places)
    subset.to_bool()[:] = True
    Subset.from_indices(subset.universe, places).without(places)
    assert places.tolist() == given_places.tolist()
    assert set(subset.to_indices().tolist()) == truth


def test_a_shared_mask_cannot_be_written_to() -> None:
    """One careless line would change the filter of every later request."""
    mask = Mask.from_bool(np.array([True, False]))
    with pytest.raises(ValueError, match="read-only"):
        mask.prefix_counts[1] = 0


def test_lists_cost_what_they_list() -> None:
    """A request over a million items must not pay for a million."""
    size = 1_000_000
    wide = [Subset.everything(size), Subset.from_mask(Mask.from_bool(np.arange(size) % 3 > 0))]
    places = np.arange(0, size, size // 50)
    for subset in wide:
        tracemalloc.start()
        try:
            part = subset.without(places)
            part.contains(places)
            part.count(places, places + 1)
            len(part.intersect(places).without(places[:3]))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 50_000


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Subset.from_indices(3, [0, 3]), "place 3 does not lie within 0 to 2"),
        (lambda: Subset.from_indices(3, [-1]), "place -1 does not lie within 0 to 2"),
        (lambda: Subset.from_indices(0, [0]), "place 0 does not lie within"),
        (lambda: Subset.everything(3).without([7]), "place 7"),
        (lambda: Subset.everything(3).intersect([-7]), "place -7"),
        (lambda: Subset.everything(3).contains([5]), "place 5"),
        (lambda: Subset.from_mask(Mask.from_bool(np.ones(3, dtype=bool))).contains([3]), "place 3"),
        (lambda: Mask.from_bool(np.ones(3, dtype=bool)).contains([-1]), "place -1"),
        (lambda: Subset.from_indices(3, [0.5]), r"places are \[0\.5\]; give whole numbers"),
        (lambda: Subset.from_indices(3, np.ones(3, dtype=bool)), r"places are an array of type bool and shape \(3,\)"),
        (
            lambda: Subset.from_indices(3, np.zeros((1, 1), dtype=np.int64)),
            r"shape \(1, 1\); give whole",
        ),
        (lambda: Subset.everything(-1), "a subset of -1 places"),
        (lambda: Subset.everything(True), "a subset of True places"),
        (lambda: Subset.everything(3).count([0], [4]), "place 4 does not lie within 0 to 3"),
        (lambda: Subset.everything(3).count([2], [1]), r"ranges begin at \[2\] and end at \[1\]"),
        (lambda: Subset.everything(3).count([0, 1], [1]), "give pairs that rise"),
        (
            lambda: Subset.everything(3).intersect_mask(Mask.from_bool(np.ones(4, dtype=bool))),
            "mask of 4 places meets 3",
        ),
        (
            lambda: Mask.from_bool(np.ones(3, dtype=bool)).intersect(Mask.from_bool(np.ones(4, dtype=bool))),
            "a mask of 4 places meets one of 3",
        ),
        (lambda: Mask.from_bool(np.ones(3)), "made of bool .* not of an array of type float64"),
        (lambda: Mask.from_bool([True]), r"not of \[True\]"),  # type: ignore[arg-type]
        (lambda: Boost.from_pairs([(0, 1.0), (0, 2.0)]), "place 0 is boosted after place 0"),
        (lambda: Boost.from_pairs([(-1, 1.0)]), "place -1 is boosted"),
        (lambda: Boost.from_pairs([(4, float("nan"))]), "the boost of place 4 is nan"),
        (lambda: Boost.from_pairs([(4, 1e308)]).add(Boost.from_pairs([(4, 1e308)])), "the boost of place 4 is inf"),
        (lambda: Boost(np.array([1, 0]), np.zeros(2)), "place 0 is boosted after place 1"),
        (lambda: Boost(np.array([1, 0]), np.zeros(3)), r"places of shape \(2,\) and values of shape \(3,\)"),
    ],
)
def test_what_makes_no_subset_and_no_boost_is_refused(make: Any, words: str) -> None:
    """Numpy would count a place below 0 from the end, and allow another item in its place."""
    with pytest.raises(InputError, match=words):
        make()


BOOSTS = st.dictionaries(st.integers(0, 30), st.floats(-1e6, 1e6))


@given(BOOSTS, BOOSTS)
def test_a_boost_is_what_was_listed_and_nothing_elsewhere(one: dict[int, float], other: dict[int, float]) -> None:
    """A promotion that reaches its neighbour sells the wrong thing."""
    boost = Boost.from_pairs(one.items())
    asked = np.arange(40)[::-1]
    assert boost.indices.tolist() == sorted(one)
    assert len(boost) == len(one)
    assert boost.values_at(asked).tolist() == [one.get(int(place), 0.0) for place in asked]
    both = boost.add(Boost.from_pairs(other.items()))
    expected = [one.get(int(place), 0.0) + other.get(int(place), 0.0) for place in asked]
    assert both.values_at(asked).tolist() == expected
    assert both.indices.tolist() == sorted({*one, *other})


def test_a_subset_that_does_not_rise_is_refused() -> None:
    """It would say of a withdrawn item that it is allowed, since places are looked up by halving."""
    for listed in ([4, 1], [2, 2]):
        with pytest.raises(InputError, match=f"place {listed[1]} is listed after place {listed[0]}"):
            Subset(5, None, np.array(listed))
    with pytest.raises(InputError, match="place 5 does not lie within"):
        Subset(5, None, np.array([5]), is_allowlist=True)


def test_what_a_subset_hands_out_does_not_change_it() -> None:
    """Whoever sorts or fills the answer would change what is allowed for the next request."""
    subset = Subset.from_indices(10, np.array([1, 9]))
    subset.to_indices()[:] = 0
    assert subset.to_indices().tolist() == [1, 9]
