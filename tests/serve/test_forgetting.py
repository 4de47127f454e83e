"""After `forget`, servers answer as if the user had never been in the interactions: running ones and new ones."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from genrec import (
    Catalog,
    CatalogIndex,
    GenerativeRanker,
    GenerativeSettings,
    History,
    Interactions,
    Item,
    TitleIdentifiers,
    read_interactions,
    read_template,
)
from genrec.backends import Provenance
from genrec.cache import ignore_progress
from genrec.errors import ArtifactError, InputError
from genrec.pipeline import LlmStage, Pipeline
from genrec.precomputed import load_collaborative_model
from genrec.rankers.collaborative_counts import INITIAL_WEIGHTS, CollaborativeCounts
from genrec.rankers.prior_store import PriorSource, draw_histories
from genrec.serve.state import ServingState
from genrec.store import remaining_interactions
from genrec.store.event_store import Event, Store
from genrec.testing import ByteTokenizer, TableBackend
from genrec.types import IntArray

BACKGROUND, LENGTH = 2, 4  # histories of the prior, and how many items of each it shows
USERS = [f"unmistakable-{name}" for name in ("ann", "bob", "cyd", "dan", "eve", "fay")]
SHARED = [
    Item(f"i{number}", f"{word} lamp") for number, word in enumerate(["red", "green", "blue", "tall", "small", "old"])
]
PRIVATE = {user: Item(f"of-{user}", f"heirloom of {user}") for user in USERS}  # nobody else has it
ITEMS = [*SHARED, *PRIVATE.values()]
WALKS: Mapping[str, Sequence[str]] = {
    user: [*(f"i{(3 * place + step) % 6}" for step in range(2 + place % 4)), PRIVATE[user].item_id, f"i{place}"]
    for place, user in enumerate(USERS)
}


class RecordingBackend(TableBackend):
    """Records every prompt that is sent to the model, as text."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self.prompts: list[str] = []

    def open(self, prompts: Sequence[IntArray], **options: Any) -> Any:
        self.prompts += [ByteTokenizer().decode(prompt.tolist()) for prompt in prompts]
        return super().open(prompts, **options)


def log_of(users: Sequence[str] = USERS) -> Interactions:
    """The interactions file with the rows of some users."""
    rows = [(user, item, 10.0 * time) for user in users for time, item in enumerate(WALKS[user])]
    columns = dict(zip(("user_id", "item_id", "timestamp"), map(list, zip(*rows, strict=True)), strict=True))
    return read_interactions(pa.table(columns))


def open_pipeline(interactions: Interactions, backend: TableBackend, cache: Path) -> Pipeline:
    """What `genrec.loading.open_pipeline` opens, with a tokenizer of bytes and a table as the model."""
    catalog, tokenizer, identifiers = Catalog.from_items(ITEMS), ByteTokenizer(), TitleIdentifiers()
    model = load_collaborative_model(catalog, interactions, None, "none", cache, ignore_progress)
    pipeline = Pipeline.from_rankers(catalog, interactions, None, model)
    index = CatalogIndex.build(catalog, identifiers, tokenizer)
    histories = draw_histories(catalog, interactions, count=BACKGROUND, min_length=LENGTH)
    ranker = GenerativeRanker(
        index,
        backend,
        tokenizer,
        template=read_template("next-item"),
        cold_template=read_template("cold-start"),
        prior=PriorSource(histories, cache / "priors"),
        retriever=pipeline.retriever,
        settings=GenerativeSettings(candidates=6, fusion_weight=1.0, max_history=LENGTH, history_step=1),
    )
    ranker.compute_priors()
    llm = LlmStage(ranker, index, identifiers, tokenizer, 3, BACKGROUND)
    return replace(pipeline, llm=llm, cache=cache)


def observed(state: ServingState) -> dict[str, Any]:
    """All that requests can see of a state."""
    state.poll()
    state.fit()
    seen: dict[str, Any] = {"items": list(state.catalog)}
    for user in (*USERS, None):
        context = state.request_context(user, words="" if user else "lamp")
        answer = context.recommender.recommend(
            context.user, 4, exclude=context.excluded_item_ids, on_unknown="fallback"
        )
        seen[f"context of {user}"] = (context.user, context.excluded_item_ids)
        seen[f"list of {user}"] = [(item.item_id, item.stage, round(item.score, 4)) for item in answer.items]
    return seen


