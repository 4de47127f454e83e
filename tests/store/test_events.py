"""Events of a store: they are kept exactly as sent, on SQLite and on PostgreSQL."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec import Item
from genrec.errors import InputError
from genrec.store.event_store import MAX_EVENTS_PER_USER, Event, Store

IDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=200)
IDS = IDS.filter(lambda text: bool(text.strip()))
FINITE = st.floats(allow_nan=False, allow_infinity=False)
EVENTS = st.builds(Event, st.just("?"), IDS, FINITE, st.none() | IDS.map(lambda text: text[:100]), FINITE, st.none())
# All examples use one store, and each uses a user of its own.
SHARED = [HealthCheck.function_scoped_fixture]


@settings(max_examples=50, suppress_health_check=SHARED)
@given(user=IDS, events=st.lists(EVENTS, max_size=20))
def test_events_come_back_as_they_were_sent(store: Store, user: str, events: list[Event]) -> None:
    """A lost digit, letter or order changes the history, and with it the recommendations."""
    store.forget(user)
    sent = [replace(event, user_id=user) for event in events]
    assert store.add(sent) == len(sent)
    assert store.events_of(user) == sorted(sent, key=lambda event: event.timestamp)


def test_reads_return_the_newest_events(store: Store) -> None:
    """An id shared by all guests grows without bound; reading all of it would delay every request."""
    store.add([Event("guest", number, -(number // 2)) for number in range(MAX_EVENTS_PER_USER + 6)])
    found = [int(event.item_id) for event in store.events_of("guest")]
    assert found == sorted(range(MAX_EVENTS_PER_USER), key=lambda number: -(number // 2))


def test_a_number_and_its_text_are_the_same_id(store: Store) -> None:
    """Otherwise a history would depend on whether the caller's JSON quotes the id."""
    store.add([Event(17, 4, 1.0, event_id="a"), Event("17", "4", 2.0, event_id="a"), Event("017", 4, 3.0)])
    assert store.events_of(17) == store.events_of("17") == [Event("17", "4", 1.0, event_id="a")]
    store.forget("17")
    assert store.is_forgotten(17)
    assert not store.is_forgotten("017")
    store.revise([Item(17, "one")])
    store.revise([Item("17", "other")])
    assert store.revisions() == ([Item("17", "other")], [])


def test_an_event_id_is_stored_once_per_user(store: Store) -> None:
    """Clients resend what was not acknowledged; a purchase must not count twice."""
    event = Event("u", "i", 1.0, "buy", 2.0, "e")
    assert store.add([event, event]) == 1
    assert store.add([replace(event, weight=9.0), Event("v", "i", 1.0, event_id="e")]) == 1
    assert store.events_of("u") == [event]
    assert store.add([Event("u", "i", 1.0), Event("u", "i", 1.0)]) == 2
    assert store.add([]) == 0


def test_a_batch_is_added_whole_or_not_at_all(store: Store) -> None:
    """A client that receives an error sends the whole batch again."""
    good = [Event("u", str(place), 1.0) for place in range(100)]
    with pytest.raises(InputError, match="timestamp number 101 is nan; use a finite number"):
        store.add([*good, Event("u", "bad", float("nan"))])
    assert store.events_of("u") == []


def test_added_events_are_visible_to_other_connections(store: Store, url: str) -> None:
    """An event changes the very next list, whichever process serves it."""
    with Store.open(url) as other:
        for number in range(5):
            store.add([Event("u", number, number)])
            assert len(other.events_of("u")) == number + 1
        other.forget("u")
        assert store.is_forgotten("u")
        assert store.events_of("u") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user_id": ""}, "user_id number 1 is ''; use text or an integer that is not blank"),
        ({"user_id": "x" * 201}, "user_id number 1 is .*201 characters long; use at most 200"),
        ({"item_id": 1.5}, "item_id number 1 is 1.5"),
        ({"item_id": True}, "item_id number 1 is True"),
        ({"item_id": None}, "item_id number 1 is None"),
        ({"item_id": "\ud800"}, "item_id number 1 is"),
        ({"item_id": "a\0b"}, "contains a null character"),
        ({"event": "e" * 101}, "event number 1 is .*use at most 100"),
        ({"event": 3}, "event number 1 is 3; use text"),
        ({"event": "\ud800"}, "event number 1 is .*use text"),
        ({"event_id": " "}, "event_id number 1 is ' '"),
        ({"timestamp": float("inf")}, "timestamp number 1 is inf; use a finite number"),
        ({"timestamp": "1"}, "timestamp number 1 is '1'"),
        ({"timestamp": 10**400}, "timestamp number 1 is 1000"),
        ({"weight": float("nan")}, "weight number 1 is nan"),
        ({"weight": True}, "weight number 1 is True"),
    ],
)
def test_invalid_event_raises_with_its_value_and_number(store: Store, changes: dict[str, Any], message: str) -> None:
    """A database that truncates, rounds or rejects by itself does so after other events of the batch."""
    with pytest.raises(InputError, match=message) as caught:
        store.add([replace(Event("u", "i", 1.0), **changes)])
    assert len(str(caught.value)) < 300
    longest = Event("u" * 200, "\U0001f9e6" * 200, 1, "e" * 100, 1, "x" * 200)
    assert store.add([longest]) == 1
    assert store.events_of("u" * 200) == [longest]
