"""The LLM as a ranker: render the prompt, encode it, search the catalog."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from genrec.backends.base import Backend
from genrec.data.subset import Subset
from genrec.deadline import Deadline
from genrec.decoding.prior import Prior
from genrec.errors import InputError, TokenizerMismatchError, check_count
from genrec.index.catalog_index import CatalogIndex
from genrec.notices import Notice
from genrec.prompting.renderer import RenderedPrompt, Renderer, window_start
from genrec.prompting.template import Template
from genrec.prompting.tokenizer import Tokenizer
from genrec.rankers.base import Ranker, RankRequest, scores_in_order
from genrec.rankers.generative_checks import check_templates, check_tokenizer
from genrec.rankers.generative_search import GenerativeSearch, SearchBatch, shows_candidates
from genrec.rankers.generative_settings import GenerativeSettings
from genrec.rankers.prior_store import PriorSource, PriorStore
from genrec.rankers.retrieval import retrieve_candidates
from genrec.types import FloatArray, IntArray, Ranking

_EMPTY = np.empty(0, dtype=np.int64)
_EMPTY.flags.writeable = False


class GenerativeRanker:
    """Ranks items by the LLM's score of their identifiers after a prompt that shows the history.

    Args:
        index: the catalog as token ids.
        backend: the model.
        tokenizer: the model's tokenizer, with which the index was built.
        template: prompt with `history` and `words`; its output is an item.
        cold_template: prompt with `words` alone, for users without a history.
        prior: how the prior is measured and where it is saved.
        retriever: returns the candidates and the scores of fusion; required by the strategy `candidates` and by
            `fusion_weight`.
        settings: how to search and score.

    Attributes:
        source: name of the stage in recommendations, "generative" unless `with_settings` changes it.
        notices: differences between the training of an adapter and its use here: templates, catalog, index or settings.

    Raises:
        ArtifactError: a saved prior was altered.
        TokenizerMismatchError: the index, the adapter or the model belongs to another tokenizer.
        InputError: a retriever is missing, or a template does not fit.
    """

    def __init__(
        self,
        index: CatalogIndex,
        backend: Backend,
        tokenizer: Tokenizer,
        *,
        template: Template,
        cold_template: Template,
        prior: PriorSource | None = None,
        retriever: Ranker | None = None,
        settings: GenerativeSettings | None = None,
    ) -> None:
        check_tokenizer(index, backend, tokenizer)
        prior = prior or PriorSource()
        self.settings, self.source = settings or GenerativeSettings(), "generative"
        self._index, self._backend, self._tokenizer = index, backend, tokenizer
        self._templates = (template, cold_template)
        self._retriever = retriever
        self._prior_histories = tuple(prior.histories)
        self._prior_store = PriorStore(index, prior.backend or backend, prior.cache)
        self._prior_prompts: tuple[Sequence[IntArray] | None, Sequence[IntArray] | None] = (None, None)
        self._was_complete = False  # whether a prior of the whole catalog was replaced, see `restore_priors`
        self._apply_settings()

    def with_settings(
        self,
        *,
        source: str | None = None,
        retriever: Ranker | None = None,
        prior_histories: Sequence[IntArray] | None = None,
        **changes: Any,
    ) -> "GenerativeRanker":
        """A copy with other settings, name, retriever or prior; it shares the model, the index and measured priors.

        Args:
            source: name of the stage in recommendations.
            retriever: replaces the retriever.
            prior_histories: replace the histories of the prior, see `PriorSource`.
            changes: fields of `GenerativeSettings`.

        Raises:
            InputError: a value is out of range, or a retriever is missing.
        """
        other = copy.copy(self)
        other.source = source or self.source
        other._prior_histories = self._prior_histories if prior_histories is None else tuple(prior_histories)
        if prior_histories is not None or changes.keys() & {"max_history", "history_step"}:
            other._prior_prompts = (None, None)
        other.settings = replace(self.settings, **changes)
        other._retriever = retriever or self._retriever
        other._apply_settings()
        return other

    def reindexed(
        self, index: CatalogIndex, *, retriever: Ranker | None = None, measured: "GenerativeRanker | None" = None
    ) -> "GenerativeRanker":
        """A copy over the index of another version of the catalog; it shares the model.

        The prompts of the prior stay the same, even if they show an item that was removed. Measured priors of items
        whose identifier has not changed are kept; the priors of the copy are not saved.

        Args:
            index: made by `CatalogIndex.reindexed` or `CatalogIndex.update` from the current one.
            retriever: ranks the other version of the catalog.
            measured: an earlier result of this method, whose measured priors are kept; by default this ranker.

        Raises:
            TokenizerMismatchError: the index was built with another tokenizer.
        """
        if index.tokenizer_fingerprint != self._tokenizer.fingerprint:
            raise TokenizerMismatchError(
                f"the index was built for tokenizer {index.tokenizer_fingerprint[:12]}, not for "
                f"{self._tokenizer.fingerprint[:12]}; pass an index built with this ranker's tokenizer"
            )
        other = copy.copy(self)
        new_indices = index.catalog.item_ids.positions(self._index.catalog.item_ids)
        histories = [new_indices[history] for history in self._prior_histories]
        other._prior_histories = tuple(history[history >= 0] for history in histories)
        other._index, other._retriever = index, retriever or self._retriever
        warm, cold = (None if prior is None else prior.prompts for prior in self._priors)
        other._prior_prompts = (warm, cold)
        other._prior_store = (measured or self)._prior_store.reindexed(index, (warm, cold))
        other._apply_settings()
        return other

    def with_prior_histories(
        self, histories: Sequence[IntArray], *, retriever: Ranker | None = None
    ) -> "GenerativeRanker":
        """A copy whose prior is measured behind other histories, without a trace of the ones that they replace.

        Args:
            histories: see `PriorSource`.
            retriever: replaces the retriever.

        Raises:
            ArtifactError: a saved prior was altered.
        """
        other = self.with_settings(prior_histories=histories, retriever=retriever)
        other._prior_store = other._prior_store.restricted_to(other._priors)
        other._apply_settings()
        before, after = self._priors[0], other._priors[0]
        other._was_complete |= before is not after and before is not None and before.is_complete
        return other

    def restore_priors(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Measure the prior of the whole catalog, if `with_prior_histories` has replaced one that was measured.

        Args:
            on_progress: see `compute_priors`; an error that it raises ends the measurement.
        """
        if self._was_complete:
            self.compute_priors(on_progress)
            self._was_complete = False

    @property
    def index(self) -> CatalogIndex:
        """The catalog as token ids."""
        return self._index

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    @property
    def backend(self) -> Backend:
        """The model that ranks, with its adapter."""
        return self._backend

    @property
    def generation_backend(self) -> Backend:
        """The model that generates text: the one without the adapter, which was trained to name items."""
        return self._prior_store.backend

    @property
    def notices(self) -> tuple[Notice, ...]:
        """Differences between the training of an adapter and its use here; see the class."""
        trained = self._backend.provenance
        if trained is None:
            return ()
        current = {
            "template": self._templates[0].fingerprint,
            "chat_template": self._tokenizer.chat_template_fingerprint,
            "catalog": self._index.catalog.fingerprint,
            "index": self._index.fingerprint,
        }
        shown = {name: getattr(self.settings, name) for name in ("prior", "max_history", "history_step")}
        found = [*trained.mismatches(**current), *trained.setting_mismatches(**shown)]
        if self.settings.prior and self._prior_store.backend is self._backend:
            found.append(Notice("adapter_prior", {"base": trained.base}))
        return tuple(found)

    def can_rank(self, request: RankRequest) -> bool:
        """True if the request has words or at least `min_history` items, and the retriever has candidates."""
        if len(request.history) < self.settings.min_history and not request.words.strip():
            return False
        return self.settings.strategy != "candidates" or self._require_retriever().can_rank(request)

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        """Rank the k best allowed items of each request under the settings' score.

        The strategy `candidates` compares retrieved items only, so its ranking is proven only if all allowed items
        were retrieved.

        Args:
            requests: U requests.
            k: list length.
            deadline: checked before each batch and inside the search.

        Returns:
            U rankings, best first, ties in catalog order; shorter than k if fewer items are allowed or retrieved.

        Raises:
            InputError: k is below 1, or a batch exceeds the memory budget.
            EngineError: the model failed, or a prompt does not fit even without a history.
            DeadlineExceededError: the deadline passed.
        """
        check_count("k", k)
        rankings: dict[int, Ranking] = {}
        for renderer, numbers in self._batches(requests):
            deadline.check()
            group = [requests[number] for number in numbers]
            considered = self._considered_items(group, k, deadline)
            batch = SearchBatch(
                renderer, self._prior_of(renderer), group, considered, k, self.settings.strategy, deadline
            )
            for number, items, ranking in zip(numbers, considered, self._search.run(batch), strict=True):
                complete = len(items) == len(requests[number].allowed)
                rankings[number] = replace(ranking, proven=ranking.proven and complete)
        return [rankings[number] for number in range(len(requests))]

    def score(
        self, requests: Sequence[RankRequest], item_indices: Sequence[IntArray], *, deadline: Deadline
    ) -> list[FloatArray]:
        """The scores of given items as `rank` computes them, with prior, fusion and boosts; see `Ranker.score`.

        Raises:
            InputError: a batch exceeds the memory budget.
            EngineError: the model failed, or a prompt does not fit even without a history.
            DeadlineExceededError: the deadline passed.
        """
        scores: dict[int, FloatArray] = {}
        size = len(self._index.trie)
        for renderer, numbers in self._batches(requests):
            deadline.check()
            group = [requests[number] for number in numbers]
            considered = [Subset.from_indices(size, item_indices[number]) for number in numbers]
            if self.settings.score == "catalog" or shows_candidates(renderer):
                # These scores depend on all items that are considered with the given ones.
                others = self._considered_items(group, 1, deadline)
                considered = [_union(one, other) for one, other in zip(considered, others, strict=True)]
            batch = SearchBatch(renderer, self._prior_of(renderer), group, considered, size, "exhaustive", deadline)
            for number, ranking in zip(numbers, self._search.run(batch), strict=True):
                scores[number] = scores_in_order(ranking, item_indices[number], size)
        return [scores[number] for number in range(len(requests))]

    def visible_history(self, history: IntArray) -> IntArray:
        """The part of a history that the prompt shows, with repeats; see `genrec.prompting.renderer.window_start`."""
        return history[window_start(history, self.settings.max_history, self.settings.history_step) :]

    def compute_priors(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Measure the prior of the whole catalog now, and save it if there is a cache directory.

        Args:
            on_progress: called with the number of items done and the number of items that were missing.
        """
        for prior in self._priors:
            if prior is not None:
                prior.fill(on_progress=on_progress)
        self.save_priors()

    def prior_scores(self, on_progress: Callable[[int, int], None] | None = None) -> FloatArray:
        """float64 [N], the prior of every item in nats, for users with a history; missing scores are computed.

        Args:
            on_progress: called with the number of items done and the number of items that were missing.

        Raises:
            InputError: the settings use no prior, or the template lists candidates.
        """
        prior, _ = self._priors
        if prior is None:
            raise InputError(
                f"template {self._templates[0].name!r} has no prior of its own; set prior above 0, and use a template "
                "without candidates"
            )
        return self._prior_store.item_scores(prior, on_progress)

    def save_priors(self) -> None:
        """Save what has been measured of the priors for the next run; do nothing without a cache directory."""
        self._prior_store.save()

    @property
    def prior_folders(self) -> list[Path]:
        """The folders of these priors in the cache directory, whether they were saved or not."""
        return self._prior_store.folders

    def render(self, request: RankRequest, candidates: IntArray | None = None) -> RenderedPrompt:
        """The prompt of a request; `candidates` are shown if the template lists candidates."""
        shown = _EMPTY if candidates is None else candidates
        return self._renderer_for(request).render(request.history, request.words, shown)

    def _apply_settings(self) -> None:
        """Make the renderers and priors for the settings, and check that the settings fit."""
        check_templates(self._templates, self.settings)
        if self.settings.strategy == "candidates" or self.settings.fusion_weight:
            self._require_retriever()
        max_tokens = self._backend.context_length - int(self._index.trie.lengths.max())
        window = (self.settings.max_history, self.settings.history_step)
        warm, cold = (
            Renderer(self._index.catalog, self._tokenizer, template, max_tokens, *window)
            for template in self._templates
        )
        self._renderers = (warm, cold)
        self._priors = (self._load_prior(warm), self._load_prior(cold))
        self._search = GenerativeSearch(self._index, self._backend, self._prior_store, self.settings, self._retriever)

    def _renderer_for(self, request: RankRequest) -> Renderer:
        """The cold template for a request with words but no history, else the other."""
        cold = not len(request.history) and bool(request.words.strip())
        return self._renderers[1 if cold else 0]

    def _batches(self, requests: Sequence[RankRequest]) -> Iterator[tuple[Renderer, list[int]]]:
        """Numbers of requests that share a template and a mask, at most `batch_size` at a time."""
        size = self.settings.batch_size or self._backend.batch_size
        groups: dict[tuple[bool, int], list[int]] = {}
        for number, request in enumerate(requests):
            warm = self._renderer_for(request) is self._renderers[0]
            groups.setdefault((warm, id(request.allowed.mask)), []).append(number)
        for (warm, _), numbers in groups.items():
            for start in range(0, len(numbers), size):
                yield self._renderers[0 if warm else 1], numbers[start : start + size]

    def _considered_items(self, requests: Sequence[RankRequest], k: int, deadline: Deadline) -> list[Subset]:
        """The items that are compared: all allowed ones or, with the strategy `candidates`, the retrieved ones."""
        if self.settings.strategy != "candidates":
            return [request.allowed for request in requests]
        n_candidates = max(k, self.settings.candidates)
        return retrieve_candidates(self._require_retriever(), requests, n_candidates, deadline=deadline)

    def _require_retriever(self) -> Ranker:
        if self._retriever is None:
            raise InputError(
                "the strategy 'candidates' and fusion_weight need a retriever; pass one, such as an EmbeddingRanker"
            )
        return self._retriever

    def _prior_of(self, renderer: Renderer) -> Prior | None:
        return self._priors[0 if renderer is self._renderers[0] else 1]

    def _load_prior(self, renderer: Renderer) -> Prior | None:
        """The prior after a template's prompts; None if the settings use none, or the prompts list candidates."""
        if not self.settings.prior or shows_candidates(renderer):
            return None
        warm = renderer is self._renderers[0]
        prompts = self._prior_prompts[0 if warm else 1]
        if prompts is None:
            histories = self._prior_histories if warm and self._prior_histories else (_EMPTY,)
            prompts = [renderer.render(history, "", _EMPTY).token_ids for history in histories]
        return self._prior_store.get(prompts, users=len(self._prior_histories) if warm else 0)


def _union(one: Subset, other: Subset) -> Subset:
    return Subset.from_indices(one.universe, np.concatenate([one.to_indices(), other.to_indices()]))
