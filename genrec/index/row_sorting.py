"""Sorting of identifiers by their tokens.

Letters: N rows.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.types import IntArray

_MIN_KEY_BITS = 33  # bits of a first key that leave few ties among ten million rows


def sort_rows(kernels: Any, tokens: NDArray[Any], offsets: IntArray) -> IntArray:
    """Sort rows by their tokens: pack a few tokens of each row into one key, and compare further where keys tie.

    Args:
        kernels: the module of loops, see `genrec.index.kernels`.
        tokens: all rows, one after the other.
        offsets: int64 [N + 1]; row r is `tokens[offsets[r]:offsets[r + 1]]`.

    Returns:
        int64 [N], the rows in order.
    """
    num_rows, lengths = len(offsets) - 1, np.diff(offsets)
    max_length = int(lengths.max())
    # Where rows differ in length, the end of a row is a digit too, below every token.
    end = int(lengths.min() < max_length)
    bits = max(1, (int(tokens.max()) + end).bit_length())
    order, keys, depth = _sort_by_first_tokens(kernels, tokens, offsets, bits, end)
    positions = np.arange(num_rows)
    while True:
        tied = np.concatenate([[False], keys[1:] == keys[:-1]])
        kept = tied | np.append(tied[1:], False)
        positions, groups = positions[kept], (np.cumsum(~tied)[kept]).astype(np.uint64)
        if not positions.size or depth >= max_length:
            return order
        groups = np.cumsum(np.append(False, groups[1:] != groups[:-1])).astype(np.uint64)
        count = max(1, (64 - int(groups[-1]).bit_length()) // bits)
        rows = order[positions]
        # Tied rows stay together: the number of their group fills the bits above their next tokens.
        keys = kernels.pack_keys(tokens, offsets, rows, depth, count, bits, end)
        keys |= groups << np.uint64(count * bits)
        ranked = np.argsort(keys)
        order[positions] = rows[ranked]
        keys = keys[ranked]
        depth += count


def _sort_by_first_tokens(
    kernels: Any, tokens: NDArray[Any], offsets: IntArray, bits: int, end: int
) -> tuple[IntArray, NDArray[Any], int]:
    """The rows ordered by as many first tokens as one key holds, the sorted keys, and how many tokens these are."""
    num_rows = len(offsets) - 1
    # A key that also holds its row number is sorted directly, which is faster than sorting rows by their keys.
    key_bits = 64 - (num_rows - 1).bit_length()
    is_packed = key_bits // bits * bits >= _MIN_KEY_BITS
    count = key_bits // bits if is_packed else 64 // bits
    keys = kernels.pack_keys(tokens, offsets, np.arange(num_rows), 0, count, bits, end)
    if not is_packed:
        ranked = np.argsort(keys)
        return ranked, keys[ranked], count
    keys <<= np.uint64(64 - key_bits)
    keys |= np.arange(num_rows, dtype=np.uint64)
    keys.sort()
    order = (keys & np.uint64((1 << 64 - key_bits) - 1)).astype(np.int64)
    keys >>= np.uint64(64 - key_bits)
    return order, keys, count
