"""Checks of the identifiers that a trie is built from.

Letters: N rows, T tokens of all rows.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.errors import InputError
from genrec.types import IntArray

_INT32_MAX = 2**31 - 1


def check_rows(tokens: NDArray[Any], lengths: IntArray, item_indices: IntArray, vocab_size: int | None) -> IntArray:
    """Check N identifiers and return their offsets, int64 [N + 1].

    Args:
        tokens: [T], all identifiers one after the other.
        lengths: int64 [N].
        item_indices: [N], the item of each identifier.
        vocab_size: token ids must be below it; None for no limit.

    Raises:
        InputError: see `FrontCodedRows.from_rows`.
    """
    for name, array in (("tokens", tokens), ("lengths", lengths), ("item_indices", item_indices)):
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise InputError(
                f"{name} have type {array.dtype} and shape {array.shape}; pass a one-dimensional array of integers"
            )
    if not len(lengths):
        raise InputError("an index needs at least one identifier; add an item")
    if len(item_indices) == len(lengths):
        _check_item_indices(item_indices)
        if int(lengths.min()) == 0:
            raise InputError(f"item {int(item_indices[np.argmin(lengths)])} has an empty identifier; give it a title")
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if (
        lengths.min() < 0
        or len(lengths) > _INT32_MAX
        or len(offsets) != len(item_indices) + 1
        or offsets[-1] != len(tokens)
    ):
        raise InputError(
            f"{len(tokens):,} tokens, {len(lengths):,} lengths with sum {int(offsets[-1]):,} and "
            f"{len(item_indices):,} items do not match; pass one length and one item for each row, "
            f"and at most {_INT32_MAX:,} rows"
        )
    _check_tokens(tokens, offsets, item_indices, vocab_size)
    return offsets


def check_removed_rows(removed_rows: IntArray, num_rows: int) -> None:
    """Check that `removed_rows` are ascending, distinct rows of a trie of `num_rows` rows.

    Raises:
        InputError: they are not.
    """
    if removed_rows.ndim != 1 or (removed_rows.size and removed_rows.dtype.kind not in "iu"):
        raise InputError(
            f"removed_rows have type {removed_rows.dtype} and shape {removed_rows.shape}; "
            "pass a one-dimensional array of integers"
        )
    if removed_rows.size and (
        removed_rows[0] < 0 or removed_rows[-1] >= num_rows or (np.diff(removed_rows) <= 0).any()
    ):
        raise InputError(
            f"removed_rows are {removed_rows[:5].tolist()}...; "
            f"pass rising, distinct rows from 0 to {num_rows - 1:,} of this trie"
        )


def prefix_conflict_error(one: tuple[int, int], other: tuple[int, int]) -> InputError:
    """The error for two rows, each a length and an item, of which one is equal to the other or its prefix."""
    (_, first), (_, second) = sorted((one, other))
    return InputError(
        f"the identifier of item {first} is equal to, or a prefix of, the identifier of item {second}; "
        "make identifiers distinct and end each with an end token"
    )


def _check_item_indices(item_indices: IntArray) -> None:
    """Refuse negative or too large item indices, and two rows of one item."""
    if int(item_indices.min()) < 0 or int(item_indices.max()) > _INT32_MAX:
        raise InputError(
            f"item indices range from {int(item_indices.min())} to {int(item_indices.max())}; "
            f"number items from 0 to {_INT32_MAX:,}"
        )
    if (np.diff(item_indices) > 0).all():
        return
    ordered = np.sort(item_indices)
    repeated = np.flatnonzero(ordered[1:] == ordered[:-1])
    if repeated.size:
        raise InputError(f"item {int(ordered[repeated[0]])} has more than one identifier; give each item one")


def _check_tokens(tokens: NDArray[Any], offsets: IntArray, item_indices: IntArray, vocab_size: int | None) -> None:
    """Refuse tokens outside the vocabulary."""
    limit = min(_INT32_MAX, vocab_size if vocab_size is not None else _INT32_MAX)
    if int(tokens.max()) < limit and int(tokens.min()) >= 0:
        return
    position = int(np.argmax((tokens >= limit) | (tokens < 0)))
    item = int(item_indices[np.searchsorted(offsets, position, side="right") - 1])
    raise InputError(
        f"the identifier of item {item} contains token {int(tokens[position])}, but the vocabulary has tokens 0 to "
        f"{limit - 1:,}; encode the catalog with the tokenizer of the model that ranks it"
    )
