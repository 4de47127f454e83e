"""The index over identifiers: sorted rows, and nodes that are ranges of rows.

Letters: N rows, T tokens in all rows, M nodes.

A radix tree: a node is the range of rows that share its path, and lies where they part, so runs of forced tokens
belong to one edge. Rows end with a token that appears nowhere else in them, so no row is the prefix of another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from genrec.errors import InputError
from genrec.types import IntArray


@dataclass(frozen=True)
class TokenTrie:
    """Identifiers in the order of their tokens.

    Attributes:
        tokens: int32 [T], the rows one after the other.
        offsets: int64 [N + 1]; row r is `tokens[offsets[r]:offsets[r + 1]]`.
        items: int64 [N], the item of each row; ties between items are broken by this number.
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    items: IntArray

    @classmethod
    def from_sequences(cls, sequences: Sequence[IntArray]) -> "TokenTrie":
        """Sort the identifiers of items 0, 1, ... into a trie.

        Raises:
            InputError: no identifiers, an empty one, two equal ones, or one the prefix of another (items named).
        """
        if not sequences:
            raise InputError("an index needs at least one identifier")
        lengths = np.fromiter((len(s) for s in sequences), dtype=np.int64, count=len(sequences))
        if not lengths.all():
            raise InputError(f"item {int(np.argmin(lengths))} has an empty identifier; give it a title")
        padded = np.zeros((len(sequences), int(lengths.max())), dtype=">u4")
        inside = np.arange(padded.shape[1]) < lengths[:, None]
        padded[inside] = np.concatenate(sequences) + 1
        # Big-endian numbers above 0 compare as bytes exactly as the sequences compare as tokens.
        keys = np.ascontiguousarray(padded).view(f"S{4 * padded.shape[1]}").ravel()
        order = np.argsort(keys, kind="stable")
        trie = cls(
            tokens=(padded[order][inside[order]].astype(np.int64) - 1).astype(np.int32),
            offsets=np.concatenate([[0], np.cumsum(lengths[order])]).astype(np.int64),
            items=order.astype(np.int64),
        )
        clash = np.flatnonzero(trie.shared[1:-1] == trie.lengths[:-1])
        if clash.size:
            first, second = trie.items[clash[0]], trie.items[clash[0] + 1]
            raise InputError(
                f"the identifier of item {first} is equal to, or the beginning of, that of item {second}; "
                "make identifiers distinct and end each with an end token"
            )
        return trie

    def __len__(self) -> int:
        """The number of rows (N)."""
        return len(self.items)

    @cached_property
    def lengths(self) -> IntArray:
        """int64 [N], tokens in each row."""
        return np.diff(self.offsets)

    @cached_property
    def shared(self) -> IntArray:
        """int64 [N + 1], tokens that row r shares with row r - 1; -1 at both ends."""
        width = int(self.lengths.max())
        steps = np.arange(width)
        rows = np.full((len(self), width), -1, dtype=np.int32)
        rows[steps < self.lengths[:, None]] = self.tokens
        inner = np.cumprod((rows[1:] == rows[:-1]) & (rows[1:] >= 0), axis=1).sum(axis=1)
        return np.concatenate([[-1], inner, [-1]]).astype(np.int64)

    @cached_property
    def nodes(self) -> "Nodes":
        """The branching points and leaves, built once."""
        return _build_nodes(self)

    @cached_property
    def rows_of_items(self) -> IntArray:
        """int64 [N], the row of each item."""
        rows = np.empty(len(self), dtype=np.int64)
        rows[self.items] = np.arange(len(self))
        return rows

    def row(self, row: int) -> NDArray[np.int32]:
        """The tokens of one row."""
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]


@dataclass(frozen=True)
class Nodes:
    """The M nodes of a trie, breadth first; node 0 is the root, children of one node are neighbours.

    Attributes:
        low, high: int64 [M], the rows below a node are `low <= row < high`; a leaf has one.
        depth: int64 [M], tokens on the path to the point where its rows part; a leaf's is its row's length.
        first_child: int64 [M + 1]; children of node n are `first_child[n] <= child < first_child[n + 1]`.
        parent: int64 [M], -1 for the root.
    """

    low: IntArray
    high: IntArray
    depth: IntArray
    first_child: IntArray
    parent: IntArray


def _build_nodes(trie: TokenTrie) -> Nodes:
    low, high, parent = (np.array([value], dtype=np.int64) for value in (0, len(trie), -1))
    levels: list[tuple[IntArray, IntArray, IntArray, IntArray, IntArray]] = []
    grown = 0
    while low.size:
        leaf = high - low == 1
        depth = np.where(leaf, trie.lengths[low], 0)
        wide_low, wide_high = low[~leaf], high[~leaf]
        # Between neighbours low+1 .. high-1 lies what they share; the least of it is where the node's rows part.
        spans, starts = ragged_ranges(wide_low + 1, wide_high)
        inner = trie.shared[spans]
        depth[~leaf] = np.minimum.reduceat(inner, starts) if spans.size else 0
        owner = np.repeat(np.arange(len(wide_low)), wide_high - wide_low - 1)
        parts = inner == depth[~leaf][owner]
        cuts, cut_owner = spans[parts], owner[parts]
        child_owner = np.concatenate([np.arange(len(wide_low)), cut_owner])
        child_low = np.concatenate([wide_low, cuts])
        order = np.lexsort((child_low, child_owner))
        child_owner, child_low = child_owner[order], child_low[order]
        last = np.append(child_owner[1:] != child_owner[:-1], True)[: len(child_low)]
        child_high = np.where(last, wide_high[child_owner], np.append(child_low[1:], 0)[: len(child_low)])
        counts = np.zeros(len(low), dtype=np.int64)
        counts[~leaf] = np.bincount(child_owner, minlength=len(wide_low))
        levels.append((low, high, depth, counts, parent))
        parent = grown + np.flatnonzero(~leaf)[child_owner]
        grown += len(low)
        low, high = child_low, child_high
    columns = [np.concatenate(column) for column in zip(*levels, strict=True)]
    first_child = 1 + np.concatenate([[0], np.cumsum(columns[3])])
    return Nodes(columns[0], columns[1], columns[2], first_child.astype(np.int64), columns[4])


def ragged_ranges(starts: IntArray, stops: IntArray) -> tuple[IntArray, IntArray]:
    """All integers of many ranges, one range after the other, and where each range begins in the result."""
    sizes = np.maximum(stops - starts, 0)
    begins = np.cumsum(sizes) - sizes
    return np.arange(int(sizes.sum())) + np.repeat(starts - begins, sizes), begins
