"""A server that has run for long serves the same lists as one that starts now from the same store."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from letter_pipeline import letter_pipeline
from raw_database import execute

from genrec import GenerativeRanker, Item
from genrec.errors import InputError
from genrec.pipeline import Pipeline
from genrec.serve.state import ServingState
from genrec.store.event_store import Event, Store
from genrec.types import ItemId

# Whole-number ids, equal titles, prices of one type in the file and a column without any value.
ITEMS = [
    Item(number, title, {"price": price, "note": None})
    for number, (title, price) in enumerate(
        [("abc", 1), ("abc", 2), ("bcd", 3), ("cde", 4), ("abc def", 5), ("efg", 6), ("bcd", 7), ("hij", 8)]
    )
]
WALKS = {"u0": [0, 2, 4], "u1": [1, 3, 5, 0], "u2": [4, 2], "u3": [7, 6, 0, 2]}
TEXT_ITEMS = [*(replace(item, item_id=str(item.item_id)) for item in ITEMS), Item("x", "hij", {"price": 9})]
IDS = [*map(str, range(11)), "007", "-0", "0x7", "new", "7.0", "9.0"]
USERS = [*WALKS, "nobody"]

item_ids = st.sampled_from(IDS)
items = st.builds(
    Item,
    item_ids,
    st.sampled_from(["abc", "bcd", "klm", "abc def"]),
    st.dictionaries(st.sampled_from(["price", "note", "size"]), st.sampled_from([None, 5, 2.5, "12", True, ["a"]])),
)
operations = st.one_of(
    st.tuples(st.just("put"), st.lists(items, min_size=1, max_size=3, unique_by=lambda item: item.item_id)),
    st.tuples(st.just("withdraw"), st.lists(item_ids, min_size=1, max_size=2, unique=True)),
    st.tuples(
        st.just("event"),
        st.builds(Event, st.sampled_from(USERS), item_ids, st.integers(0, 9), weight=st.sampled_from([1.0, -1.0])),
    ),
    st.tuples(st.just("forget"), st.sampled_from(USERS)),
    st.tuples(st.just("restart"), st.none()),
)
steps = st.lists(st.tuples(st.integers(0, 1), operations), max_size=12)


def pipeline_of_file(*, model: bool = False, items: Sequence[Item] = ITEMS) -> Pipeline:
    return letter_pipeline(items, WALKS, model=model, prior=((1, 2), (0, 6)))


def observed(state: ServingState) -> dict[str, Any]:
    """All that requests can see of a state."""
    catalog = state.request_context().recommender.catalog
    seen: dict[str, Any] = {
        "items": list(catalog),
        "columns": {name: catalog.column(name).type for name in catalog.attribute_names},
        "withdrawn": catalog.withdrawn_ids,
    }
    for user in (*USERS, None):
        context = state.request_context(user, words="" if user else "abc")
        answer = context.recommender.recommend(
            context.user, 4, exclude=context.excluded_item_ids, on_unknown="fallback"
        )
        seen[f"context of {user}"] = (context.user, context.excluded_item_ids)
        seen[f"list of {user}"] = [(item.item_id, item.stage) for item in answer.items]
    return seen


class Servers:
    """Two servers on one store, each with its own connections."""

    def __init__(self, url: str, *, model: bool, items: Sequence[Item] = ITEMS) -> None:
        self._model, self._items = model, items
        self.stores = [Store.open(url) for _ in range(2)]
        self.states = [self.started(store) for store in self.stores]

    def started(self, store: Store) -> ServingState:
        return ServingState(pipeline_of_file(model=self._model, items=self._items), store)

    def apply(self, server: int, kind: str, value: Any) -> None:
        state, store = self.states[server], self.stores[server]
        if kind == "put":
            state.revise(value)
        elif kind == "withdraw":
            state.revise(withdraw=value)
        elif kind == "event":
            store.add([value])
        elif kind == "forget":
            store.forget(value)
        else:
            self.states[server] = self.started(store)

    def check_replay(self) -> None:
        expected = observed(self.started(self.stores[0]))
        for state in self.states:
            state.poll()
            assert observed(state) == expected

    def close(self) -> None:
        for store in self.stores:
            store.close()


@pytest.mark.parametrize(("model", "items"), [(False, ITEMS), (False, TEXT_ITEMS), (True, ITEMS)])
def test_live_state_equals_replayed_state(new_url: Callable[[], str], model: bool, items: Sequence[Item]) -> None:
    """Servers of one shop would answer one request differently, depending on when each was started."""

    @hypothesis_settings(max_examples=15 if model or items is TEXT_ITEMS else 40, deadline=None)
    @given(steps)
    def check(steps: list[tuple[int, tuple[str, Any]]]) -> None:
        servers = Servers(new_url(), model=model, items=items)
        try:
            for server, (kind, value) in steps:
                try:
                    servers.apply(server, kind, value)
                except InputError:  # refused: nothing may have changed
                    servers.check_replay()
            servers.check_replay()
        finally:
            servers.close()

    check()


def served(store: Store, items: Sequence[Item] = ITEMS) -> ServingState:
    return ServingState(pipeline_of_file(items=items), store)


@pytest.fixture
def store(new_url: Callable[[], str]) -> Any:
    with Store.open(new_url()) as store:
        yield store


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"note": "12"}, {"note": 5.5}),
        ({"note": 5.5}, {"note": "12"}),
        ({"note": True}, {"note": 1}),
        ({"size": "L"}, {"size": 3}),
        ({"size": ["L"]}, {"size": "L"}),
        ({"size": ["L"]}, {"size": [3]}),
        ({"size": 2**62 + 1}, {"size": 0.5}),
    ],
    ids=str,
)
def test_item_that_could_not_be_replayed_is_refused(
    store: Store, first: dict[str, Any], second: dict[str, Any]
) -> None:
    """Accepted, it would keep every server from starting and from following the others."""
    state = served(store)
    state.revise([Item("8", "first", first)])
    before = observed(state)
    with pytest.raises(InputError, match=r"item '9' would not fit the catalog: (note|size) "):
        state.revise([Item("9", "second", second)])
    assert observed(state) == observed(served(store)) == before


@pytest.mark.parametrize("price", ["12", "cheap", True, ["12"], [12]])
def test_value_of_another_type_than_the_file_has_is_refused(store: Store, price: object) -> None:
    """Text that is read as a number today keeps the numbers of tomorrow out."""
    state = served(store)
    with pytest.raises(InputError, match=r"item '8' would not fit the catalog: price of the added items holds"):
        state.revise([Item("8", "first", {"price": price})])
    state.revise([Item("8", "first", {"price": 5.5})])
    assert observed(state) == observed(served(store))


def test_change_that_would_set_others_aside_is_refused(store: Store) -> None:
    """An item keeps its place when it changes, so items that were put after it must still fit."""
    state = served(store)
    state.revise([Item("8", "first")])
    state.revise([Item("9", "second", {"size": 3})])
    with pytest.raises(InputError, match="item '9' would not fit the catalog: size "):
        state.revise([Item("8", "first", {"size": "L"})])
    state.revise(withdraw=["9"])
    state.revise([Item("8", "first", {"size": "L"})])
    assert observed(state) == observed(served(store))


@pytest.mark.parametrize("item_id", ["007", "0x7", "-0", "00"])
def test_id_that_changes_in_a_cast_is_refused(store: Store, item_id: str) -> None:
    """It would become another item, or undo the withdrawal of that item at the next start."""
    state = served(store)
    state.revise(withdraw=["7", "0"])
    with pytest.raises(InputError, match=f"item id {item_id!r} would become [07], because"):
        state.revise([Item(item_id, "new")])
    assert observed(state) == observed(served(store))
    assert not {"0", "7"} & set(map(str, state.catalog.item_ids))


@pytest.mark.parametrize("items", [ITEMS, TEXT_ITEMS], ids=["whole numbers", "texts"])
@pytest.mark.parametrize("item_id", ["7.0", "9.0"])
def test_item_is_not_put_under_an_id_that_files_write_for_another(
    new_url: Callable[[], str], items: Sequence[Item], item_id: str
) -> None:
    """A file with gaps has 7.0 for item 7, so two items would answer to one id, and both be withdrawn at a restart."""
    url = new_url()
    with Store.open(url) as store:
        with pytest.raises(InputError, match=f"item_id {item_id!r} is a whole number .* under the id {item_id[0]!r}"):
            served(store, items).revise([Item(item_id, "new")])
        store.revise([Item("renamed", "of an older release")])
        execute(url, f"UPDATE genrec_revisions SET item_id = '{item_id}' WHERE item_id = 'renamed'")
        state = served(store, items)
        assert list(state.catalog.item_ids) == [item.item_id for item in items], "it is set aside"
        state.revise(withdraw=[item_id])
        assert observed(state) == observed(served(store, items))
        assert len(state.catalog) == len(items), "the item that was set aside is withdrawn, and no other"


@pytest.mark.parametrize("items", [ITEMS, TEXT_ITEMS], ids=["whole numbers", "texts"])
@pytest.mark.parametrize("item_id", [7, "7", "7.0"])
def test_item_is_one_however_its_id_is_written(store: Store, items: Sequence[Item], item_id: ItemId) -> None:
    """A withdrawal that reached another item after a restart, or a dislike that left its item in the history."""
    state = served(store, items)
    store.add([Event("u0", "7", 1), Event("u0", "1", 2), Event("u0", item_id, 3, weight=-1)])
    context = state.request_context("u0")
    assert [str(seen) for seen in context.history_item_ids] == ["0", "2", "4", "1"]
    assert [str(disliked) for disliked in context.excluded_item_ids] == ["7"]
    assert not state.request_context("u0", [item_id]).excluded_item_ids, "the request has the item again"
    state.revise(withdraw=[item_id])
    assert observed(state) == observed(served(store, items))
    assert [str(left) for left in state.catalog.item_ids] == [str(i.item_id) for i in items if str(i.item_id) != "7"]
    state.revise([Item("7", "back")])
    assert observed(state) == observed(served(store, items))
    assert len(state.catalog) == len(items)


def test_catalog_with_both_spellings_keeps_them_apart(store: Store) -> None:
    """Version numbers, say: 7 and 7.0 are two items if the file has both."""
    items = [*TEXT_ITEMS, Item("7.0", "abc", {"price": 1})]
    state = served(store, items)
    store.add([Event("u0", "7", 1), Event("u0", "7.0", 2, weight=-1)])
    assert state.request_context("u0").history_item_ids[-1] == "7"
    state.revise(withdraw=["7.0"])
    assert "7" in list(state.catalog.item_ids)
    assert list(state.catalog.item_ids) == [item.item_id for item in TEXT_ITEMS]
    assert observed(state) == observed(served(store, items))


def test_item_that_returns_takes_its_old_place(store: Store) -> None:
    """The order of the catalog decides ties, so it must not depend on when a server was started."""
    state = served(store)
    state.revise([Item("8", "new"), Item("9", "newer")])
    state.revise(withdraw=["2", "8"])
    state.revise([Item("8", "new again")])
    state.revise([Item("2", "back")])
    assert list(state.catalog.item_ids) == list(range(10))
    assert observed(state) == observed(served(store))


def test_stored_items_that_do_not_fit_are_set_aside_and_named(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A store that was written with another file, or before such items were refused, must not keep servers down."""
    store.revise([Item("8", "fits", {"note": "n"}), Item("1", "changed", {"price": 1.5})])
    store.revise([Item("9", "text", {"price": "12"}), Item("007", "seven"), Item("10", "number", {"note": 3})], ["2"])
    with caplog.at_level(logging.WARNING):
        state = served(store)
    assert [record.args[0] for record in caplog.records if record.args] == ["9", "007", "10"]
    assert list(state.catalog.item_ids) == [0, 1, 3, 4, 5, 6, 7, 8]
    assert state.catalog[1] == Item(1, "changed", {"price": 1.5, "note": None})
    caplog.clear()
    state.revise([Item("11", "later")], ["007"])
    state.revise([Item("9", "number", {"price": 12})])
    with pytest.raises(InputError, match="item '10' would not fit"):
        state.revise([Item("10", "number", {"note": 4})])
    assert list(state.catalog.item_ids)[-3:] == [8, 9, 11]
    assert not caplog.records, "a set aside item is named once"
    assert observed(state) == observed(served(store))


