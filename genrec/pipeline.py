"""What a recommender is put together from, and what of it stays when its catalog changes.

Letters: N items.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from genrec.data.catalog import Catalog
from genrec.data.interactions import Interactions
from genrec.errors import InputError
from genrec.index.catalog_index import CatalogIndex, unchanged_item_indices
from genrec.index.identifiers import Identifiers
from genrec.notices import Notice
from genrec.prompting.tokenizer import Tokenizer
from genrec.rankers.base import DenseRanker, Ranker
from genrec.rankers.collaborative_counts import CollaborativeCounts
from genrec.rankers.embedding import EmbeddingRanker
from genrec.rankers.ensemble import BlendRanker
from genrec.rankers.generative import GenerativeRanker
from genrec.rankers.popularity import PopularityRanker
from genrec.recommender import Recommender
from genrec.types import IntArray

_POPULARITY_WEIGHT = (
    1e-12  # of popularity, so that a list of candidates is full where nothing else is known; least of all
)


@dataclass(frozen=True, eq=False)
class CollaborativeModel:
    """Collaborative counts of a catalog and the weights of its signals; see `genrec.rankers.collaborative_counts`."""

    catalog: Catalog
    counts: CollaborativeCounts
    weights: Mapping[str, float]

    def counts_for(self, catalog: Catalog) -> CollaborativeCounts:
        """The counts in the numbering of another version of the catalog."""
        if catalog is self.catalog:
            return self.counts
        return self.counts.reindexed(catalog.item_ids.positions(self.catalog.item_ids), len(catalog))


@dataclass(frozen=True, eq=False)
class LlmStage:
    """The LLM: the index it searches, how that was written, and how many candidates the smaller search has."""

    ranker: GenerativeRanker
    index: CatalogIndex
    identifiers: Identifiers
    tokenizer: Tokenizer
    small_search_candidates: int

    @property
    def stages(self) -> tuple[GenerativeRanker, GenerativeRanker]:
        """The ranker, and the same with a smaller search."""
        smaller = self.ranker.with_settings(
            source="generative-small", strategy="candidates", candidates=self.small_search_candidates, exact=False
        )
        return self.ranker, smaller

    def reindexed(self, catalog: Catalog, retriever: Ranker) -> "LlmStage":
        """The same over another version of the catalog; the model stays loaded."""
        index = self.index.reindexed(catalog, self.identifiers, self.tokenizer)
        return replace(self, ranker=self.ranker.reindexed(index, retriever=retriever), index=index)


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A catalog and everything that ranks it; a value, from which `revised` makes the next one.

    Made by `Pipeline.from_rankers` or `genrec.loading.open_parts`.

    Attributes:
        catalog: what can be recommended.
        interactions: histories of known users.
        embedding: the ranker by texts, where there is one.
        collaborative: what people did, as it was when the files were read.
        ensemble: the same as a ranker of this catalog.
        popularity: the last step.
        llm: the LLM, where there is one.
        notices: what every answer should mention.
    """

    catalog: Catalog
    interactions: Interactions | None
    embedding: EmbeddingRanker | None
    collaborative: CollaborativeModel | None
    ensemble: BlendRanker | None
    popularity: PopularityRanker
    llm: LlmStage | None = None
    notices: tuple[Notice, ...] = ()

    @classmethod
    def from_rankers(
        cls,
        catalog: Catalog,
        interactions: Interactions | None = None,
        embedding: EmbeddingRanker | None = None,
        collaborative: CollaborativeModel | None = None,
    ) -> "Pipeline":
        """Put together what needs no model but the encoder."""
        if collaborative is None:
            counts = np.zeros(len(catalog), dtype=np.int64)
            if interactions is not None:
                counts = interactions.item_counts(catalog, on_unknown="skip")
            return cls(catalog, interactions, embedding, None, None, PopularityRanker(counts))
        counted = collaborative.counts_for(catalog)
        blend = counted.blend(embedding, collaborative.weights)
        return cls(catalog, interactions, embedding, collaborative, blend, PopularityRanker(counted.item_counts))

    @property
    def retriever(self) -> BlendRanker:
        """What proposes candidates to the LLM: the best that needs none, and a trace of popularity."""
        known = self.ensemble or self.embedding
        parts: dict[str, DenseRanker] = {one.source: one for one in (known, self.popularity) if one is not None}
        traces = {name: _POPULARITY_WEIGHT if name == self.popularity.source else 1.0 for name in parts}
        return BlendRanker(parts, traces, source=next(iter(parts)))

    @property
    def stages(self) -> list[Ranker]:
        """LLM, smaller search, what people did, texts, popularity: those that there are."""
        generating = [] if self.llm is None else self.llm.stages
        return [*generating, *(one for one in (self.ensemble, self.embedding, self.popularity) if one is not None)]

    def recommender(self, *, lookup_users: bool = True) -> Recommender:
        """All of it as a recommender.

        Args:
            lookup_users: let it look up what the interactions say of a user; otherwise every request brings its history.
        """
        interactions = self.interactions if lookup_users else None
        return Recommender(self.catalog, self.stages, interactions=interactions, notices=self.notices)

    def revised(self, upsert: Catalog | None = None, remove: Iterable[object] = ()) -> "Pipeline":
        """These with some items put into the catalog and others withdrawn; this value stays as it is.

        Only new texts are embedded and only new titles are written in tokens; the LLM, its prior of kept items and the
        weights of what people did stay. What people did with items that were not there when it was counted is not
        counted; where an item that was comes back, so does that. Nothing is written to disk.

        Args:
            upsert: items that take the place of those with their ids, attributes and all, and new ones.
            remove: ids.

        Raises:
            UnknownItemError: an id to withdraw is not in the catalog.
            InputError: an item is both put and withdrawn, nothing would be left, or an attribute is of another kind.
            EngineError: a model failed.
        """
        catalog = self.catalog.revised(upsert=upsert, remove=self._removed_indices(upsert, remove))
        embedding = self.embedding
        if embedding is not None:
            places = unchanged_item_indices(self.catalog, catalog)
            fresh = np.delete(np.arange(len(catalog)), places[places >= 0])
            embedding = embedding.reindexed(places, catalog.titles_at(fresh))
        parts = replace(
            Pipeline.from_rankers(catalog, self.interactions, embedding, self.collaborative), notices=self.notices
        )
        if self.llm is None:
            return parts
        return replace(parts, llm=self.llm.reindexed(catalog, parts.retriever))

    def _removed_indices(self, upsert: Catalog | None, remove: Iterable[object]) -> IntArray:
        gone = np.unique(self.catalog.indices_of(remove))
        if upsert is not None and len(gone):
            both = upsert.item_ids.positions(self.catalog.item_ids.take(gone)) >= 0
            if both.any():
                raise InputError(
                    f"item {self.catalog.item_ids[int(gone[np.argmax(both)])]!r} is to be put and withdrawn; leave it "
                    "out of one"
                )
        return gone
