"""A language model that writes text, as a ranker: it puts the numbers of proposed items in order.

Its prompt numbers the items that a retriever proposes, and the answer is a list of these numbers. If there are more
items than fit one window, windows slide from the end of the proposed order to its beginning, and each carries its best
items into the next. Every number is checked, and items that an answer leaves out follow in the order in which they
were proposed. So only proposed items are ranked, each once, whatever the model writes.
Source: Sun et al., "Is ChatGPT Good at Search? Investigating Large Language Models as Re-Ranking Agents", EMNLP 2023,
section 3.2 (RankGPT).

Letters: U requests, C candidates of a request.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from genrec.backends.base import GenerationRequest, TextBackend, TokenUsage
from genrec.data.catalog import Catalog
from genrec.data.subset import Boost
from genrec.deadline import Deadline
from genrec.decoding.grammar import GrammarCompiler
from genrec.decoding.independent_texts import generate_each
from genrec.errors import EngineError, InputError, check_count
from genrec.notices import Notice
from genrec.prompting.renderer import Renderer, window_start
from genrec.prompting.template import Template, read_template
from genrec.prompting.tokenizer import Tokenizer
from genrec.rankers.base import Ranker, RankRequest
from genrec.rankers.failures import PartialFailureError
from genrec.rankers.listwise_settings import ListwiseSettings
from genrec.rankers.retrieval import ordered_candidates
from genrec.types import FloatArray, IntArray, Ranking

_SIGNAL = "listwise"
_ANSWER_TOKENS, _TOKENS_PER_ITEM = 32, 8  # greatest length of an answer, with white space


def check_list_template(template: Template) -> None:
    """Check that a template can show numbered items.

    Raises:
        InputError: it does not list candidates, or its output is not text.
    """
    if "candidates" not in template.inputs or template.output != "text":
        raise InputError(
            f"template {template.name!r} cannot rank a list; use one with the input candidates and output = text, such "
            "as rank-listwise"
        )


class ListwiseRanker:
    """Ranks the items that a retriever proposes by the order in which a language model lists their numbers.

    The score of an item is 0 for the first, -1 for the second, and so on, plus its boost: a boost of 1 is one place.
    Items that the retriever does not propose are unknown to this ranker. Rankings are never proven.

    Args:
        catalog: the items.
        backend: the model.
        tokenizer: of the backend.
        grammar: compiles the schema of answers for this tokenizer.
        retriever: proposes items.
        template: lists `candidates` in the order of their numbers, from 1; its output is text.
        settings: how many items are shown, and how.

    Attributes:
        source: name of the stage in recommendations.
        notices: none; see `genrec.rankers.generative.GenerativeRanker`.

    Raises:
        InputError: the template does not fit.
    """

    notices: tuple[Notice, ...] = ()

    def __init__(
        self,
        catalog: Catalog,
        backend: TextBackend,
        tokenizer: Tokenizer,
        grammar: GrammarCompiler,
        *,
        retriever: Ranker,
        template: Template | None = None,
        settings: ListwiseSettings | None = None,
    ) -> None:
        template = template or read_template("rank-listwise")
        check_list_template(template)
        self.settings, self.source = settings or ListwiseSettings(), "generative"
        self.generation_backend, self.tokenizer = backend, tokenizer
        self._catalog, self._grammar, self._retriever, self._template = catalog, grammar, retriever, template
        self._renderer = self._make_renderer()

    @property
    def catalog(self) -> Catalog:
        """The items that it ranks."""
        return self._catalog

    def reindexed(self, catalog: Catalog, *, retriever: Ranker) -> "ListwiseRanker":
        """A copy over another version of the catalog; it shares the model."""
        other = copy.copy(self)
        other._catalog, other._retriever = catalog, retriever
        other._renderer = other._make_renderer()
        return other

    def can_rank(self, request: RankRequest) -> bool:
        """True if the request has words or at least `min_history` items, and the retriever can propose items."""
        if len(request.history) < self.settings.min_history and not request.words.strip():
            return False
        return self._retriever.can_rank(request)

    def rank(self, requests: Sequence[RankRequest], k: int, *, deadline: Deadline) -> list[Ranking]:
        """Rank the proposed items of each request.

        Args:
            requests: U requests.
            k: list length.
            deadline: for all requests together.

        Returns:
            U rankings, best first; shorter than k if fewer items are proposed. The main signal of an item is "listwise"
            if the model named it, else that of the retriever.

        Raises:
            InputError: k is below 1.
            PartialFailureError: the model failed for some of several requests; it holds the rankings of the others.
            EngineError: the model failed for the only request.
            DeadlineExceededError: the deadline has passed.
        """
        check_count("k", k)
        results: list[Ranking | EngineError] = [
            one.error or one.ranking(k, self._retriever.source) for one in self._run(requests, deadline)
        ]
        failures = [result for result in results if isinstance(result, EngineError)]
        if failures and len(results) == 1:
            raise failures[0]
        if failures:
            raise PartialFailureError(results)
        return [result for result in results if isinstance(result, Ranking)]

    def score(
        self, requests: Sequence[RankRequest], item_indices: Sequence[IntArray], *, deadline: Deadline
    ) -> list[FloatArray]:
        """The scores of given items as `rank` computes them; minus infinity for items that are not proposed.

        Raises:
            EngineError: the model failed.
            DeadlineExceededError: the deadline passed.
        """
        scores: list[FloatArray] = []
        for one, items in zip(self._run(requests, deadline), item_indices, strict=True):
            if one.error is not None:
                raise one.error
            known = dict(zip(one.order, one.scores().tolist(), strict=True))
            scores.append(np.array([known.get(int(item), -np.inf) for item in items], dtype=np.float64))
        return scores

    def visible_history(self, history: IntArray) -> IntArray:
        """The part of a history that the prompt shows; see `genrec.prompting.renderer.window_start`."""
        return history[window_start(history, self.settings.max_history, self.settings.history_step) :]

    def _make_renderer(self) -> Renderer:
        answer = self._max_tokens(self.settings.window)
        room = self.generation_backend.context_length - answer
        window = (self.settings.max_history, self.settings.history_step)
        return Renderer(self._catalog, self.tokenizer, self._template, room, *window)

    def _run(self, requests: Sequence[RankRequest], deadline: Deadline) -> "list[_ListInProgress]":
        """Propose items, and let the model order all windows, those of all requests that are at the same place at once.

        Raises:
            DeadlineExceededError: the deadline has passed already.
        """
        if not requests:
            return []
        deadline.check()
        proposed = ordered_candidates(self._retriever, requests, self.settings.candidates, deadline=deadline)
        lists = [_ListInProgress(request, items.tolist()) for request, items in zip(requests, proposed, strict=True)]
        windows = [_window_starts(len(one.order), self.settings.window, self.settings.window_step) for one in lists]
        for turn in range(max(map(len, windows))):
            active = [
                (one, starts[turn])
                for one, starts in zip(lists, windows, strict=True)
                if turn < len(starts) and one.error is None
            ]
            self._order_windows(active, deadline)
        return lists

    def _order_windows(self, active: "Sequence[tuple[_ListInProgress, int]]", deadline: Deadline) -> None:
        """Ask for the order of one window of each list, and apply it."""
        asked: list[tuple[_ListInProgress, int, int]] = []
        generation: list[GenerationRequest] = []
        for one, start in active:
            items = np.array(one.order[start : start + self.settings.window], dtype=np.int64)
            try:
                prompt = self._renderer.render(one.request.history, one.request.words, items)
            except EngineError as error:
                one.error = error
                continue
            one.notices = prompt.notices
            asked.append((one, start, len(items)))
            generation.append(self._generation_request(prompt.token_ids, len(items)))
        answers = generate_each(self.generation_backend, generation, deadline=deadline)
        for (one, start, count), request, answer in zip(asked, generation, answers, strict=True):
            if isinstance(answer, EngineError):
                one.error = answer
                continue
            one.usage += answer.usage or TokenUsage(len(request.prompt), len(answer.token_ids))
            try:
                numbers = parse_ranking(self.tokenizer.decode(answer.token_ids.tolist()), count)
            except EngineError as error:
                one.error = error
            else:
                one.apply(start, count, numbers)

    def _generation_request(self, prompt: IntArray, count: int) -> GenerationRequest:
        constraint = self._grammar.compile_json_schema(ranking_schema(count))
        stops = tuple(self.tokenizer.control_token_ids)
        return GenerationRequest(prompt, stops, self._max_tokens(count), constraint=constraint)

    @staticmethod
    def _max_tokens(count: int) -> int:
        return _ANSWER_TOKENS + _TOKENS_PER_ITEM * count


def ranking_schema(count: int) -> dict[str, Any]:
    """The JSON Schema of an answer about `count` items."""
    number = {"type": "integer", "minimum": 1, "maximum": count}
    return {
        "type": "object",
        "properties": {"ranking": {"type": "array", "items": number, "minItems": 1, "maxItems": count}},
        "required": ["ranking"],
        "additionalProperties": False,
    }


def parse_ranking(text: str, count: int) -> list[int]:
    """The numbers from 1 to `count` in an answer, each once, in its order; others and repeats are dropped.

    Raises:
        EngineError: the answer is not JSON of the schema, or names none of the items.
    """
    try:
        named = json.loads(text)["ranking"]
        numbers = [number for number in named if isinstance(number, int) and not isinstance(number, bool)]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise EngineError(
            f"the model's answer {text[:80]!r} is not a ranking; use a model that follows instructions"
        ) from error
    valid = list(dict.fromkeys(number for number in numbers if 1 <= number <= count))
    if not valid:
        raise EngineError(
            f"the model's answer {text[:80]!r} names none of the {count} items; use a model that can rank lists"
        )
    return valid


@dataclass
class _ListInProgress:
    """The list of one request while windows slide over it.

    Attributes:
        request: the request.
        order: the proposed items, best first so far.
        named: those that the model named in the last window that showed them.
        usage, calls: of the model so far.
        notices: of the last prompt.
        error: why the model failed; None if it did not.
    """

    request: RankRequest
    order: list[int]
    named: set[int] = field(default_factory=set)
    usage: TokenUsage = field(default_factory=TokenUsage)
    calls: int = 0
    notices: tuple[Notice, ...] = ()
    error: EngineError | None = None

    def apply(self, start: int, count: int, numbers: Sequence[int]) -> None:
        """Order a window by the model's numbers, which are valid; items without one follow in their former order."""
        shown = self.order[start : start + count]
        named = [shown[number - 1] for number in numbers]
        self.named = (self.named - set(shown)) | set(named)
        self.order[start : start + count] = [*named, *(item for item in shown if item not in set(named))]
        self.calls += 1

    def scores(self) -> FloatArray:
        """float64 [C], in the order of `order`."""
        boost = self.request.boost or Boost.from_pairs([])
        return -np.arange(len(self.order), dtype=np.float64) + boost.values_at(np.array(self.order, dtype=np.int64))

    def ranking(self, k: int, retriever: str) -> Ranking:
        """The k best items."""
        items, scores = np.array(self.order, dtype=np.int64), self.scores()
        best = np.lexsort((items, -scores))[:k]
        signals = tuple(_SIGNAL if item in self.named else retriever for item in items[best].tolist())
        notices = self.notices if len(self.request.allowed) else (Notice("nothing_allowed"),)
        ranking = Ranking(items[best], scores[best], False, len(items), notices, main_signals=signals)
        return replace(
            ranking,
            generated_tokens=self.usage.generated_tokens,
            prompt_tokens=self.usage.prompt_tokens,
            forward_passes=self.calls,
            cost=self.usage.cost,
        )


def _window_starts(count: int, window: int, step: int) -> list[int]:
    """Where the windows over `count` items start, from the last to the first; none for a list without a choice."""
    if count < 2:
        return []
    return [*range(max(count - window, 0), 0, -step), 0]
