"""A radix tree over token identifiers, derived from sorted, front-coded rows.

Letters: N rows, T stored tokens, R nodes, C children.

A node is the range of rows `low <= row < high` that share a path. Its depth is the smallest shared length among these
rows, and its children begin at the rows that share no more than that. So a run of forced tokens belongs to one edge (a
radix tree), nodes need no memory of their own, and the stored tokens are the tokens of the edges, each once.

Source: shared lengths as an implicit tree, Abouelhoda, Kurtz and Ohlebusch, "Replacing suffix trees with enhanced
suffix arrays", Journal of Discrete Algorithms 2(1), 2004, section 3.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.errors import InputError
from genrec.index.allowed_batch import AllowedBatch
from genrec.index.front_coding import FrontCodedRows
from genrec.index.kernels.numpy import child_row_ends
from genrec.index.row_validation import check_removed_rows, prefix_conflict_error
from genrec.types import IntArray

AnyArray = NDArray[Any]

_WIDE_NODE_ROWS = 8192  # the children of nodes with more rows are stored instead of searched for
_NO_DEPTHS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Children:
    """The children of R nodes; those of node r are `offsets[r]` to `offsets[r + 1]`.

    Attributes:
        depths: int64 [R], tokens on the path to each node.
        offsets: int64 [R + 1].
        low: int32 [C], the first row of each child. A child with a single row is a leaf.
        tokens: [C], the first token of the edge to each child.
    """

    depths: IntArray
    offsets: IntArray
    low: AnyArray
    tokens: AnyArray
    _parent_high: IntArray
    _known_high: AnyArray | None = None

    @cached_property
    def high(self) -> AnyArray:
        """int32 [C], one more than the last row of each child; computed on first access."""
        if self._known_high is not None:
            return self._known_high
        return child_row_ends(self.offsets, self.low, self._parent_high)


@dataclass(frozen=True, eq=False)
class TokenTrie(FrontCodedRows):
    """The tree over sorted identifiers. Made by `from_rows`, `from_sequences`, `merge` or `load`."""

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays that `expand`, `node_depths`, `row_starts` and `tokens_of_rows` need.

        Tables derived on first access are not included: `rows_of_items` (8 bytes an item), `parents` and `depths`
        (8 bytes a token each).
        """
        total: int = self.items.nbytes + sum(array.nbytes for array in self._kernel_arrays[:-1])
        return total

    def expand(
        self,
        low: IntArray,
        high: IntArray,
        prompt_indices: IntArray | None = None,
        allowed: AllowedBatch | None = None,
        *,
        depths: IntArray | None = None,
    ) -> Children:
        """The children of R nodes, in the order of their tokens.

        Args:
            low, high: int64 [R], the rows of the nodes, two or more each.
            prompt_indices: int64 [R], the prompt of each node; required with `allowed`.
            allowed: children without an allowed row are omitted.
            depths: int64 [R], to walk token by token: a node is then the range of rows that share a path of this many
                tokens, possibly one row, and its children are the next tokens, even where only one can follow. A row
                that has ended has no children.

        Raises:
            InputError: `allowed` was passed without `prompt_indices`.
        """
        if allowed is not None and prompt_indices is None:
            raise InputError("allowed was passed without prompt_indices; pass the prompt of each node as well")
        max_depths = _NO_DEPTHS if depths is None else depths
        depths, offsets, child_low, tokens = self._kernels.expand_nodes(*self._kernel_arrays, low, high, max_depths)
        if allowed is None:
            return Children(depths, offsets, child_low, tokens, high)
        child_low, child_high, tokens = self._kernels.filter_children(
            offsets,
            child_low,
            tokens,
            high,
            prompt_indices,
            allowed.listed,
            allowed.offsets,
            allowed.is_allowlist,
            allowed.prefix_counts,
        )
        return Children(depths, offsets, child_low, tokens, high, child_high)

    def branching_points(self, row: int) -> list[tuple[int, AnyArray]]:
        """The depths at which a row parts from others, each with the tokens that can follow, the row's own included."""
        points, low, high = [], 0, len(self)
        while high - low > 1:
            children = self.expand(np.array([low]), np.array([high]))
            points.append((int(children.depths[0]), children.tokens))
            child = int(np.searchsorted(children.low, row, side="right")) - 1
            low, high = int(children.low[child]), int(children.high[child])
        return points

    def node_depths(self, low: IntArray, high: IntArray) -> IntArray:
        """int64 [R], the number of tokens on the path to each node; for a leaf, the length of its row."""
        shared, tails, _, _, wide_low, wide_high, wide_depth, *_, limit = self._kernel_arrays
        depths: IntArray = self._kernels.node_depths(shared, tails, wide_low, wide_high, wide_depth, limit, low, high)
        return depths

    def positions_at_depth(self, low: IntArray, depths: IntArray) -> IntArray:
        """int64 [R], the position of the token at a depth on each node's path, if the node's parent is no deeper."""
        return self.row_starts(low) + depths - self.shared[low]

    def tokens_of_row(self, row: int) -> AnyArray:
        """The tokens of one row."""
        return self.tokens_of_rows(np.array([row]))

    def tokens_of_rows(self, rows: IntArray) -> AnyArray:
        """The tokens of the given rows, one row after the other."""
        if not hasattr(self._kernels, "tokens_of_rows"):
            return self.tokens[self.path_positions(rows)]
        lengths = self.shared[rows].astype(np.int64) + self.tails[rows]
        tokens: AnyArray = self._kernels.tokens_of_rows(*self._kernel_arrays, rows, np.cumsum(lengths))
        return tokens

    def conflicts_with(self, tokens: IntArray) -> bool:
        """Whether an identifier is equal to a row, a prefix of one, or a continuation of one."""
        low, high, depth = 0, len(self), 0
        while high - low > 1:
            children = self.expand(np.array([low]), np.array([high]))
            child_depth, edge = int(children.depths[0]), self.tokens_of_rows(np.array([low]))
            if len(tokens) <= child_depth or (edge[depth:child_depth] != tokens[depth:child_depth]).any():
                return len(tokens) <= child_depth and bool((edge[depth : len(tokens)] == tokens[depth:]).all())
            child = int(np.searchsorted(children.tokens, tokens[child_depth]))
            if child == len(children.tokens) or children.tokens[child] != tokens[child_depth]:
                return False
            low, high, depth = int(children.low[child]), int(children.high[child]), child_depth
        row = self.tokens_of_rows(np.array([low]))
        size = min(len(row), len(tokens))
        return bool((row[:size] == tokens[:size]).all())

    def restrict(self, rows: IntArray) -> "TokenTrie":
        """The trie of some rows, at least one. Its `items` are these row numbers, not item indices.

        Args:
            rows: int64, ascending and distinct.
        """
        lengths = self.shared[rows].astype(np.int64) + self.tails[rows]
        return self._from_sorted(self.tokens_of_rows(rows), lengths, np.arange(len(rows)), rows)

    def merge(self, other: "TokenTrie | None" = None, *, removed_rows: IntArray | None = None) -> "TokenTrie":
        """This trie with rows added and removed, in one pass and without sorting.

        Args:
            other: rows to add, with their items.
            removed_rows: int64, rows of this trie to remove, ascending and distinct.

        Raises:
            InputError: no row would be left, an added identifier is equal to a kept one or one is a prefix of the
                other, an added item has a row already, or `removed_rows` is invalid.
        """
        removed_rows = np.empty(0, dtype=np.int64) if removed_rows is None else np.asarray(removed_rows)
        check_removed_rows(removed_rows, len(self))
        if other is None:
            other = TokenTrie(*(array[:0] for array in (self.tokens, self.shared, self.tails, self.items)))
        num_rows = len(self) + len(other) - len(removed_rows)
        if num_rows <= 0:
            raise InputError("the index would be empty; keep or add an item")
        self._check_no_duplicate_items(other, removed_rows)
        if not hasattr(self._kernels, "merge"):
            return self._merge_by_sorting(other, removed_rows)
        max_lengths = [trie.max_length if len(trie) else 1 for trie in (self, other)]
        length_type, token_type = np.min_scalar_type(max(max_lengths)), max(self.tokens.dtype, other.tokens.dtype)
        # The row after a removed one may have to store all that it shared with it. Unwritten pages take no memory.
        capacity = len(self.tokens) + len(other.tokens) + len(removed_rows) * max_lengths[0]
        shared, tails = np.empty(num_rows, length_type), np.empty(num_rows, length_type)
        tokens, items = np.empty(capacity, token_type), np.empty(num_rows, np.int32)
        done, filled = self._kernels.merge(
            self.shared, self.tails, self.tokens, self.items, removed_rows,
            other.shared, other.tails, other.tokens, other.items,
            shared, tails, tokens, items, *(np.empty(size, token_type) for size in max_lengths),
        )  # fmt: skip
        if done < 0:
            row = -1 - done
            raise prefix_conflict_error(
                (int(self.lengths[row]), self.items[row]), (int(other.lengths[filled]), other.items[filled])
            )
        return TokenTrie(tokens[:filled], shared, tails, items)

    def _check_no_duplicate_items(self, other: "TokenTrie", removed_rows: IntArray) -> None:
        """Refuse to add an item whose row is kept: a list could contain it twice."""
        if not len(other) or int(other.items.min()) > int(self.items.max()):
            return
        added = np.zeros(int(max(other.items.max(), self.items.max())) + 1, dtype=np.bool_)
        added[other.items] = True
        duplicates = np.setdiff1d(np.flatnonzero(added[self.items]), removed_rows)
        if duplicates.size:
            raise InputError(f"item {int(self.items[duplicates[0]])} is in the index already; remove its row first")

    def _merge_by_sorting(self, other: "TokenTrie", removed_rows: IntArray) -> "TokenTrie":
        """The result of `merge`, computed by sorting all rows again."""
        sources = [(self, np.delete(np.arange(len(self)), removed_rows)), (other, np.arange(len(other)))]
        sources = [(trie, rows) for trie, rows in sources if len(rows)]
        return TokenTrie.from_rows(
            np.concatenate([trie.tokens[trie.path_positions(rows)] for trie, rows in sources]),
            np.concatenate([trie.lengths[rows] for trie, rows in sources]),
            item_indices=np.concatenate([trie.items[rows] for trie, rows in sources]),
        )

    @cached_property
    def _wide_nodes(self) -> tuple[Any, ...]:
        """The nodes of more than `_WIDE_NODE_ROWS` rows, sorted by `low` and `high`.

        Returns:
            Of W such nodes with K children in all: int64 [W], their `low`, `high` and depths; int64 [W + 1], the
            offsets of their children; int32 [K], the first row of each child; [K], the token of each child.
        """
        found: list[tuple[int, int, int, IntArray]] = []
        pending = [(0, len(self))] if len(self) > _WIDE_NODE_ROWS else []
        while pending:
            low, high = pending.pop()
            inner = self.shared[low + 1 : high]
            depth = int(inner.min())
            child_low = np.append(low, low + 1 + np.flatnonzero(inner == depth))
            found.append((low, high, depth, child_low))
            sizes = np.diff(np.append(child_low, high))
            pending += [
                (int(child_low[child]), int(child_low[child] + sizes[child]))
                for child in np.flatnonzero(sizes > _WIDE_NODE_ROWS)
            ]
        found.sort(key=lambda node: node[:2])
        lows, highs, depths, offsets = (
            np.array(column, dtype=np.int64)
            for column in (
                [node[0] for node in found],
                [node[1] for node in found],
                [node[2] for node in found],
                np.cumsum([0, *(len(node[3]) for node in found)]),
            )
        )
        rows = np.concatenate([node[3] for node in found]) if found else np.empty(0, dtype=np.int64)
        tokens = self.tokens[self.row_starts(rows) + np.repeat(depths, np.diff(offsets)) - self.shared[rows]]
        return lows, highs, depths, offsets, rows.astype(np.int32), tokens

    @cached_property
    def _kernel_arrays(self) -> tuple[Any, ...]:
        """The arrays and the row limit that the loops over nodes take, in their order."""
        return (self.shared, self.tails, self._block_starts, self.tokens, *self._wide_nodes, _WIDE_NODE_ROWS)
