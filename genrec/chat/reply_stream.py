"""Streams of reply text: generated tokens become escaped text and item links, piece by piece."""

import re
import unicodedata
from collections.abc import Callable, Sequence

from genrec.chat.item_links import escape_markdown, format_item_link
from genrec.chat.reply_grammar import PLACEHOLDER
from genrec.data.catalog import Catalog
from genrec.decoding.item_link_constraint import ItemLinkConstraint
from genrec.prompting.template import one_line
from genrec.prompting.tokenizer import Tokenizer
from genrec.types import Recommendation

_MAX_QUOTE_LENGTH = 120  # characters of the search phrase that a reply repeats
_ITEM_NUMBER, _NUMBER_START = re.compile(r"\[([0-9]{1,3})\]"), re.compile(r"\[[0-9]{0,3}")
_MAX_REPEAT_PERIOD = 24  # tokens of the longest repetition that is detected


class RepetitionError(Exception):
    """The model repeats itself without end."""


class ReplyStream:
    """Emits the text of generated tokens, and keeps track of the items that it has named.

    Args:
        items: the items that the reply names, best first.
        on_text: receives each piece.
        tokenizer: the model's tokenizer.
    """

    def __init__(self, items: Sequence[Recommendation], on_text: Callable[[str], None], tokenizer: Tokenizer) -> None:
        self.is_repeating = False
        self._items, self._on_text, self._tokenizer = items, on_text, tokenizer
        self._linked: set[int] = set()
        self._last_piece = ""
        self._token_ids: list[int] = []
        self._emitted_length = 0  # characters of the text of `_token_ids`

    def feed(self, token_ids: Sequence[int]) -> None:
        """Add generated tokens, and emit the text that they complete.

        Raises:
            RepetitionError: the model repeats itself; `is_repeating` is then true.
        """
        raise NotImplementedError

    def finish(self) -> bool:
        """Name the items that the reply left out; False if it is empty."""
        if not self._last_piece:
            return False
        if self._last_piece[-1] not in ".!?":
            self._emit(".")
        missing = [item for position, item in enumerate(self._items) if position not in self._linked]
        if missing:
            self._emit(" There is also " if len(missing) == 1 else " There are also ")
            for number, item in enumerate(missing, start=1):
                self._emit("" if number == 1 else " and " if number == len(missing) else ", ")
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
        """Text that was not emitted yet, without a last character whose bytes are incomplete."""
        return self._tokenizer.decode(self._token_ids).rstrip("\ufffd")[self._emitted_length :]


class ConstrainedReplyStream(ReplyStream):
    """Emits a reply that follows a grammar, with items and the search phrase in place of their placeholders.

    Args:
        words: the search phrase that the reply may quote.
    """

    def __init__(
        self, items: Sequence[Recommendation], on_text: Callable[[str], None], tokenizer: Tokenizer, words: str
    ) -> None:
        super().__init__(items, on_text, tokenizer)
        self._quoted_words = one_line(words)[:_MAX_QUOTE_LENGTH]

    def feed(self, token_ids: Sequence[int]) -> None:
        """See `ReplyStream.feed`."""
        self._token_ids += token_ids
        while text := self._pending_text():
            placeholder = PLACEHOLDER.match(text)
            bracket = text.find("[")
            if placeholder is None and bracket == 0:
                return  # the placeholder is incomplete
            if placeholder is None:
                consumed = text if bracket < 0 else text[:bracket]
                self._emit(escape_markdown(consumed))
            else:
                consumed = placeholder[0]
                if placeholder[1] == "w":
                    self._emit(escape_markdown(self._quoted_words))
                else:
                    self._emit_link(int(placeholder[1]) - 1)
            self._emitted_length += len(consumed)


class NumberedReplyStream(ReplyStream):
    """Emits a free reply that names items by their numbers in brackets.

    A number becomes the link of its item where it first stands; later, the title; a number of no item is left out.
    """

    def feed(self, token_ids: Sequence[int]) -> None:
        """See `ReplyStream.feed`."""
        self._token_ids += token_ids
        self._emit_pending(complete=False)

    def finish(self) -> bool:
        """See `ReplyStream.finish`."""
        self._emit_pending(complete=True)
        return super().finish()

    def _emit_pending(self, *, complete: bool) -> None:
        while text := self._pending_text():
            number = _ITEM_NUMBER.match(text)
            bracket = text.find("[", 1)
            if text[0] == "[" and number is None and not complete and _NUMBER_START.fullmatch(text):
                return  # the number is incomplete
            consumed = number[0] if number is not None else text if bracket < 0 else text[:bracket]
            self._emitted_length += len(consumed)
            if number is None:
                self._emit(escape_markdown(_strip_control_characters(consumed)))
            elif 1 <= int(number[1]) <= len(self._items):
                position = int(number[1]) - 1
                if position in self._linked:
                    self._emit(escape_markdown(one_line(self._items[position].title)))
                else:
                    self._emit_link(position)


class FreeReplyStream(ReplyStream):
    """Emits a free reply, whose item links are recognised by their tokens and not by their text.

    Args:
        constraint: the constraint of the reply.
        catalog: holds the items.
    """

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
        self._positions = {catalog.index_of(item.item_id): position for position, item in enumerate(items)}
        self._generated: list[int] = []

    def feed(self, token_ids: Sequence[int]) -> None:
        """See `ReplyStream.feed`."""
        for token_id in map(int, token_ids):
            self._generated.append(token_id)
            was_free, link_count = self._state.state.in_free_text, len(self._state.state.written_rows)
            self._state.advance(token_id)
            state = self._state.state
            if was_free:
                self._emit_free_text(token_id, opens_link=not state.in_free_text)
            elif len(state.written_rows) > link_count:
                self._token_ids, self._emitted_length = [], 0
                self._emit_link(self._positions[int(self._trie_items[state.written_rows[-1]])])
            if any(self._repeats_with_period(period) for period in range(1, _MAX_REPEAT_PERIOD + 1)):
                self.is_repeating = True
                raise RepetitionError

    def _emit_free_text(self, token_id: int, *, opens_link: bool) -> None:
        self._token_ids.append(token_id)
        text = self._pending_text()
        self._emitted_length += len(text)
        shown = text.removesuffix("[") if opens_link else text
        self._emit(escape_markdown(_strip_control_characters(shown)))

    def _repeats_with_period(self, period: int) -> bool:
        """Whether the last tokens repeat three times; a short sequence has to repeat more often."""
        times = 3 if period > 3 else 12 // period
        tail = self._generated[-period * times :]
        return len(tail) == period * times and tail == tail[:period] * times


def _strip_control_characters(text: str) -> str:
    """Generated text without control characters other than line breaks."""
    return "".join(char for char in text if char == "\n" or unicodedata.category(char) != "Cc")
