"""The constraint on a device: all requests of an engine are walked at once, and a GPU is never waited for.

It says what `genrec.decoding.constraints` says, in operations of fixed shape over what each slot of an engine has
written.
Letters: S slots, R rows of a step, M children, L listed rows, N rows of the trie, V vocabulary.
"""

import numpy as np
import torch

from genrec.data.subset import Subset
from genrec.decoding.constraints import Form, Grammar, State
from genrec.errors import InputError
from genrec.vllm_plugin.tensor_trie import TensorFilter, TensorTrie

_OFF, _NAME, _FREE, _OVER = range(4)
_ITEM, _LIST, _TEXT = range(3)
_FORMS: dict[Form, int] = {"item": _ITEM, "list": _LIST, "text": _TEXT}
LEAST = -1e30
"""The least logit of an allowed token: one that something else took away stays possible where it is the only one."""
MOST_LISTED = 1 << 14
"""Rows that a request's filter may list: every slot has room for as many as the longest list has."""


class _SlotFilter(TensorFilter):
    """What the slots of an engine allow: their subsets, less what they have written.

    Both tables are as wide as the slots that are taken need, to a power of two; every row is rising, padded with the
    universe.
    """

    def __init__(self, universe: int, slots: int, device: torch.device | str) -> None:
        self.universe, self.device = universe, device
        self._sizes = np.zeros((slots, 2), dtype=np.int64)
        self._written = torch.full((slots, 1), universe, device=device)
        self._listed = torch.full((slots, 1), universe, device=device)
        self._only = torch.zeros(slots, dtype=torch.bool, device=device)
        self._counts = torch.arange(universe + 1, device=device)

    def put(self, slot: int, subset: Subset, k: int) -> None:
        """Take a subset without a mask, and make room for k items."""
        size = len(subset.listed)
        self._sizes[slot] = size, k
        tables = zip((self._listed, self._written), self._sizes.max(axis=0).tolist(), strict=True)
        self._listed, self._written = (self._resized(table, width) for table, width in tables)
        self._listed[slot], self._written[slot], self._only[slot] = self.universe, self.universe, subset.only
        self._listed[slot, :size] = torch.from_numpy(subset.listed).to(self.device, non_blocking=True)

    def forget(self, slot: int) -> None:
        """Need no room for a slot; the next one that is taken makes the tables as narrow as they may be."""
        self._sizes[slot] = 0

    def write(self, slots: torch.Tensor, rows: torch.Tensor, where: torch.Tensor) -> None:
        """Allow rows int64 [R] no more, one in each of R slots, where bool [R] says so."""
        written = self._written[slots]
        place, column = torch.searchsorted(written, rows[:, None]), torch.arange(written.shape[1], device=self.device)
        behind = torch.where(column == place, rows[:, None], written.roll(1, dims=1))
        self._written[slots] = torch.where(where[:, None] & (column >= place), behind, written)

    def count(self, owner: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """See `TensorFilter.count`; the prompts are slots."""
        written = self._written[owner]
        gone = torch.searchsorted(written, high) - torch.searchsorted(written, low)
        return super().count(owner, low, high) - gone

    def _resized(self, table: torch.Tensor, width: int) -> torch.Tensor:
        """A table [S, ...] that has room for so many rows in every slot, and not for many more."""
        width = 1 << max(width - 1, 0).bit_length()
        if width == table.shape[1]:
            return table
        other, kept = torch.full((len(table), width), self.universe, device=self.device), min(width, table.shape[1])
        other[:, :kept] = table[:, :kept]
        return other


class TensorConstraint:
    """The requests of S slots that are held to one grammar; a slot that none has entered is left alone.

    Args:
        grammar: the catalog's.
        slots: S.
        device: where logits lie.
    """

    def __init__(self, grammar: Grammar, slots: int, device: torch.device | str) -> None:
        marks, self._device = grammar.marks, device
        self._end, self._separator, self._closing = marks.end, marks.separator, marks.closing
        self._trie = TensorTrie(grammar.trie, device)
        self._filter = _SlotFilter(len(grammar.trie), slots, device)
        self._opens, self._free = (torch.from_numpy(table).to(device) for table in (marks.opens, marks.free))
        self._phase, self._prefix, self._form, self._left = (
            torch.zeros(slots, dtype=torch.int64, device=device) for _ in range(4)
        )

    def enter(self, slot: int, start: State) -> None:
        """A request takes a slot; its state is as before its first token.

        Raises:
            InputError: its filter lists too many rows.
        """
        check_listed(start)
        allowed = start.allowed
        if allowed.mask is not None:
            allowed = Subset.of(allowed.universe, allowed.places())
        self._filter.put(slot, allowed, start.left)
        self._form[slot], self._left[slot] = _FORMS[start.form], start.left
        self._prefix[slot] = 0
        self._phase[slot] = _FREE if start.free else _NAME

    def leave(self, slot: int) -> None:
        """A slot is left alone from here on."""
        self._phase[slot] = _OFF
        self._filter.forget(slot)

    def advance(self, slots: torch.Tensor, tokens: torch.Tensor, moved: torch.Tensor) -> None:
        """Write one more token.

        Args:
            slots: int64 [R], distinct.
            tokens: int64 [R].
            moved: bool [R], which of them have written a token.
        """
        phase, prefix, form, left = (table[slots] for table in (self._phase, self._prefix, self._form, self._left))
        closed = self._trie.advance(prefix, torch.full_like(tokens, self._end))
        deeper = self._trie.advance(prefix, torch.where(tokens == self._end, -1, tokens))
        named, free = phase == _NAME, phase == _FREE
        row = self._trie.rows(closed)
        allowed = self._filter.count(slots, row[:, None], row[:, None] + 1)[:, 0] > 0
        closes = named & (tokens == self._mark(form, left)) & (closed != self._trie.dead) & allowed
        inside = named & ~closes & (deeper != self._trie.dead)
        known = (tokens >= 0) & (tokens < len(self._free)) & (tokens != self._end)
        place = tokens.clamp(0, len(self._free) - 1)
        opens, plain = free & known & self._opens[place], free & known & self._free[place] & ~self._opens[place]
        lists = closes & (form == _LIST)
        after = torch.full_like(phase, _OVER)
        after = torch.where(inside | opens | (lists & (left > 1)), _NAME, after)
        after = torch.where(plain | (closes & (form == _TEXT)), _FREE, after)
        moved = moved & (phase != _OFF)
        self._phase[slots] = torch.where(moved, after, phase)
        self._prefix[slots] = torch.where(moved, torch.where(inside, deeper, 0), prefix)
        self._left[slots] = left - (moved & lists).long()
        self._filter.write(slots, row, moved & lists)

    def mask(self, logits: torch.Tensor, slots: torch.Tensor, lost: torch.Tensor) -> torch.Tensor:
        """Logits in which only what may follow is possible: float32 [R, V].

        Args:
            logits: float32 [R, V].
            slots: int64 [R].
            lost: bool [R], rows whose state is not known; they may only end.
        """
        phase = self._phase[slots]
        phase = torch.where(lost & (phase != _OFF), _OVER, phase)
        children = self._trie.children(self._prefix[slots], owner=slots, allowed=self._filter)
        valid = children.valid & (phase == _NAME)[:, None]
        mark = self._mark(self._form[slots], self._left[slots])[:, None]
        tokens = torch.where(children.tokens == self._end, mark, children.tokens)
        kept = torch.where(valid, logits.gather(1, tokens).clamp(min=LEAST), -torch.inf)
        # Places without a child point to token 0, which is why what meets there is not written but compared.
        held = torch.full_like(logits, -torch.inf).scatter_reduce(1, tokens, kept, "amax")
        over = (phase == _OVER) | ((phase == _NAME) & ~valid.any(1))
        held[:, self._end] = torch.where(over, 0.0, held[:, self._end])
        text = torch.full_like(logits, -torch.inf)
        size = min(len(self._free), logits.shape[1])
        text[:, :size] = torch.where(self._free[:size], logits[:, :size].clamp(min=LEAST), -torch.inf)
        bound = torch.where((phase == _FREE)[:, None], text, held)
        return torch.where((phase == _OFF)[:, None], logits, bound)

    def _mark(self, form: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
        """int64 [R], the token that stands in the place of an identifier's end token."""
        mark = torch.where((form == _LIST) & (left > 1), self._separator, self._end)
        return torch.where(form == _TEXT, self._closing, mark)


def check_listed(start: State) -> None:
    """Refuse a request whose filter would make the tables of every slot too wide.

    Raises:
        InputError: it lists more than `MOST_LISTED` rows.
    """
    allowed = start.allowed
    if (listed := len(allowed.listed) if allowed.mask is None else len(allowed)) > MOST_LISTED:
        what = "allows" if allowed.only or allowed.mask is not None else "denies"
        raise InputError(
            f"a filter {what} {listed:,} items one by one, and an engine on this model runner takes {MOST_LISTED:,}; "
            "name fewer, or save a catalog of the allowed items beside the others"
        )
