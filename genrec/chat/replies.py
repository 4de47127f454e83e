"""Replies that a language model writes, in which every item is one that was recommended.

    occasion --clauses_of--> what may be said --template--> prompt --Backend.write--> tokens --_Telling--> pieces

Two styles. "bound": the model chooses an order of speech and, for each item, one of the clauses that are true of it;
whatever it chooses, nothing false is said, which small models need. "free": it says what it likes, and only mentions
are held to the list; for models that can be trusted with that.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

from genrec.backends.base import Backend, GenerationConstraint, GenerationRequest
from genrec.chat.conversation import TurnContext
from genrec.chat.item_facts import build_item_facts
from genrec.chat.item_links import escape_markdown, format_item_link
from genrec.data.catalog import Catalog
from genrec.deadline import Deadline
from genrec.decoding.item_link_constraint import ItemLinkConstraint
from genrec.errors import EngineError, InputError
from genrec.prompting.template import Prompt, Template, one_line, read_template
from genrec.prompting.tokenizer import Tokenizer
from genrec.types import Recommendation

OpeningStyle = Literal["quoting", "going on", "beginning"]

_MAX_TOKENS = 120  # a reply may have
_MAX_DESCRIBED_ITEMS = 3  # items that are talked about; the others are named behind them
_MAX_INPUT_LENGTH = 300  # characters of each wish, and of what was said, that the model sees
_MAX_QUOTE_LENGTH = 120  # of somebody's own words that a reply repeats
_MAX_REPEAT_PERIOD = 24  # tokens: what comes again behind itself within so many is a model that goes round in circles
_PLACEHOLDER = re.compile(r"\[([0-9]+|w)\]")
# All of a kind begin alike, so that the first words need no model.
_OPENINGS: Mapping[OpeningStyle, tuple[str, ...]] = MappingProxyType(
    {
        "quoting": tuple(
            f"For “[w]” {one} [1]" for one in ("I would start with", "my first suggestion is", "first comes")
        ),
        "going on": ("Now I would start with [1]", "Now my first suggestion is [1]", "Now first comes [1]"),
        "beginning": ("I would start with [1]", "I would first look at [1]"),
    }
)
_TRANSITIONS = (
    (" Then there is", " Next comes", " You could also take"),
    (" Another one is", " Or look at", " And there is"),
)
_CLOSINGS = ("", " Tell me which of these you like.", " Is there anything that I should leave out?")
_CHEAPER_QUESTION = " Shall I look for something cheaper?"


class GrammarCompiler(Protocol):
    """Makes constraints of grammars, as `genrec.decoding.grammar.GrammarCompiler` does."""

    def compile_lark(self, grammar: str) -> GenerationConstraint:
        """The constraint of a grammar in llguidance's notation of Lark."""
        ...


