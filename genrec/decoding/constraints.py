"""Decoding constraints over a catalog: one item, a list of items, or text in which every item link is an item.

An automaton over token ids that walks the trie. At the end of an identifier a delimiter takes the place of the end
token: the end of the answer, the line break before the next item of a list, or the bracket that closes an item link.
The constraint fails closed: a token that is not allowed leads to a dead state, after which only the end token may
follow and from which no items are read.

Source: De Cao et al., "Autoregressive Entity Retrieval", ICLR 2021, section 3.1 (links in text: section 3.3).
Letters: R generations advanced at once, C tokens that may follow, N rows of the trie.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from genrec.data.subset import Subset
from genrec.decoding.delimiters import DelimiterTokens
from genrec.errors import InputError, TokenizerMismatchError, format_value
from genrec.index.allowed_batch import AllowedBatch
from genrec.index.trie import TokenTrie
from genrec.types import IntArray

Form = Literal["item", "list", "text"]
FORMS: tuple[Form, ...] = get_args(Form)

DEFAULT_K = 10
"""The number of items in a list if the request sets no `k`."""

_EMPTY = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class CatalogGrammar:
    """A catalog's identifiers and their delimiters; `start` makes the constraint of a request.

    Raises:
        TokenizerMismatchError: an identifier does not end with the end token, or contains it elsewhere.
    """

    trie: TokenTrie
    delimiters: DelimiterTokens

    def __post_init__(self) -> None:
        ends = self.trie.tokens == self.delimiters.end_id
        if int(ends.sum()) != len(self.trie) or not ends[self.trie.last_positions].all():
            raise TokenizerMismatchError(
                f"not every identifier ends with end token {self.delimiters.end_id}, or one contains it elsewhere; "
                "build the index with this model's tokenizer"
            )

    def start(self, form: Form = "list", *, k: int | None = None, allowed: Subset | None = None) -> "ConstraintState":
        """The state before the first token.

        Args:
            form: "item", one identifier; "list", k distinct identifiers, one on each line; "text", free text in which
                every text in brackets is an identifier, any number of times.
            k: the number of items in a list, by default `DEFAULT_K`; not valid with other forms.
            allowed: rows that may be generated, by default all.

        Raises:
            InputError: the form is unknown, or the tokenizer has no token for its delimiter; `k` does not fit the form
                or the allowed rows; or the delimiter of the form is ambiguous: it continues one identifier at a point
                where another ends.
        """
        allowed = Subset.everything(len(self.trie)) if allowed is None else allowed
        if form not in FORMS:
            raise InputError(f"form is {format_value(form, 60)}; choose one of {', '.join(FORMS)}", argument="form")
        self.delimiters.check(form)
        if form != "list" and k is not None:
            raise InputError(
                f"k is {format_value(k)}, but form {form!r} takes no k; remove k, or choose form 'list'", argument="k"
            )
        k = DEFAULT_K if k is None else k
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise InputError(f"k is {format_value(k)}; give a whole number of at least 1", argument="k")
        if allowed.universe != len(self.trie):
            raise InputError(
                f"allowed is a subset of {allowed.universe:,} rows, but the trie has {len(self.trie):,}; "
                "make the subset for this trie"
            )
        remaining = k if form == "list" else 1
        if not len(allowed):
            raise InputError(f"none of {len(self.trie):,} items is allowed; allow at least one")
        if remaining > len(allowed):
            raise InputError(
                f"k is {remaining:,}, but {len(allowed):,} of {len(self.trie):,} items are allowed; "
                "ask for fewer, or allow more",
                argument="k",
            )
        delimiter = {"list": self.delimiters.separator_id, "text": self.delimiters.closing_id}.get(form)
        if delimiter is not None and delimiter in self._ambiguous_delimiters:
            raise InputError(
                f"an identifier continues with token {delimiter} where another one ends, and this token is the "
                f"delimiter of form {form!r}; change one of the titles, or choose form 'item'"
            )
        state = ConstraintState(self, form, allowed, remaining, phase="free" if form == "text" else "name")
        return _expand([state if form == "text" else state._start_identifier()])[0]

    def max_answer_tokens(self, form: Form, *, k: int | None = None, allowed: Subset | None = None) -> int:
        """The maximum number of tokens of an answer; for form "text", of an answer that is a single item link."""
        lengths = self._lengths_descending
        if allowed is not None and allowed.is_allowlist:
            lengths = np.sort(self.trie.lengths[allowed.listed])[::-1]
        if form == "text":  # the opening bracket and the end token of the answer come on top
            return int(lengths[0]) + 2
        return int(lengths[: (k or DEFAULT_K) if form == "list" else 1].sum())

    @cached_property
    def _lengths_descending(self) -> IntArray:
        return np.sort(self.trie.lengths)[::-1]

    @cached_property
    def _ambiguous_delimiters(self) -> frozenset[int]:
        """The delimiters that continue some identifier at a point where another one ends."""
        tokens = self.trie.tokens
        delimiters = (self.delimiters.separator_id, self.delimiters.closing_id)
        found = [delimiter for delimiter in delimiters if delimiter is not None and (tokens == delimiter).any()]
        if not found:
            return frozenset()
        ended = self.trie.parents[tokens == self.delimiters.end_id]
        return frozenset(token for token in found if np.isin(self.trie.parents[tokens == token], ended).any())


@dataclass(frozen=True, eq=False)
class ConstraintState:
    """The state of one generation; immutable. Made by `CatalogGrammar.start` and moved by `advance`.

    Attributes:
        grammar: the catalog's.
        form: see `CatalogGrammar.start`.
        allowed: the rows that may still be generated.
        remaining_items: the number of items still to be generated; 1 in text.
        phase: "name" within an identifier, "free" in free text, "done" after a complete answer, "dead" after a token
            that was not allowed.
        written_rows: the rows generated so far, in order.
        low, high, depth: within an identifier, the trie's node so far; see `TokenTrie.expand`.
        next_tokens: int64 [C], the tokens that may follow, at least one; empty in free text, where
            `DelimiterTokens.free_text` applies.
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
    # The row range of each next token, and the index of the one that ends an identifier (-1: none).
    _child_low: IntArray = field(default_factory=_EMPTY.copy, repr=False)
    _child_high: IntArray = field(default_factory=_EMPTY.copy, repr=False)
    _closing_child: int = -1

    @property
    def in_free_text(self) -> bool:
        """Whether the state is outside of item links, in free text."""
        return self.phase == "free"

    @property
    def is_complete(self) -> bool:
        """Whether the answer is complete."""
        return self.phase == "done"

    @property
    def is_dead(self) -> bool:
        """Whether a token was not allowed."""
        return self.phase == "dead"

    def parse_items(self, token_ids: Sequence[int]) -> IntArray:
        """The item indices of a generation that starts in this state: int64, in the order of generation.

        Raises:
            InputError: a token is not allowed, or the answer is truncated.
        """
        state = self
        for position, token in enumerate(token_ids):
            state = advance([state], [token])[0]
            if state.is_dead:
                raise InputError(
                    f"token {int(token)} at position {position} of {len(token_ids)} is not allowed by the constraint "
                    f"of form {self.form!r}; parse a generation made with this catalog, form and filter"
                )
        if not state.is_complete:
            missing = f", {state.remaining_items} items are missing" if self.form == "list" else ""
            raise InputError(
                f"the answer of form {self.form!r} is truncated after {len(token_ids)} tokens{missing}; "
                "raise max_tokens"
            )
        return self.grammar.trie.items[np.array(state.written_rows, dtype=np.int64)].astype(np.int64)

    def _start_identifier(self) -> "ConstraintState":
        """The state before an identifier's first token."""
        return replace(self, phase="name", low=0, high=len(self.grammar.trie), depth=0)

    def _terminate(self, phase: Literal["done", "dead"]) -> "ConstraintState":
        """The state after the last token of an answer: only the end token may follow."""
        return replace(self, phase=phase, next_tokens=np.array([self.grammar.delimiters.end_id]), _closing_child=-1)

    def _transition(self, token: int) -> "ConstraintState":
        """The state after one more token, without its next tokens."""
        delimiters = self.grammar.delimiters
        if self.phase == "free" and 0 <= token < len(delimiters.free_text) and delimiters.free_text[token]:
            if token == delimiters.end_id:
                return self._terminate("done")
            return self._start_identifier() if delimiters.opens_link[token] else self
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
        """The delimiter that replaces an identifier's end token; `start` has checked that there is one."""
        delimiters = self.grammar.delimiters
        last = delimiters.end_id if self.remaining_items == 1 else delimiters.separator_id
        found = delimiters.closing_id if self.form == "text" else last
        return delimiters.end_id if found is None else found


