"""Events without an order: whatever the file looks like, no row says what came first."""

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from genrec import Interactions, read_interactions

Pair = tuple[str, int]
PAIRS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), min_size=1, max_size=60)


def log(pairs: list[Pair]) -> Interactions:
    users, items = (list(column) for column in zip(*pairs, strict=True))
    return read_interactions(pa.table({"user_id": users, "item_id": items}), order="none")


@given(PAIRS, st.randoms())
def test_another_order_of_the_rows_gives_the_same_log(pairs: list[Pair], random: Any) -> None:
    """If the order of the file had an effect, a file sorted by item would hold out the last items of the alphabet."""
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert log(shuffled).fingerprint == log(pairs).fingerprint


@given(PAIRS)
def test_events_are_kept_and_those_of_an_item_form_a_basket(pairs: list[Pair]) -> None:
    """A held-out item of which one event stays in the training log is no held-out item."""
    read = log(pairs)
    assert read.order == "none"
    assert sorted((event.user_id, event.item_id) for event in read) == sorted(pairs)
    for user in set(read.user_ids):
        places = {(event.item_id, event.timestamp) for event in read if event.user_id == user}
        assert sorted(place for _, place in places) == list(range(len({item for item, _ in places})))


@given(PAIRS, st.sampled_from("abc"))
def test_the_order_of_a_user_does_not_depend_on_other_users(pairs: list[Pair], gone: str) -> None:
    """Forgetting a user would otherwise change the lists of all others."""
    rest = [pair for pair in pairs if pair[0] != gone]
    if rest:
        assert log(pairs).without_users([gone]).fingerprint == log(rest).fingerprint


def test_every_item_is_last_about_equally_often_and_seeds_differ() -> None:
    """A random hold-out that prefers some items measures how well these are ranked."""
    read = log([(f"u{user}", item) for user in range(2000) for item in range(5)])
    last = np.array([history.item_ids for history in read.histories()])[:, -1]
    assert (np.abs(np.bincount(last) - 400) < 100).all()
    pairs = [(before, after) for *_, before, after in (history.item_ids for history in read.histories())]
    assert len(set(pairs)) == 20  # no item always follows another
    other = read.in_random_order(1)
    assert other.fingerprint != read.fingerprint
    assert read.in_random_order(0).fingerprint == read.fingerprint