@dataclass(frozen=True)
class ModelReplyGenerator:
    """Puts a turn into words; see `genrec.chat.advisor.ReplyGenerator`.

    Attributes:
        backend: writes.
        tokenizer: the model's.
        grammar_compiler: of the same tokenizer.
        catalog: holds what was recommended.
        template: takes `said`, `wishes` and `items`, each with `title` and `facts`.
        price_column: the attribute that is a price.
        link_constraint: makes the constraint of a free reply from the items that it may mention; None for bound ones.
    """

    backend: Backend = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    grammar_compiler: GrammarCompiler = field(repr=False)
    catalog: Catalog = field(repr=False)
    template: Template = field(default_factory=lambda: read_template("reply"), repr=False)
    price_column: str = "price"
    link_constraint: Callable[[Sequence[Recommendation]], ItemLinkConstraint] | None = field(default=None, repr=False)

    def __call__(self, context: TurnContext, on_text: Callable[[str], None], deadline: Deadline) -> bool:
        """Tell the reply piece by piece; False where it cannot be written, before any piece was told.

        Raises:
            EngineError: the model failed, perhaps after some pieces.
        """
        items, words = context.recommendations.items, context.preferences.words
        clauses = build_item_facts(items, self.catalog, words, price_column=self.price_column)
        constraint: GenerationConstraint
        telling: _ReplyStream
        if self.link_constraint is None:
            priced = self.price_column in self.catalog.attribute_names
            try:
                constraint = self.grammar_compiler.compile_lark(
                    reply_grammar(clauses, _opening_style(context), has_prices=priced)
                )
            except InputError:  # a value spells what this tokenizer takes for a control token
                return False
            telling = _BoundReplyStream(items, on_text, self.tokenizer, words[-1] if words else "")
        else:
            constraint = mentioning = self.link_constraint(items)
            telling = _FreeReplyStream(items, on_text, self.tokenizer, mentioning, self.catalog)
        prompt = self.tokenizer.encode_prompt(self.render(context, clauses))
        request = GenerationRequest(prompt, tuple(self.tokenizer.control_token_ids), _MAX_TOKENS, constraint=constraint)
        try:
            self.backend.generate([request], deadline=deadline, on_tokens=lambda _, new: telling.feed(new))
        except (_RepetitionError, EngineError):
            if not telling.is_repeating:
                raise
        return telling.finish()

    def render(self, context: TurnContext, item_facts: Sequence[Sequence[str]]) -> Prompt:
        """The prompt of a reply."""
        shown = zip(context.recommendations.items[:_MAX_DESCRIBED_ITEMS], item_facts, strict=False)
        items = [
            {"title": one_line(item.title), "facts": [clause.removeprefix(", ").strip() for clause in own]}
            for item, own in shown
        ]
        wishes = [*context.preferences.words, *(own.where for own in context.preferences.filters)]
        said, *wishes = (one_line(own)[:_MAX_INPUT_LENGTH] for own in (context.message, *wishes))
        return self.template.render(said=said, wishes=wishes, items=items)


def reply_grammar(item_facts: Sequence[Sequence[str]], opening: OpeningStyle, *, has_prices: bool) -> str:
    """All that a bound reply may say, as a grammar; an item is written as its number in brackets, words as [w].

    Args:
        item_facts: of each item, what may stand behind its name.
        opening: how it begins: repeating what is looked for, or not.
        has_prices: whether something cheaper can be asked for.
    """
    rules = [f"open: {_alternatives(_OPENINGS[opening])}"]
    parts = ["open"]
    for number, own in enumerate(item_facts[:_MAX_DESCRIBED_ITEMS], start=1):
        if number > 1:
            rules.append(f"next{number}: {_alternatives(_TRANSITIONS[number - 2])}")
            parts += [f"next{number}", f'" [{number}]"']
        if own:
            rules.append(f"clause{number}: {_alternatives(own)}")
            parts.append(f"clause{number}")
        parts.append('"."')
    if left := [f"[{number}]" for number in range(_MAX_DESCRIBED_ITEMS + 1, len(item_facts) + 1)]:
        several = f"There are also {', '.join(left[:-1])} and {left[-1]}."
        parts.append(f'" {several if left[1:] else f"There is also {left[0]}."}"')
    rules.append(f"close: {_alternatives((*_CLOSINGS, _CHEAPER_QUESTION) if has_prices else _CLOSINGS)}")
    return "\n".join([f"start: {' '.join([*parts, 'close'])}", *rules])


def _opening_style(context: TurnContext) -> OpeningStyle:
    """How a reply begins: what is looked for is repeated when it was said, and later on no more."""
    words = context.preferences.words
    if words and words != context.conversation.preferences.words:
        return "quoting"
    return "going on" if context.conversation.turns else "beginning"


def _alternatives(texts: Sequence[str]) -> str:
    return " | ".join(f'"{text}"' for text in texts)


def _strip_control_characters(text: str) -> str:
    """A model's own words without control characters but line breaks."""
    return "".join(char for char in text if char == "\n" or unicodedata.category(char) != "Cc")


class _RepetitionError(Exception):
    """The model says the same again and again."""