def test_item_that_is_set_aside_leaves_the_item_of_the_file(store: Store) -> None:
    """Otherwise a wrong price in the store would remove the item from the shop."""
    store.revise([Item("3", "three", {"price": "x"})])
    assert served(store).catalog[3] == ITEMS[3]


def test_running_server_applies_what_fits(store: Store) -> None:
    """One unusable item of another server must not stop this one from following all later changes."""
    state = served(store)
    store.revise([Item("8", "eight", {"price": "cheap"})], ["3"])
    state.poll()
    assert observed(state) == observed(served(store))
    assert 3 not in list(state.catalog.item_ids)


def test_order_of_old_stores_is_kept(new_url: Callable[[], str]) -> None:
    """A store in which items that returned were numbered again is a store like any other."""
    url = new_url()
    with Store.open(url) as store:
        store.revise([Item("8", "eight"), Item("9", "nine")])
        execute(url, "UPDATE genrec_revisions SET number = 50 WHERE item_id = '8'")
        assert list(served(store).catalog.item_ids)[-2:] == [9, 8]


def test_identifiers_of_equal_titles_do_not_depend_on_arrival(store: Store) -> None:
    """The suffix that tells equal titles apart changes scores, and so lists."""
    state = ServingState(pipeline_of_file(model=True), store)
    for item_id in ("8", "9", "10"):
        state.revise([Item(item_id, "same title")])
    state.revise(withdraw=["8", "0"])
    again = ServingState(pipeline_of_file(model=True), store)

    def identifiers(state: ServingState) -> list[list[int]]:
        index = next(stage.index for stage in state.recommender.stages if isinstance(stage, GenerativeRanker))
        return [index.trie.tokens_of_row(int(row)).tolist() for row in index.trie.rows_of_items]

    assert identifiers(state) == identifiers(again)
