"""The learned ensemble: held-out events are not counted, small catalogs work, queries are used."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from genrec import Catalog, History, Interactions, Item, RankRequest, Subset, read_interactions
from genrec.deadline import Deadline
from genrec.loading import open_recommender
from genrec.rankers.collaborative_counts import CollaborativeCounts, item_vectors, learn_weights
from genrec.rankers.embedding import EmbeddingRanker
from genrec.settings import Settings

NO_MODELS = Settings(model=None, encoder=None)


def shop(size: int) -> Catalog:
    return Catalog.from_items([Item(f"i{number}", f"Thing {number}") for number in range(size)])


def events(histories: list[list[int]]) -> Interactions:
    rows = [(user, item, time) for user, items in enumerate(histories) for time, item in enumerate(items)]
    columns = {
        "user_id": [f"u{user}" for user, _, _ in rows],
        "item_id": [f"i{item}" for _, item, _ in rows],
        "timestamp": [time for _, _, time in rows],
    }
    return read_interactions(pa.table(columns))


def walks(count: int, size: int, seed: int = 0) -> list[list[int]]:
    """Histories along a ring: each item is followed by the next one."""
    random = np.random.default_rng(seed)
    starts = random.integers(0, size, count)
    return [[int(start + step) % size for step in range(random.integers(3, 8))] for start in starts]


def request(catalog: Catalog, *items: int, words: str = "") -> RankRequest:
    history = np.array(items, dtype=np.int64)
    return RankRequest(history, words, Subset.everything(len(catalog)).without(history))


class NumberEncoder:
    """One dimension for each item number; other words have a zero vector."""

    name = "words"

    def __init__(self, size: int) -> None:
        self._size = size

    def encode(self, texts: list[str]) -> np.ndarray:  # type: ignore[type-arg]
        known = np.eye(self._size + 1, self._size, dtype=np.float32)
        return known[[int(own) if (own := text.split()[-1]).isdecimal() else self._size for text in texts]]


class NameEncoder:
    """One dimension for each name of `NAMES`."""

    name = "names"

    def encode(self, texts: list[str]) -> np.ndarray:  # type: ignore[type-arg]
        return np.eye(len(NAMES), dtype=np.float32)[[NAMES.index(text) for text in texts]]


NAMES = [first + second for first in ("kal", "mor", "tis", "ven") for second in ("ba", "do", "ge", "lu", "pi")]


def test_next_items_outweigh_popular_items() -> None:
    """In a log in which each item leads to one other, that is what must be learned."""
    catalog = shop(150)
    log = events(walks(600, 150))
    weights = learn_weights(catalog, log, None)
    ranker = CollaborativeCounts.from_interactions(catalog, log).blend(None, weights)
    requests = [request(catalog, start, start + 1) for start in range(0, 140, 7)]
    found = ranker.rank(requests, 1, deadline=Deadline.never())
    assert [int(one.item_indices[0]) for one in found] == [start + 2 for start in range(0, 140, 7)]
    assert weights["after recent items"] > weights["popularity"]


def test_held_out_events_are_not_counted() -> None:
    """If the last item were counted, items that only co-occur with it would get the greatest weight."""
    random = np.random.default_rng(1)
    # The last item of each user occurs in no other history, so no signal from other users can predict it.
    histories = [[*random.permutation(40)[:4].tolist(), 40 + user] for user in range(200)]
    catalog = shop(240)
    weights = learn_weights(catalog, events(histories), None)
    start = learn_weights(catalog, events([[0]]), None)
    for part in ("beside all items", "after recent items", "near recent items"):
        assert weights[part] < start[part], part


def test_without_a_signal_but_popularity_the_ensemble_is_popularity(tmp_path: Path) -> None:
    """Sparse data have no co-occurrence to learn from; without an encoder only popularity is left."""
    catalog, log = shop(8), events([[item] for item in range(8)])
    counts = CollaborativeCounts.from_interactions(catalog, log)
    weights = dict.fromkeys(counts.rankers(None), 0.0)
    assert counts.blend(None, {**weights, "popularity": 1.0}) is None
    recommender = open_recommender(catalog, log, cache=tmp_path, settings=NO_MODELS)
    assert [item.stage for item in recommender.recommend("u1", k=3).items][-1] == "popularity"
    assert [notice.code for notice in recommender.recommend(History((), "a red lamp"), k=3).notices] == [
        "words_ignored"
    ]
    assert not recommender.recommend(History(()), k=3).notices


@pytest.mark.parametrize("size", [1, 2, 3, 130])
@pytest.mark.parametrize("histories", [[[0]], [[0, 0]], [[0], [0]], [[0, 1, 2, 0, 1], [2, 1, 0]]])
def test_small_catalogs_and_logs_work(size: int, histories: list[list[int]], tmp_path: Path) -> None:
    """The first day of a shop must not fail, nor a cache directory that cannot be written."""
    (tmp_path / "file").touch()
    log = events([[item % size for item in items] for items in histories])
    opened = open_recommender(shop(size), log, cache=tmp_path / "file", settings=NO_MODELS)
    answer = opened.recommend("u0", size, filter_seen=False)
    assert len({item.item_id for item in answer.items}) == len(answer.items) == size


def test_items_without_interactions_have_no_neighbours() -> None:
    """Noise of length 1 would look like a neighbour; tried on many logs with few items."""
    for seed in range(20):
        catalog, random = shop(40), np.random.default_rng(seed)
        log = events([random.permutation(8)[:3].tolist() for _ in range(12)])
        vectors = item_vectors(catalog, log)
        _, items = log.to_indices(catalog)
        assert not vectors[np.setdiff1d(np.arange(40), items)].any()
        ranker = EmbeddingRanker(vectors)
        (scores,) = ranker.scores([request(catalog, int(items[0]))])
        assert np.isneginf(scores[20:]).all()
        assert not ranker.can_rank(request(catalog, 30))


def test_query_ranks_cold_start_users() -> None:
    """Popular items must not replace the items that a user searches for."""
    catalog = shop(30)
    embedding = EmbeddingRanker(np.eye(30, dtype=np.float32), encoder=NumberEncoder(30))
    log = events([[0, 1, 2]] * 50)
    ranker = CollaborativeCounts.from_interactions(catalog, log).blend(
        embedding, learn_weights(catalog, log, embedding)
    )
    (found,) = ranker.rank([request(catalog, words="thing 17")], 3, deadline=Deadline.never())
    assert found.item_indices[0] == 17
    alone = CollaborativeCounts.from_interactions(catalog, log).blend(None, learn_weights(catalog, log, None))
    assert not alone.can_rank(request(catalog, words="thing 17"))
    assert not alone.can_rank(request(catalog, 29)), "the item has no interactions"


def test_query_outweighs_history() -> None:
    """Otherwise a query returns the usual items, as if it had been ignored."""
    catalog = Catalog.from_items([Item(f"i{number}", name) for number, name in enumerate(NAMES)])
    embedding = EmbeddingRanker(np.eye(len(NAMES), dtype=np.float32), encoder=NameEncoder())
    log = events(walks(400, len(NAMES)))
    weights = learn_weights(catalog, log, embedding)
    ranker = CollaborativeCounts.from_interactions(catalog, log).blend(embedding, weights)
    asked = [request(catalog, 3, 4), request(catalog, 3, 4, words=NAMES[17])]
    without_query, with_query = ranker.rank(asked, 3, deadline=Deadline.never())
    assert without_query.item_indices[0] == 5
    assert with_query.item_indices[:2].tolist() == [17, 5], "the query first, then the item that the history predicts"
    assert with_query.main_signals[0] == "like their words"


def test_query_weight_has_no_effect_without_a_query() -> None:
    """Learning the weight of queries must not change the other weights, and so the lists without a query."""
    catalog = Catalog.from_items([Item(f"i{number}", name) for number, name in enumerate(NAMES)])
    log = events(walks(200, len(NAMES)))
    silent = EmbeddingRanker(np.eye(len(NAMES), dtype=np.float32))
    without = learn_weights(catalog, log, silent)
    beside = learn_weights(catalog, log, EmbeddingRanker(silent.vectors, encoder=NameEncoder()))
    assert {**beside, "like their words": 0} == {**without, "like their words": 0}
    plain = CollaborativeCounts.from_interactions(catalog, log).blend(silent, without)
    both = CollaborativeCounts.from_interactions(catalog, log).blend(
        EmbeddingRanker(silent.vectors, encoder=NameEncoder()), beside
    )
    requests = [request(catalog, start) for start in range(10)]
    assert (plain.scores(requests) == both.scores(requests)).all()


def test_learned_weights_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learning takes seconds; a restart of the server must not."""
    catalog, log = shop(20), events(walks(60, 20))
    first = open_recommender(catalog, log, cache=tmp_path, settings=NO_MODELS).recommend("u3", 10)
    monkeypatch.setattr("genrec.precomputed.learn_weights", lambda *_: pytest.fail("learned twice"))
    again = open_recommender(catalog, log, cache=tmp_path, settings=NO_MODELS).recommend("u3", 10)
    assert [(item.item_id, item.score) for item in again.items] == [(item.item_id, item.score) for item in first.items]
    assert again.items[0].stage == "blend"
    monkeypatch.undo()
    for day in range(12):
        open_recommender(catalog, events(walks(60, 20, seed=day + 1)), cache=tmp_path, settings=NO_MODELS)
    assert len(list((tmp_path / "counts").iterdir())) < 12


