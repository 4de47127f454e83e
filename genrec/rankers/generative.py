"""The LLM as a ranker: render, encode, search."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from genrec.backends.base import Backend, TokenTree
from genrec.deadline import Deadline
from genrec.errors import EngineError, InputError, TokenizerMismatchError
from genrec.index import CatalogIndex
from genrec.prior import Prior
from genrec.rankers.base import Ranker, RankRequest
from genrec.search import ScoreKind, Terms, beam_search, exhaustive_search
from genrec.template import Prompt, Template, one_line
from genrec.tokenizer import Tokenizer
from genrec.types import BoolArray, FloatArray, IntArray, Ranking

Strategy = Literal["beam", "exhaustive", "candidates"]


@dataclass(frozen=True)
class GenerativeSettings:
    """How the LLM ranks. The defaults are what measured best; see eval/RESULTS.md.

    Attributes:
        strategy: `candidates` scores what another ranker proposes; `beam` searches the whole catalog; `exhaustive`
            scores the whole catalog.
        score: `model` or `catalog`, see `genrec.search.Terms`.
        prior: weight of the score under an empty history, which is subtracted.
        evidence: weight of the proposing ranker's own score, which is added (`candidates` only).
        candidates: how many items are proposed and scored, at least k.
        width: beam width, see `genrec.search.beam_search`.
        exact: let the beam go on until its top k is proven.
        max_history: the newest items of a history that the prompt shows.
        batch_size: prompts computed at once.
    """

    strategy: Strategy = "candidates"
    score: ScoreKind = "model"
    prior: float = 1.0
    evidence: float = 0.0
    candidates: int = 50
    width: int = 50
    exact: bool = False
    max_history: int = 10
    batch_size: int = 8

    def __post_init__(self) -> None:
        for name, kinds in (("strategy", get_args(Strategy)), ("score", get_args(ScoreKind))):
            if getattr(self, name) not in kinds:
                raise InputError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(kinds)}")
        for name in ("candidates", "width", "max_history", "batch_size"):
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
        proposer: proposes candidates; needed by the strategy `candidates`.
        settings: how to search and score.
        prior_cache: a folder where priors are kept between runs.

    Raises:
        TokenizerMismatchError: the index was built with another tokenizer.
        InputError: a part is missing or does not fit.
    """

    source = "generative"

    def __init__(
        self,
        index: CatalogIndex,
        backend: Backend,
        tokenizer: Tokenizer,
        *,
        template: Template,
        cold_template: Template,
        proposer: Ranker | None = None,
        settings: GenerativeSettings | None = None,
        prior_cache: Path | None = None,
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
        if settings.strategy == "candidates" and proposer is None:
            raise InputError("the strategy 'candidates' needs a proposer, such as an embedding ranker")
        for one in (template, cold_template):
            if one.output != "item":
                raise InputError(f"template {one.name!r} answers with {one.output}; this ranker needs output = item")
        self.settings = settings
        self._index, self._backend, self._tokenizer = index, backend, tokenizer
        self._template, self._cold_template, self._proposer = template, cold_template, proposer
        self._longest = int(index.trie.lengths.max())
        self._room = backend.max_tokens - self._longest
        self._prior_cache = prior_cache
        self._priors: dict[str, Prior] = {}

    def with_settings(self, **changes: object) -> "GenerativeRanker":
        """The same ranker under other settings; models, index and priors are shared."""
        other = object.__new__(GenerativeRanker)
        other.__dict__.update(self.__dict__)
        other.settings = replace(self.settings, **changes)  # type: ignore[arg-type]
        return other

    def can_rank(self, request: RankRequest) -> bool:
        """Whether there is an item or a word to show the model."""
        return len(request.history) > 0 or bool(request.words.strip())

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        """The k best allowed items of each request under the settings' score.

        With the strategy `candidates` only proposed items are compared, so the ranking is proven only where all
        allowed items were proposed.
        """
        answers: dict[int, Ranking] = {}
        for template, places in self._batches(requests):
            batch = [requests[place] for place in places]
            answers.update(zip(places, self._rank(template, batch, k, deadline), strict=True))
        return [answers[place] for place in range(len(requests))]

    def score(
        self, requests: Sequence[RankRequest], items: Sequence[IntArray], *, deadline: Deadline
    ) -> list[FloatArray]:
        """The scores of chosen items as `rank` gives them, with the prior and the proposer's evidence."""
        answers: dict[int, FloatArray] = {}
        for template, places in self._batches(requests):
            batch, own = [requests[place] for place in places], [items[place] for place in places]
            answers.update(zip(places, self._score(template, batch, own, deadline), strict=True))
        return [answers[place] for place in range(len(requests))]

    def fill_priors(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Compute the prior of the whole catalog now, for people with a history, and keep it."""
        self._prior(self._template).fill(on_progress)
        self.save_priors()

    def save_priors(self) -> None:
        """Keep what has been computed of the priors for the next run; without a folder for them, nothing."""
        if self._prior_cache is not None:
            for key, prior in self._priors.items():
                prior.save(self._prior_cache / key)

    def render(self, request: RankRequest) -> tuple[Prompt, tuple[str, ...]]:
        """The prompt for a request, and what had to be left out of it.

        The oldest items go first when the prompt does not fit the model's context.
        """
        template = self._template_for(request)
        shown = request.history[-self.settings.max_history :]
        for start in range(len(shown) + 1):
            prompt = self._fill_in(template, shown[start:], request.words)
            if len(self._tokenizer.encode_prompt(prompt)) <= self._room:
                if not start:
                    return prompt, ()
                kept = f"the prompt shows the newest {len(shown) - start} of {len(shown)} history items"
                return prompt, (f"{kept}; the rest does not fit {self._backend.max_tokens} tokens",)
        raise EngineError(
            f"template {template.name!r} does not fit the context of {self._backend.max_tokens} tokens even without "
            "a history; shorten the words or the template"
        )

    def _batches(self, requests: Sequence[RankRequest]) -> Iterator[tuple[Template, list[int]]]:
        """Requests of one template, at most `batch_size` at a time, by their places."""
        for template in (self._template, self._cold_template):
            places = [place for place, request in enumerate(requests) if self._template_for(request) is template]
            for start in range(0, len(places), self.settings.batch_size):
                yield template, places[start : start + self.settings.batch_size]

    def _template_for(self, request: RankRequest) -> Template:
        return self._template if len(request.history) else self._cold_template

    def _fill_in(self, template: Template, history: IntArray, words: str) -> Prompt:
        items = [self._index.catalog[int(item)] for item in history]
        views = [{**item.attributes, "title": one_line(item.title)[:_SHOWN_CHARACTERS]} for item in items]
        inputs = {"history": views, "words": one_line(words)[:_WORDS_CHARACTERS]}
        return template.render(**{name: inputs[name] for name in template.inputs})

    def _open(self, requests: Sequence[RankRequest], deadline: Deadline) -> tuple[TokenTree, list[tuple[str, ...]]]:
        rendered = [self.render(request) for request in requests]
        tree = self._backend.open([self._tokenizer.encode_prompt(prompt) for prompt, _ in rendered])
        return _TimedTree(tree, deadline), [notices for _, notices in rendered]

    def _rank(self, template: Template, requests: Sequence[RankRequest], k: int, deadline: Deadline) -> list[Ranking]:
        settings, trie = self.settings, self._index.trie
        deadline.check()
        asked = np.stack([request.allowed for request in requests])
        boost = np.stack([_NO_BOOST if one.boost is None else one.boost for one in requests]) + np.zeros(asked.shape)
        allowed = asked
        if settings.strategy == "candidates":
            allowed, evidence = self._propose(requests, max(k, settings.candidates), deadline)
            boost = boost + evidence
        tree, notices = self._open(requests, deadline)
        guide = None
        if settings.prior and settings.strategy == "candidates":
            proposed = np.flatnonzero(allowed.any(axis=0))
            rows = trie.rows_of_items[proposed]
            boost[:, proposed] -= settings.prior * self._prior(template).row_scores(rows, settings.score)
        elif settings.prior:
            guide = -settings.prior * self._prior(template).prefix_scores(settings.score)
        terms = Terms(allowed[:, trie.items], k, settings.score, guide, boost[:, trie.items])
        if settings.strategy == "beam":
            rankings = beam_search(tree, trie, terms, width=settings.width, exact=settings.exact)
        else:
            rankings = exhaustive_search(tree, trie, terms)
        whole = allowed.sum(axis=1) == asked.sum(axis=1)
        return [
            replace(ranking, proven=bool(ranking.proven and complete), notices=own)
            for ranking, complete, own in zip(rankings, whole, notices, strict=True)
        ]

    def _propose(self, requests: Sequence[RankRequest], count: int, deadline: Deadline) -> tuple[BoolArray, FloatArray]:
        """What the proposer puts forward, bool [U, N], and its weighted scores, 0 elsewhere, float64 [U, N]."""
        if self._proposer is None:
            raise InputError("the strategy 'candidates' needs a proposer, such as an embedding ranker")
        plain = [replace(request, boost=None) for request in requests]
        allowed = np.zeros((len(requests), len(self._index.trie)), dtype=np.bool_)
        evidence = np.zeros(allowed.shape)
        for row, ranking in enumerate(self._proposer.rank(plain, count, deadline=deadline)):
            allowed[row, ranking.item_indices] = True
            evidence[row, ranking.item_indices] = self.settings.evidence * ranking.scores
        return allowed, evidence

    def _score(
        self, template: Template, requests: Sequence[RankRequest], items: Sequence[IntArray], deadline: Deadline
    ) -> list[FloatArray]:
        settings, trie = self.settings, self._index.trie
        chosen = [replace(request, allowed=_mask(own, len(trie))) for request, own in zip(requests, items, strict=True)]
        boosts = [
            np.zeros(len(own)) if r.boost is None else r.boost[own] for r, own in zip(requests, items, strict=True)
        ]
        if settings.strategy == "candidates" and settings.evidence and self._proposer is not None:
            plain = [replace(request, boost=None) for request in requests]
            for boost, known in zip(boosts, self._proposer.score(plain, items, deadline=deadline), strict=True):
                boost += settings.evidence * np.where(np.isfinite(known), known, 0.0)
        tree, _ = self._open(chosen, deadline)
        terms = Terms(np.stack([one.allowed for one in chosen])[:, trie.items], len(trie), settings.score)
        answers = []
        for ranking, own, boost in zip(exhaustive_search(tree, trie, terms), items, boosts, strict=True):
            path = np.zeros(len(trie))
            path[ranking.item_indices] = ranking.scores
            total = path[own] + boost
            if settings.prior:
                total -= settings.prior * self._prior(template).row_scores(trie.rows_of_items[own], settings.score)
            answers.append(total)
        return answers

    def _prior(self, template: Template) -> Prior:
        prompt = self._tokenizer.encode_prompt(self._fill_in(template, np.empty(0, dtype=np.int64), ""))
        digest = hashlib.sha256(prompt.tobytes() + self._backend.name.encode()).hexdigest()[:16]
        key = f"{self._index.fingerprint}-{digest}"
        if key not in self._priors:
            prior = Prior(self._backend, self._index.trie, prompt, key=key)
            if self._prior_cache is not None and (self._prior_cache / key).is_dir():
                prior.load(self._prior_cache / key)
            self._priors[key] = prior
        return self._priors[key]


_SHOWN_CHARACTERS = 200  # of a title in a prompt
_WORDS_CHARACTERS = 1000  # of what a person says
_NO_BOOST = np.zeros(1)


class _TimedTree:
    """A token tree that stops at the deadline, between two forward passes."""

    def __init__(self, tree: TokenTree, deadline: Deadline) -> None:
        self._tree, self._deadline = tree, deadline

    @property
    def size(self) -> int:
        return self._tree.size

    def grow(self, parents: IntArray, tokens: IntArray) -> IntArray:
        self._deadline.check()
        return self._tree.grow(parents, tokens)

    def log_probs(self, nodes: IntArray, tokens: IntArray, offsets: IntArray) -> FloatArray:
        self._deadline.check()
        return self._tree.log_probs(nodes, tokens, offsets)

    def rewind(self, size: int) -> None:
        self._tree.rewind(size)


def _mask(items: IntArray, count: int) -> BoolArray:
    mask = np.zeros(count, dtype=np.bool_)
    mask[items] = True
    return mask