def computed_from_users(cache: Path) -> set[str]:
    """The folders in a cache that were computed from users; their names are hashes of all that they depend on."""
    folders = [manifest.parent for manifest in cache.rglob("manifest.json") if _kind(manifest.parent) != "none"]
    return {str(folder.relative_to(cache)) for folder in folders}


class World:
    """Two servers on one store, one with a cache of its own, and what a server would be that never saw some users."""

    def __init__(self, url: str, folder: Path, *, apart: bool) -> None:
        self.folder = folder
        self.caches = [folder / "cache", folder / ("other" if apart else "cache")]
        self.stores = [Store.open(url) for _ in range(2)]
        self.backends = [RecordingBackend(ByteTokenizer.vocab_size) for _ in range(2)]
        self.states = [self.started(server) for server in range(2)]
        self.forgotten: set[str] = set()

    def started(self, server: int) -> ServingState:
        """A server that starts now, as `genrec serve` does."""
        store, cache = self.stores[server], self.caches[server]
        interactions = remaining_interactions(log_of(), store, cache)
        return ServingState(open_pipeline(interactions, self.backends[server], cache), store)

    def apply(self, server: int, kind: str, value: Any) -> None:
        state = self.states[server]
        if kind == "forget":
            state.forget(value)
            self.forgotten.add(value)
            self.check_at_once(state, value)
        elif kind == "event":
            self.stores[server].add([value])
        elif kind == "put":
            state.revise([value])
        elif kind == "withdraw":
            state.revise(withdraw=[value])
        else:
            self.states[server] = self.started(server)

    def remaining(self) -> list[str]:
        return [user for user in USERS if user not in self.forgotten]

    def check_at_once(self, state: ServingState, user: str) -> None:
        """What holds when `forget` returns, before anything is learned again."""
        pipeline = state._current.pipeline
        assert pipeline.interactions is not None
        assert pipeline.collaborative is not None
        assert list(pipeline.interactions.user_ids) == self.remaining()
        counts, expected = (
            pipeline.collaborative.counts,
            CollaborativeCounts.from_interactions(pipeline.collaborative.catalog, log_of(self.remaining())),
        )
        assert counts.item_counts.tolist() == expected.item_counts.tolist()
        assert (counts.cooccurrence._cooccurrence != expected.cooccurrence._cooccurrence).nnz == 0
        if user in USERS and not pipeline.collaborative.is_fitted:
            assert not counts.item_vectors.any()
            assert pipeline.collaborative.weights is INITIAL_WEIGHTS
        for backend in self.backends:
            backend.prompts.clear()

    def check(self) -> None:
        with TemporaryDirectory(dir=self.folder) as clean:
            self._check(Path(clean))

    def _check(self, clean: Path) -> None:
        never_there = open_pipeline(log_of(self.remaining()), TableBackend(ByteTokenizer.vocab_size), clean)
        expected = observed(ServingState(never_there, self.stores[0]))
        for state in self.states:
            assert observed(state) == expected
        assert observed(self.started(0)) == expected
        allowed = computed_from_users(clean)
        for cache in self.caches:
            assert computed_from_users(cache) <= allowed
            files = [path for path in cache.rglob("*") if path.is_file()]
            assert not [path for path in files for user in self.forgotten if user.encode() in path.read_bytes()]
        for backend in self.backends:
            told = [user for user in self.forgotten for prompt in backend.prompts if f"heirloom of {user}" in prompt]
            assert not told

    def close(self) -> None:
        for store in self.stores:
            store.close()


users = st.sampled_from([*USERS, "unmistakable-guest"])
operations = st.one_of(
    st.tuples(st.just("forget"), users),
    st.tuples(
        st.just("event"), st.builds(Event, users, st.sampled_from([item.item_id for item in SHARED]), st.just(1))
    ),
    st.tuples(
        st.just("put"), st.builds(Item, st.sampled_from(["i0", "new"]), st.sampled_from(["red lamp", "a chair"]))
    ),
    st.tuples(st.just("withdraw"), st.sampled_from(["i1", "i2"])),
    st.tuples(st.just("restart"), st.none()),
)
steps = st.lists(st.tuples(st.integers(0, 1), operations), min_size=1, max_size=6)


