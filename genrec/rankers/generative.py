"""The LLM as a ranker: render, encode, search."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from genrec.backends.base import Backend
from genrec.data.subset import Boost, Subset
from genrec.deadline import Deadline
from genrec.decoding.bounds import prefix_sums
from genrec.decoding.prior import Prior
from genrec.decoding.search import ScoreKind, SearchRequest, beam_search, exhaustive_search
from genrec.errors import ArtifactError, InputError, MismatchError, TokenizerMismatchError, check_count
from genrec.index.catalog_index import CatalogIndex, unchanged_item_indices
from genrec.notices import Notice
from genrec.prompting.renderer import RenderedPrompt, Renderer, window_start
from genrec.prompting.template import Template
from genrec.prompting.tokenizer import Tokenizer
from genrec.rankers.base import Ranker, RankRequest
from genrec.types import FloatArray, IntArray, Ranking

Strategy = Literal["beam", "exhaustive", "candidates"]


@dataclass(frozen=True)
class GenerativeSettings:
    """How the LLM ranks.

    Attributes:
        strategy: `candidates` scores what another ranker proposes; `beam` searches the whole catalog; `exhaustive`
            scores the whole catalog.
        score: `model` or `catalog`, see `genrec.decoding.search.SearchRequest`.
        prior: weight of the score behind other people's histories, which is subtracted; see `genrec.decoding.prior`.
        fusion_weight: nats that are added for each standard deviation by which the proposer's own score of an item lies
            above the mean of the `candidates` it likes best.
        candidates: how many items are proposed and scored, at least k.
        width: beam width, see `genrec.decoding.search.beam_search`; with `exact` the nodes opened at once.
        exact: let the beam go on until its top k is proven, or `max_nodes` were grown for a person.
        max_nodes: the limit to `exact`; a list that reaches it is full, and says that it is not proven.
        min_history: with fewer known items, and no words, the LLM has nothing to go on.
        max_history: the most items of a history that the prompt shows, the newest.
        history_step: how many of them leave the prompt together, see `genrec.prompting.renderer.window_start`.
        batch_size: prompts computed at once.
        memory: bytes that the prompts of a batch and the tokens behind them may take, by the backend's `token_bytes`;
            a batch that would need more, by the estimate of its error message, is refused before it starts. What a
            missing prior takes, 512 tokens at a time, is not counted. None for no budget.
    """

    strategy: Strategy = "candidates"
    score: ScoreKind = "model"
    prior: float = 1.0
    fusion_weight: float = 0.0
    candidates: int = 50
    width: int = 8
    exact: bool = True
    max_nodes: int = 2000
    min_history: int = 1
    max_history: int = 12
    history_step: int = 4
    batch_size: int = 8
    memory: float | None = None

    def __post_init__(self) -> None:
        for name, kinds in (("strategy", get_args(Strategy)), ("score", get_args(ScoreKind))):
            if getattr(self, name) not in kinds:
                raise InputError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(kinds)}")
        for name in ("candidates", "width", "max_nodes", "min_history", "max_history", "history_step", "batch_size"):
            check_count(name, getattr(self, name))
        if not isinstance(self.exact, bool):
            raise InputError(f"exact is {self.exact!r}; give True or False")
        if self.memory is not None and not (_is_number(self.memory) and 0 < self.memory < np.inf):
            raise InputError(
                f"memory is {self.memory!r}; give a number of bytes above 0, or leave it out for no budget"
            )
        for name in ("prior", "fusion_weight"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value < np.inf):
                raise InputError(f"{name} is {value!r}; it must be a number of at least 0")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


class GenerativeRanker:
    """Ranks by what an LLM would answer to a prompt that shows the history.

    Args:
        index: the catalog in tokens.
        backend: the model.
        tokenizer: the model's tokenizer, the one the index was built with.
        template: shows `history` and `words`, answers with an item.
        cold_template: the same for people without a history, showing `words` alone.
        prior_histories: int64 histories of other people, in item indices; the prior is the mean score behind them. Without
            any it is the score behind an empty history, which corrects less well.
        retriever: proposes candidates and gives evidence; needed by the strategy `candidates` and for `evidence`.
        settings: how to search and score.
        prior_cache: a folder that `save_priors` writes to, and from which priors are read.
        prior_backend: the model whose prior it is, by default `backend`. An adapter is trained on top of the untrained
            model's prior, so beside an adapter this is the model without it.
        source: the name that recommendations served by it carry.

    Attributes:
        notices: how an adapter's training differs from what it serves here: template, catalog, index or settings.

    Raises:
        ArtifactError: a cached prior was altered.
        TokenizerMismatchError: the index was built with another tokenizer.
        InputError: a part is missing or does not fit.
    """

    def __init__(
        self,
        index: CatalogIndex,
        backend: Backend,
        tokenizer: Tokenizer,
        *,
        template: Template,
        cold_template: Template,
        prior_histories: Sequence[IntArray] = (),
        retriever: Ranker | None = None,
        settings: GenerativeSettings | None = None,
        prior_cache: Path | None = None,
        prior_backend: Backend | None = None,
        source: str = "generative",
    ) -> None:
        settings = settings or GenerativeSettings()
        if index.tokenizer_fingerprint != tokenizer.fingerprint:
            raise TokenizerMismatchError(
                f"the index was built for tokenizer {index.tokenizer_fingerprint[:12]}, not for "
                f"{tokenizer.fingerprint[:12]}; build it again with this model's tokenizer"
            )
        if tokenizer.vocab_size > backend.vocab_size:
            raise TokenizerMismatchError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the model {backend.name} only {backend.vocab_size}"
            )
        for one in (template, cold_template):
            if one.output != "item":
                raise InputError(f"template {one.name!r} answers with {one.output}; this ranker needs output = item")
        trained = backend.provenance
        if trained is not None and trained.tokenizer != tokenizer.fingerprint:
            raise TokenizerMismatchError(
                f"the adapter of {backend.name} was trained with tokenizer {trained.tokenizer[:12]}, not with "
                f"{tokenizer.fingerprint[:12]}; load the tokenizer that it was trained with"
            )
        here = {
            "template": template.fingerprint,
            "catalog": index.catalog.fingerprint,
            "index": index.fingerprint,
        }
        self._provenance_differences = () if trained is None else tuple(trained.mismatches(**here))
        self.settings, self.source = settings, source
        self._index, self._backend, self._tokenizer = index, backend, tokenizer
        self._prior_backend = prior_backend or backend
        self._templates = (template, cold_template)
        self._prior_histories = tuple(prior_histories)
        self._retriever = retriever
        self._prior_cache = prior_cache
        self._priors: dict[str, Prior] = {}
        self._prior_prompts: tuple[Sequence[IntArray] | None, Sequence[IntArray] | None] = (None, None)
        self._apply_settings()

    def with_settings(
        self,
        *,
        source: str | None = None,
        retriever: Ranker | None = None,
        prior_histories: Sequence[IntArray] | None = None,
        **changes: Any,
    ) -> "GenerativeRanker":
        """The same ranker under other settings, or with other parts; models, index and priors are shared."""
        other = copy.copy(self)
        other.source = source or self.source
        other._prior_histories = self._prior_histories if prior_histories is None else tuple(prior_histories)
        if prior_histories is not None or changes.keys() & {"max_history", "history_step"}:
            other._prior_prompts = (None, None)
        other.settings = replace(self.settings, **changes)
        other._retriever = retriever or self._retriever
        other._apply_settings()
        return other

    def reindexed(self, index: CatalogIndex, *, retriever: Ranker | None = None) -> "GenerativeRanker":
        """The same ranker over the index of another version of the catalog; the model is shared.

        The prior stays measured behind the same prompts, even where these show an item that is gone; what was measured
        of items that are written as before stays, and nothing is kept on disk.

        Args:
            index: made by `CatalogIndex.reindexed` or `update` from the one there is.
            retriever: proposes items of the other version.

        Raises:
            TokenizerMismatchError: the index was built with another tokenizer.
        """
        if index.tokenizer_fingerprint != self._tokenizer.fingerprint:
            raise TokenizerMismatchError(
                f"the index was built for tokenizer {index.tokenizer_fingerprint[:12]}, not for "
                f"{self._tokenizer.fingerprint[:12]}; pass one that was made from this ranker's"
            )
        other = copy.copy(self)
        places = index.catalog.item_ids.positions(self._index.catalog.item_ids)
        moved = [places[history] for history in self._prior_histories]
        other._prior_histories = tuple(history[history >= 0] for history in moved)
        other._index, other._retriever, other._prior_cache = index, retriever or self._retriever, None
        stays = unchanged_item_indices(self._index.catalog, index.catalog)
        warm, cold = (None if prior is None else prior.prompts for prior in self._renderer_priors)
        other._prior_prompts = (warm, cold)
        found = [prior for prior in self._renderer_priors if prior is not None]
        keys = [other._prior_key(prior.prompts) for prior in found]
        other._priors = {
            key: prior.reindexed(index.trie, stays, key=key) for key, prior in zip(keys, found, strict=True)
        }
        other._apply_settings()
        return other

    @property
    def index(self) -> CatalogIndex:
        """The catalog in tokens."""
        return self._index

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self._tokenizer

    @property
    def generation_backend(self) -> Backend:
        """What writes texts: the model as it is without an adapter, which was trained to name items."""
        return self._prior_backend

    @property
    def notices(self) -> tuple[Notice, ...]:
        """See above."""
        trained = self._backend.provenance
        if trained is None:
            return ()
        shown = {name: getattr(self.settings, name) for name in ("prior", "max_history", "history_step")}
        found = [*self._provenance_differences, *trained.setting_mismatches(**shown)]
        if self.settings.prior and self._prior_backend is self._backend:
            found.append(Notice("adapter_prior", {"base": trained.base}))
        return tuple(found)

    def can_rank(self, request: RankRequest) -> bool:
        """Whether there are items enough, or words, to show the model, and somebody to propose candidates."""
        if len(request.history) < self.settings.min_history and not request.words.strip():
            return False
        return self.settings.strategy != "candidates" or self._require_retriever().can_rank(request)

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        """The k best allowed items of each request under the settings' score.

        With the strategy `candidates` only proposed items are compared, so the ranking is proven only where all
        allowed items were proposed.
        """
        check_count("k", k)
        answers: dict[int, Ranking] = {}
        for renderer, places in self._batches(requests):
            deadline.check()
            batch = [requests[place] for place in places]
            considered = self._candidates(batch, k, deadline)
            found = self._search(renderer, batch, considered, k, self.settings.strategy, deadline)
            for place, own, ranking in zip(places, considered, found, strict=True):
                whole = len(own) == len(requests[place].allowed)
                answers[place] = replace(ranking, proven=ranking.proven and whole)
        return [answers[place] for place in range(len(requests))]

    def score(
        self, requests: Sequence[RankRequest], item_indices: Sequence[IntArray], *, deadline: Deadline
    ) -> list[FloatArray]:
        """The scores of chosen items as `rank` gives them, with the prior and the proposer's evidence."""
        answers: dict[int, FloatArray] = {}
        size = len(self._index.trie)
        for renderer, places in self._batches(requests):
            deadline.check()
            batch = [requests[place] for place in places]
            asked = [Subset.from_indices(size, item_indices[place]) for place in places]
            if self.settings.score == "catalog" or _shows_candidates(renderer):
                # A score that depends on what else is considered needs all of that beside it.
                beside = self._candidates(batch, 1, deadline)
                asked = [_union(own, other) for own, other in zip(asked, beside, strict=True)]
            found = self._search(renderer, batch, asked, size, "exhaustive", deadline)
            for place, ranking in zip(places, found, strict=True):
                answers[place] = _scores_for(item_indices[place], ranking, size)
        return [answers[place] for place in range(len(requests))]

    def visible_history(self, history: IntArray) -> IntArray:
        """What the prompt shows of a history, repeats included; see `genrec.prompting.renderer.window_start`."""
        return history[window_start(history, self.settings.max_history, self.settings.history_step) :]

    def compute_priors(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Score the whole catalog behind the prior's prompts now, and keep the result for the next run."""
        for renderer in self._renderers:
            if self.settings.prior and not _shows_candidates(renderer):
                self._prior(renderer).fill(on_progress=on_progress)
        self.save_priors()

    def prior_scores(self) -> FloatArray:
        """float64 [N], the prior of every item, in nats, for people with a history; measured where it is missing."""
        prior, trie = self._prior(self._renderers[0]), self._index.trie
        prior.fill()
        totals = prefix_sums(trie, prior.log_probs.astype(np.float64))[trie.last_positions]
        return totals[trie.rows_of_items]

    def save_priors(self) -> None:
        """Keep what has been computed of the priors for the next run; without a folder for them, nothing."""
        if self._prior_cache is not None:
            for key, prior in self._priors.items():
                if prior.unsaved:
                    prior.save(self._prior_cache / key)

    def render(self, request: RankRequest, candidates: IntArray | None = None) -> RenderedPrompt:
        """The prompt this request is answered from."""
        shown = np.empty(0, dtype=np.int64) if candidates is None else candidates
        return self._renderer_for(request).render(request.history, request.words, shown)

    def _apply_settings(self) -> None:
        """Make what follows from the settings, and refuse settings that lack a part."""
        if self.settings.strategy == "candidates" or self.settings.fusion_weight:
            self._require_retriever()
        room = self._backend.context_length - int(self._index.trie.lengths.max())
        shown = (self.settings.max_history, self.settings.history_step)
        warm, cold = (
            Renderer(self._index.catalog, self._tokenizer, template, room, *shown) for template in self._templates
        )
        self._renderers = (warm, cold)
        if self.settings.strategy == "beam" and any(map(_shows_candidates, self._renderers)):
            raise InputError("a template that shows candidates cannot guide a beam over the catalog; name another")
        self._renderer_priors = tuple(map(self._load_prior, self._renderers))

    def _renderer_for(self, request: RankRequest) -> Renderer:
        """Somebody without a history who says something is shown by the cold template, everybody else by the other."""
        cold = not len(request.history) and bool(request.words.strip())
        return self._renderers[1 if cold else 0]

    def _batches(self, requests: Sequence[RankRequest]) -> Iterator[tuple[Renderer, list[int]]]:
        """Requests of one template and one mask, at most `batch_size` at a time, by their places."""
        groups: dict[tuple[bool, int], list[int]] = {}
        for place, request in enumerate(requests):
            warm = self._renderer_for(request) is self._renderers[0]
            groups.setdefault((warm, id(request.allowed.mask)), []).append(place)
        for (warm, _), places in groups.items():
            for start in range(0, len(places), self.settings.batch_size):
                yield self._renderers[0 if warm else 1], places[start : start + self.settings.batch_size]

    def _search(
        self,
        renderer: Renderer,
        requests: Sequence[RankRequest],
        allowed: Sequence[Subset],
        k: int,
        strategy: Strategy,
        deadline: Deadline,
    ) -> list[Ranking]:
        """Render, open, search: U requests over subsets of items; the model is not asked where nothing is allowed."""
        asked = [place for place, own in enumerate(allowed) if len(own)]
        if len(asked) < len(requests):
            some = [requests[place] for place in asked]
            found = iter(self._search(renderer, some, [allowed[place] for place in asked], k, strategy, deadline))
            return [
                next(found) if len(own) else self._empty_ranking(request)
                for own, request in zip(allowed, requests, strict=True)
            ]
        if not requests:
            return []
        asked_for = [Boost.from_pairs([]) if request.boost is None else request.boost for request in requests]
        boosts, most = asked_for, k
        if self.settings.fusion_weight:
            evidence = self._fusion_boosts(requests, [one.to_indices() for one in allowed], deadline)
            boosts = [boost.add(own) for boost, own in zip(asked_for, evidence, strict=True)]
        judges = strategy == "candidates" and self.settings.fusion_weight > 0
        if judges:
            most = max(map(len, allowed))  # what spoke for an item is told beside all that it was compared with
        rendered = [
            renderer.render(request.history, request.words, _shown_candidates(renderer, own))
            for request, own in zip(requests, allowed, strict=True)
        ]
        prompts = [one.token_ids for one in rendered]
        room = self._node_budget(prompts, strategy, k)
        terms = self._search_request(renderer, allowed, boosts, most, strategy, deadline)
        tree = self._backend.open(prompts, deadline=deadline)
        if strategy == "beam":
            width, exact = self.settings.width, self.settings.exact
            rankings = beam_search(tree, self._index.trie, terms, width=width, exact=exact, max_nodes=room)
        else:
            rankings = exhaustive_search(tree, self._index.trie, terms, max_nodes=_NODES_PER_PASS)
        if judges:
            rankings = [
                _with_contributors(ranking, k, boost, own, self._require_retriever().source)
                for ranking, boost, own in zip(rankings, asked_for, evidence, strict=True)
            ]
        return [
            replace(ranking, notices=one.notices, prompt_tokens=len(one.token_ids))
            for ranking, one in zip(rankings, rendered, strict=True)
        ]

    @staticmethod
    def _empty_ranking(request: RankRequest) -> Ranking:
        """The answer where nothing was considered; it says so only where nothing is allowed at all."""
        notices = () if len(request.allowed) else (Notice("nothing_allowed"),)
        return Ranking(np.empty(0, dtype=np.int64), np.empty(0), True, 0, notices)

    def _search_request(
        self,
        renderer: Renderer,
        allowed: Sequence[Subset],
        boosts: Sequence[Boost],
        k: int,
        strategy: Strategy,
        deadline: Deadline,
    ) -> SearchRequest:
        """What is asked of the search, in rows, with the prior of what it may meet."""
        rows = [self._index.to_row_subset(own) for own in allowed]
        guide = None
        if self.settings.prior and _shows_candidates(renderer):
            boosts = [
                boost.add(prior)
                for boost, prior in zip(boosts, self._candidate_priors(renderer, allowed, deadline), strict=True)
            ]
        elif self.settings.prior:
            prior = self._prior(renderer)
            prior.fill(None if strategy == "beam" else _all_rows(rows), deadline=deadline)
            guide = prior.penalty(self.settings.prior)
        boosted = [self._index.to_row_boost(boost) for boost in boosts]
        return SearchRequest(rows, k, self.settings.score, guide, boosted)

    def _node_budget(self, prompts: Sequence[IntArray], strategy: Strategy, k: int) -> int:
        """Nodes that an exact search may grow for each prompt; a batch that would not fit is refused before it starts.

        Counted as a tree holds them: every prompt, and what is grown for it, as long as the longest of the batch. A
        beam may grow its width, or k, of the longest titles; so may the prior's own prompts, in passes.

        Raises:
            InputError: it would not fit; the message holds the arithmetic.
        """
        budget = self.settings.memory
        if budget is None:
            return self.settings.max_nodes
        longest, size = self._index.trie.max_length, self._backend.token_bytes
        width = max(self.settings.width, k)
        beam = strategy == "beam"
        each, more = (
            (width * longest, f"{width} x {longest}")
            if beam
            else (max(_NODES_PER_PASS, longest), str(max(_NODES_PER_PASS, longest)))
        )
        prompt = max(map(len, prompts))
        tokens = len(prompts) * (prompt + each)
        if tokens * size > budget:
            raise InputError(
                f"{len(prompts)} prompts of up to {prompt:,} tokens, with {more} more for each, take {tokens:,} x "
                f"{size:,} bytes = {tokens * size / 1e6:,.1f} MB; the budget is {budget / 1e6:,.1f} MB; "
                f"lower batch_size{', width' if beam else ''} or max_history, or raise memory"
            )
        return min(self.settings.max_nodes, int(budget / size - tokens) // len(prompts))

    def _candidate_priors(self, renderer: Renderer, allowed: Sequence[Subset], deadline: Deadline) -> list[Boost]:
        """What to subtract where prompts show candidates: the score behind an empty history beside the same ones."""
        trie, kind = self._index.trie, self.settings.score
        nobody = np.empty(0, dtype=np.int64)
        prompts = [renderer.render(nobody, "", own.to_indices()).token_ids for own in allowed]
        tree = self._prior_backend.open(prompts, deadline=deadline)
        found = exhaustive_search(
            tree, trie, SearchRequest([self._index.to_row_subset(own) for own in allowed], len(trie), kind)
        )
        weight = -self.settings.prior
        return [
            Boost(own.to_indices(), weight * _scores_for(own.to_indices(), ranking, len(trie)))
            for ranking, own in zip(found, allowed, strict=True)
        ]

    def _candidates(self, requests: Sequence[RankRequest], k: int, deadline: Deadline) -> list[Subset]:
        """What is compared: everything allowed or, with the strategy `candidates`, what is proposed."""
        if self.settings.strategy == "candidates":
            return self._retrieve(requests, max(k, self.settings.candidates), deadline)
        return [request.allowed for request in requests]

    def _retrieve(self, requests: Sequence[RankRequest], n_candidates: int, deadline: Deadline) -> list[Subset]:
        """What the proposer puts forward, and the `n_candidates` allowed items of highest boost, if above 0."""
        proposed = []
        ranked = self._require_retriever().rank(_without_boosts(requests), n_candidates, deadline=deadline)
        for request, ranking in zip(requests, ranked, strict=True):
            items = ranking.item_indices
            if request.boost is not None:
                places, values = request.boost.indices, request.boost.values
                lifted = np.flatnonzero(request.allowed.contains(places) & (values > 0))
                best = lifted[np.argsort(-values[lifted], kind="stable")[:n_candidates]]
                items = np.concatenate([items, places[best]])
            proposed.append(Subset.from_indices(request.allowed.universe, items))
        return proposed

    def _fusion_boosts(
        self, requests: Sequence[RankRequest], item_indices: Sequence[IntArray], deadline: Deadline
    ) -> list[Boost]:
        """The proposer's weighted scores of chosen items, standardised over the candidates it likes best.

        An item it knows nothing of counts as the least of these; where it cannot rank at all, all items count alike.
        """
        evidence = [Boost.from_pairs([])] * len(item_indices)
        plain = _without_boosts(requests)
        able = [place for place, request in enumerate(plain) if self._require_retriever().can_rank(request)]
        asked, chosen = [plain[place] for place in able], [item_indices[place] for place in able]
        liked = self._require_retriever().rank(asked, self.settings.candidates, deadline=deadline)
        scored = self._require_retriever().score(asked, chosen, deadline=deadline)
        for place, best, own in zip(able, liked, scored, strict=True):
            spread = float(best.scores.std()) if len(best.scores) else 0.0
            if spread > 0:
                known = np.where(np.isfinite(own), own, best.scores[-1])
                weighted = self.settings.fusion_weight * (known - best.scores.mean()) / spread
                evidence[place] = Boost(item_indices[place], weighted)
        return evidence

    def _require_retriever(self) -> Ranker:
        if self._retriever is None:
            raise InputError("the strategy 'candidates' and evidence need a proposer, such as an embedding ranker")
        return self._retriever

    def _prior(self, renderer: Renderer) -> Prior:
        prior = self._renderer_priors[0 if renderer is self._renderers[0] else 1]
        if prior is None:
            raise InputError(f"template {renderer.template.name!r} has no prior of its own")
        return prior

    def _load_prior(self, renderer: Renderer) -> Prior | None:
        """The prior behind a template's prompts, from the cache where it is kept; none where candidates are shown."""
        if not self.settings.prior or _shows_candidates(renderer):
            return None
        nothing, warm = np.empty(0, dtype=np.int64), renderer is self._renderers[0]
        prompts = self._prior_prompts[0 if warm else 1]
        if prompts is None:
            histories = self._prior_histories if warm and self._prior_histories else (nothing,)
            prompts = [renderer.render(history, "", nothing).token_ids for history in histories]
        key = self._prior_key(prompts)
        if key not in self._priors:
            prior = Prior(self._prior_backend, self._index.trie, prompts, key=key)
            if self._prior_cache is not None and (self._prior_cache / key).is_dir():
                try:
                    prior.load(self._prior_cache / key)
                except (ArtifactError, MismatchError) as error:
                    remedy = f"remove the folder {self._prior_cache / key}; the prior is measured again"
                    raise ArtifactError(error.problem, remedy=remedy) from error
            self._priors[key] = prior
        return self._priors[key]

    def _prior_key(self, prompts: Sequence[IntArray]) -> str:
        """Names a prior: the index, the model and the prompts it is measured behind."""
        name = self._prior_backend.name.encode()
        digest = hashlib.sha256(b"\0".join([name, *(one.tobytes() for one in prompts)]))
        return f"{self._index.fingerprint}-{digest.hexdigest()[:16]}"


def _shows_candidates(renderer: Renderer) -> bool:
    return "candidates" in renderer.template.inputs


_LLM_CONTRIBUTOR = "language model"  # what speaks for an item where the proposer does not
_NODES_PER_PASS = 512  # nodes a prompt that one pass over candidates grows


def _without_boosts(requests: Sequence[RankRequest]) -> list[RankRequest]:
    return [replace(request, boost=None) for request in requests]


def _scores_for(item_indices: IntArray, ranking: Ranking, n_items: int) -> FloatArray:
    """The scores of items, all of which are ranked, in their own order."""
    scores = np.empty(n_items)
    scores[ranking.item_indices] = ranking.scores
    return scores[item_indices]


def _with_contributors(ranking: Ranking, k: int, boost: Boost, fusion_boost: Boost, retriever: str) -> Ranking:
    """The k best with what spoke for each: the side that lifts it further above its own mean over what was compared."""
    items = ranking.item_indices
    told = fusion_boost.values_at(items)
    read = ranking.scores - told - boost.values_at(items)
    by_proposer = told - told.mean() > read - read.mean() if len(fusion_boost) else np.zeros(len(items), dtype=np.bool_)
    names = tuple(retriever if own else _LLM_CONTRIBUTOR for own in by_proposer[:k])
    return replace(ranking, item_indices=items[:k], scores=ranking.scores[:k], main_signals=names)


def _union(one: Subset, other: Subset) -> Subset:
    return Subset.from_indices(one.universe, np.concatenate([one.to_indices(), other.to_indices()]))


def _shown_candidates(renderer: Renderer, allowed: Subset) -> IntArray:
    """The candidates a prompt shows; none where its template shows none, whatever is allowed."""
    return allowed.to_indices() if _shows_candidates(renderer) else np.empty(0, dtype=np.int64)


def _all_rows(subsets: Sequence[Subset]) -> IntArray | None:
    """All rows of some subsets; None where one of them holds every row."""
    if any(len(subset) == subset.universe for subset in subsets):
        return None
    return np.concatenate([subset.to_indices() for subset in subsets])
