"""The LLM as a ranker: render, encode, search."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from genrec.backends.base import Backend
from genrec.deadline import Deadline
from genrec.errors import ArtifactError, InputError, MismatchError, TokenizerMismatchError
from genrec.index import CatalogIndex
from genrec.prior import Prior
from genrec.rankers.base import Ranker, RankRequest
from genrec.renderer import Rendered, Renderer
from genrec.search import ScoreKind, Terms, beam_search, exhaustive_search
from genrec.template import Template
from genrec.timed_tree import TimedTree
from genrec.tokenizer import Tokenizer
from genrec.types import BoolArray, FloatArray, IntArray, Ranking

Strategy = Literal["beam", "exhaustive", "candidates"]


@dataclass(frozen=True)
class GenerativeSettings:
    """How the LLM ranks.

    Attributes:
        strategy: `candidates` scores what another ranker proposes; `beam` searches the whole catalog; `exhaustive`
            scores the whole catalog.
        score: `model` or `catalog`, see `genrec.search.Terms`.
        prior: weight of the score behind other people's histories, which is subtracted; see `genrec.prior`.
        evidence: nats that are added for each standard deviation by which the proposer's own score of an item lies
            above the mean of the `candidates` it likes best.
        candidates: how many items are proposed and scored, at least k.
        width: beam width, see `genrec.search.beam_search`.
        exact: let the beam go on until its top k is proven.
        min_history: with fewer known items, and no words, the LLM has nothing to go on.
        max_history: the newest distinct items of a history that the prompt shows.
        batch_size: prompts computed at once.
    """

    strategy: Strategy = "candidates"
    score: ScoreKind = "model"
    prior: float = 1.0
    evidence: float = 0.0
    candidates: int = 50
    width: int = 50
    exact: bool = False
    min_history: int = 1
    max_history: int = 10
    batch_size: int = 8

    def __post_init__(self) -> None:
        for name, kinds in (("strategy", get_args(Strategy)), ("score", get_args(ScoreKind))):
            if getattr(self, name) not in kinds:
                raise InputError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(kinds)}")
        for name in ("candidates", "width", "min_history", "max_history", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("prior", "evidence"):
            if not np.isfinite(getattr(self, name)) or getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be a number of at least 0")


class GenerativeRanker:
    """Ranks by what an LLM would answer to a prompt that shows the history.

    Args:
        index: the catalog in tokens.
        backend: the model.
        tokenizer: the model's tokenizer, the one the index was built with.
        template: shows `history` and `words`, answers with an item.
        cold_template: the same for people without a history, showing `words` alone.
        background: int64 histories of other people, in item indices; the prior is the mean score behind them. Without
            any it is the score behind an empty history, which corrects less well.
        proposer: proposes candidates and gives evidence; needed by the strategy `candidates` and for `evidence`.
        settings: how to search and score.
        prior_cache: a folder that `save_priors` writes to, and from which priors are read.
        source: the name that recommendations served by it carry.

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
        background: Sequence[IntArray] = (),
        proposer: Ranker | None = None,
        settings: GenerativeSettings | None = None,
        prior_cache: Path | None = None,
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
        self.settings, self.source = settings, source
        self._index, self._backend, self._tokenizer = index, backend, tokenizer
        self._templates = (template, cold_template)
        self._background = tuple(background)
        self._proposer = proposer
        self._prior_cache = prior_cache
        self._priors: dict[str, Prior] = {}
        self._prepare()

    def with_settings(
        self,
        *,
        source: str | None = None,
        proposer: Ranker | None = None,
        background: Sequence[IntArray] | None = None,
        **changes: Any,
    ) -> "GenerativeRanker":
        """The same ranker under other settings, or with other parts; models, index and priors are shared."""
        other = copy.copy(self)
        other.source = source or self.source
        other._background = self._background if background is None else tuple(background)
        other.settings = replace(self.settings, **changes)
        other._proposer = proposer or self._proposer
        other._prepare()
        return other

    def can_rank(self, request: RankRequest) -> bool:
        """Whether there are items enough, or words, to show the model, and somebody to propose candidates."""
        if len(request.history) < self.settings.min_history and not request.words.strip():
            return False
        return self.settings.strategy != "candidates" or self._proposing().can_rank(request)

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        """The k best allowed items of each request under the settings' score.

        With the strategy `candidates` only proposed items are compared, so the ranking is proven only where all
        allowed items were proposed.
        """
        answers: dict[int, Ranking] = {}
        for renderer, places in self._batches(requests):
            deadline.check()
            batch = [requests[place] for place in places]
            allowed = self._considered(batch, k, deadline)
            complete = allowed.sum(axis=1) == [len(request.allowed) for request in batch]
            found = self._search(renderer, batch, allowed, k, self.settings.strategy, deadline)
            for place, ranking, whole in zip(places, found, complete, strict=True):
                answers[place] = replace(ranking, proven=bool(ranking.proven and whole))
        return [answers[place] for place in range(len(requests))]

    def score(
        self, requests: Sequence[RankRequest], items: Sequence[IntArray], *, deadline: Deadline
    ) -> list[FloatArray]:
        """The scores of chosen items as `rank` gives them, with the prior and the proposer's evidence."""
        answers: dict[int, FloatArray] = {}
        for renderer, places in self._batches(requests):
            deadline.check()
            batch = [requests[place] for place in places]
            allowed = np.stack([_mask(items[place], len(self._index.trie)) for place in places])
            if self.settings.score == "catalog" or _shows_candidates(renderer):
                # A score that depends on what else is considered needs all of that beside it.
                allowed |= self._considered(batch, 1, deadline)
            found = self._search(renderer, batch, allowed, allowed.shape[1], "exhaustive", deadline)
            for place, ranking in zip(places, found, strict=True):
                answers[place] = _scores_of(items[place], ranking, allowed.shape[1])
        return [answers[place] for place in range(len(requests))]

    def fill_priors(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Score the whole catalog behind the prior's prompts now, and keep the result for the next run."""
        for renderer in self._renderers:
            if self.settings.prior and not _shows_candidates(renderer):
                self._prior(renderer).fill(on_progress)
        self.save_priors()

    def save_priors(self) -> None:
        """Keep what has been computed of the priors for the next run; without a folder for them, nothing."""
        if self._prior_cache is not None:
            for key, prior in self._priors.items():
                if prior.unsaved:
                    prior.save(self._prior_cache / key)

    def render(self, request: RankRequest, candidates: IntArray | None = None) -> Rendered:
        """The prompt this request is answered from."""
        shown = np.empty(0, dtype=np.int64) if candidates is None else candidates
        return self._renderer_for(request).render(request.history, request.words, shown)

    def _prepare(self) -> None:
        """Make what follows from the settings, and refuse settings that lack a part."""
        if self.settings.strategy == "candidates" or self.settings.evidence:
            self._proposing()
        room = self._backend.max_tokens - int(self._index.trie.lengths.max())
        warm, cold = (
            Renderer(self._index.catalog, self._tokenizer, template, room, self.settings.max_history)
            for template in self._templates
        )
        self._renderers = (warm, cold)
        if self.settings.strategy == "beam" and any(map(_shows_candidates, self._renderers)):
            raise InputError("a template that shows candidates cannot guide a beam over the catalog; name another")
        self._renderer_priors = tuple(map(self._find_prior, self._renderers))

    def _renderer_for(self, request: RankRequest) -> Renderer:
        """Somebody without a history who says something is shown by the cold template, everybody else by the other."""
        cold = not len(request.history) and bool(request.words.strip())
        return self._renderers[1 if cold else 0]

    def _batches(self, requests: Sequence[RankRequest]) -> Iterator[tuple[Renderer, list[int]]]:
        """Requests of one template, at most `batch_size` at a time, by their places."""
        for renderer in self._renderers:
            places = [place for place, request in enumerate(requests) if self._renderer_for(request) is renderer]
            for start in range(0, len(places), self.settings.batch_size):
                yield renderer, places[start : start + self.settings.batch_size]

    def _search(
        self,
        renderer: Renderer,
        requests: Sequence[RankRequest],
        allowed: BoolArray,
        k: int,
        strategy: Strategy,
        deadline: Deadline,
    ) -> list[Ranking]:
        """Render, open, search: U requests over bool [U, N] items; the model is not asked where nothing is allowed."""
        asked = np.flatnonzero(allowed.any(axis=1))
        if len(asked) < len(requests):
            some = [requests[int(row)] for row in asked]
            found = iter(self._search(renderer, some, allowed[asked], k, strategy, deadline))
            return [next(found) if own.any() else _NOTHING for own in allowed]
        if not requests:
            return []
        settings, trie = self.settings, self._index.trie
        chosen = [np.flatnonzero(own) for own in allowed]
        boost = np.zeros(allowed.shape)
        for row, request in enumerate(requests):
            if request.boost is not None:
                boost[row, request.boost.places] = request.boost.values
        if settings.evidence:
            boost[allowed] += np.concatenate(self._evidence(requests, chosen, deadline))
        rendered = [
            renderer.render(request.history, request.words, own) for request, own in zip(requests, chosen, strict=True)
        ]
        guide = None
        if settings.prior and strategy == "beam":
            guide = -settings.prior * self._prior(renderer).prefix_scores(settings.score, deadline)
        elif settings.prior:
            boost[allowed] -= settings.prior * np.concatenate(self._prior_scores(renderer, chosen, deadline))
        terms = Terms(allowed[:, trie.items], k, settings.score, guide, boost[:, trie.items])
        tree = TimedTree(self._backend.open([one.token_ids for one in rendered]), deadline)
        if strategy == "beam":
            rankings = beam_search(tree, trie, terms, width=settings.width, exact=settings.exact)
        else:
            rankings = exhaustive_search(tree, trie, terms)
        return [replace(ranking, notices=one.notices) for ranking, one in zip(rankings, rendered, strict=True)]

    def _prior_scores(self, renderer: Renderer, chosen: Sequence[IntArray], deadline: Deadline) -> list[FloatArray]:
        """The prior of chosen items; where prompts show candidates, behind an empty history beside the same ones."""
        trie, kind = self._index.trie, self.settings.score
        if not _shows_candidates(renderer):
            prior = self._prior(renderer)
            return [prior.row_scores(trie.rows_of_items[own], kind, deadline) for own in chosen]
        nobody = np.empty(0, dtype=np.int64)
        prompts = [renderer.render(nobody, "", own).token_ids for own in chosen]
        allowed = np.stack([_mask(own, len(trie)) for own in chosen])[:, trie.items]
        tree = TimedTree(self._backend.open(prompts), deadline)
        found = exhaustive_search(tree, trie, Terms(allowed, len(trie), kind))
        return [_scores_of(own, ranking, len(trie)) for ranking, own in zip(found, chosen, strict=True)]

    def _considered(self, requests: Sequence[RankRequest], k: int, deadline: Deadline) -> BoolArray:
        """What is compared: everything allowed or, with the strategy `candidates`, what is proposed: bool [U, N]."""
        if self.settings.strategy == "candidates":
            return self._propose(requests, max(k, self.settings.candidates), deadline)
        return np.stack([request.allowed.to_bool() for request in requests])

    def _propose(self, requests: Sequence[RankRequest], count: int, deadline: Deadline) -> BoolArray:
        """What the proposer puts forward, and the `count` items of highest boost, if above 0: bool [U, N]."""
        proposed = np.zeros((len(requests), len(self._index.trie)), dtype=np.bool_)
        for row, ranking in enumerate(self._proposing().rank(_unboosted(requests), count, deadline=deadline)):
            proposed[row, ranking.item_indices] = True
        for own, request in zip(proposed, requests, strict=True):
            if request.boost is not None:
                places, values = request.boost.places, request.boost.values
                lifted = np.flatnonzero(request.allowed.contains(places) & (values > 0))
                own[places[lifted[np.argsort(-values[lifted], kind="stable")[:count]]]] = True
        return proposed

    def _evidence(
        self, requests: Sequence[RankRequest], items: Sequence[IntArray], deadline: Deadline
    ) -> list[FloatArray]:
        """The proposer's weighted scores of chosen items, standardised over the candidates it likes best.

        An item it knows nothing of counts as the least of these; where it cannot rank at all, all items count alike.
        """
        evidence = [np.zeros(len(own)) for own in items]
        plain = _unboosted(requests)
        able = [place for place, request in enumerate(plain) if self._proposing().can_rank(request)]
        asked, chosen = [plain[place] for place in able], [items[place] for place in able]
        liked = self._proposing().rank(asked, self.settings.candidates, deadline=deadline)
        scored = self._proposing().score(asked, chosen, deadline=deadline)
        for place, best, own in zip(able, liked, scored, strict=True):
            spread = float(best.scores.std()) if len(best.scores) else 0.0
            if spread > 0:
                known = np.where(np.isfinite(own), own, best.scores[-1])
                evidence[place] = self.settings.evidence * (known - best.scores.mean()) / spread
        return evidence

    def _proposing(self) -> Ranker:
        if self._proposer is None:
            raise InputError("the strategy 'candidates' and evidence need a proposer, such as an embedding ranker")
        return self._proposer

    def _prior(self, renderer: Renderer) -> Prior:
        prior = self._renderer_priors[0 if renderer is self._renderers[0] else 1]
        if prior is None:
            raise InputError(f"template {renderer.template.name!r} has no prior of its own")
        return prior

    def _find_prior(self, renderer: Renderer) -> Prior | None:
        """The prior behind a template's prompts, from the cache where it is kept; none where candidates are shown."""
        if not self.settings.prior or _shows_candidates(renderer):
            return None
        nothing = np.empty(0, dtype=np.int64)
        prompts = [renderer.render(nothing, "", nothing).token_ids]
        if renderer is self._renderers[0] and self._background:
            prompts = [renderer.render(history, "", nothing).token_ids for history in self._background]
        digest = hashlib.sha256(b"\0".join([self._backend.name.encode(), *(one.tobytes() for one in prompts)]))
        key = f"{self._index.fingerprint}-{digest.hexdigest()[:16]}"
        if key not in self._priors:
            prior = Prior(self._backend, self._index.trie, prompts, key=key)
            if self._prior_cache is not None and (self._prior_cache / key).is_dir():
                try:
                    prior.load(self._prior_cache / key)
                except (ArtifactError, MismatchError) as error:
                    reason = str(error).rpartition(";")[0]
                    place = self._prior_cache / key
                    raise ArtifactError(f"{reason}; remove the folder {place}, it is measured again") from error
            self._priors[key] = prior
        return self._priors[key]


def _shows_candidates(renderer: Renderer) -> bool:
    return "candidates" in renderer.template.inputs


_NOTHING = Ranking(np.empty(0, dtype=np.int64), np.empty(0), proven=True, compared=0)


def _unboosted(requests: Sequence[RankRequest]) -> list[RankRequest]:
    return [replace(request, boost=None) for request in requests]


def _scores_of(items: IntArray, ranking: Ranking, count: int) -> FloatArray:
    """The scores of items, all of which are ranked, in their own order."""
    scores = np.empty(count)
    scores[ranking.item_indices] = ranking.scores
    return scores[items]


def _mask(items: IntArray, count: int) -> BoolArray:
    mask = np.zeros(count, dtype=np.bool_)
    mask[items] = True
    return mask