def advance(states: Sequence[ConstraintState], token_ids: Sequence[int]) -> list[ConstraintState]:
    """R states after one more token each; states whose filters share a mask are looked up in one call."""
    return _expand([state._transition(int(token)) for state, token in zip(states, token_ids, strict=True)])


def _expand(states: list[ConstraintState]) -> list[ConstraintState]:
    """Look up the next tokens of the states that are within an identifier."""
    groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for number, state in enumerate(states):
        if state.phase == "name":
            groups[id(state.grammar), id(state.allowed.mask)].append(number)
    for numbers in groups.values():
        group = [states[number] for number in numbers]
        trie, end = group[0].grammar.trie, group[0].grammar.delimiters.end_id
        low, high, depths = (
            np.array(column, dtype=np.int64)
            for column in zip(*((state.low, state.high, state.depth) for state in group), strict=True)
        )
        allowed = AllowedBatch.from_subsets([state.allowed for state in group])
        children = trie.expand(low, high, np.arange(len(group)), allowed, depths=depths)
        tokens, offsets = children.tokens.astype(np.int64), children.offsets
        for node, (number, state) in enumerate(zip(numbers, group, strict=True)):
            node_range = slice(offsets[node], offsets[node + 1])
            found = tokens[node_range]
            if not found.size:
                states[number] = state._terminate("dead")
                continue
            closes = np.flatnonzero(found == end)
            found[closes] = state._closing_token
            states[number] = replace(
                state,
                next_tokens=found,
                _child_low=children.low[node_range],
                _child_high=children.high[node_range],
                _closing_child=int(closes[0]) if closes.size else -1,
            )
    return states
