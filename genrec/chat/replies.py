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

from genrec.backends.base import Backend, TextConstraint, TextRequest
from genrec.chat.conversation import Occasion
from genrec.chat.item_facts import clauses_of
from genrec.chat.item_links import write_mention, write_text
from genrec.data.catalog import Catalog
from genrec.deadline import Deadline
from genrec.decoding.item_link_constraint import MentionConstraint
from genrec.errors import EngineError, InputError
from genrec.prompting.template import Prompt, Template, one_line, read_template
from genrec.prompting.tokenizer import Tokenizer
from genrec.types import Recommendation

Opening = Literal["quoting", "going on", "beginning"]

_TOKENS = 120  # a reply may have
_TALKED = 3  # items that are talked about; the others are named behind them
_SAID = 300  # characters of each wish, and of what was said, that the model sees
_CHARACTERS = 120  # of somebody's own words that a reply repeats
_PERIOD = 24  # tokens: what comes again behind itself within so many is a model that goes round in circles
_MARK = re.compile(r"\[([0-9]+|w)\]")
# All of a kind begin alike, so that the first words need no model.
_OPENINGS: Mapping[Opening, tuple[str, ...]] = MappingProxyType(
    {
        "quoting": tuple(
            f"For “[w]” {one} [1]" for one in ("I would start with", "my first suggestion is", "first comes")
        ),
        "going on": ("Now I would start with [1]", "Now my first suggestion is [1]", "Now first comes [1]"),
        "beginning": ("I would start with [1]", "I would first look at [1]"),
    }
)
_NEXT = (
    (" Then there is", " Next comes", " You could also take"),
    (" Another one is", " Or look at", " And there is"),
)
_CLOSINGS = ("", " Tell me which of these you like.", " Is there anything that I should leave out?")
_CHEAPER = " Shall I look for something cheaper?"


class Grammars(Protocol):
    """Makes constraints of grammars, as `genrec.decoding.grammar.JsonGrammar` does."""

    def constrain_to(self, grammar: str) -> TextConstraint:
        """The constraint of a grammar in llguidance's notation of Lark."""
        ...


@dataclass(frozen=True)
class ReplyWriter:
    """Puts a turn into words; see `genrec.chat.advisor.Write`.

    Attributes:
        backend: writes.
        tokenizer: the model's.
        grammars: of the same tokenizer.
        catalog: holds what was recommended.
        template: takes `said`, `wishes` and `items`, each with `title` and `facts`.
        price: the attribute that is a price.
        mentions: makes the constraint of a free reply from the items that it may mention; None for bound ones.
    """

    backend: Backend = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    grammars: Grammars = field(repr=False)
    catalog: Catalog = field(repr=False)
    template: Template = field(default_factory=lambda: read_template("reply"), repr=False)
    price: str = "price"
    mentions: Callable[[Sequence[Recommendation]], MentionConstraint] | None = field(default=None, repr=False)

    def __call__(self, occasion: Occasion, on_text: Callable[[str], None], deadline: Deadline) -> bool:
        """Tell the reply piece by piece; False where it cannot be written, before any piece was told.

        Raises:
            EngineError: the model failed, perhaps after some pieces.
        """
        items, words = occasion.answer.items, occasion.wishes.words
        clauses = clauses_of(items, self.catalog, words, price=self.price)
        constraint: TextConstraint
        telling: _Telling
        if self.mentions is None:
            priced = self.price in self.catalog.attribute_names
            try:
                constraint = self.grammars.constrain_to(frame(clauses, _opening(occasion), priced=priced))
            except InputError:  # a value spells what this tokenizer takes for a control token
                return False
            telling = _Bound(items, on_text, self.tokenizer, words[-1] if words else "")
        else:
            constraint = mentioning = self.mentions(items)
            telling = _Free(items, on_text, self.tokenizer, mentioning, self.catalog)
        prompt = self.tokenizer.encode_prompt(self.render(occasion, clauses))
        request = TextRequest(prompt, tuple(self.tokenizer.control_ids), _TOKENS, constraint=constraint)
        try:
            self.backend.write([request], deadline=deadline, on_tokens=lambda _, new: telling.take(new))
        except (_RoundError, EngineError):
            if not telling.round:
                raise
        return telling.finish()

    def render(self, occasion: Occasion, clauses: Sequence[Sequence[str]]) -> Prompt:
        """The prompt of a reply."""
        shown = zip(occasion.answer.items[:_TALKED], clauses, strict=False)
        items = [
            {"title": one_line(item.title), "facts": [clause.removeprefix(", ").strip() for clause in own]}
            for item, own in shown
        ]
        wishes = [*occasion.wishes.words, *(own.where for own in occasion.wishes.limits)]
        said, *wishes = (one_line(own)[:_SAID] for own in (occasion.said, *wishes))
        return self.template.render(said=said, wishes=wishes, items=items)


