"""Searches of an LLM over batches of requests: prompts, priors, fusion, token trees.

Letters: U requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from genrec.backends.base import Backend
from genrec.data.subset import Boost, Subset
from genrec.deadline import Deadline
from genrec.decoding.prior import Prior
from genrec.decoding.search import beam_search, exhaustive_search
from genrec.decoding.search_request import SearchRequest
from genrec.errors import InputError
from genrec.index.catalog_index import CatalogIndex
from genrec.notices import Notice
from genrec.prompting.renderer import RenderedPrompt, Renderer
from genrec.rankers.base import Ranker, RankRequest
from genrec.rankers.generative_settings import GenerativeSettings, Strategy
from genrec.rankers.memory_budget import NODES_PER_PASS, BatchDimensions
from genrec.rankers.prior_store import PriorStore
from genrec.rankers.retrieval import fusion_boosts, with_main_signals
from genrec.types import IntArray, Ranking

_EMPTY = np.empty(0, dtype=np.int64)
_EMPTY.flags.writeable = False


@dataclass(frozen=True)
class SearchBatch:
    """Requests that are searched together, for k items each.

    Attributes:
        renderer: renders all of them with one template.
        prior: the prior of the template; None if the settings use none, or the template lists candidates.
        requests: U requests.
        considered: U subsets of items, those that are compared.
        k: list length.
        strategy: how to search.
        deadline: when to stop.
    """

    renderer: Renderer
    prior: Prior | None
    requests: Sequence[RankRequest]
    considered: Sequence[Subset]
    k: int
    strategy: Strategy
    deadline: Deadline

    def with_items(self) -> "SearchBatch":
        """The requests for which any item is considered."""
        numbers = [number for number, subset in enumerate(self.considered) if len(subset)]
        requests = [self.requests[number] for number in numbers]
        return replace(self, requests=requests, considered=[self.considered[number] for number in numbers])

    def render(self) -> list[RenderedPrompt]:
        """The prompt of each request, with its candidates if the template lists candidates."""
        lists = shows_candidates(self.renderer)
        return [
            self.renderer.render(request.history, request.words, subset.to_indices() if lists else _EMPTY)
            for request, subset in zip(self.requests, self.considered, strict=True)
        ]


@dataclass(frozen=True)
class GenerativeSearch:
    """Ranks batches of requests with one model over one index.

    Attributes:
        index: the catalog as token ids.
        backend: the model.
        prior_store: measures the priors of prompts that list candidates.
        settings: how to search and score.
        retriever: gives the scores of fusion; required if `settings.fusion_weight` is above 0.
    """

    index: CatalogIndex
    backend: Backend
    prior_store: PriorStore
    settings: GenerativeSettings
    retriever: Ranker | None

    def run(self, batch: SearchBatch) -> list[Ranking]:
        """Rank a batch; requests for which no item is considered do not reach the model."""
        ranked = batch.with_items()
        rankings = iter(self._search_fused(ranked) if ranked.requests else ())
        return [
            next(rankings) if len(considered) else _empty_ranking(request)
            for request, considered in zip(batch.requests, batch.considered, strict=True)
        ]

    def _search_fused(self, batch: SearchBatch) -> list[Ranking]:
        """Add the retriever's scores to the LLM's; with candidates, name the main signal of each item."""
        boosts = [Boost.from_pairs([]) if request.boost is None else request.boost for request in batch.requests]
        if not self.settings.fusion_weight:
            return self._search_tree(batch, boosts, batch.k)
        if self.retriever is None:
            raise InputError("fusion_weight needs a retriever; pass one, such as an EmbeddingRanker")
        fusion = fusion_boosts(
            self.retriever,
            batch.requests,
            [subset.to_indices() for subset in batch.considered],
            weight=self.settings.fusion_weight,
            n_candidates=self.settings.candidates,
            deadline=batch.deadline,
        )
        fused = [boost.add(fusion_boost) for boost, fusion_boost in zip(boosts, fusion, strict=True)]
        if batch.strategy != "candidates":
            return self._search_tree(batch, fused, batch.k)
        # The main signal of an item depends on the scores of all items that it was compared with.
        rankings = self._search_tree(batch, fused, max(map(len, batch.considered)))
        return [
            with_main_signals(ranking, batch.k, boost, fusion_boost, self.retriever.source)
            for ranking, boost, fusion_boost in zip(rankings, boosts, fusion, strict=True)
        ]

    def _search_tree(self, batch: SearchBatch, boosts: Sequence[Boost], k: int) -> list[Ranking]:
        """Render the prompts, open a token tree after them, and search it for the k best items of each request."""
        prompts = batch.render()
        token_ids = [prompt.token_ids for prompt in prompts]
        trie = self.index.trie
        dimensions = BatchDimensions(
            batch.strategy, batch.k, len(prompts), max(map(len, token_ids)), trie.max_length, self.backend.token_bytes
        )
        node_budget = dimensions.node_budget(self.settings)
        search_request = self._search_request(batch, boosts, k)
        tree = self.backend.open(token_ids, deadline=batch.deadline)
        if batch.strategy == "beam":
            width, exact = self.settings.width, self.settings.exact
            rankings = beam_search(tree, trie, search_request, width=width, exact=exact, max_nodes=node_budget)
        else:
            rankings = exhaustive_search(tree, trie, search_request, max_nodes=NODES_PER_PASS)
        return [
            replace(ranking, notices=prompt.notices, prompt_tokens=len(prompt.token_ids))
            for ranking, prompt in zip(rankings, prompts, strict=True)
        ]

    def _search_request(self, batch: SearchBatch, boosts: Sequence[Boost], k: int) -> SearchRequest:
        """The search in terms of index rows, with the prior of all items that it may score."""
        rows = [self.index.to_row_subset(subset) for subset in batch.considered]
        penalty = None
        if self.settings.prior and shows_candidates(batch.renderer):
            prompts = [batch.renderer.render(_EMPTY, "", subset.to_indices()).token_ids for subset in batch.considered]
            weight, deadline = -self.settings.prior, batch.deadline
            priors = self.prior_store.candidate_boosts(
                prompts, batch.considered, self.settings.score, weight=weight, deadline=deadline
            )
            boosts = [boost.add(prior_boost) for boost, prior_boost in zip(boosts, priors, strict=True)]
        elif batch.prior is not None:
            batch.prior.fill(None if batch.strategy == "beam" else _all_rows(rows), deadline=batch.deadline)
            penalty = batch.prior.penalty(self.settings.prior)
        boosted_rows = [self.index.to_row_boost(boost) for boost in boosts]
        return SearchRequest(rows, k, self.settings.score, penalty, boosted_rows)


def shows_candidates(renderer: Renderer) -> bool:
    """Whether the template of a renderer lists candidates in the prompt."""
    return "candidates" in renderer.template.inputs


def _empty_ranking(request: RankRequest) -> Ranking:
    """The ranking of a request for which no item is considered; a notice says so if no item is allowed."""
    notices = () if len(request.allowed) else (Notice("nothing_allowed"),)
    return Ranking(_EMPTY.copy(), np.empty(0), True, 0, notices)


def _all_rows(subsets: Sequence[Subset]) -> IntArray | None:
    """All rows of some subsets; None if one of them holds every row."""
    if any(len(subset) == subset.universe for subset in subsets):
        return None
    return np.concatenate([subset.to_indices() for subset in subsets])
