"""The catalog constraint as tensors, for all requests of an engine at once and without synchronising with the GPU.

Equals `genrec.decoding.constraints`, in operations of fixed shape over the state of each slot of an engine.
Letters: S slots, R rows of a batch, M children, N rows of the trie, V vocabulary size.
"""

import numpy as np
import torch

from genrec.data.subset import Subset
from genrec.decoding.constraints import CatalogGrammar, ConstraintState, Form
from genrec.errors import InputError
from genrec.vllm_plugin.tensor_trie import TensorAllowedBatch, TensorTrie

_INACTIVE, _IN_IDENTIFIER, _IN_FREE_TEXT, _ENDED = range(4)
_ITEM, _LIST, _TEXT = range(3)
_FORM_CODES: dict[Form, int] = {"item": _ITEM, "list": _LIST, "text": _TEXT}
MIN_LOGIT = -1e30
"""The lowest logit of an allowed token: one that other processors removed stays possible if it is the only one."""
MAX_LISTED_ROWS = 1 << 14
"""The maximum number of rows that a request's filter may list: the longest list sets the width of every slot."""


class _SlotAllowed(TensorAllowedBatch):
    """The allowed rows of the slots of an engine: their subsets without the rows generated so far.

    The width of both tables is what the active slots need, rounded up to a power of two. Every row is ascending, padded
    with the universe.
    """

    def __init__(self, universe: int, slots: int, device: torch.device | str) -> None:
        self.universe, self.device = universe, device
        self._sizes = np.zeros((slots, 2), dtype=np.int64)
        self._written = torch.full((slots, 1), universe, device=device)
        self._listed = torch.full((slots, 1), universe, device=device)
        self._is_allowlist = torch.zeros(slots, dtype=torch.bool, device=device)
        self._prefix_counts = torch.arange(universe + 1, device=device)

    def assign(self, slot: int, subset: Subset, capacity: int) -> None:
        """Assign a subset without a mask to a slot, with capacity for so many generated rows."""
        size = len(subset.listed)
        self._sizes[slot] = size, capacity
        tables = zip((self._listed, self._written), self._sizes.max(axis=0).tolist(), strict=True)
        self._listed, self._written = (self._resized(table, width) for table, width in tables)
        self._listed[slot], self._written[slot], self._is_allowlist[slot] = (
            self.universe,
            self.universe,
            subset.is_allowlist,
        )
        self._listed[slot, :size] = torch.from_numpy(subset.listed).to(self.device, non_blocking=True)

    def release(self, slot: int) -> None:
        """Free the capacity of a slot; the next `assign` shrinks the tables."""
        self._sizes[slot] = 0

    def exclude_rows(self, slots: torch.Tensor, rows: torch.Tensor, mask: torch.Tensor) -> None:
        """Exclude one row int64 [R] in each of R slots where `mask` bool [R] is true."""
        written = self._written[slots]
        position, column = (
            torch.searchsorted(written, rows[:, None]),
            torch.arange(written.shape[1], device=self.device),
        )
        inserted = torch.where(column == position, rows[:, None], written.roll(1, dims=1))
        self._written[slots] = torch.where(mask[:, None] & (column >= position), inserted, written)

    def count(self, prompt_indices: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """See `TensorAllowedBatch.count`; the prompts are slots."""
        written = self._written[prompt_indices]
        excluded = torch.searchsorted(written, high) - torch.searchsorted(written, low)
        return super().count(prompt_indices, low, high) - excluded

    def _resized(self, table: torch.Tensor, width: int) -> torch.Tensor:
        """A table [S, ...] with capacity for `width` rows in every slot, rounded up to a power of two."""
        width = 1 << max(width - 1, 0).bit_length()
        if width == table.shape[1]:
            return table
        other, kept = torch.full((len(table), width), self.universe, device=self.device), min(width, table.shape[1])
        other[:, :kept] = table[:, :kept]
        return other


class TensorConstraint:
    """The requests of S slots that one grammar constrains; logits of other slots are not changed.

    Args:
        grammar: the catalog's.
        slots: S.
        device: the device of the logits.
    """

    def __init__(self, grammar: CatalogGrammar, slots: int, device: torch.device | str) -> None:
        delimiters, self._device = grammar.delimiters, device
        self._end_id = delimiters.end_id
        # A request whose form needs a delimiter that is missing was refused.
        self._separator_id, self._closing_id = (
            self._end_id if token is None else token for token in (delimiters.separator_id, delimiters.closing_id)
        )
        self._trie = TensorTrie(grammar.trie, device)
        self._allowed_batch = _SlotAllowed(len(grammar.trie), slots, device)
        self._opens_link, self._free_text = (
            torch.from_numpy(table).to(device) for table in (delimiters.opens_link, delimiters.free_text)
        )
        self._phase, self._prefix, self._form, self._remaining_items = (
            torch.zeros(slots, dtype=torch.int64, device=device) for _ in range(4)
        )

    def add_request(self, slot: int, start: ConstraintState) -> None:
        """Assign a request to a slot, in its state before the first token.

        Raises:
            InputError: the filter of the request lists too many rows.
        """
        check_listed_rows(start)
        allowed = start.allowed
        if allowed.mask is not None:
            allowed = Subset.from_indices(allowed.universe, allowed.to_indices())
        self._allowed_batch.assign(slot, allowed, start.remaining_items)
        self._form[slot], self._remaining_items[slot] = _FORM_CODES[start.form], start.remaining_items
        self._prefix[slot] = 0
        self._phase[slot] = _IN_FREE_TEXT if start.in_free_text else _IN_IDENTIFIER

    def remove_request(self, slot: int) -> None:
        """Free a slot; its logits are not changed any more."""
        self._phase[slot] = _INACTIVE
        self._allowed_batch.release(slot)

    def advance(self, slots: torch.Tensor, tokens: torch.Tensor, has_new_token: torch.Tensor) -> None:
        """Advance the states of R slots by one token each.

        Args:
            slots: int64 [R], distinct.
            tokens: int64 [R].
            has_new_token: bool [R], the slots that have generated a token; the others stay as they are.
        """
        phase, prefix, form, remaining = (
            table[slots] for table in (self._phase, self._prefix, self._form, self._remaining_items)
        )
        closed = self._trie.advance(prefix, torch.full_like(tokens, self._end_id))
        deeper = self._trie.advance(prefix, torch.where(tokens == self._end_id, -1, tokens))
        named, free = phase == _IN_IDENTIFIER, phase == _IN_FREE_TEXT
        row = self._trie.first_rows(closed)
        allowed = self._allowed_batch.count(slots, row[:, None], row[:, None] + 1)[:, 0] > 0
        closes = named & (tokens == self._closing_tokens(form, remaining)) & (closed != self._trie.dead_state) & allowed
        inside = named & ~closes & (deeper != self._trie.dead_state)
        known = (tokens >= 0) & (tokens < len(self._free_text)) & (tokens != self._end_id)
        token_index = tokens.clamp(0, len(self._free_text) - 1)
        opens, plain = (
            free & known & self._opens_link[token_index],
            free & known & self._free_text[token_index] & ~self._opens_link[token_index],
        )
        lists = closes & (form == _LIST)
        after = torch.full_like(phase, _ENDED)
        after = torch.where(inside | opens | (lists & (remaining > 1)), _IN_IDENTIFIER, after)
        after = torch.where(plain | (closes & (form == _TEXT)), _IN_FREE_TEXT, after)
        has_new_token = has_new_token & (phase != _INACTIVE)
        self._phase[slots] = torch.where(has_new_token, after, phase)
        self._prefix[slots] = torch.where(has_new_token, torch.where(inside, deeper, 0), prefix)
        self._remaining_items[slots] = remaining - (has_new_token & lists).long()
        self._allowed_batch.exclude_rows(slots, row, has_new_token & lists)

    def mask(self, logits: torch.Tensor, slots: torch.Tensor, out_of_sync: torch.Tensor) -> torch.Tensor:
        """The logits with every disallowed token at -inf: float32 [R, V].

        Args:
            logits: float32 [R, V].
            slots: int64 [R].
            out_of_sync: bool [R], rows whose state is not known; only the end token is allowed in them.
        """
        phase = self._phase[slots]
        phase = torch.where(out_of_sync & (phase != _INACTIVE), _ENDED, phase)
        children = self._trie.children(self._prefix[slots], prompt_indices=slots, allowed=self._allowed_batch)
        valid = children.valid & (phase == _IN_IDENTIFIER)[:, None]
        closing = self._closing_tokens(self._form[slots], self._remaining_items[slots])[:, None]
        tokens = torch.where(children.tokens == self._end_id, closing, children.tokens)
        kept = torch.where(valid, logits.gather(1, tokens).clamp(min=MIN_LOGIT), -torch.inf)
        # Entries without a child point to token 0, so values are reduced by maximum instead of written.
        constrained = torch.full_like(logits, -torch.inf).scatter_reduce(1, tokens, kept, "amax")
        ended = (phase == _ENDED) | ((phase == _IN_IDENTIFIER) & ~valid.any(1))
        constrained[:, self._end_id] = torch.where(ended, 0.0, constrained[:, self._end_id])
        text = torch.full_like(logits, -torch.inf)
        size = min(len(self._free_text), logits.shape[1])
        text[:, :size] = torch.where(self._free_text[:size], logits[:, :size].clamp(min=MIN_LOGIT), -torch.inf)
        masked = torch.where((phase == _IN_FREE_TEXT)[:, None], text, constrained)
        return torch.where((phase == _INACTIVE)[:, None], logits, masked)

    def _closing_tokens(self, form: torch.Tensor, remaining_items: torch.Tensor) -> torch.Tensor:
        """int64 [R], the delimiter that replaces an identifier's end token."""
        closing = torch.where((form == _LIST) & (remaining_items > 1), self._separator_id, self._end_id)
        return torch.where(form == _TEXT, self._closing_id, closing)


def check_listed_rows(start: ConstraintState) -> None:
    """Refuse a request whose filter would make the tables of every slot too wide.

    Raises:
        InputError: the filter lists more than `MAX_LISTED_ROWS` rows.
    """
    allowed = start.allowed
    if (listed := len(allowed.listed) if allowed.mask is None else len(allowed)) > MAX_LISTED_ROWS:
        what = "allows" if allowed.is_allowlist or allowed.mask is not None else "denies"
        raise InputError(
            f"the filter {what} {listed:,} items individually, but this model runner supports {MAX_LISTED_ROWS:,}; "
            "list fewer, or save a catalog of the allowed items and use that"
        )
