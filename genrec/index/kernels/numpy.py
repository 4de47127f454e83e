"""Kernels of the trie and of item vectors in numpy; the trie's arrays are those of `genrec.index.trie.TokenTrie`.

Letters: N rows, R nodes, C children, U prompts or users, D dimensions. A node is the range of rows
`low <= row < high` that share its path.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.types import BoolArray, IntArray

START_BLOCK = 64  # `starts` holds the start of every 64th row
_MULTIPLY_BLOCK = 1024  # vectors multiplied at once; their products are transposed while in the processor's cache

AnyArray = NDArray[Any]


def pack_keys(
    tokens: AnyArray, offsets: IntArray, rows: IntArray, depth: int, count: int, bits: int, end: int
) -> AnyArray:
    """uint64 [rows], `count` tokens of each row from `depth` on, `bits` bits each; keys sort as the tokens do.

    Row r is `tokens[offsets[r]:offsets[r + 1]]`. With `end` 1 tokens are counted from 1, so that the end of a row sorts
    before every token; with 0 all rows must have the same length.
    """
    begin, stop = offsets[rows] + depth, offsets[rows + 1]
    keys = np.zeros(len(rows), dtype=np.uint64)
    for step in range(count):
        inside = begin + step < stop
        digits = np.where(inside, tokens[np.where(inside, begin + step, 0)].astype(np.uint64) + np.uint64(end), 0)
        keys = (keys << np.uint64(bits)) | digits.astype(np.uint64)
    return keys


def front_code(
    tokens: AnyArray, offsets: IntArray, order: IntArray, shared: AnyArray, tails: AnyArray, stored: AnyArray
) -> int:
    """Write how many tokens each row, in `order`, shares with the row before, how many it does not, and the latter.

    Returns:
        The number of tokens written; or minus the first index in `order` whose row is equal to the row before it, or
        one of the two is a prefix of the other.
    """
    lengths = np.diff(offsets)[order]
    width = int(lengths.max())
    steps = np.arange(width)
    same = np.zeros(len(order), dtype=np.int64)
    alike = np.ones(len(order) - 1, dtype=np.bool_)
    for depth in range(width):
        inside = depth < np.minimum(lengths[1:], lengths[:-1])
        before, after = offsets[order[:-1]] + depth, offsets[order[1:]] + depth
        alike &= inside
        alike[alike] = tokens[before[alike]] == tokens[after[alike]]
        if not alike.any():
            break
        same[1:] += alike
    clash = np.flatnonzero(same[1:] == np.minimum(lengths[1:], lengths[:-1]))
    if clash.size:
        return -int(clash[0]) - 1
    shared[:], tails[:] = same, lengths - same
    filled = 0
    for start in range(0, len(order), 65_536):  # a padded matrix of all rows would not fit
        chunk = slice(start, start + 65_536)
        inside = (steps >= same[chunk, None]) & (steps < lengths[chunk, None])
        positions = offsets[order[chunk], None] + steps
        kept = tokens[positions[inside]]
        stored[filled : filled + len(kept)] = kept
        filled += len(kept)
    return filled


def row_starts(tails: AnyArray, starts: IntArray, rows: IntArray) -> IntArray:
    """int64 [rows], the position where the stored tokens of each row begin."""
    block = rows // START_BLOCK
    before, begins = ragged_ranges(block * START_BLOCK, rows)
    return starts[block] + _run_sums(tails[before].astype(np.int64), begins, rows - block * START_BLOCK)


def node_depths(
    shared: AnyArray, tails: AnyArray, wide_low: IntArray, wide_high: IntArray, wide_depth: IntArray, limit: int,
    low: IntArray, high: IntArray,
) -> IntArray:  # fmt: skip
    """int64 [R], the depth at which the rows of each node part; the length of a lone row."""
    depths = np.empty(len(low), dtype=np.int64)
    leaf, wide = high - low == 1, high - low > limit
    depths[leaf] = shared[low[leaf]].astype(np.int64) + tails[low[leaf]]
    depths[wide] = wide_depth[_find_wide(wide_low, wide_high, low[wide], high[wide])]
    narrow = ~leaf & ~wide
    if narrow.any():
        inner, begins = ragged_ranges(low[narrow] + 1, high[narrow])
        depths[narrow] = np.minimum.reduceat(shared[inner], begins)
    return depths


def expand_nodes(
    shared: AnyArray, tails: AnyArray, starts: IntArray, tokens: AnyArray, wide_low: IntArray, wide_high: IntArray,
    wide_depth: IntArray, wide_first: IntArray, wide_child: AnyArray, wide_token: AnyArray, limit: int,
    low: IntArray, high: IntArray, max_depths: IntArray,
) -> tuple[IntArray, IntArray, AnyArray, AnyArray]:  # fmt: skip
    """The children of nodes; those of nodes with more than `limit` rows are in the `wide_*` arrays.

    Args:
        low, high: int64 [R]; two rows or more each if `max_depths` is empty.
        max_depths: int64 [R], the depth of the children, at most the depth at which the rows part; or empty for the
            depth at which they part.

    Returns:
        int64 [R], the depth of the children of each node; int64 [R + 1], children of node r are `offsets[r]` to
        `offsets[r + 1]`; int32 [C], the first row of each child; [C], the token that leads to it.
    """
    parting = node_depths(shared, tails, wide_low, wide_high, wide_depth, limit, low, high)
    depths = np.minimum(parting, max_depths) if len(max_depths) else parting
    lone = (depths < parting) if len(max_depths) else np.zeros(len(low), dtype=np.bool_)
    wide = (high - low > limit) & ~lone
    narrow = ~wide & ~lone & (high - low > 1)
    wide_index = _find_wide(wide_low, wide_high, low[wide], high[wide])
    inner, begins = ragged_ranges(low[narrow] + 1, high[narrow])
    begins_child = shared[inner] == np.repeat(depths[narrow], high[narrow] - low[narrow] - 1)
    sizes = lone.astype(np.int64)
    sizes[wide] = wide_first[wide_index + 1] - wide_first[wide_index]
    sizes[narrow] = 1 + np.add.reduceat(begins_child, begins) if inner.size else 1
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    begin, stop = offsets[:-1], offsets[1:]
    child_low = np.empty(int(offsets[-1]), dtype=np.int32)
    child_low[begin[lone]] = low[lone]
    child_low[ragged_ranges(begin[wide], stop[wide])[0]] = wide_child[
        ragged_ranges(wide_first[wide_index], wide_first[wide_index + 1])[0]
    ]
    child_low[begin[narrow]] = low[narrow]
    child_low[ragged_ranges(begin[narrow] + 1, stop[narrow])[0]] = inner[begins_child]
    rows = child_low.astype(np.int64)
    first = tokens[row_starts(tails, starts, rows) + np.repeat(depths, sizes) - shared[rows]]
    return depths, offsets, child_low, first


def gather(matrix: AnyArray, tokens: AnyArray, offsets: IntArray) -> AnyArray:
    """[C], for each row r of a matrix its entries at `tokens[offsets[r]:offsets[r + 1]]`."""
    return matrix[np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)), tokens]


def filter_children(
    offsets: IntArray, low: AnyArray, tokens: AnyArray, node_high: IntArray, prompt_indices: IntArray, listed: IntArray,
    listed_offsets: IntArray, is_allowlist: BoolArray, prefix_counts: AnyArray,
) -> tuple[AnyArray, AnyArray, AnyArray]:  # fmt: skip
    """The children that contain an allowed row.

    Args:
        offsets: int64 [R + 1]; updated in place.
        low, tokens: [C], children as from `expand_nodes`.
        node_high: int64 [R], one more than the last row of each node.
        prompt_indices: int64 [R], the prompt of each node.
        listed: the listed rows of each prompt p, ascending, `listed[listed_offsets[p]:listed_offsets[p + 1]]`.
        listed_offsets: int64 [U + 1].
        is_allowlist: bool [U], whether a prompt allows only the listed rows, or all rows but these.
        prefix_counts: [N + 1], running count of the rows that pass the mask, which all prompts share; empty for none.

    Returns:
        The first row of each kept child, one more than its last row, and its token.
    """
    node = np.repeat(np.arange(len(prompt_indices)), np.diff(offsets))
    bottom, top = low.astype(np.int64), child_row_ends(offsets, low, node_high).astype(np.int64)
    num_allowed = prefix_counts[top].astype(np.int64) - prefix_counts[bottom] if len(prefix_counts) else top - bottom
    for prompt in np.unique(prompt_indices):
        prompt_listed = listed[listed_offsets[prompt] : listed_offsets[prompt + 1]]
        here = prompt_indices[node] == prompt
        num_listed = np.searchsorted(prompt_listed, top[here]) - np.searchsorted(prompt_listed, bottom[here])
        num_allowed[here] = num_listed if is_allowlist[prompt] else num_allowed[here] - num_listed
    alive = num_allowed > 0
    offsets[1:] = np.cumsum(np.bincount(node[alive], minlength=len(prompt_indices)))
    return low[alive], top[alive].astype(np.int32), tokens[alive]


def child_row_ends(offsets: IntArray, low: AnyArray, node_high: IntArray) -> AnyArray:
    """int32 [C], one more than the last row of each child: where the next child begins, or where the node ends."""
    high = np.empty_like(low)
    high[:-1] = low[1:]
    filled = np.diff(offsets) > 0
    high[offsets[1:][filled] - 1] = node_high[filled]
    return high


def ragged_ranges(starts: IntArray, stops: IntArray) -> tuple[IntArray, IntArray]:
    """All integers of many ranges, one range after the other, and where each range begins in the result."""
    sizes = np.maximum(stops - starts, 0)
    begins = np.cumsum(sizes) - sizes
    return np.arange(int(sizes.sum())) + np.repeat(starts - begins, sizes), begins


def inner_products(vectors: AnyArray, users: AnyArray, products: AnyArray) -> None:
    """Write into float32 [U, N] the inner product of each of U users [U, D] and N vectors [N, D], added up in float64.

    With users and vectors of `genrec.index.vector_grid` the sums are exact, so they depend on nothing else.
    """
    # With the N vectors on the left BLAS reads them in place; on the right it would copy all of them in each call.
    columns = np.ascontiguousarray(users.T, dtype=np.float64)
    for start in range(0, len(vectors), _MULTIPLY_BLOCK):
        block = vectors[start : start + _MULTIPLY_BLOCK].astype(np.float64)
        products[:, start : start + _MULTIPLY_BLOCK] = (block @ columns).T


def sum_rows(vectors: AnyArray, rows: IntArray, offsets: IntArray, weights: AnyArray, sums: AnyArray) -> None:
    """Write into float32 [U, D] the weighted sums of vectors [N, D]; user u has `rows[offsets[u]:offsets[u + 1]]`."""
    for user, (begin, stop) in enumerate(pairwise(offsets)):
        sums[user] = np.einsum("p,pd->d", weights[begin:stop], vectors[rows[begin:stop]])


def _find_wide(wide_low: IntArray, wide_high: IntArray, low: IntArray, high: IntArray) -> IntArray:
    """The indices of wide nodes, which are sorted by `low`, then by `high`."""
    wide_index = np.searchsorted(wide_low, low)
    while (other := wide_high[wide_index] != high).any():
        wide_index[other] += 1
    return wide_index


def _run_sums(values: IntArray, begins: IntArray, sizes: IntArray) -> IntArray:
    """The sum of each of many runs, 0 for an empty one."""
    running = np.concatenate([[0], np.cumsum(values)])
    sums: IntArray = running[begins + sizes] - running[begins]
    return sums