@pytest.mark.parametrize("apart", [False, True], ids=["one cache", "two caches"])
def test_forgotten_users_might_never_have_been_there(new_url: Callable[[], str], tmp_path: Path, apart: bool) -> None:
    """A person who asked to be forgotten still shapes what others are recommended, or is told to a model."""

    @hypothesis_settings(max_examples=6, deadline=None)
    @given(steps)
    def check(steps: list[tuple[int, tuple[str, Any]]]) -> None:
        with ExitStack() as stack:
            world = World(new_url(), Path(stack.enter_context(TemporaryDirectory(dir=tmp_path))), apart=apart)
            stack.callback(world.close)
            for server, (kind, value) in steps:
                try:
                    world.apply(server, kind, value)
                except InputError:  # such as the withdrawal of an item that is not there
                    continue
            world.check()

    check()


@pytest.fixture
def world(new_url: Callable[[], str], tmp_path: Path) -> Iterator[World]:
    world = World(new_url(), tmp_path / "world", apart=False)
    yield world
    world.close()


def background_of(world: World) -> list[str]:
    """The users whose histories are in the prompts of the prior."""
    catalog = Catalog.from_items(ITEMS)
    drawn = draw_histories(catalog, log_of(world.remaining()), count=BACKGROUND, min_length=LENGTH)
    own = [{catalog.item_ids[int(item)] for item in history} for history in drawn]
    return [user for items in own for user in USERS if PRIVATE[user].item_id in items]


def test_the_prior_is_measured_behind_users_who_remain(world: World) -> None:
    """This is what was found: the history of a forgotten user, verbatim in prompts, after a fresh start too."""
    told = [user for user in USERS if any(f"heirloom of {user}" in prompt for prompt in world.backends[0].prompts)]
    assert sorted(told) == sorted(background_of(world)), "otherwise this test could not fail"
    for server in range(2):
        world.apply(server, "forget", background_of(world)[0])
        world.check()


def test_servers_follow_the_forgetting_of_another_with_the_next_poll(world: World) -> None:
    """A request that reaches another server must not be answered from what the first one has deleted."""
    user = background_of(world)[0]
    world.apply(0, "forget", user)
    other = world.states[1]
    other.poll()
    world.check_at_once(other, user)
    other.recommender.recommend(History(("i1",)), 3)
    assert not [prompt for prompt in world.backends[1].prompts if f"heirloom of {user}" in prompt]


def test_everybody_can_be_forgotten(world: World) -> None:
    """The last user is one too."""
    for user in USERS:
        world.states[0].forget(user)
    for server in range(2):
        world.apply(server, "restart", None)
    for state in world.states:
        state.poll()
        state.fit()
        assert len(state.recommender.recommend(History(("i1",)), 4).items) == 4
    assert not computed_from_users(world.caches[0])


@pytest.mark.parametrize("asked", ["7.0", 7, "7"])
def test_an_id_is_forgotten_however_it_is_written(new_url: Callable[[], str], asked: str | int) -> None:
    """The file has 7, and a client that keeps ids as floats asks to forget 7.0."""
    table = pa.table({"user_id": [7, 7, 8], "item_id": ["i1", "i2", "i3"], "timestamp": [1, 2, 3]})
    with Store.open(new_url()) as store:
        state = ServingState(Pipeline.from_rankers(Catalog.from_items(ITEMS), read_interactions(table)), store)
        assert state.request_context("7.0").history_item_ids == ("i1", "i2")
        store.add([Event("7", "i3", 4), Event("7.0", "i4", 5)])
        assert state.request_context("7.0").history_item_ids == ("i1", "i2", "i3")
        assert state.forget(asked)["genrec_events.user_id"] == 2
        for one in ("7.0", 7, "7"):
            assert state.request_context(one).history_item_ids == ()
        assert list(remaining_interactions(read_interactions(table), store).user_ids) == [8]


def test_what_was_cached_while_a_server_was_down_is_purged_at_its_start(world: World) -> None:
    """Its cache was filled before the user was forgotten, by a server that was not there to purge it."""
    world.caches[1] = world.folder / "later"
    world.started(1)
    before = computed_from_users(world.caches[1])
    world.apply(0, "forget", background_of(world)[0])
    world.apply(1, "restart", None)
    assert before - computed_from_users(world.caches[1])
    world.check()


