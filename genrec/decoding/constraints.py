"""What a model may write: one item, a list of items, or text in which every mention is an item.

An automaton over token ids that walks the trie. At the end of an identifier stands a mark in the place of its end
token: the end of the answer, a line break before the next item of a list, or the bracket that closes a mention. It
fails closed: a token that leads nowhere leads to a dead end, behind which only the end token may follow and which
nothing is read from.

Source: De Cao et al., "Autoregressive Entity Retrieval", ICLR 2021, section 3.1 (mentions in text: section 3.3).
Letters: R generations walked at once, C tokens that may follow, V vocabulary, N rows of the trie.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from genrec.data.subset import Subset
from genrec.errors import InputError, TokenizerMismatchError
from genrec.index.trie import AllowedBatch, TokenTrie
from genrec.prompting.tokenizer import Tokenizer
from genrec.types import BoolArray, IntArray

Form = Literal["item", "list", "text"]
FORMS: tuple[Form, ...] = get_args(Form)

DEFAULT_K = 10
"""How many items a list has where nobody says it."""

_OPENING, _CLOSING = "[", "]"
_EMPTY = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class DelimiterTokens:
    """The tokens of a tokenizer that are no part of an identifier. Made by `from_tokenizer`.

    Attributes:
        end_id: closes an answer, and every identifier in a trie.
        separator_id: the line break between two items of a list.
        closing_id: the bracket that ends a mention.
        opens_link: bool [V], tokens of text behind which a mention begins: the bracket that opens one is their end.
        free_text: bool [V], what text outside of mentions may be written with: these, tokens without an opening bracket, and
            the end token. No other control token, and none that holds a bracket elsewhere: a mention behind it would
            be held to nothing.
    """

    end_id: int
    separator_id: int
    closing_id: int
    opens_link: BoolArray = field(repr=False)
    free_text: BoolArray = field(repr=False)

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> "DelimiterTokens":
        """Look at every token of a vocabulary once.

        Raises:
            InputError: a line break or the closing bracket is not exactly one token, or nothing opens a mention.
        """
        separator, closing = (_single_token(tokenizer, text) for text in ("\n", _CLOSING))
        texts = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
        is_text = np.ones(len(texts), dtype=np.bool_)
        is_text[list(tokenizer.control_token_ids)] = False
        held = np.array([text.count(_OPENING) for text in texts])
        opens = is_text & (held == 1) & np.array([text.endswith(_OPENING) for text in texts])
        if not opens.any():
            raise InputError(f"no token of this tokenizer ends with {_OPENING!r}, so that no mention could begin")
        free = opens | (is_text & (held == 0))
        free[tokenizer.eos_token_id] = True
        return cls(tokenizer.eos_token_id, separator, closing, opens, free)


@dataclass(frozen=True, eq=False)
class CatalogGrammar:
    """A catalog's identifiers and the marks between them: what `start` makes the constraint of a request from.

    Raises:
        TokenizerMismatchError: an identifier is not closed by the end token, or holds it elsewhere.
    """

    trie: TokenTrie
    delimiters: DelimiterTokens

    def __post_init__(self) -> None:
        ends = self.trie.tokens == self.delimiters.end_id
        if int(ends.sum()) != len(self.trie) or not ends[self.trie.last_positions].all():
            raise TokenizerMismatchError(
                f"not every identifier is closed by end token {self.delimiters.end_id}, or one holds it elsewhere; "
                "build the index with this model's tokenizer"
            )

    def start(self, form: Form = "list", *, k: int | None = None, allowed: Subset | None = None) -> "ConstraintState":
        """The state before the first token.

        Args:
            form: "item", one identifier; "list", k distinct ones, each on a line; "text", free text in which what
                stands in brackets is an identifier, as often as the model likes.
            k: how many items a list has, by default `DEFAULT_K`; other forms take none.
            allowed: rows that may be written, by default all.

        Raises:
            InputError: another form, k that does not fit it or the allowed rows, or identifiers that go on with the
                very mark that would end others.
        """
        allowed = Subset.everything(len(self.trie)) if allowed is None else allowed
        if form not in FORMS:
            raise InputError(f"form is {form!r:.60}; choose one of {', '.join(FORMS)}", argument="form")
        if form != "list" and k is not None:
            raise InputError(
                f"k is {k!r}, but form {form!r} takes none; leave it out, or choose form 'list'", argument="k"
            )
        k = DEFAULT_K if k is None else k
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise InputError(f"k is {k!r}; give a whole number of at least 1", argument="k")
        if allowed.universe != len(self.trie):
            raise InputError(f"a subset of {allowed.universe:,} rows; the trie has {len(self.trie):,}; use its own")
        left = k if form == "list" else 1
        if not len(allowed):
            raise InputError(f"none of {len(self.trie):,} items is allowed; allow one at least")
        if left > len(allowed):
            raise InputError(
                f"k is {left:,}, but {len(allowed):,} of {len(self.trie):,} items are allowed; "
                "ask for fewer, or allow more",
                argument="k",
            )
        mark = {"list": self.delimiters.separator_id, "text": self.delimiters.closing_id}.get(form)
        if mark in self._ambiguous_delimiters:
            raise InputError(
                f"an identifier goes on with token {mark} where another one ends, which is the mark of form {form!r}; "
                "tell their titles apart by something else, or choose form 'item'"
            )
        state = ConstraintState(self, form, allowed, left, phase="free" if form == "text" else "name")
        return _expand([state if form == "text" else state._start_identifier()])[0]

    def max_answer_tokens(self, form: Form, *, k: int | None = None, allowed: Subset | None = None) -> int:
        """How many tokens an answer needs at most; of form "text", one that is a single mention."""
        lengths = self._lengths_descending
        if allowed is not None and allowed.is_allowlist:
            lengths = np.sort(self.trie.lengths[allowed.listed])[::-1]
        if form == "text":  # an opening bracket and the end of the answer stand around a mention
            return int(lengths[0]) + 2
        return int(lengths[: (k or DEFAULT_K) if form == "list" else 1].sum())

    @cached_property
    def _lengths_descending(self) -> IntArray:
        return np.sort(self.trie.lengths)[::-1]

    @cached_property
    def _ambiguous_delimiters(self) -> frozenset[int]:
        """The marks that some identifier goes on with where another one ends."""
        tokens = self.trie.tokens
        found = [mark for mark in (self.delimiters.separator_id, self.delimiters.closing_id) if (tokens == mark).any()]
        if not found:
            return frozenset()
        ended = self.trie.parents[tokens == self.delimiters.end_id]
        return frozenset(mark for mark in found if np.isin(self.trie.parents[tokens == mark], ended).any())


@dataclass(frozen=True, eq=False)
class ConstraintState:
    """Where one generation stands; immutable. Made by `CatalogGrammar.start` and moved by `advance`.

    Attributes:
        next_tokens: int64 [C], what may follow, at least one; empty in free text, where `DelimiterTokens.free_text` says it.
        allowed: the rows that may still be written.
        remaining_items: how many items are still to be written; 1 in text.
        written_rows: the rows written so far, in order.
    """

    grammar: CatalogGrammar = field(repr=False)
    form: Form
    allowed: Subset = field(repr=False)
    remaining_items: int
    phase: Literal["name", "free", "done", "dead"]
    written_rows: tuple[int, ...] = ()
    low: int = 0
    high: int = 0
    depth: int = 0
    next_tokens: IntArray = field(default_factory=_EMPTY.copy, repr=False)
    # Of each of these tokens the rows behind it, and which one ends an identifier.
    _child_low: IntArray = field(default_factory=_EMPTY.copy, repr=False)
    _child_high: IntArray = field(default_factory=_EMPTY.copy, repr=False)
    _closing_child: int = -1

    @property
    def in_free_text(self) -> bool:
        """Free text is being written."""
        return self.phase == "free"

    @property
    def is_complete(self) -> bool:
        """The answer has ended as it must."""
        return self.phase == "done"

    @property
    def is_dead(self) -> bool:
        """A token led nowhere."""
        return self.phase == "dead"

    def parse_items(self, token_ids: Sequence[int]) -> IntArray:
        """The items that a generation from here wrote: int64, in the order in which they were written.

        Raises:
            InputError: a token could not have been written, or the answer is cut short.
        """
        state = self
        for place, token in enumerate(token_ids):
            state = advance([state], [token])[0]
            if state.is_dead:
                raise InputError(
                    f"token {int(token)} at place {place} of {len(token_ids)} leads nowhere in a constraint of form "
                    f"{self.form!r}; read a generation that was held to this catalog, this form and this filter"
                )
        if not state.is_complete:
            missing = f", {state.remaining_items} items short" if self.form == "list" else ""
            raise InputError(
                f"an answer of form {self.form!r} is cut short after {len(token_ids)} tokens{missing}; "
                "give the model more tokens"
            )
        return self.grammar.trie.items[np.array(state.written_rows, dtype=np.int64)].astype(np.int64)

    def _start_identifier(self) -> "ConstraintState":
        """The state before an identifier's first token."""
        return replace(self, phase="name", low=0, high=len(self.grammar.trie), depth=0)

    def _terminate(self, phase: Literal["done", "dead"]) -> "ConstraintState":
        """The state behind the last token that counts: the end token is all that may follow."""
        return replace(self, phase=phase, next_tokens=np.array([self.grammar.delimiters.end_id]), _closing_child=-1)

    def _transition(self, token: int) -> "ConstraintState":
        """The state behind one more token, its own tokens not looked up."""
        marks = self.grammar.delimiters
        if self.phase == "free" and 0 <= token < len(marks.free_text) and marks.free_text[token]:
            return (
                self._terminate("done")
                if token == marks.end_id
                else self._start_identifier()
                if marks.opens_link[token]
                else self
            )
        found = np.flatnonzero(self.next_tokens == token) if self.phase == "name" else _EMPTY
        if not found.size:
            return self._terminate("dead")
        child = int(found[0])
        if child != self._closing_child:
            return replace(
                self, low=int(self._child_low[child]), high=int(self._child_high[child]), depth=self.depth + 1
            )
        row = int(self._child_low[child])
        written = replace(self, written_rows=(*self.written_rows, row))
        if self.form == "text":
            return replace(written, phase="free", next_tokens=_EMPTY)
        if self.remaining_items == 1:
            return replace(written, remaining_items=0)._terminate("done")
        return replace(
            written, remaining_items=self.remaining_items - 1, allowed=self.allowed.without([row])
        )._start_identifier()

    @property
    def _closing_token(self) -> int:
        """The token that stands in the place of an identifier's end token."""
        marks = self.grammar.delimiters
        if self.form == "text":
            return marks.closing_id
        return marks.separator_id if self.remaining_items > 1 else marks.end_id


