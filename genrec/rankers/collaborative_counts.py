"""What people did, as one ranker: what stood beside what, item vectors, texts and popularity, each as it deserves.

How much each is worth differs from shop to shop, so it is learned: what everybody took last is held back, the rest is
counted, and the weights are those under which what was held back stands out most. What somebody says is one part
more. Who says something says it because they want it, so its weight is learned apart, from people who say a word or two
of the title of what they then took: learned together, the many who say nothing would settle what words are worth.
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
from genrec.rankers.popularity import PopularityRanker
from genrec.types import IntArray, ItemId

_TITLE_SIMILARITY, _WORDS_SIMILARITY, _POPULARITY = "like their texts", "like their words", "popularity"
# About what was learned on three data sets; few interactions leave it so. See eval/RESULTS.md.
_INITIAL_WEIGHTS = {
    "beside recent items": 3.0,
    "beside all items": 3.0,
    "after recent items": 10.0,
    "after all items": 10.0,
    "near recent items": 2.0,
    "near all items": 0.5,
    _TITLE_SIMILARITY: 1.0,
    _WORDS_SIMILARITY: 20.0,
    _POPULARITY: 0.1,
}
_RECENT_DECAY = 0.7  # weight of an item over that of the next newer one
_MIN_TITLE_WEIGHT = 1e-6  # of texts at the least
_MIN_WORDS_WEIGHT, _MAX_WORDS_WEIGHT = (
    1.0,
    100.0,
)  # that words are worth: never nothing, however little titles say, nor all there is
_MAX_TRAINING_USERS, _MAX_WORDS_USERS = 2000, 500  # who weights are learned from, and what words are worth
_TITLE_WORD = re.compile(r"[^\W\d_]{3,}")  # words of a title that somebody might say
_SEED = 0
_MAX_VECTOR_ITEMS = 500_000  # item vectors of more take more memory than they are worth


@dataclass(frozen=True, eq=False)
class CollaborativeCounts:
    """What people did with the N items of a catalog.

    Attributes:
        cooccurrence: what stood beside what, and after it.
        item_vectors: float32 [N, D], of items, near those that stood near the same others.
        item_counts: int64 [N], interactions.
    """

    cooccurrence: CooccurrenceRanker
    item_vectors: NDArray[np.float32]
    item_counts: IntArray

    @classmethod
    def from_interactions(
        cls, catalog: Catalog, interactions: Interactions, vectors: NDArray[np.float32] | None = None
    ) -> "CollaborativeCounts":
        """Count; vectors that were made before of the same need not be made again."""
        offsets, items = interactions.to_indices(catalog, on_unknown="skip")
        beside = CooccurrenceRanker(offsets, items, len(catalog), decay=_RECENT_DECAY, next_weight=0)
        popularity = np.bincount(items, minlength=len(catalog))
        return cls(beside, item_vectors(catalog, interactions) if vectors is None else vectors, popularity)

    def reindexed(self, new_indices: IntArray, n_items: int) -> "CollaborativeCounts":
        """The same over another numbering: what was counted of kept items stays, of new ones nothing is known.

        Args:
            new_indices: int64 [N], the new number of each item, -1 for one that is gone.
            n_items: how many there are now.
        """
        kept = new_indices >= 0
        vectors = np.zeros((n_items, self.item_vectors.shape[1]), dtype=np.float32)
        popularity = np.zeros(n_items, dtype=np.int64)
        vectors[new_indices[kept]], popularity[new_indices[kept]] = self.item_vectors[kept], self.item_counts[kept]
        return CollaborativeCounts(self.cooccurrence.reindexed(new_indices, n_items), vectors, popularity)

    def rankers(self, embedding: EmbeddingRanker | None) -> dict[str, DenseRanker]:
        """By name, what a person's items say, each as the newest have it and as all of them do, and what they say."""
        texts = (
            {}
            if embedding is None
            else dict(zip((_TITLE_SIMILARITY, _WORDS_SIMILARITY), embedding.history_and_words_rankers(), strict=True))
        )
        return {
            "beside recent items": self.cooccurrence,
            "beside all items": self.cooccurrence.with_weights(decay=1, next_weight=0),
            "after recent items": self.cooccurrence.with_weights(decay=_RECENT_DECAY, cooccurrence_weight=0),
            "after all items": self.cooccurrence.with_weights(decay=1, cooccurrence_weight=0),
            "near recent items": EmbeddingRanker(self.item_vectors, decay=_RECENT_DECAY),
            "near all items": EmbeddingRanker(self.item_vectors, decay=1),
            **texts,
            _POPULARITY: PopularityRanker(self.item_counts),
        }

    def blend(self, embedding: EmbeddingRanker | None, weights: Mapping[str, float]) -> BlendRanker:
        """The parts with their weights; one that is worth nothing is left out, but for texts: they know every item."""
        return _weighted_blend(self.rankers(embedding), weights)


