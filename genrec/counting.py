"""What people did, as one ranker: what stood beside what, item vectors, texts and popularity, each as it deserves.

How much each is worth differs from shop to shop, so it is learned: what everybody took last is held back, the rest is
counted, and the weights are those under which what was held back stands out most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrec.catalog import Catalog
from genrec.interactions import Interactions
from genrec.rankers.base import DenseRanker, RankRequest
from genrec.rankers.blend import BlendRanker, fit_weights
from genrec.rankers.cooccurrence import CooccurrenceRanker, count_vectors
from genrec.rankers.embedding import EmbeddingRanker
from genrec.rankers.popularity import PopularityRanker
from genrec.subset import Subset
from genrec.types import IntArray, ItemId

_TEXTS, _POPULARITY = "like their texts", "popularity"
# About what was learned on three data sets; few interactions leave it so. See eval/RESULTS.md.
_START = {
    "beside recent items": 3.0,
    "beside all items": 3.0,
    "after recent items": 10.0,
    "after all items": 10.0,
    "near recent items": 2.0,
    "near all items": 0.5,
    _TEXTS: 1.0,
    _POPULARITY: 0.1,
}
_RECENT = 0.7  # weight of an item over that of the next newer one
_TRACE = 1e-6  # of texts at the least
_PEOPLE = 2000  # who weights are learned from
_SEED = 0
_MOST_ITEMS = 500_000  # item vectors of more take more memory than they are worth


@dataclass(frozen=True, eq=False)
class Counts:
    """What people did with the N items of a catalog.

    Attributes:
        beside: what stood beside what, and after it.
        vectors: float32 [N, D], of items, near those that stood near the same others.
        popularity: int64 [N], interactions.
    """

    beside: CooccurrenceRanker
    vectors: NDArray[np.float32]
    popularity: IntArray

    @classmethod
    def of(cls, catalog: Catalog, interactions: Interactions, vectors: NDArray[np.float32] | None = None) -> "Counts":
        """Count; vectors that were made before of the same need not be made again."""
        offsets, items = interactions.as_indices(catalog, on_unknown="skip")
        beside = CooccurrenceRanker(offsets, items, len(catalog), decay=_RECENT, next_weight=0)
        popularity = np.bincount(items, minlength=len(catalog))
        return cls(beside, item_vectors(catalog, interactions) if vectors is None else vectors, popularity)

    def over(self, places: IntArray, items: int) -> "Counts":
        """The same over another numbering: what was counted of kept items stays, of new ones nothing is known.

        Args:
            places: int64 [N], the new number of each item, -1 for one that is gone.
            items: how many there are now.
        """
        kept = places >= 0
        vectors = np.zeros((items, self.vectors.shape[1]), dtype=np.float32)
        popularity = np.zeros(items, dtype=np.int64)
        vectors[places[kept]], popularity[places[kept]] = self.vectors[kept], self.popularity[kept]
        return Counts(self.beside.over(places, items), vectors, popularity)

    def parts(self, embedding: EmbeddingRanker | None) -> dict[str, DenseRanker]:
        """What a person's items say, by name: each as the newest have it, and as all of them do."""
        texts = {} if embedding is None else {_TEXTS: embedding}
        return {
            "beside recent items": self.beside,
            "beside all items": self.beside.with_weights(decay=1, next_weight=0),
            "after recent items": self.beside.with_weights(decay=_RECENT, beside_weight=0),
            "after all items": self.beside.with_weights(decay=1, beside_weight=0),
            "near recent items": EmbeddingRanker(self.vectors, decay=_RECENT),
            "near all items": EmbeddingRanker(self.vectors, decay=1),
            **texts,
            _POPULARITY: PopularityRanker(self.popularity),
        }

    def blend(self, embedding: EmbeddingRanker | None, weights: Mapping[str, float]) -> BlendRanker:
        """The parts with their weights; one worth nothing is left out, but for texts, by which words are read."""
        parts = self.parts(embedding)
        worth = {name: max(weights[name], _TRACE if name == _TEXTS else 0.0) for name in parts}
        kept = {name: part for name, part in parts.items() if worth[name]}
        support = [_POPULARITY] if _POPULARITY in kept else []
        return BlendRanker(kept, {name: worth[name] for name in kept}, support=support)


def learn_weights(catalog: Catalog, interactions: Interactions, embedding: EmbeddingRanker | None) -> dict[str, float]:
    """Weights of the parts by their names, learned from the last baskets of up to 2,000 people.

    Args:
        catalog: what can be recommended.
        interactions: all that is known.
        embedding: the ranker by texts, where there is one.
    """
    train, baskets = interactions.leave_last_basket_out()
    parts = Counts.of(catalog, train).parts(embedding)
    random, everything = np.random.default_rng(_SEED), Subset.everything(len(catalog))
    requests, taken = [], []
    for place in random.permutation(len(baskets))[:_PEOPLE]:
        had, new = (_known(catalog, own) for own in (baskets[place].history.item_ids, baskets[place].item_ids))
        new = np.setdiff1d(new, had)
        if len(new) and len(had):
            requests.append(RankRequest(had, "", everything.without(had)))
            taken.append(int(random.choice(new)))
    start = np.array([_START[name] for name in parts])
    found = fit_weights(list(parts.values()), requests, np.array(taken, dtype=np.int64), start=start, seed=_SEED)
    return dict(zip(parts, found.tolist(), strict=True))


def item_vectors(catalog: Catalog, interactions: Interactions) -> NDArray[np.float32]:
    """See `count_vectors`; all 0 for a catalog that is too large for them."""
    if len(catalog) > _MOST_ITEMS:
        return np.zeros((len(catalog), 1), dtype=np.float32)
    return count_vectors(*interactions.as_indices(catalog, on_unknown="skip"), len(catalog))


def _known(catalog: Catalog, item_ids: Sequence[ItemId]) -> IntArray:
    places = catalog.item_ids.positions(list(item_ids))
    return places[places >= 0]