def advance(states: Sequence[ConstraintState], token_ids: Sequence[int]) -> list[ConstraintState]:
    """R states behind one more token each; all whose filters share a mask are looked up together."""
    return _expand([state._transition(int(token)) for state, token in zip(states, token_ids, strict=True)])


def _expand(states: list[ConstraintState]) -> list[ConstraintState]:
    """Look up what may follow, wherever an identifier is being written."""
    groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for number, state in enumerate(states):
        if state.phase == "name":
            groups[id(state.grammar), id(state.allowed.mask)].append(number)
    for numbers in groups.values():
        some = [states[number] for number in numbers]
        trie, end = some[0].grammar.trie, some[0].grammar.delimiters.end_id
        low, high, depths = (
            np.array(column, dtype=np.int64)
            for column in zip(*((state.low, state.high, state.depth) for state in some), strict=True)
        )
        allowed = AllowedBatch.from_subsets([state.allowed for state in some])
        children = trie.expand(low, high, np.arange(len(some)), allowed, depths=depths)
        tokens, offsets = children.tokens.astype(np.int64), children.offsets
        for place, (number, state) in enumerate(zip(numbers, some, strict=True)):
            own = slice(offsets[place], offsets[place + 1])
            found = tokens[own]
            if not found.size:
                states[number] = state._terminate("dead")
                continue
            closes = np.flatnonzero(found == end)
            found[closes] = state._closing_token
            states[number] = replace(
                state,
                next_tokens=found,
                _child_low=children.low[own],
                _child_high=children.high[own],
                _closing_child=int(closes[0]) if closes.size else -1,
            )
    return states


def _single_token(tokenizer: Tokenizer, text: str) -> int:
    token_ids = tokenizer.encode_text(text)
    if len(token_ids) != 1:
        raise InputError(
            f"this tokenizer writes {text!r} in {len(token_ids)} tokens, and lists and mentions need exactly one; "
            "choose a model with a byte-level tokenizer"
        )
    return int(token_ids[0])
