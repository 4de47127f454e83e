"""The trie as tensors: every step is a fixed number of operations on fixed shapes, so a GPU is never waited for.

Letters: R rows of a batch (users x beams), M children looked at, T tokens of the trie, N identifiers, V vocabulary.

A state is a prefix: 0 is the empty one, 1 + p the one that ends at place p of `TokenTrie.tokens`, and T + 1 the dead
end behind a token that leads nowhere, which has no children. What the trie's loops find by walking lies here in tables
(compressed sparse rows over the tokens), at 24 bytes a token.
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
        states: int64 [R, M], 0 where there is none.
        valid: bool [R, M].
    """

    tokens: torch.Tensor
    states: torch.Tensor
    valid: torch.Tensor


class TensorAllowedBatch:
    """The subsets of U prompts on a device; see `genrec.index.allowed_batch.AllowedBatch`."""

    def __init__(self, subsets: Sequence[Subset], device: torch.device | str) -> None:
        sizes = {subset.universe for subset in subsets}
        if len(sizes) != 1:
            raise InputError(f"subsets of {sorted(sizes)} rows in one batch; give one or more, all of one trie")
        made, universe = AllowedBatch.from_subsets(subsets), sizes.pop()
        every = AllowedBatch(
            np.empty(0, np.int64),
            np.zeros(len(subsets) + 1, np.int64),
            np.zeros(len(subsets), bool),
            np.empty(0, np.uint32),
        )
        made = made or every
        size = max(int(np.diff(made.offsets).max()), 1)
        # Each prompt's list, padded with what lies behind every row, so that one search serves all prompts.
        listed = np.full((len(subsets), size), universe, dtype=np.int64)
        listed[np.arange(size) < np.diff(made.offsets)[:, None]] = made.listed
        self._listed = torch.from_numpy(listed).to(device)
        self._is_allowlist = torch.from_numpy(made.is_allowlist).to(device)
        counts = made.prefix_counts.astype(np.int64) if len(made.prefix_counts) else np.arange(universe + 1)
        self._prefix_counts = torch.from_numpy(counts).to(device)

    def count(self, prompt_indices: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """int64 [R, M], how many of the rows `low <= row < high` are allowed to the prompt `prompt_indices` [R]."""
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
        device: where its tables lie.

    Attributes:
        max_children: the most children that any state has; looking at so many finds all.
        max_children_from_depth: int list, the most children of a state of each depth or deeper, for callers that know the depth.
        dead_state: the dead end, T + 1.
    """

    def __init__(self, trie: TokenTrie, device: torch.device | str) -> None:
        size = len(trie.tokens)
        if size >= 2**31 - 2:
            raise InputError(f"a trie of {size:,} tokens does not fit the tables of a device; split the catalog")
        order = np.argsort(trie.parents, kind="stable")
        counts = np.bincount(trie.parents + 1, minlength=size + 1)
        first = np.concatenate([[0], np.cumsum(counts)])
        first = np.append(first, first[-1])  # the dead end
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
        """The children of R states, in the order of their tokens; those that no allowed identifier has are not valid.

        Args:
            states: int64 [R].
            max_children: M, at least `widest_below` of the least depth among the states: fewer would lose children. By
                default `widest`, which is enough anywhere.
            prompt_indices: int64 [R], the prompt of each state, where there is a filter.
            allowed: the filter of each prompt.
        """
        if max_children is not None and max_children < 1:
            raise InputError(f"most is {max_children}; look at 1 child or more")
        if (prompt_indices is None) != (allowed is None):
            raise InputError("children are filtered by the prompt of each state; pass owner and allowed together")
        steps = torch.arange(self.max_children if max_children is None else max_children, device=states.device)
        first = self._first[states].long()[:, None]
        valid = steps < self._first[states + 1].long()[:, None] - first
        places = torch.where(valid, first + steps, 0)
        tokens, children = self._tokens[places].long(), self._states[places].long()
        if allowed is not None and prompt_indices is not None:
            low, high = self._low[children - 1].long(), self._high[children - 1].long()
            valid = valid & (allowed.count(prompt_indices, low, high) > 0)
        return TensorChildren(torch.where(valid, tokens, 0), torch.where(valid, children, 0), valid)

    def advance(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """int64 [R], the states behind one more token; T + 1, the dead end, where nothing has it."""
        begin, stop = self._first[states].long(), self._first[states + 1].long()
        size = len(self._tokens)
        # A binary search of as many steps as the widest state can need, in every row alike.
        for _ in range(int(self.max_children).bit_length()):
            middle = (begin + stop) // 2
            below = self._tokens[middle.clamp(max=size - 1)] < tokens
            open_ = begin < stop
            begin, stop = torch.where(open_ & below, middle + 1, begin), torch.where(open_ & ~below, middle, stop)
        found = begin.clamp(max=size - 1)
        hit = (begin < self._first[states + 1]) & (self._tokens[found] == tokens)
        return torch.where(hit, self._states[found].long(), self.dead_state)

    def first_rows(self, states: torch.Tensor) -> torch.Tensor:
        """int64 [R], the first row that begins with a prefix; of no meaning for the empty prefix and the dead end."""
        return self._low[(states - 1).clamp(0, len(self._low) - 1)].long()

    def item_indices(self, states: torch.Tensor) -> torch.Tensor:
        """int64 [R], the item whose identifier ends at a state, or -1."""
        return self._item[states].long()


def _row_ends(trie: TokenTrie) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """int64 [T], behind which row the identifiers that begin with a prefix end."""
    high = np.repeat(np.arange(1, len(trie) + 1), trie.tails)
    order = np.argsort(-trie.depths, kind="stable")
    parents = trie.parents
    bounds = np.searchsorted(-trie.depths[order], -np.arange(int(trie.depths.max()) + 1), side="left")
    for depth in range(len(bounds) - 1, 0, -1):
        places = order[bounds[depth] : bounds[depth - 1]]
        np.maximum.at(high, parents[places], high[places])
    return high
