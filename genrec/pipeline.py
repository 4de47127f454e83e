"""The pipeline: a catalog with all its rankers, and how it follows changes of the catalog.

Letters: N items.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from genrec.backends.base import TextBackend
from genrec.backends.provenance import Provenance
from genrec.data.catalog import Catalog
from genrec.data.interactions import Interactions
from genrec.data.item_texts import unchanged_text_indices
from genrec.decoding.grammar import GrammarCompiler
from genrec.errors import InputError
from genrec.index.catalog_index import CatalogIndex
from genrec.index.identifiers import Identifiers
from genrec.notices import Notice
from genrec.prompting.message_tokenizer import MessageTokenizer
from genrec.prompting.template import Template
from genrec.prompting.tokenizer import Tokenizer
from genrec.rankers.base import DenseRanker, Ranker
from genrec.rankers.collaborative_counts import INITIAL_WEIGHTS, CollaborativeCounts
from genrec.rankers.embedding import EmbeddingRanker
from genrec.rankers.ensemble import BlendRanker
from genrec.rankers.generative import GenerativeRanker
from genrec.rankers.lexical import LexicalRanker
from genrec.rankers.listwise import ListwiseRanker
from genrec.rankers.listwise_settings import ListwiseSettings
from genrec.rankers.popularity import PopularityRanker
from genrec.rankers.prior_store import draw_histories
from genrec.rankers.text_signals import text_blend
from genrec.recommender import Recommender
from genrec.types import IntArray

LLM_STAGES = ("generative", "generative-small")  # sources of the stages that run the LLM
_POPULARITY_WEIGHT = 1e-12  # so small that popularity decides only among items with equal scores


@dataclass(frozen=True, eq=False)
class CollaborativeModel:
    """Collaborative counts and the weights of their signals; see `genrec.rankers.collaborative_counts`.

    Attributes:
        catalog: the catalog whose item indices the counts use.
        counts: counts of events and item pairs.
        weights: signal to weight.
        fit: learns the model of other interactions, which takes minutes for large logs; None if the weights were not
            learned from interactions.
        is_fitted: whether item vectors and weights were learned from the interactions that were counted.
    """

    catalog: Catalog
    counts: CollaborativeCounts
    weights: Mapping[str, float]
    fit: "Callable[[Interactions], CollaborativeModel] | None" = None
    is_fitted: bool = True

    def counted_from(self, interactions: Interactions) -> "CollaborativeModel":
        """The model of other interactions, in seconds: where `fit` takes minutes, item vectors and learned weights are
        left out until it was called."""
        if self.fit is None:
            return replace(self, counts=CollaborativeCounts.from_interactions(self.catalog, interactions))
        no_vectors = np.zeros((len(self.catalog), 1), dtype=np.float32)
        counts = CollaborativeCounts.from_interactions(self.catalog, interactions, no_vectors)
        return replace(self, counts=counts, weights=INITIAL_WEIGHTS, is_fitted=False)

    def counts_for(self, catalog: Catalog) -> CollaborativeCounts:
        """The counts with the item indices of another version of the catalog."""
        if catalog is self.catalog:
            return self.counts
        return self.counts.reindexed(catalog.item_ids.positions(self.catalog.item_ids), len(catalog))


@dataclass(frozen=True, eq=False)
class LlmStage:
    """The LLM ranker and what it needs to follow changes of the catalog.

    Attributes:
        ranker: the LLM ranker.
        index: the index it searches.
        identifiers: how items are written in tokens.
        tokenizer: the LLM's tokenizer.
        small_search_candidates: number of candidates in the smaller search.
        background: number of users whose histories the prior is averaged over, see `draw_histories`; None if its
            histories are not those of users.
        origin: the stage of the original catalog; None for that stage itself.
    """

    ranker: GenerativeRanker
    index: CatalogIndex
    identifiers: Identifiers
    tokenizer: Tokenizer
    small_search_candidates: int
    background: int | None = None
    origin: "LlmStage | None" = None

    @property
    def stages(self) -> tuple[GenerativeRanker, GenerativeRanker]:
        """The LLM ranker, and the same ranker with a smaller search."""
        smaller = self.ranker.with_settings(
            source=LLM_STAGES[1], strategy="candidates", candidates=self.small_search_candidates, exact=False
        )
        return self.ranker, smaller

    @property
    def prior_folders(self) -> list[Path]:
        """The folders of its priors in the cache, whether they were saved or not."""
        return (self.origin or self).ranker.prior_folders

    @property
    def provenance(self) -> Provenance | None:
        """How its adapter was trained; None without one, or if it is not recorded."""
        return self.ranker.backend.provenance

    def restore_priors(self, on_progress: Callable[[int, int], None]) -> None:
        """Measure the prior again after `with_interactions`, see `GenerativeRanker.restore_priors`."""
        self.ranker.restore_priors(on_progress)

    def reindexed(self, catalog: Catalog, retriever: Ranker) -> "LlmStage":
        """The stage for another version of the catalog; the model stays loaded.

        The index depends on the original catalog and the other version only, not on the versions between them: which of
        two equal titles gets a suffix would otherwise depend on the order of their arrival.
        """
        origin = self.origin or self
        index = origin.index.reindexed(catalog, self.identifiers, self.tokenizer)
        ranker = origin.ranker.reindexed(index, retriever=retriever, measured=self.ranker)
        return replace(self, ranker=ranker, index=index, origin=origin)

    def with_interactions(
        self, interactions: Interactions | None, retriever: Ranker, origin_retriever: Ranker
    ) -> "LlmStage":
        """The stage whose prior is averaged over histories of other interactions; the model stays loaded.

        Args:
            interactions: the histories that may be shown in prompts.
            retriever: ranks the catalog.
            origin_retriever: ranks the original catalog.
        """
        origin = self.origin or self
        ranker = origin.ranker.with_settings(retriever=origin_retriever)
        if self.background is not None:
            min_length = ranker.settings.max_history
            histories = draw_histories(origin.index.catalog, interactions, count=self.background, min_length=min_length)
            ranker = ranker.with_prior_histories(histories)
        if self.origin is None:
            return replace(self, ranker=ranker)
        reindexed = ranker.reindexed(self.index, retriever=retriever, measured=self.ranker)
        return replace(self, ranker=reindexed, origin=replace(origin, ranker=ranker))


@dataclass(frozen=True, eq=False)
class ListwiseStage:
    """The ranker over an LLM that writes text, such as one behind an API.

    Attributes:
        ranker: the ranker.
        origin, provenance, prior_folders: as in `LlmStage`; the model is known by name only, and it has no prior.
    """

    ranker: ListwiseRanker
    origin: None = None
    provenance: None = None
    prior_folders: tuple[Path, ...] = ()

    @classmethod
    def from_backend(
        cls, catalog: Catalog, backend: TextBackend, retriever: Ranker, template: Template, settings: ListwiseSettings
    ) -> "ListwiseStage":
        """The stage of a model whose prompts a `MessageTokenizer` encodes.

        Raises:
            ModelMissingError: llguidance is not installed.
        """
        tokenizer = MessageTokenizer()
        grammar = GrammarCompiler(tokenizer)
        return cls(
            ListwiseRanker(
                catalog, backend, tokenizer, grammar, retriever=retriever, template=template, settings=settings
            )
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the LLM's prompts."""
        return self.ranker.tokenizer

    @property
    def stages(self) -> tuple[ListwiseRanker]:
        """The ranker alone: a smaller search would ask a model again that has just failed."""
        return (self.ranker,)

    def reindexed(self, catalog: Catalog, retriever: Ranker) -> "ListwiseStage":
        """The stage for another version of the catalog."""
        return ListwiseStage(self.ranker.reindexed(catalog, retriever=retriever))

    def with_interactions(
        self, interactions: Interactions | None, retriever: Ranker, origin_retriever: Ranker
    ) -> "ListwiseStage":
        """The stage with candidates from other interactions; it keeps nothing else that is computed from users."""
        return self.reindexed(self.ranker.catalog, retriever)

    def restore_priors(self, on_progress: Callable[[int, int], None]) -> None:
        """Nothing: a list by numbers has no prior."""


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A catalog and all its rankers; immutable, `revised` makes one for a changed catalog.

    Made by `Pipeline.from_rankers` or `genrec.loading.open_pipeline`.

    Attributes:
        catalog: the items that can be recommended.
        interactions: histories of known users, or None.
        embedding: the embedding ranker, or None.
        collaborative: counts and weights learned from the interactions, or None.
        ensemble: the ranker for `collaborative`, `embedding` and `lexical` over this catalog, or None.
        popularity: the popularity ranker, the last stage.
        lexical: the ranker by the letters of a query, or None.
        text_columns: the columns that make the texts of items, which `embedding` and `lexical` see.
        llm: the LLM stage, or None.
        loading_notices: a notice for each stage that could not be loaded.
        cache: the cache folder with results that were computed from the interactions, or None.
    """

    catalog: Catalog
    interactions: Interactions | None
    embedding: EmbeddingRanker | None
    collaborative: CollaborativeModel | None
    ensemble: BlendRanker | None
    popularity: PopularityRanker
    lexical: LexicalRanker | None = None
    text_columns: tuple[str, ...] = ("title",)
    llm: LlmStage | ListwiseStage | None = None
    loading_notices: tuple[Notice, ...] = ()
    cache: Path | None = None

    @classmethod
    def from_rankers(
        cls,
        catalog: Catalog,
        interactions: Interactions | None = None,
        embedding: EmbeddingRanker | None = None,
        collaborative: CollaborativeModel | None = None,
        lexical: LexicalRanker | None = None,
    ) -> "Pipeline":
        """A pipeline without an LLM; the text rankers see titles, unless `text_columns` is replaced."""
        by_texts = None if lexical is None else text_blend(embedding, lexical)
        if collaborative is None:
            item_counts = np.zeros(len(catalog), dtype=np.int64)
            if interactions is not None:
                item_counts = interactions.item_counts(catalog, on_unknown="skip")
            return cls(catalog, interactions, embedding, None, by_texts, PopularityRanker(item_counts), lexical)
        counts = collaborative.counts_for(catalog)
        blend = counts.blend(embedding, collaborative.weights, lexical) or by_texts
        popularity = PopularityRanker(counts.item_counts)
        return cls(catalog, interactions, embedding, collaborative, blend, popularity, lexical)

    @property
    def notices(self) -> tuple[Notice, ...]:
        """Shown with every recommendation list: missing stages, and differences to the training of an adapter."""
        return self.loading_notices if self.llm is None else (*self.loading_notices, *self.llm.ranker.notices)

    @property
    def retriever(self) -> BlendRanker:
        """Retrieves candidates for the LLM: the best ranker without an LLM, with ties broken by popularity."""
        best = self.ensemble or self.embedding
        rankers: dict[str, DenseRanker] = {
            ranker.source: ranker for ranker in (best, self.popularity) if ranker is not None
        }
        weights = {name: _POPULARITY_WEIGHT if name == self.popularity.source else 1.0 for name in rankers}
        return BlendRanker(rankers, weights, source=next(iter(rankers)))

    @property
    def stages(self) -> list[Ranker]:
        """The stages of the fallback chain that exist: LLM, smaller LLM search, ensemble, embedding, lexical,
        popularity."""
        llm_stages: Sequence[Ranker] = () if self.llm is None else self.llm.stages
        return [
            *llm_stages,
            *(
                ranker
                for ranker in (self.ensemble, self.embedding, self.lexical, self.popularity)
                if ranker is not None
            ),
        ]

    def recommender(self, *, lookup_users: bool = True) -> Recommender:
        """A recommender over this pipeline.

        Args:
            lookup_users: look up histories by user id in the interactions; otherwise every request has its own history.
        """
        interactions = self.interactions if lookup_users else None
        return Recommender(self.catalog, self.stages, interactions=interactions, notices=self.notices)

    def revised(self, upsert: Catalog | None = None, remove: Iterable[object] = ()) -> "Pipeline":
        """A new pipeline for a changed catalog; this one stays as it is.

        Only new texts are embedded and counted, and only new titles tokenized. The LLM, the prior of unchanged items
        and the weights of the collaborative signals are kept. Items that were not in the catalog when the interactions
        were counted have no counts. An item that is removed and later added again gets its counts back. Nothing is
        written to disk.

        Args:
            upsert: items that replace those with the same ids, attributes included, and new items.
            remove: ids of items to remove.

        Raises:
            UnknownItemError: an id to remove is not in the catalog.
            InputError: an item is both in `upsert` and `remove`, no item would be left, or an attribute has values of
                another type.
            EngineError: a model failed.
        """
        return self.reindexed(self.catalog.revised(upsert=upsert, remove=self._removed_indices(upsert, remove)))

    def reindexed(self, catalog: Catalog) -> "Pipeline":
        """A new pipeline for another version of the catalog; see `revised`.

        Raises:
            EngineError: a model failed.
        """
        embedding, lexical = self.embedding, self.lexical
        if embedding is not None or lexical is not None:
            indices, new_texts = unchanged_text_indices(self.catalog, catalog, self.text_columns)
            embedding = None if embedding is None else embedding.reindexed(indices, new_texts)
            lexical = None if lexical is None else lexical.reindexed(indices, new_texts)
        rankers = Pipeline.from_rankers(catalog, self.interactions, embedding, self.collaborative, lexical)
        pipeline = self._with_rankers(rankers)
        if self.llm is None:
            return pipeline
        return replace(pipeline, llm=self.llm.reindexed(catalog, pipeline.retriever))

    def without_users(self, user_ids: Iterable[object]) -> "Pipeline":
        """A new pipeline without anything that was computed from the interactions of some users.

        It takes seconds. Item vectors and the weights of the collaborative signals take longer: see
        `CollaborativeModel.counted_from` and `with_collaborative`. What an adapter has learned stays. Nothing is
        written to disk, and nothing is removed from it.

        Args:
            user_ids: ids of users; those without interactions are ignored.

        Raises:
            ArtifactError: a saved prior was altered.
        """
        remaining = None if self.interactions is None else self.interactions.without_users(user_ids)
        if remaining is None or remaining is self.interactions:
            return self
        model = None if self.collaborative is None else self.collaborative.counted_from(remaining)
        return self._with_interactions(remaining, model)

    def with_collaborative(self, model: CollaborativeModel) -> "Pipeline":
        """A new pipeline with another model of the same interactions."""
        return self._with_interactions(self.interactions, model)

    def _with_interactions(self, interactions: Interactions | None, model: CollaborativeModel | None) -> "Pipeline":
        rankers = Pipeline.from_rankers(self.catalog, interactions, self.embedding, model, self.lexical)
        pipeline = self._with_rankers(rankers)
        if self.llm is None:
            return pipeline
        retriever = origin_retriever = pipeline.retriever
        if self.llm.origin is not None:  # without texts, because it only stands in for one
            original = Pipeline.from_rankers(self.llm.origin.index.catalog, interactions, None, model)
            origin_retriever = original.retriever
        return replace(pipeline, llm=self.llm.with_interactions(interactions, retriever, origin_retriever))

    def _with_rankers(self, rankers: "Pipeline") -> "Pipeline":
        """A pipeline with other rankers, without an LLM; the rest is kept."""
        return replace(rankers, text_columns=self.text_columns, loading_notices=self.loading_notices, cache=self.cache)

    def _removed_indices(self, upsert: Catalog | None, remove: Iterable[object]) -> IntArray:
        removed = np.unique(self.catalog.indices_of(remove))
        if upsert is not None and len(removed):
            both = upsert.item_ids.positions(self.catalog.item_ids.take(removed)) >= 0
            if both.any():
                item_id = self.catalog.item_ids[int(removed[np.argmax(both)])]
                raise InputError(f"item {item_id!r} is in both upsert and remove; remove it from one of them")
        return removed
