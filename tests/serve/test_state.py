"""Serving state: each request sees the latest data, and one consistent catalog."""

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from letter_pipeline import LetterEncoder, letter_pipeline

from genrec import Catalog, History, Item
from genrec.data.ids import key_of
from genrec.errors import InputError, StoreError, UnknownItemError, UnknownUserError
from genrec.loading import open_pipeline
from genrec.pipeline import Pipeline
from genrec.serve.request_context import _merge_history
from genrec.serve.state import ServingState
from genrec.settings import Settings
from genrec.store.event_store import Event, Store

SIZE, K = 60, 5


def make_item(number: int) -> Item:
    letters = "".join("abcdefghijklmnopqrst"[(number * stride) % 20] for stride in (1, 3, 7, 11))
    return Item(f"i{number}", f"{letters} {number}", {"price": float(number), "genre": "ab"[number % 2]})


ITEMS = [make_item(number) for number in range(SIZE)]
# Each user takes every second item; u2 also has an item that is in no catalog.
WALKS = {f"u{user}": [f"i{(user + 2 * index) % SIZE}" for index in range(3 + user % 4)] for user in range(80)}
WALKS["u2"].append("gone long ago")


def make_pipeline(*, model: bool = True, items: Sequence[Item] = ITEMS) -> Pipeline:
    return letter_pipeline(items, WALKS, model=model)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"sqlite:///{tmp_path / 'store.db'}")


@pytest.fixture
def state(store: Store) -> ServingState:
    return ServingState(make_pipeline(), store)


def catalog_of(*items: Item) -> Catalog:
    return Catalog.from_items(items)


def answer(state: ServingState, user_id: str | None = None, history: Sequence[str] = (), words: str = "") -> list[str]:
    context = state.request_context(user_id, history, words)
    found = context.recommender.recommend(context.user, K, exclude=context.excluded_item_ids)
    return [str(item.item_id) for item in found.items]


def test_event_changes_the_next_response(state: ServingState, store: Store) -> None:
    """A shop must not recommend what was bought a second ago."""
    before = answer(state, "u1")
    store.add([Event("u1", before[0], 1.0), Event("u1", "i33", 2.0)])
    user = state.request_context("u1").user
    assert isinstance(user, History)
    assert user.item_ids == (*WALKS["u1"], before[0], "i33")
    after = answer(state, "u1")
    assert before[0] not in after
    assert after != before
    assert len(after) == K


def test_history_is_file_then_store_then_request(state: ServingState, store: Store) -> None:
    """The newest items count most, so the order decides the list."""
    store.add([Event("u3", "i9", 5.0), Event("u3", "i8", 4.0), Event("new", "i1", 1.0)])
    assert state.request_context("u3", ["i50"], "words").user == History(
        (*WALKS["u3"], "i8", "i9", "i50"), "words", "u3"
    )
    assert state.request_context("new").user == History(("i1",), user_id="new")
    assert state.request_context(None, ["i50"]).user == History(("i50",))


def test_stored_items_outside_the_catalog_are_skipped(state: ServingState, store: Store) -> None:
    """A withdrawn item must not fail requests of users who have it; unknown items of a request still raise."""
    store.add([Event("u2", "never there", 1.0), Event("u2", "i7", 2.0)])
    state.revise(None, [WALKS["u2"][0]])
    user = state.request_context("u2").user
    assert isinstance(user, History)
    assert user.item_ids == (*WALKS["u2"][1:-1], "i7")
    assert len(answer(state, "u2")) == K
    with pytest.raises(UnknownItemError, match="'never there' in the history of user 'u2'"):
        answer(state, "u2", ["never there"])


def test_disliked_items_are_excluded(state: ServingState, store: Store) -> None:
    """Otherwise a dislike brings more of the same."""
    first = answer(state, "u4")[0]
    store.add([Event("u4", WALKS["u4"][0], 1.0, "dislike", -1.0), Event("u4", first, 2.0, "remove", 0.0)])
    context = state.request_context("u4")
    assert isinstance(context.user, History)
    assert context.user.item_ids == tuple(WALKS["u4"][1:])
    assert context.excluded_item_ids == (WALKS["u4"][0], first)
    assert not {first, WALKS["u4"][0]} & set(answer(state, "u4"))
    assert state.request_context("u4", [first]).excluded_item_ids == (WALKS["u4"][0],)
    store.add([Event("u4", first, 3.0, "like")])
    again = state.request_context("u4")
    assert again.excluded_item_ids == (WALKS["u4"][0],)
    assert isinstance(again.user, History)
    assert again.user.item_ids == (*WALKS["u4"][1:], first)


