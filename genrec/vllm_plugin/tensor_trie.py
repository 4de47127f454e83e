"""The token trie as tensors: a fixed number of operations on fixed shapes, without synchronising with the GPU.

Letters: R rows of a batch (users x beams), M children read, T tokens of the trie, U prompts.

A state is a prefix: 0 is the empty prefix, 1 + p the prefix that ends at position p of `TokenTrie.tokens`, and T + 1
the dead state after a disallowed token, which has no children. The children are tables in compressed sparse row format,
at 24 bytes a token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from genrec.data.subset import Subset
from genrec.errors import InputError
from genrec.index.allowed_batch import AllowedBatch
from genrec.index.trie import TokenTrie


@dataclass(frozen=True)
class TensorChildren:
    """The children of R states, at most M each.

    Attributes:
        tokens: int64 [R, M], 0 where there is no child.
        states: int64 [R, M], 0 where there is no child.
        valid: bool [R, M], whether there is one.
    """

    tokens: torch.Tensor
    states: torch.Tensor
    valid: torch.Tensor


class TensorAllowedBatch:
    """The subsets of U prompts on a device; see `genrec.index.allowed_batch.AllowedBatch`."""

    def __init__(self, subsets: Sequence[Subset], device: torch.device | str) -> None:
        sizes = {subset.universe for subset in subsets}
        if len(sizes) != 1:
            raise InputError(f"subsets of {sorted(sizes)} rows in one batch; pass one or more, all of one trie")
        universe = sizes.pop()
        batch = AllowedBatch.from_subsets(subsets) or AllowedBatch(
            np.empty(0, np.int64),
            np.zeros(len(subsets) + 1, np.int64),
            np.zeros(len(subsets), bool),
            np.empty(0, np.uint32),
        )
        size = max(int(np.diff(batch.offsets).max()), 1)
        # The list of each prompt, padded with a number above every row: one binary search serves all prompts.
        listed = np.full((len(subsets), size), universe, dtype=np.int64)
        listed[np.arange(size) < np.diff(batch.offsets)[:, None]] = batch.listed
        self._listed = torch.from_numpy(listed).to(device)
        self._is_allowlist = torch.from_numpy(batch.is_allowlist).to(device)
        counts = batch.prefix_counts.astype(np.int64) if len(batch.prefix_counts) else np.arange(universe + 1)
        self._prefix_counts = torch.from_numpy(counts).to(device)

    def count(self, prompt_indices: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """int64 [R, M], the number of rows `low <= row < high` allowed for the prompts `prompt_indices` [R]."""
        listed = self._listed[prompt_indices]
        named = torch.searchsorted(listed, high) - torch.searchsorted(listed, low)
        return torch.where(
            self._is_allowlist[prompt_indices][:, None],
            named,
            self._prefix_counts[high] - self._prefix_counts[low] - named,
        )


class TensorTrie:
    """A `TokenTrie` on a device.

    Args:
        trie: the identifiers.
        device: the device of its tables.

    Attributes:
        max_children: the maximum number of children of any state.
        max_children_from_depth: list of int, for each depth the maximum number of children of a state of that depth or
            deeper; for callers that know the depth.
        dead_state: T + 1, the state after a disallowed token.

    Raises:
        InputError: the trie has 2^31 - 2 tokens or more.
    """

    def __init__(self, trie: TokenTrie, device: torch.device | str) -> None:
        size = len(trie.tokens)
        if size >= 2**31 - 2:
            raise InputError(
                f"the trie has {size:,} tokens, but device tables support fewer than {2**31 - 2:,}; split the catalog"
            )
        order = np.argsort(trie.parents, kind="stable")
        counts = np.bincount(trie.parents + 1, minlength=size + 1)
        first = np.concatenate([[0], np.cumsum(counts)])
        first = np.append(first, first[-1])  # the dead state
        depth = np.concatenate([[0], trie.depths + 1])
        widest = np.zeros(int(depth.max()) + 1, dtype=np.int64)
        np.maximum.at(widest, depth, counts)
        self.max_children_from_depth = np.maximum.accumulate(widest[::-1])[::-1].tolist()
        self.max_children = self.max_children_from_depth[0]
        self.dead_state = size + 1
        low = np.repeat(np.arange(len(trie)), trie.tails)
        high = _row_ends(trie)
        item = np.full(size + 2, -1, dtype=np.int64)
        item[1 + trie.last_positions] = trie.items
        tables = (first, 1 + order, trie.tokens[order], low, high, item)
        self._first, self._states, self._tokens, self._low, self._high, self._item = (
            torch.from_numpy(np.asarray(table, dtype=np.int32)).to(device) for table in tables
        )

    def children(
        self,
        states: torch.Tensor,
        max_children: int | None = None,
        *,
        prompt_indices: torch.Tensor | None = None,
        allowed: TensorAllowedBatch | None = None,
    ) -> TensorChildren:
        """The children of R states, in the order of their tokens; children without an allowed row are not valid.

        Args:
            states: int64 [R].
            max_children: M, at least `max_children_from_depth` of the lowest depth among the states, or children are
                lost. By default `max_children` of the trie, which is always enough.
            prompt_indices: int64 [R], the prompt of each state; required with `allowed`.
            allowed: the allowed rows of each prompt.

        Raises:
            InputError: `max_children` is below 1, or only one of `prompt_indices` and `allowed` was passed.
        """
        if max_children is not None and max_children < 1:
            raise InputError(f"max_children is {max_children}; it must be at least 1")
        if (prompt_indices is None) != (allowed is None):
            raise InputError(
                "only one of prompt_indices and allowed was passed; pass prompt_indices and allowed together"
            )
        offsets = torch.arange(self.max_children if max_children is None else max_children, device=states.device)
        first = self._first[states].long()[:, None]
        valid = offsets < self._first[states + 1].long()[:, None] - first
        indices = torch.where(valid, first + offsets, 0)
        tokens, children = self._tokens[indices].long(), self._states[indices].long()
        if allowed is not None and prompt_indices is not None:
            low, high = self._low[children - 1].long(), self._high[children - 1].long()
            valid = valid & (allowed.count(prompt_indices, low, high) > 0)
        return TensorChildren(torch.where(valid, tokens, 0), torch.where(valid, children, 0), valid)

    def advance(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """int64 [R], the states after one more token; T + 1, the dead state, where no identifier continues with it."""
        begin, stop = self._first[states].long(), self._first[states + 1].long()
        size = len(self._tokens)
        # A binary search with the same number of steps in every row: enough for the state with the most children.
        for _ in range(int(self.max_children).bit_length()):
            middle = (begin + stop) // 2
            below = self._tokens[middle.clamp(max=size - 1)] < tokens
            active = begin < stop
            begin, stop = torch.where(active & below, middle + 1, begin), torch.where(active & ~below, middle, stop)
        found = begin.clamp(max=size - 1)
        hit = (begin < self._first[states + 1]) & (self._tokens[found] == tokens)
        return torch.where(hit, self._states[found].long(), self.dead_state)

    def first_rows(self, states: torch.Tensor) -> torch.Tensor:
        """int64 [R], the first row that begins with each prefix; undefined for the empty prefix and the dead state."""
        return self._low[(states - 1).clamp(0, len(self._low) - 1)].long()

    def item_indices(self, states: torch.Tensor) -> torch.Tensor:
        """int64 [R], the item whose identifier ends at each state, or -1."""
        return self._item[states].long()


def _row_ends(trie: TokenTrie) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """int64 [T], one more than the last row that begins with the prefix that ends at each position."""
    high = np.repeat(np.arange(1, len(trie) + 1), trie.tails)
    order = np.argsort(-trie.depths, kind="stable")
    parents = trie.parents
    depth_starts = np.searchsorted(-trie.depths[order], -np.arange(int(trie.depths.max()) + 1), side="left")
    for depth in range(len(depth_starts) - 1, 0, -1):
        positions = order[depth_starts[depth] : depth_starts[depth - 1]]
        np.maximum.at(high, parents[positions], high[positions])
    return high
