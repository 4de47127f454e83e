"""Learned ensemble of collaborative signals: co-occurrence, item vectors, texts and popularity.

How much each signal is worth differs between catalogs, so the weights are learned. The last basket of each user is held
out, the signals are computed from the rest, and the weights are fitted to the held-out items.

The query is one more signal. Its weight is learned separately, on simulated queries of one or two words of the title of
the held-out item: in the log itself no user has a query, so its weight could not be fitted.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from genrec.data.catalog import Catalog
from genrec.data.interactions import Interactions
from genrec.data.subset import Subset
from genrec.rankers.base import DenseRanker, RankRequest
from genrec.rankers.collaborative import CooccurrenceRanker, fit_pmi_vectors
from genrec.rankers.embedding import EmbeddingRanker
from genrec.rankers.ensemble import BlendRanker, fit_weights
from genrec.rankers.lexical import LexicalRanker
from genrec.rankers.popularity import PopularityRanker
from genrec.rankers.text_signals import TEXT_SIMILARITY, WORDS_SIMILARITY, text_signals
from genrec.types import IntArray, ItemId

_POPULARITY = "popularity"
# About the weights learned on three data sets; with few interactions they stay so. See eval/RESULTS.md.
INITIAL_WEIGHTS: Mapping[str, float] = {
    "beside recent items": 3.0,
    "beside all items": 3.0,
    "after recent items": 10.0,
    "after all items": 10.0,
    "near recent items": 2.0,
    "near all items": 0.5,
    TEXT_SIMILARITY: 1.0,
    WORDS_SIMILARITY: 20.0,
    _POPULARITY: 0.1,
}
"""The weight of each signal before any is learned."""
_ORDERED_SIGNALS = frozenset({"beside recent items", "after recent items", "after all items", "near recent items"})
_RECENT_DECAY = 0.7  # weight of a history item relative to the next newer one
_MIN_TITLE_WEIGHT = 1e-6  # least weight of texts
_MIN_WORDS_WEIGHT, _MAX_WORDS_WEIGHT = 1.0, 100.0  # range of the weight of the query
_MAX_TRAINING_USERS, _MAX_WORDS_USERS = 2000, 500  # users that weights are learned from
_MAX_TRAINING_SCORES = 300_000_000  # users times items: fewer users are enough to learn nine weights in a large catalog
_TITLE_WORD = re.compile(r"[^\W\d_]{3,}")  # title words that may be part of a query
_SEED = 0
_MAX_VECTOR_ITEMS = 500_000  # larger catalogs have no item vectors, which would take too much memory


@dataclass(frozen=True, eq=False)
class CollaborativeCounts:
    """Collaborative statistics of the N items of a catalog.

    Attributes:
        cooccurrence: co-occurrence and next-item counts.
        item_vectors: float32 [N, D], similar for items with the same neighbours; see `fit_pmi_vectors`.
        item_counts: int64 [N], interactions of each item.
        is_ordered: whether the interactions have an order; without one, no signal uses the order of a history.
    """

    cooccurrence: CooccurrenceRanker
    item_vectors: NDArray[np.float32]
    item_counts: IntArray
    is_ordered: bool = True

    @classmethod
    def from_interactions(
        cls, catalog: Catalog, interactions: Interactions, vectors: NDArray[np.float32] | None = None
    ) -> "CollaborativeCounts":
        """Count the interactions of a log; `vectors` are item vectors of the same log, computed if None."""
        offsets, items = interactions.to_indices(catalog, on_unknown="skip")
        cooccurrence = CooccurrenceRanker(offsets, items, len(catalog), decay=_RECENT_DECAY, next_weight=0)
        popularity = np.bincount(items, minlength=len(catalog))
        vectors = item_vectors(catalog, interactions) if vectors is None else vectors
        return cls(cooccurrence, vectors, popularity, interactions.order != "none")

    def reindexed(self, new_indices: IntArray, n_items: int) -> "CollaborativeCounts":
        """The statistics for another version of the catalog; new items have none.

        Args:
            new_indices: int64 [N], the new index of each item, -1 for a removed item.
            n_items: number of items in the other version.
        """
        kept = new_indices >= 0
        vectors = np.zeros((n_items, self.item_vectors.shape[1]), dtype=np.float32)
        popularity = np.zeros(n_items, dtype=np.int64)
        vectors[new_indices[kept]], popularity[new_indices[kept]] = self.item_vectors[kept], self.item_counts[kept]
        return replace(
            self,
            cooccurrence=self.cooccurrence.reindexed(new_indices, n_items),
            item_vectors=vectors,
            item_counts=popularity,
        )

    def rankers(
        self, embedding: EmbeddingRanker | None, lexical: LexicalRanker | None = None
    ) -> dict[str, DenseRanker]:
        """The signals by name: each collaborative one over recent and over all history items, texts, and popularity.

        Without an order of the interactions, the signals of recent items and of items that follow them are left out.
        """
        signals: dict[str, DenseRanker] = {
            "beside recent items": self.cooccurrence,
            "beside all items": self.cooccurrence.with_weights(decay=1, next_weight=0),
            "after recent items": self.cooccurrence.with_weights(decay=_RECENT_DECAY, cooccurrence_weight=0),
            "after all items": self.cooccurrence.with_weights(decay=1, cooccurrence_weight=0),
            "near recent items": EmbeddingRanker(self.item_vectors, decay=_RECENT_DECAY),
            "near all items": EmbeddingRanker(self.item_vectors, decay=1),
            **text_signals(embedding, lexical),
            _POPULARITY: PopularityRanker(self.item_counts),
        }
        return {name: ranker for name, ranker in signals.items() if self.is_ordered or name not in _ORDERED_SIGNALS}

    def blend(
        self,
        embedding: EmbeddingRanker | None,
        weights: Mapping[str, float],
        lexical: LexicalRanker | None = None,
    ) -> BlendRanker | None:
        """The weighted ensemble of the signals, without those of weight 0; None if only popularity has a weight.

        Texts are always included, because they know every item.
        """
        return _weighted_blend(self.rankers(embedding, lexical), weights)


def learn_weights(
    catalog: Catalog,
    interactions: Interactions,
    embedding: EmbeddingRanker | None,
    lexical: LexicalRanker | None = None,
) -> dict[str, float]:
    """Learn the weights of the signals from the last baskets of up to 2,000 users, fewer above 150,000 items.

    Args:
        catalog: the items that can be recommended.
        interactions: all interactions.
        embedding: the ranker by the meaning of texts, or None.
        lexical: the ranker by their letters, or None.

    Returns:
        The weight of each signal of `CollaborativeCounts.rankers`, by name.
    """
    train, baskets = interactions.leave_last_basket_out()
    signals = CollaborativeCounts.from_interactions(catalog, train).rankers(embedding, lexical)
    words = signals.pop(WORDS_SIMILARITY, None)
    rng, everything = np.random.default_rng(_SEED), Subset.everything(len(catalog))
    requests, targets = [], []
    n_users = min(_MAX_TRAINING_USERS, max(_MAX_WORDS_USERS, _MAX_TRAINING_SCORES // len(catalog)))
    for number in rng.permutation(len(baskets))[:n_users]:
        history = _known_indices(catalog, baskets[number].history.item_ids)
        new = np.setdiff1d(_known_indices(catalog, baskets[number].item_ids), history)
        if len(new) and len(history):
            requests.append(RankRequest(history, "", everything.without(history)))
            targets.append(int(rng.choice(new)))
    initial = np.array([INITIAL_WEIGHTS[name] for name in signals])
    fitted = fit_weights(
        list(signals.values()), requests, np.array(targets, dtype=np.int64), initial_weights=initial, seed=_SEED
    )
    weights = dict(zip(signals, fitted.tolist(), strict=True))
    others = _weighted_blend(signals, weights)
    if words is not None:
        weights[WORDS_SIMILARITY] = (
            INITIAL_WEIGHTS[WORDS_SIMILARITY]
            if others is None
            else _fit_words_weight(catalog, others, words, requests, targets)
        )
    return weights


def _fit_words_weight(
    catalog: Catalog,
    other_signals: DenseRanker,
    words_ranker: DenseRanker,
    requests: Sequence[RankRequest],
    targets: Sequence[int],
) -> float:
    """Fit the weight of the query relative to all other signals, on simulated queries for the held-out items.

    A simulated query is one or two words of the target's title. For every second user the target is that of another
    user, because users also search for items that their history does not predict. Most histories are cut to their
    newest items, because each item of a short history counts more, and the query must outweigh it.

    Args:
        catalog: gives the titles of the targets.
        other_signals: all other signals, which ignore queries.
        words_ranker: ranks by queries only.
        requests: U requests without words.
        targets: the held-out item of each user.

    Returns:
        The weight, within the range of `_MIN_WORDS_WEIGHT` and `_MAX_WORDS_WEIGHT`.
    """
    rng = np.random.default_rng(_SEED)
    queries, query_targets = [], []
    others = rng.permutation(np.array(targets, dtype=np.int64)).tolist()
    for number, request in enumerate(requests[:_MAX_WORDS_USERS]):
        item = (targets if number % 2 else others)[number]
        if not request.allowed.contains(np.array([item])).all():
            continue
        title_words = _TITLE_WORD.findall(catalog[item].title)
        if title_words:
            count = min(len(title_words), int(rng.integers(1, 3)))
            chosen = rng.choice(len(title_words), count, replace=False)
            newest = request.history[-int(len(request.history) ** rng.random()) :]
            words = " ".join(title_words[word] for word in sorted(chosen))
            queries.append(replace(request, history=newest, words=words))
            query_targets.append(item)
    initial = np.array([1.0, INITIAL_WEIGHTS[WORDS_SIMILARITY]])
    target_indices = np.array(query_targets, dtype=np.int64)
    others_weight, words_weight = fit_weights(
        [other_signals, words_ranker], queries, target_indices, initial_weights=initial, seed=_SEED
    )
    relative = words_weight / others_weight if others_weight > 0 else np.inf
    return float(np.clip(relative, _MIN_WORDS_WEIGHT, _MAX_WORDS_WEIGHT))


def item_vectors(catalog: Catalog, interactions: Interactions) -> NDArray[np.float32]:
    """Item vectors of a log, see `fit_pmi_vectors`; all 0 for a catalog of more than 500,000 items.

    Without an order of the interactions, all items of a user are neighbours.
    """
    if len(catalog) > _MAX_VECTOR_ITEMS:
        return np.zeros((len(catalog), 1), dtype=np.float32)
    offsets, items = interactions.to_indices(catalog, on_unknown="skip")
    if interactions.order == "none":
        return fit_pmi_vectors(offsets, items, len(catalog), window=None)
    return fit_pmi_vectors(offsets, items, len(catalog))


def _weighted_blend(rankers: Mapping[str, DenseRanker], weights: Mapping[str, float]) -> BlendRanker | None:
    """The blend of the signals with a weight; None if only popularity has one, which is no blend."""
    used = {name: max(weights[name], _MIN_TITLE_WEIGHT if name == TEXT_SIMILARITY else 0.0) for name in rankers}
    kept = {name: ranker for name, ranker in rankers.items() if used[name]}
    if kept.keys() <= {_POPULARITY}:
        return None
    return BlendRanker(
        kept, {name: used[name] for name in kept}, non_personalized=[_POPULARITY] if _POPULARITY in kept else []
    )


def _known_indices(catalog: Catalog, item_ids: Sequence[ItemId]) -> IntArray:
    indices = catalog.item_ids.positions(list(item_ids))
    return indices[indices >= 0]