def test_without_an_order_no_ranker_uses_the_order_of_a_history(tmp_path: Path) -> None:
    """Recency in a log without times is the accident of a sorted file."""
    catalog, timed = shop(30), events(walks(300, 30))
    table = pa.table({"user_id": [e.user_id for e in timed], "item_id": [e.item_id for e in timed]})
    log = read_interactions(table, order="none")
    vectors = np.eye(30, dtype=np.float32)
    counts = CollaborativeCounts.from_interactions(catalog, log)
    assert set(counts.rankers(None)) == {"beside all items", "near all items", "popularity"}
    items = [3, 4, 9, 5]
    weights = learn_weights(catalog, log, EmbeddingRanker(vectors).with_decay(1.0))
    blend = counts.blend(EmbeddingRanker(vectors).with_decay(1.0), weights)
    assert blend is not None
    forward, backward = blend.scores([request(catalog, *items), request(catalog, *items[::-1])])
    np.testing.assert_allclose(forward, backward, atol=1e-6)  # sums of float32
    recommender = open_recommender(catalog, log, cache=tmp_path, settings=NO_MODELS)
    found = recommender.recommend(History(("i3", "i4")), 5)
    assert found.items[0].item_id in {"i2", "i5"}
    assert not {"recent", "after"} & {word for item in found.items for word in item.source.split()}
    assert "after recent items" in CollaborativeCounts.from_interactions(catalog, timed).rankers(None)