@given(
    st.lists(st.integers(0, 5)),
    st.lists(st.tuples(st.one_of(st.integers(0, 5), st.integers(0, 5).map(str)), st.sampled_from([-1.0, 0.0, 1.0]))),
)
def test_merged_history_equals_replayed_events(file_history: list[int], events: list[tuple[int | str, float]]) -> None:
    """An item that is removed and seen again counts once more, from then on."""
    seen, disliked = [str(one) for one in file_history], list[str]()
    for item_id, weight in events:
        key = str(item_id)
        disliked = [one for one in disliked if one != key or weight <= 0]
        if weight > 0:
            seen.append(key)
            continue
        seen = [one for one in seen if one != key]
        disliked += [] if key in disliked else [key]
    found = _merge_history(file_history, [Event("u", item_id, 0.0, weight=weight) for item_id, weight in events])
    assert tuple([str(one) for one in ids] for ids in found) == (seen, disliked)


def test_merging_a_history_takes_linear_time(
    state: ServingState, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One user with many events would delay all others, because requests are ranked one after the other."""
    looked = Counter[object]()

    def count(item_id: object) -> str | None:
        looked["ids"] += 1
        return key_of(item_id)

    events = [Event("u4", f"i{number % SIZE}", number, weight=float(number % 10 > 0)) for number in range(2000)]
    store.add(events)
    monkeypatch.setattr("genrec.serve.state.key_of", count)
    state.request_context("u4")
    assert looked["ids"] <= 2 * (len(WALKS["u4"]) + len(events))


def test_unknown_user_is_described_by_the_request(state: ServingState) -> None:
    """An empty history would be ranked where `on_unknown` asks for an error or nothing."""
    context = state.request_context("nobody")
    with pytest.raises(UnknownUserError, match="'nobody'"):
        context.recommender.recommend(context.user, K)
    assert context.recommender.recommend(context.user, K, on_unknown="skip").items == ()
    assert len(context.recommender.recommend(context.user, K, on_unknown="fallback").items) == K
    assert len(answer(state, "nobody", ["i3"])) == len(answer(state, "nobody", words="abc")) == K


def test_forgotten_user_keeps_only_later_events(state: ServingState, store: Store) -> None:
    """The files still contain the user; using them would show that nothing was forgotten."""
    store.add([Event("u5", "i30", 1.0)])
    store.forget("u5")
    context = state.request_context("u5")
    assert context.user == "u5"
    with pytest.raises(UnknownUserError):
        context.recommender.recommend(context.user, K)
    store.add([Event("u5", "i31", 2.0)])
    assert state.request_context("u5").user == History(("i31",), user_id="u5")


def test_the_next_request_sees_a_revision(state: ServingState) -> None:
    """Sold-out items, new items and new prices must not wait for a restart."""
    everything = state.request_context().recommender
    state.revise(catalog_of(Item("n1", "abc", {"price": 0.5}), Item("i3", "pqrs 3", {"price": 700.0})), ["i4"])
    assert len(state.catalog) == SIZE
    assert state.catalog[SIZE - 1] == Item("n1", "abc", {"price": 0.5, "genre": None})
    assert state.catalog[3] == Item("i3", "pqrs 3", {"price": 700.0, "genre": None})
    now = state.recommender
    assert {item.item_id for item in now.recommend(History(), SIZE).items} == {
        *(item.item_id for item in ITEMS if item.item_id != "i4"),
        "n1",
    }
    assert [item.item_id for item in now.recommend(History(), K, where="price > 500").items] == ["i3"]
    assert now.recommend(History(words="abc"), 3, only=["n1", "i20"]).items[0].stage == "generative"
    assert len(everything.catalog) == SIZE
    assert "i4" in everything.catalog


def test_revision_computes_changed_items_only(state: ServingState) -> None:
    """Encoding the catalog again, or measuring its prior, takes minutes."""
    pipeline = make_pipeline()
    assert pipeline.llm is not None
    assert pipeline.embedding is not None
    pipeline.llm.ranker.compute_priors()
    encoder = pipeline.embedding._encoder
    assert isinstance(encoder, LetterEncoder)
    before, prior = (
        len(encoder.asked),
        dict(zip(pipeline.catalog.item_ids, pipeline.llm.ranker.prior_scores(), strict=True)),
    )
    put = catalog_of(Item("n1", "abc"), Item("i3", "pqrs 3"), Item("i5", ITEMS[5].title, {"price": 1.0}))
    revised = pipeline.revised(put, ["i9", "i30"])
    assert encoder.asked[before:] == ["pqrs 3", "abc"]
    assert revised.llm is not None
    ranker = revised.llm.ranker
    assert ranker._backend is pipeline.llm.ranker._backend
    steps = ranker._priors[0].log_probs
    trie = revised.llm.index.trie
    fresh = {
        str(revised.catalog.item_ids[int(trie.items[row])])
        for row in np.flatnonzero(np.isnan(steps[trie.last_positions]))
    }
    assert fresh == {"n1", "i3"}
    after = dict(zip(revised.catalog.item_ids, ranker.prior_scores(), strict=True))
    kept = sorted(prior.keys() & after.keys() - {"i3"})
    np.testing.assert_allclose([after[item] for item in kept], [prior[item] for item in kept], atol=1e-4)


def test_counts_of_kept_items_survive_a_revision() -> None:
    """A revision of one item must not change the scores of all others."""
    pipeline = make_pipeline(model=False)
    user = History(("i10", "i12"))
    added = pipeline.revised(catalog_of(Item("n1", "abc")))
    gone = added.revised(None, ["i14", "i3"])
    back = gone.revised(catalog_of(ITEMS[14], ITEMS[3]))
    first, *others = (
        {item.item_id: item.score for item in one.recommender().recommend(user, SIZE).items if item.item_id != "n1"}
        for one in (pipeline, added, gone, back)
    )
    for other in others:
        assert first.keys() - other.keys() <= {"i14", "i3"}
        assert [first[item] for item in other] == pytest.approx(list(other.values()), rel=1e-5)
    assert others[-1].keys() == first.keys()
    assert next(iter(first)) == next(iter(others[0])) == "i14"


def test_revision_may_add_floats_to_an_integer_column(store: Store) -> None:
    """All prices were integers until the first item for 3.50; a column may also start with missing values."""
    items = [Item(number, f"thing {number}", {"price": 4, "note": None}) for number in range(20)]
    state = ServingState(Pipeline.from_rankers(Catalog.from_items(items)), store)
    state.revise(catalog_of(Item("20", "half", {"price": 3.5, "note": "new"})))
    state.revise(catalog_of(Item("3", "three", {"price": 2})))
    assert state.catalog[20] == Item(20, "half", {"price": 3.5, "note": "new"})
    assert state.catalog[3] == Item(3, "three", {"price": 2.0, "note": None})
    assert len(state.catalog) == 21


def test_concurrent_revisions_are_both_kept(state: ServingState) -> None:
    """Both start from the same catalog: the later one would undo the earlier one."""
    with ThreadPoolExecutor(8) as pool:
        added = [pool.submit(state.revise, catalog_of(Item(f"n{number}", f"abc {number}"))) for number in range(12)]
        gone = [pool.submit(state.revise, None, [f"i{number}"]) for number in range(12)]
        for one in (*added, *gone):
            one.result()
    assert set(state.catalog.item_ids) == {f"n{number}" for number in range(12)} | {f"i{n}" for n in range(12, SIZE)}


def test_failed_revision_changes_nothing(state: ServingState, store: Store, tmp_path: Path) -> None:
    """A partial revision would be visible until the restart, or after it."""
    before, there = state.recommender, store.revisions()
    new = catalog_of(Item("n1", "abc"))
    for put, withdraw, error in (
        (new, ["none"], UnknownItemError),
        (new, ["n1"], UnknownItemError),
        (catalog_of(ITEMS[3]), ["i3"], InputError),
        (None, [item.item_id for item in ITEMS], InputError),
        (catalog_of(Item("n1", "abc", {"price": "cheap"})), [], InputError),
        (catalog_of(Item("n" * 500, "abc")), [], InputError),
    ):
        with pytest.raises(error):
            state.revise(put, withdraw)
    store.close()
    with pytest.raises(StoreError):
        state.revise(new)
    assert state.recommender is before
    with Store.open(f"sqlite:///{tmp_path / 'store.db'}") as again:
        assert again.revisions() == there == ([], [])


def test_restart_applies_every_revision(state: ServingState, store: Store) -> None:
    """Otherwise the shop recommends withdrawn items after a restart."""
    state.revise(catalog_of(Item("n1", "abc", {"price": 2.5}), Item("i3", "pqrs 3")), ["i4"])
    state.revise(catalog_of(Item("n2", "bcd")), ["i5", "i3"])
    state.revise(catalog_of(Item("n1", "abcd"), ITEMS[4]))
    again = ServingState(make_pipeline(), store)
    assert {item.item_id: item for item in again.catalog} == {item.item_id: item for item in state.catalog}
    assert answer(again, "u7") == answer(state, "u7")
    # An item that was withdrawn is also missing in the file: nothing is left to withdraw.
    smaller = ServingState(make_pipeline(items=[item for item in ITEMS if item.item_id != "i5"]), store)
    assert set(smaller.catalog.item_ids) == set(state.catalog.item_ids)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that several servers share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    return str(request.getfixturevalue("postgres_url"))


def test_revision_reaches_every_server_with_the_next_poll(shared: str) -> None:
    """A user whose request goes to another server must not get a sold-out item."""
    with Store.open(shared) as mine, Store.open(shared) as theirs:
        one, other = (ServingState(make_pipeline(), own) for own in (mine, theirs))
        sold = answer(other, "u1")[0]
        one.revise(catalog_of(Item("n1", "abc")), [sold])
        assert sold in other.request_context("u1").recommender.catalog  # no request waits for the encoding of items
        other.poll()
        assert sold not in answer(other, "u1")
        assert other.catalog[SIZE - 1] == Item("n1", "abc", {"price": None, "genre": None})
        unchanged = other.recommender
        other.poll()
        assert other.request_context().recommender is unchanged  # no revision, no new recommender
        assert one.request_context().recommender is one.recommender


def test_revision_applies_others_revisions_first(shared: str) -> None:
    """Otherwise each server has its own catalog until it restarts."""
    with Store.open(shared) as mine, Store.open(shared) as theirs:
        one, other = (ServingState(make_pipeline(model=False), own) for own in (mine, theirs))
        one.revise(catalog_of(Item("n1", "abc", {"size": 3})), ["i4"])
        other.revise(catalog_of(Item("n2", "bcd")), ["i5"])
        assert set(other.catalog.item_ids) == {item.item_id for item in ITEMS} - {"i4", "i5"} | {"n1", "n2"}
        with pytest.raises(UnknownItemError):
            other.revise(None, ["i4"])
        with pytest.raises(InputError):
            other.revise(catalog_of(Item("n3", "cde", {"size": "L"})))
        one.revise(None, ["n2"])
        assert set(ServingState(make_pipeline(model=False), mine).catalog.item_ids) == set(one.catalog.item_ids)


def test_concurrent_revisions_of_servers_converge(shared: str) -> None:
    """A revision of a catalog that another server has changed meanwhile must be built again."""
    with Store.open(shared) as mine, Store.open(shared) as theirs:
        states = [ServingState(make_pipeline(model=False), own) for own in (mine, theirs)]
        with ThreadPoolExecutor(4) as pool:
            done = [
                pool.submit(states[number % 2].revise, catalog_of(Item(f"n{number}", f"abc {number}")), [f"i{number}"])
                for number in range(12)
            ]
            for one in done:
                one.result()
        expected = {f"n{number}" for number in range(12)} | {f"i{number}" for number in range(12, SIZE)}
        again = [ServingState(make_pipeline(model=False), mine), *states]
        for state in states:
            state.revise(None, [])
        assert [set(state.catalog.item_ids) for state in again] == [expected] * 3


def test_requests_survive_revisions_that_cannot_be_read(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """While the database is unavailable, a server must still serve anonymous users."""
    state = ServingState(make_pipeline(model=False), store)
    store.close()
    for _ in range(3):
        state.poll()
    assert len(answer(state, history=["i1"])) == K
    assert caplog.text.count("changes of other servers cannot be applied") == 1


@pytest.mark.parametrize("model", [False, True])
def test_request_during_a_revision_sees_one_catalog(store: Store, model: bool) -> None:
    """Always k items, no error, and no item that was withdrawn before the request."""
    state = ServingState(make_pipeline(model=model), store)
    gone: list[str] = []
    done = threading.Event()

    def ask(seed: int) -> int:
        random, count = np.random.default_rng(seed), 0
        while not done.is_set() or not count:
            before = tuple(gone)
            found = answer(state, f"u{random.integers(80)}")
            assert len(set(found)) == K
            assert not set(found) & set(before)
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, seed) for seed in range(3)]
        try:
            for number in range(25):
                state.revise(catalog_of(Item(f"n{number}", f"abc {number}")), [f"i{number}"])
                gone.append(f"i{number}")
        finally:
            done.set()
        assert sum(one.result() for one in asking) >= 3
    assert len(state.catalog) == SIZE


def test_revision_writes_nothing_to_the_cache(tmp_path: Path, store: Store) -> None:
    """A catalog that changes every minute would fill the disk with unused files."""
    pipeline = make_pipeline(model=False)
    opened = open_pipeline(
        pipeline.catalog, pipeline.interactions, cache=tmp_path / "cache", settings=Settings(model=None, encoder=None)
    )
    state = ServingState(opened, store)
    before = sorted((tmp_path / "cache").rglob("*"))
    state.revise(catalog_of(Item("n1", "abc")), ["i3"])
    assert len(answer(state, "u1")) == K
    assert sorted((tmp_path / "cache").rglob("*")) == before