class _ReplyStream:
    """Turns tokens into pieces, and knows what has been named."""

    def __init__(self, items: Sequence[Recommendation], on_text: Callable[[str], None], tokenizer: Tokenizer) -> None:
        self.is_repeating = False
        self._items, self._on_text, self._tokenizer = items, on_text, tokenizer
        self._linked: set[int] = set()
        self._last_piece = ""  # of what was told
        self._token_ids: list[int] = []
        self._emitted_length = 0  # characters of these that were told

    def feed(self, token_ids: Sequence[int]) -> None:
        """Some more tokens."""
        raise NotImplementedError

    def finish(self) -> bool:
        """Name what was not named; False where nothing at all was told."""
        if not self._last_piece:
            return False
        left = [item for place, item in enumerate(self._items) if place not in self._linked]
        if self._last_piece[-1] not in ".!?":
            self._emit(".")
        if left:
            self._emit(" There is also " if len(left) == 1 else " There are also ")
            for place, item in enumerate(left):
                self._emit("" if not place else " and " if place == len(left) - 1 else ", ")
                self._emit(format_item_link(item.item_id, item.title))
            self._emit(".")
        return True

    def _emit_link(self, position: int) -> None:
        item = self._items[position]
        self._linked.add(position)
        self._emit(format_item_link(item.item_id, item.title))

    def _emit(self, piece: str) -> None:
        if not self._last_piece:
            piece = piece.lstrip()
        if piece:
            self._last_piece = piece
            self._on_text(piece)

    def _pending_text(self) -> str:
        """What is whole of the text and was not told yet; a character may need more tokens than are there."""
        return self._tokenizer.decode(self._token_ids).rstrip("\ufffd")[self._emitted_length :]


class _BoundReplyStream(_ReplyStream):
    """Of a reply within a frame: marks in brackets stand for items and words."""

    def __init__(
        self, items: Sequence[Recommendation], on_text: Callable[[str], None], tokenizer: Tokenizer, words: str
    ) -> None:
        super().__init__(items, on_text, tokenizer)
        self._quoted_words = one_line(words)[:_MAX_QUOTE_LENGTH]

    def feed(self, token_ids: Sequence[int]) -> None:
        self._token_ids += token_ids
        while text := self._pending_text():
            mark = _PLACEHOLDER.match(text)
            opening = text.find("[")
            if mark is None and opening == 0:
                return  # which mark it is, comes next
            if mark is None:
                shown = text if opening < 0 else text[:opening]
                self._emit(escape_markdown(shown))
            elif mark[1] == "w":
                shown = mark[0]
                self._emit(escape_markdown(self._quoted_words))
            else:
                shown = mark[0]
                self._emit_link(int(mark[1]) - 1)
            self._emitted_length += len(shown)


class _FreeReplyStream(_ReplyStream):
    """Of a free reply: what is named is known by its tokens, never by their text."""

    def __init__(
        self,
        items: Sequence[Recommendation],
        on_text: Callable[[str], None],
        tokenizer: Tokenizer,
        constraint: ItemLinkConstraint,
        catalog: Catalog,
    ) -> None:
        super().__init__(items, on_text, tokenizer)
        self._state, self._trie_items = constraint.start(), constraint.grammar.trie.items
        self._positions = {catalog.index_of(item.item_id): place for place, item in enumerate(items)}
        self._generated: list[int] = []

    def feed(self, token_ids: Sequence[int]) -> None:
        for token in map(int, token_ids):
            self._generated.append(token)
            was_free, count = self._state.state.in_free_text, len(self._state.state.written_rows)
            self._state.advance(token)
            after = self._state.state
            if was_free:
                self._token_ids.append(token)
                text = self._pending_text()
                self._emitted_length += len(text)
                self._emit(
                    escape_markdown(_strip_control_characters(text if after.in_free_text else text.removesuffix("[")))
                )
            elif len(after.written_rows) > count:
                self._token_ids, self._emitted_length = [], 0
                self._emit_link(self._positions[int(self._trie_items[after.written_rows[-1]])])
            if any(self._repeats_with_period(period) for period in range(1, _MAX_REPEAT_PERIOD + 1)):
                self.is_repeating = True
                raise _RepetitionError

    def _repeats_with_period(self, period: int) -> bool:
        """Whether the last tokens are some that came three times in a row; of very few, more often."""
        times = 3 if period > 3 else 12 // period
        tail = self._generated[-period * times :]
        return len(tail) == period * times and tail == tail[:period] * times