def frame(clauses: Sequence[Sequence[str]], opening: Opening, *, priced: bool) -> str:
    """All that a bound reply may say, as a grammar; an item is written as its number in brackets, words as [w].

    Args:
        clauses: of each item, what may stand behind its name.
        opening: how it begins: repeating what is looked for, or not.
        priced: whether something cheaper can be asked for.
    """
    rules = [f"open: {_any(_OPENINGS[opening])}"]
    parts = ["open"]
    for number, own in enumerate(clauses[:_TALKED], start=1):
        if number > 1:
            rules.append(f"next{number}: {_any(_NEXT[number - 2])}")
            parts += [f"next{number}", f'" [{number}]"']
        if own:
            rules.append(f"clause{number}: {_any(own)}")
            parts.append(f"clause{number}")
        parts.append('"."')
    if left := [f"[{number}]" for number in range(_TALKED + 1, len(clauses) + 1)]:
        several = f"There are also {', '.join(left[:-1])} and {left[-1]}."
        parts.append(f'" {several if left[1:] else f"There is also {left[0]}."}"')
    rules.append(f"close: {_any((*_CLOSINGS, _CHEAPER) if priced else _CLOSINGS)}")
    return "\n".join([f"start: {' '.join([*parts, 'close'])}", *rules])


def _opening(occasion: Occasion) -> Opening:
    """How a reply begins: what is looked for is repeated when it was said, and later on no more."""
    words = occasion.wishes.words
    if words and words != occasion.conversation.wishes.words:
        return "quoting"
    return "going on" if occasion.conversation.turns else "beginning"


def _any(texts: Sequence[str]) -> str:
    return " | ".join(f'"{text}"' for text in texts)


def _printable(text: str) -> str:
    """A model's own words without control characters but line breaks."""
    return "".join(char for char in text if char == "\n" or unicodedata.category(char) != "Cc")


class _RoundError(Exception):
    """The model says the same again and again."""


class _Telling:
    """Turns tokens into pieces, and knows what has been named."""

    def __init__(self, items: Sequence[Recommendation], on_text: Callable[[str], None], tokenizer: Tokenizer) -> None:
        self.round = False
        self._items, self._on_text, self._tokenizer = items, on_text, tokenizer
        self._named: set[int] = set()
        self._end = ""  # of what was told
        self._tokens: list[int] = []
        self._shown = 0  # characters of these that were told

    def take(self, new: Sequence[int]) -> None:
        """Some more tokens."""
        raise NotImplementedError

    def finish(self) -> bool:
        """Name what was not named; False where nothing at all was told."""
        if not self._end:
            return False
        left = [item for place, item in enumerate(self._items) if place not in self._named]
        if self._end[-1] not in ".!?":
            self._tell(".")
        if left:
            self._tell(" There is also " if len(left) == 1 else " There are also ")
            for place, item in enumerate(left):
                self._tell("" if not place else " and " if place == len(left) - 1 else ", ")
                self._tell(write_mention(item.item_id, item.title))
            self._tell(".")
        return True

    def _name(self, place: int) -> None:
        item = self._items[place]
        self._named.add(place)
        self._tell(write_mention(item.item_id, item.title))

    def _tell(self, piece: str) -> None:
        if not self._end:
            piece = piece.lstrip()
        if piece:
            self._end = piece
            self._on_text(piece)

    def _decoded(self) -> str:
        """What is whole of the text and was not told yet; a character may need more tokens than are there."""
        return self._tokenizer.decode(self._tokens).rstrip("\ufffd")[self._shown :]


class _Bound(_Telling):
    """Of a reply within a frame: marks in brackets stand for items and words."""

    def __init__(
        self, items: Sequence[Recommendation], on_text: Callable[[str], None], tokenizer: Tokenizer, words: str
    ) -> None:
        super().__init__(items, on_text, tokenizer)
        self._words = one_line(words)[:_CHARACTERS]

    def take(self, new: Sequence[int]) -> None:
        self._tokens += new
        while text := self._decoded():
            mark = _MARK.match(text)
            opening = text.find("[")
            if mark is None and opening == 0:
                return  # which mark it is, comes next
            if mark is None:
                shown = text if opening < 0 else text[:opening]
                self._tell(write_text(shown))
            elif mark[1] == "w":
                shown = mark[0]
                self._tell(write_text(self._words))
            else:
                shown = mark[0]
                self._name(int(mark[1]) - 1)
            self._shown += len(shown)


class _Free(_Telling):
    """Of a free reply: what is named is known by its tokens, never by their text."""

    def __init__(
        self,
        items: Sequence[Recommendation],
        on_text: Callable[[str], None],
        tokenizer: Tokenizer,
        constraint: MentionConstraint,
        catalog: Catalog,
    ) -> None:
        super().__init__(items, on_text, tokenizer)
        self._state, self._rows = constraint.start(), constraint.grammar.trie.items
        self._places = {catalog.index_of(item.item_id): place for place, item in enumerate(items)}
        self._written: list[int] = []

    def take(self, new: Sequence[int]) -> None:
        for token in map(int, new):
            self._written.append(token)
            was_free, count = self._state.state.free, len(self._state.state.rows)
            self._state.advance(token)
            after = self._state.state
            if was_free:
                self._tokens.append(token)
                text = self._decoded()
                self._shown += len(text)
                self._tell(write_text(_printable(text if after.free else text.removesuffix("["))))
            elif len(after.rows) > count:
                self._tokens, self._shown = [], 0
                self._name(self._places[int(self._rows[after.rows[-1]])])
            if any(self._repeats(period) for period in range(1, _PERIOD + 1)):
                self.round = True
                raise _RoundError

    def _repeats(self, period: int) -> bool:
        """Whether the last tokens are some that came three times in a row; of very few, more often."""
        times = 3 if period > 3 else 12 // period
        tail = self._written[-period * times :]
        return len(tail) == period * times and tail == tail[:period] * times
