"""Interactions: events are sorted and complete, and ids fit the catalog or are refused by name."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.catalog import Catalog
from genrec.data.interactions import Interactions, read_interactions
from genrec.errors import InputError, UnknownItemError, UnknownUserError
from genrec.types import History, Interaction, Item

Event = tuple[str, str, int]
EVENTS = st.lists(
    st.tuples(st.sampled_from(["u1", "u2", "u10", "ü"]), st.sampled_from("abcde"), st.integers(-3, 3)),
    min_size=1,
    max_size=30,
)


def log(events: list[Any], **columns: list[Any]) -> Interactions:
    users, items, times = (list(column) for column in zip(*events, strict=True))
    return read_interactions(pa.table({"user_id": users, "item_id": items, "timestamp": times, **columns}))


def rows(interactions: Interactions) -> list[tuple[Any, Any, float]]:
    return [(event.user_id, event.item_id, event.timestamp) for event in interactions]


def catalog_of(*item_ids: Any) -> Catalog:
    return Catalog.from_items([Item(item_id, f"title {item_id}") for item_id in item_ids], name="games-2018")


CATALOG = catalog_of(*"edcba")


@given(EVENTS)
def test_events_are_sorted_by_user_and_time_and_ties_keep_their_order(events: list[Event]) -> None:
    """Otherwise models are trained on future events."""
    read = log(events)
    expected = sorted(events, key=lambda event: (event[0], event[2]))
    assert rows(read) == expected
    assert len(read) == len(events)
    assert list(read.user_ids) == sorted({user for user, _, _ in events})


@given(EVENTS)
def test_histories_hold_each_users_items_oldest_first(events: list[Event]) -> None:
    """Otherwise a user's recommendations come from another user's history."""
    read = log(events)
    expected = {
        user: tuple(item for owner, item, _ in sorted(events, key=lambda event: event[2]) if owner == user)
        for user in sorted({user for user, _, _ in events})
    }
    assert read.histories() == [History(items, user_id=user) for user, items in expected.items()]
    assert read.histories(list(expected)[::-1]) == read.histories()[::-1]
    assert [read.history_of(user) for user in expected] == read.histories()


@given(EVENTS)
def test_indices_agree_with_histories(events: list[Event]) -> None:
    """Otherwise rankers, which read indices, and prompts, which read ids, see different histories."""
    read = log(events)
    offsets, item_indices = read.to_indices(CATALOG)
    assert offsets.dtype == item_indices.dtype == np.int64
    for user, history in enumerate(read.histories()):
        ids = [CATALOG.item_ids[int(index)] for index in item_indices[offsets[user] : offsets[user + 1]]]
        assert tuple(ids) == history.item_ids
    counts = Counter(item for _, item, _ in events)
    assert read.item_counts(CATALOG).tolist() == [counts[str(item_id)] for item_id in CATALOG.item_ids]


@given(EVENTS, st.sets(st.sampled_from("abcde"), min_size=1))
def test_skipping_unknown_items_drops_those_events_only(events: list[Event], known: set[str]) -> None:
    """Otherwise offsets shift, and events move to another user."""
    catalog = catalog_of(*sorted(known))
    read = log(events)
    offsets, item_indices = read.to_indices(catalog, on_unknown="skip")
    assert len(offsets) == len(read.user_ids) + 1
    for user, history in enumerate(read.histories()):
        ids = [catalog.item_ids[int(index)] for index in item_indices[offsets[user] : offsets[user + 1]]]
        assert ids == [item_id for item_id in history.item_ids if item_id in known]
    assert read.item_counts(catalog, on_unknown="skip").sum() == len(item_indices)


@given(EVENTS, st.integers(1, 4))
def test_leave_last_out_loses_no_event_and_leaks_none_into_train(events: list[Event], n: int) -> None:
    """Otherwise metrics are measured with leaked answers, or on fewer users than reported."""
    read = log(events)
    train, held_out = read.leave_last_out(n)
    assert sorted(rows(train) + rows(held_out)) == sorted(events)
    assert list(train.user_ids) == list(read.user_ids)
    for user in read.user_ids:
        whole, kept = read.history_of(user).item_ids, train.history_of(user).item_ids
        if len(whole) > n:
            assert kept + held_out.history_of(user).item_ids == whole
            assert len(held_out.history_of(user).item_ids) == n
        else:
            assert kept == whole
            assert user not in held_out.user_ids


@given(EVENTS, st.integers(-4, 4))
def test_split_by_time_loses_no_event_and_leaks_none_into_train(events: list[Event], at: int) -> None:
    """Otherwise models are trained on events of the test period."""
    before, after = log(events).split_by_time(at)
    assert sorted(rows(before) + rows(after)) == sorted(events)
    assert all(event.timestamp < at for event in before)
    assert all(event.timestamp >= at for event in after)
    assert set(before.user_ids) == {user for user, _, time in events if time < at}
    for part in (before, after):
        assert part.to_indices(CATALOG).offsets[-1] == len(part)
        assert len(part.histories()) == len(part.user_ids)


def test_optional_columns_stay_with_their_events() -> None:
    """Otherwise sorting or splitting moves a weight or a name to another event."""
    read = log(
        [("u", "b", 2), ("u", "a", 1), ("v", "c", 3)], event=["buy", None, ""], weight=[2, 1, 0.5], extra=[1, 2, 3]
    )
    expected = [
        Interaction("u", "a", 1.0, None, 1.0),
        Interaction("u", "b", 2.0, "buy", 2.0),
        Interaction("v", "c", 3.0, None, 0.5),
    ]
    assert list(read) == expected
    train, held_out = read.leave_last_out()
    assert list(train) == [expected[0], expected[2]]
    assert list(held_out) == [expected[1]]


def test_ids_keep_their_type_and_are_found_by_text_or_number() -> None:
    """Otherwise 85123 from a database and "85123" from a URL are two customers."""
    read = log([(10, 7, 1), (9, 85123, 2), (10, 8, 0)])
    assert list(read.user_ids) == [9, 10]
    assert read.history_of("10") == read.history_of(10) == History((8, 7), user_id=10)
    catalog = catalog_of("7", "8", "85123")
    assert read.to_indices(catalog).item_indices.tolist() == [2, 1, 0]


def test_leading_zeros_of_ids_in_text_files_are_kept(tmp_path: Path) -> None:
    """Otherwise '00123' and '123' become one customer."""
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp\n00123,007,5\n123,7,6\n", encoding="utf-8")
    read = read_interactions(path)
    assert list(read.user_ids) == ["00123", "123"]
    assert read.histories()[0].item_ids == ("007",)


NOON = datetime(2011, 12, 9, 12, 50, tzinfo=UTC)


@pytest.mark.parametrize(
    "times",
    [
        [NOON.timestamp(), 0.0],
        [int(NOON.timestamp()), 0],
        ["1323435000", "0"],
        [" 1323435000.0", "0"],
        ["2011-12-09T12:50:00", "1970-01-01"],
        ["2011-12-09 12:50", "1970-01-01"],
        ["2011-12-09T12:50:00Z", "1970-01-01T00:00:00Z"],
        ["2011-12-09T14:50:00+02:00", "1970-01-01"],
        [NOON, datetime(1970, 1, 1, tzinfo=UTC)],
        [NOON.replace(tzinfo=None), datetime(1970, 1, 1)],
        pa.array([NOON.replace(tzinfo=None), datetime(1970, 1, 1)], pa.timestamp("ns")),
        pd.to_datetime(["2011-12-09T12:50:00", "1970-01-01"], format="ISO8601"),
        pa.array(["1323435000", "0"]).cast(pa.int64()).cast(pa.decimal128(30, 2)),
    ],
)
def test_all_formats_of_a_time_give_the_same_timestamp(times: Any) -> None:
    """Otherwise histories from two sources cannot be merged in order."""
    read = read_interactions(pa.table({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": times}))
    assert read.timestamps.tolist() == [0.0, NOON.timestamp()]
    assert read.histories()[0].item_ids == ("b", "a")


def test_fractions_and_days_are_kept() -> None:
    """Otherwise events within one second, or plain dates, lose their order."""
    read = read_interactions(
        pa.table({"user_id": ["u"], "item_id": ["a"], "timestamp": pa.array([date(1970, 1, 2)], pa.date32())})
    )
    assert read.timestamps.tolist() == [86400.0]
    assert log([("u", "a", "1970-01-01T00:00:00.125")]).timestamps.tolist() == [0.125]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": ["u", None]}, r"data row 2 of the data frame has no user_id; drop such rows"),
        ({"user_id": [1.0, float("nan")]}, r"data row 2 .* has no user_id"),
        ({"item_id": ["", "a"]}, r"data row 1 .* has no item_id"),
        ({"item_id": [1.5, 2.0]}, r"data row 1 .* has item_id such as 1\.5"),
        ({"timestamp": [1.0, None]}, r"data row 2 .* has no timestamp"),
        ({"timestamp": [float("nan"), 1.0]}, r"data row 1 .* has no timestamp"),
        ({"timestamp": [float("inf"), 1.0]}, r"data row 1 .* has no finite number in timestamp"),
        ({"timestamp": ["2020-01-01", " "]}, r"data row 2 .* has no timestamp"),
        (
            {"timestamp": ["2020-01-01", "12/1/2010 8:26"]},
            r"data row 2 .*nor ISO 8601 .*such as '12/1/2010 8:26'; write .* order='rows'",
        ),
        ({"timestamp": ["5", "2020-01-01"]}, r"data row 1 .* such as '5'"),
        ({"timestamp": [True, False]}, r"timestamp .* holds true or false"),
        ({"weight": ["heavy", "light"]}, r"weight .* holds text; use numbers"),
        ({"weight": [1.0, None]}, r"data row 2 .* has no finite number in weight"),
        ({"event": [["buy"], ["see"]]}, r"event .* holds lists; use text"),
    ],
)
def test_invalid_rows_are_refused_with_their_numbers(columns: dict[str, Any], message: str) -> None:
    """Otherwise all guests without an id become one user."""
    whole = {"user_id": ["u", "v"], "item_id": ["a", "b"], "timestamp": [1, 2]}
    with pytest.raises(InputError, match=message):
        read_interactions(pa.table({**whole, **columns}))


def test_an_unknown_item_is_named_with_its_user_and_the_catalog() -> None:
    """Otherwise a single stray event and the wrong catalog look the same."""
    read = log([("u17", "a", 1), ("u17", "B00X4", 2), ("u2", "a", 1)])
    for ask in (read.to_indices, read.item_counts):
        with pytest.raises(UnknownItemError) as caught:
            ask(CATALOG)
        assert str(caught.value) == (
            "item 'B00X4' in the history of user 'u17' is not in catalog 'games-2018' (5 items); "
            'pass on_unknown="skip" to drop such events'
        )
    with pytest.raises(UnknownItemError, match="and 2 more items are missing too"):
        log([("u", "x", 1), ("u", "y", 2), ("u", "z", 3), ("u", "a", 4)]).to_indices(CATALOG)
    with pytest.raises(InputError, match="on_unknown is 'drop'"):
        read.to_indices(CATALOG, on_unknown="drop")  # type: ignore[arg-type]


def test_an_unknown_user_is_named_with_the_number_of_users() -> None:
    """Otherwise a typing error and an empty log look the same."""
    read = log([("u1", "a", 1), ("u2", "a", 1)])
    with pytest.raises(UnknownUserError, match="user 'u9' is not among the 2 users of the data frame"):
        read.history_of("u9")
    with pytest.raises(UnknownUserError, match="user 'u9'"):
        read.histories(["u1", "u9"])
    with pytest.raises(InputError, match="expected several ids"):
        read.histories("u1")


@pytest.mark.parametrize("on_unknown", ["raise", "skip"])
def test_swapped_columns_are_recognised(on_unknown: Any) -> None:
    """Otherwise skipping unknown items leaves an empty log without an explanation."""
    frame = pa.table({"who": ["a", "b", "zz"], "item_id": ["u1", "u1", "u2"], "timestamp": [1, 2, 3]})
    mapping = {"user_id": "who"}
    with pytest.raises(InputError, match="look swapped: no item ids, but 2 of 3 user ids, are in catalog") as caught:
        read_interactions(frame, columns=mapping).to_indices(CATALOG, on_unknown=on_unknown)
    assert "pass columns={'user_id': 'item_id', 'item_id': 'who'}" in str(caught.value)
    right = read_interactions(frame, columns={"user_id": "item_id", "item_id": "who"})
    assert len(right.to_indices(CATALOG, on_unknown="skip").item_indices) == 2


def test_invalid_splits_are_refused() -> None:
    """Otherwise a split at NaN or by zero events returns everything as training data."""
    read = log([("u", "a", 0), ("u", "b", 86400)])
    for n in (0, -1):
        with pytest.raises(InputError, match=f"n is {n}"):
            read.leave_last_out(n)
    for at in (float("nan"), "soon", None, True):
        with pytest.raises(InputError, match=r"at is .*, not a time"):
            read.split_by_time(at)  # type: ignore[arg-type]
    zoned = datetime(1970, 1, 2, 2, tzinfo=timezone(timedelta(hours=2)))
    days: tuple[Any, ...] = ("1970-01-02", datetime(1970, 1, 2), zoned, 86400, np.int64(86400))
    for day in days:
        assert [len(part) for part in read.split_by_time(day)] == [1, 1]


def test_arrays_of_a_log_are_read_only() -> None:
    """Otherwise one ranker can alter the data of another."""
    read = log([("u", "a", 0), ("u", "b", 1)])
    for array in (read.offsets, read.timestamps, read.to_indices(CATALOG).offsets):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5


@given(EVENTS, st.sets(st.sampled_from(["u1", "u2", "u10", "nobody"])))
def test_a_log_without_users_is_the_log_that_never_had_them(events: list[Event], left_out: set[str]) -> None:
    """What is computed from it would depend on people who asked to be forgotten, if only by an item of theirs."""
    remaining = [event for event in events if event[0] not in left_out]
    found = log(events).without_users(left_out)
    assert rows(found) == (rows(log(remaining)) if remaining else [])
    if remaining:
        assert found.fingerprint == log(remaining).fingerprint
        assert list(found.item_ids) == list(log(remaining).item_ids)
    assert sum(found.item_counts(CATALOG)) == len(remaining)


def test_users_are_left_out_however_their_ids_are_written() -> None:
    """The file has 7, and a store has "7" or 7.0."""
    events = log([(7, "a", 1), (8, "b", 2)], weight=[1.0, 2.0], event=["buy", "view"])
    for written in (7, "7", 7.0, "7.0"):
        assert list(events.without_users([written])) == [Interaction(8, "b", 2.0, "view", 2.0)]
    assert events.without_users(["nobody"]) is events