def learn_weights(catalog: Catalog, interactions: Interactions, embedding: EmbeddingRanker | None) -> dict[str, float]:
    """Weights of the parts by their names, learned from the last baskets of up to 2,000 people.

    Args:
        catalog: what can be recommended.
        interactions: all that is known.
        embedding: the ranker by texts, where there is one.
    """
    train, baskets = interactions.leave_last_basket_out()
    parts = {
        name: part
        for name, part in CollaborativeCounts.from_interactions(catalog, train).rankers(embedding).items()
        if name != _WORDS_SIMILARITY
    }
    random, everything = np.random.default_rng(_SEED), Subset.everything(len(catalog))
    requests, taken = [], []
    for place in random.permutation(len(baskets))[:_MAX_TRAINING_USERS]:
        had, new = (_known_indices(catalog, own) for own in (baskets[place].history.item_ids, baskets[place].item_ids))
        new = np.setdiff1d(new, had)
        if len(new) and len(had):
            requests.append(RankRequest(had, "", everything.without(had)))
            taken.append(int(random.choice(new)))
    start = np.array([_INITIAL_WEIGHTS[name] for name in parts])
    found = fit_weights(
        list(parts.values()), requests, np.array(taken, dtype=np.int64), initial_weights=start, seed=_SEED
    )
    weights = dict(zip(parts, found.tolist(), strict=True))
    if embedding is not None:
        weights[_WORDS_SIMILARITY] = _fit_words_weight(
            catalog, _weighted_blend(parts, weights), embedding.history_and_words_rankers()[1], requests, taken
        )
    return weights


def _fit_words_weight(
    catalog: Catalog,
    other_signals: DenseRanker,
    words_ranker: DenseRanker,
    requests: Sequence[RankRequest],
    targets: Sequence[int],
) -> float:
    """How much words count beside all else, which counts 1: of people who say something of what they then take.

    Every second one of them takes what somebody else took: who asks, asks for what they do not always take as well, and
    where habits tell everything, those alone who keep to them would never need a word. Of most histories only the
    newest items are known: the fewer there are, the louder each of them speaks, and words must be heard beside all.

    Args:
        catalog: names what was taken.
        other_signals: all else, which reads no words.
        words_ranker: reads nothing but words.
        requests, targets: people, and the item each took.
    """
    random = np.random.default_rng(_SEED)
    spoken, chosen = [], []
    others = random.permutation(np.array(targets, dtype=np.int64)).tolist()
    for place, request in enumerate(requests[:_MAX_WORDS_USERS]):
        item = (targets if place % 2 else others)[place]
        if not request.allowed.contains(np.array([item])).all():
            continue
        said = _TITLE_WORD.findall(catalog[item].title)
        if said:
            places = random.choice(len(said), min(len(said), int(random.integers(1, 3))), replace=False)
            newest = request.history[-int(len(request.history) ** random.random()) :]
            spoken.append(replace(request, history=newest, words=" ".join(said[own] for own in sorted(places))))
            chosen.append(item)
    start = np.array([1.0, _INITIAL_WEIGHTS[_WORDS_SIMILARITY]])
    rest, own = fit_weights(
        [other_signals, words_ranker], spoken, np.array(chosen, dtype=np.int64), initial_weights=start, seed=_SEED
    )
    return float(np.clip(own / rest if rest > 0 else np.inf, _MIN_WORDS_WEIGHT, _MAX_WORDS_WEIGHT))


def item_vectors(catalog: Catalog, interactions: Interactions) -> NDArray[np.float32]:
    """See `fit_pmi_vectors`; all 0 for a catalog that is too large for them."""
    if len(catalog) > _MAX_VECTOR_ITEMS:
        return np.zeros((len(catalog), 1), dtype=np.float32)
    return fit_pmi_vectors(*interactions.to_indices(catalog, on_unknown="skip"), len(catalog))


def _weighted_blend(rankers: Mapping[str, DenseRanker], weights: Mapping[str, float]) -> BlendRanker:
    worth = {name: max(weights[name], _MIN_TITLE_WEIGHT if name == _TITLE_SIMILARITY else 0.0) for name in rankers}
    kept = {name: part for name, part in rankers.items() if worth[name]}
    return BlendRanker(
        kept, {name: worth[name] for name in kept}, non_personalized=[_POPULARITY] if _POPULARITY in kept else []
    )


def _known_indices(catalog: Catalog, item_ids: Sequence[ItemId]) -> IntArray:
    places = catalog.item_ids.positions(list(item_ids))
    return places[places >= 0]