def test_results_that_may_hold_users_are_removed_and_others_stay(world: World) -> None:
    """Entries of earlier releases do not say what they hold; measuring the prior of a catalog again takes minutes."""
    cold = [path.name for path in (world.caches[0] / "priors").iterdir() if _kind(path) == "none"]
    old = world.caches[0] / "priors" / "of an earlier release"
    (old / "deep").mkdir(parents=True)
    (old / "manifest.json").write_text('{"kind": "prior"}', encoding="utf-8")
    world.apply(0, "forget", USERS[0])
    assert not old.exists()
    assert len(cold) == 1
    assert (world.caches[0] / "priors" / cold[0]).is_dir()


def test_a_cache_that_cannot_be_purged_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user would be told that everything is deleted, while a file on a disk says otherwise."""

    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("genrec.cache.shutil.rmtree", refuse)
    with pytest.raises(ArtifactError, match="was computed from interactions of users who were forgotten"):
        world.states[0].forget(USERS[0])
    assert USERS[0] not in list(world.states[0]._current.pipeline.interactions.user_ids)  # type: ignore[union-attr]


def _kind(folder: Path) -> str:
    kind: str = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["user_data"]["kind"]
    return kind


@pytest.mark.parametrize(("trained_at", "count"), [(None, 2), (50.0, 1), (150.0, 0)])
def test_an_adapter_that_may_have_learned_from_forgotten_users_is_told(
    new_url: Callable[[], str], tmp_path: Path, trained_at: float | None, count: int
) -> None:
    """What weights have learned cannot be removed, so that they must be trained again: nobody would know."""
    times = iter([10.0, 100.0])
    with Store.open(new_url(), clock=lambda: next(times)) as store:
        backend = TableBackend(ByteTokenizer.vocab_size)
        unknown = dict.fromkeys(("template", "catalog", "index", "data", "first", "last"), "")
        backend.provenance = Provenance("Tiny", {}, "bytes", **unknown, seed=0, trained_at=trained_at)
        state = ServingState(open_pipeline(log_of(), backend, tmp_path / "cache"), store)
        before = [notice.code for notice in state.recommender.notices]
        assert "adapter_forgotten_users" not in before
        state.forget("somebody")
        state.forget(USERS[0])
        again = ServingState(open_pipeline(remaining_interactions(log_of(), store), backend, tmp_path / "new"), store)
        for one in (state, again):
            told = [notice for notice in one.recommender.notices if notice.code == "adapter_forgotten_users"]
            assert [notice.fields["count"] for notice in told] == ([count] if count else [])
            assert len(one.recommender.notices) == len(before) + bool(count)


def test_what_was_learned_while_a_user_was_forgotten_is_thrown_away(world: World) -> None:
    """Learning takes minutes; its result would bring back, and save, what was deleted in the meantime."""
    state = world.states[0]
    world.apply(0, "forget", USERS[0])
    model = state._current.pipeline.collaborative
    assert model is not None
    learn, calls = model.fit, list[Interactions]()

    def learn_slowly(interactions: Interactions) -> Any:
        assert learn is not None
        learned = learn(interactions)
        calls.append(interactions)
        if len(calls) == 1:
            world.apply(0, "forget", USERS[1])
        return learned

    object.__setattr__(model, "fit", learn_slowly)
    state.fit()
    assert USERS[1] in calls[0].user_ids
    assert not computed_from_users(world.caches[0]) & {
        path for path in computed_from_users(world.caches[0]) if "counts" in path
    }
    world.check()


def test_no_prior_is_measured_behind_a_user_who_was_forgotten_in_the_meantime(world: World) -> None:
    """The measurement sends the histories of its users for minutes."""
    world.apply(0, "forget", background_of(world)[0])
    state, backend = world.states[0], world.backends[0]
    user = next(user for user in background_of(world) if user not in world.forgotten)
    open_tree, opened = backend.open, list[int]()

    def open_slowly(prompts: Sequence[IntArray], **options: Any) -> Any:
        opened.append(len(prompts))
        if len(opened) == 1:
            world.apply(0, "forget", user)
        return open_tree(prompts, **options)

    backend.open = open_slowly  # type: ignore[method-assign]
    state.fit()
    backend.prompts.clear()
    world.check()
