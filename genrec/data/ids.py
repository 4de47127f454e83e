"""Ids: columns of the caller's user or item ids, with fast look-up.

Letters: N ids in a column, Q queried ids.
"""

import numbers
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from genrec.errors import InputError, format_value
from genrec.types import IntArray, ItemId

INTEGRAL_FLOAT = r"^-?(0|[1-9][0-9]*)\.0$"
"""A whole number written as a float, such as 7.0 (in RE2 and in Python)."""

MAX_EXACT_INTEGER = 2**53
"""Every whole number up to this one is exact as a float64."""

_CHUNK_SIZE = 65_536  # ids converted to Python values, or hashed, at once
_HASH_LOOKUP_RATIO = 8  # look up by hash if N / Q is above this; below, Arrow's table of all N ids is faster
_HASH_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, with well-mixed bits


class Ids(Sequence[ItemId]):
    """An immutable column of N ids, which are looked up by their text.

    `ids[3]` is the caller's own value, text or whole number; 85123 and "85123" are the same id. No Python object is
    kept per id.

    Attributes:
        keys: the ids as text, large_string [N].
    """

    def __init__(self, values: pa.Array) -> None:
        self._values = values
        self.keys: pa.Array = values if values.type == pa.large_string() else values.cast(pa.large_string())

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> ItemId: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ItemId]: ...
    def __getitem__(self, index: int | slice) -> ItemId | Sequence[ItemId]:
        if isinstance(index, slice):
            found: list[ItemId] = self._values[index].to_pylist()
            return found
        value: ItemId = self._values[int(index)].as_py()
        return value

    def __iter__(self) -> Iterator[ItemId]:
        for start in range(0, len(self), _CHUNK_SIZE):
            yield from self._values.slice(start, _CHUNK_SIZE).to_pylist()

    def __contains__(self, item_id: object) -> bool:
        return self.position(item_id) >= 0

    def __repr__(self) -> str:
        return f"Ids({len(self):,} of type {'text' if self.keys is self._values else 'whole number'})"

    @property
    def array(self) -> pa.Array:
        """The caller's values as an Arrow array [N], large_string or int64."""
        return self._values

    def distinct(self) -> "tuple[Ids, IntArray]":
        """The distinct ids in order, whole numbers by size and text by code point, and the index of each id among them:
        int64 [N]."""
        encoded = self._values.dictionary_encode()
        order = pc.sort_indices(encoded.dictionary).to_numpy()
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order))
        return Ids(encoded.dictionary.take(pa.array(order))), ranks[encoded.indices.to_numpy()]

    def take(self, indices: IntArray) -> list[ItemId]:
        """The ids at the given indices, in their order."""
        taken: list[ItemId] = self._values.take(pa.array(indices)).to_pylist()
        return taken

    def position(self, item_id: object) -> int:
        """The index of an id, or -1."""
        return int(self.positions([item_id])[0])

    def as_written(self, ids: "Sequence[ItemId]") -> list[ItemId]:
        """The ids in their order as this column writes them: 7 for "7.0"; those that are not in it as they are."""
        return [
            self[index] if index >= 0 else given for index, given in zip(self.positions(ids).tolist(), ids, strict=True)
        ]

    def positions(self, ids: "Iterable[object] | Ids") -> IntArray:
        """The index of each of Q ids: int64 [Q], in their order, -1 for ids that are not in the column.

        Raises:
            InputError: `ids` is a single text.
        """
        if isinstance(ids, Ids):
            return self._find(ids.keys)
        values = ids.to_pylist() if isinstance(ids, pa.Array | pa.ChunkedArray) else list_of_ids(ids)
        keys = pa.array([key_of(value) for value in values], pa.large_string())
        found = self._find(keys)
        # Text files write the ids of a column with gaps as 7.0. An id that is written so itself has been found above.
        missing = found < 0
        if missing.any():
            missing &= np.asarray(pc.match_substring_regex(keys, INTEGRAL_FLOAT).fill_null(False), dtype=np.bool_)
            found[missing] = self._find(pc.utf8_slice_codeunits(keys.filter(pa.array(missing)), 0, -2))
        return found

    def _find(self, keys: pa.Array) -> IntArray:
        if len(keys) * _HASH_LOOKUP_RATIO < max(len(self), _CHUNK_SIZE):
            return self._find_by_hash(keys)
        found = pc.index_in(keys, value_set=self.keys, skip_nulls=True).fill_null(-1)
        return np.array(found.to_numpy(zero_copy_only=False), dtype=np.int64)

    def _find_by_hash(self, keys: pa.Array) -> IntArray:
        """The index of each of Q texts: int64 [Q], or -1. Texts with equal hashes are compared; the first match wins.

        The sorted array of hashes takes 16 bytes per id and no Python objects, and all Q texts are looked up at once.
        """
        hashes, rows = self._hash_index
        queried = _hashes(keys)
        at = np.searchsorted(hashes, queried)
        found = np.full(len(keys), -1, dtype=np.int64)
        open_queries = np.arange(len(keys))
        while True:
            open_queries = open_queries[at[open_queries] < len(hashes)]
            open_queries = open_queries[hashes[at[open_queries]] == queried[open_queries]]
            if not open_queries.size:
                return found
            candidates = rows[at[open_queries]]
            equal = pc.equal(self.keys.take(pa.array(candidates)), keys.take(pa.array(open_queries))).fill_null(False)
            same = np.asarray(equal.to_numpy(zero_copy_only=False), dtype=np.bool_)
            found[open_queries[same]] = candidates[same]
            open_queries = open_queries[~same]
            at[open_queries] += 1

    @cached_property
    def _hash_index(self) -> tuple[NDArray[np.uint64], IntArray]:
        """The N hashes in ascending order, and the index of each one's id; equal hashes in the order of the column."""
        hashes = _hashes(self.keys)
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order


def _hashes(keys: pa.Array) -> NDArray[np.uint64]:
    """The polynomial hash of each of N texts, uint64 [N]: the bytes are the coefficients, modulo 2**64."""
    chunks = [_hash_chunk(keys.slice(start, _CHUNK_SIZE)) for start in range(0, len(keys), _CHUNK_SIZE)]
    return np.concatenate([np.empty(0, dtype=np.uint64), *chunks])


def _hash_chunk(keys: pa.Array) -> NDArray[np.uint64]:
    _, offset_buffer, data = keys.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int64)[keys.offset : keys.offset + len(keys) + 1]
    sizes = np.diff(offsets)
    if not sizes.any():  # Arrow may omit the buffer of bytes
        return np.zeros(len(keys), dtype=np.uint64)
    digits = np.frombuffer(data, dtype=np.uint8)[offsets[0] : offsets[-1]].astype(np.uint64) + np.uint64(1)
    powers = np.multiply.accumulate(np.full(int(sizes.max()), _HASH_MULTIPLIER))
    ends = offsets - offsets[0]
    exponents = np.arange(len(digits)) - np.repeat(ends[:-1], sizes)
    sums = np.zeros(len(digits) + 1, dtype=np.uint64)
    np.cumsum(digits * powers[exponents], out=sums[1:])
    hashes: NDArray[np.uint64] = sums[ends[1:]] - sums[ends[:-1]]
    return hashes


def is_encodable(text: str) -> bool:
    """Whether a text can be written as UTF-8: a lone surrogate, which JSON can spell, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_whole_float(text: str) -> bool:
    """Whether a text is a whole number that is written as a float: "7.0" names item 7 if no item has the id "7.0"."""
    return re.fullmatch(INTEGRAL_FLOAT, text) is not None


def is_int64(value: object) -> bool:
    """Whether a value is a whole number that an int64 can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def list_of_ids(ids: object) -> list[object]:
    """Several ids of a caller as a list.

    Raises:
        InputError: `ids` is a single value.
    """
    try:
        if isinstance(ids, Iterable) and not isinstance(ids, str | bytes):
            return list(ids)
    except TypeError:  # such as an array without dimensions, which has the method to iterate
        pass
    given = f"{'the text ' if isinstance(ids, str) else ''}{format_value(ids)}"
    raise InputError(f"expected several ids, got {given}; pass a list of them")


def whole_number(value: object) -> object:
    """A float that is a whole number as that integer; any other value unchanged.

    Data frames and JSON turn ids into floats. Above 2**53, different ids may have become one float, so these stay.
    """
    if isinstance(value, float | np.floating) and float(value).is_integer() and abs(float(value)) <= MAX_EXACT_INTEGER:
        return int(value)
    return value


def key_of(item_id: object) -> str | None:
    """The text by which an id is looked up, the same for 85123, 85123.0 and "85123"; None for other values."""
    if isinstance(item_id, bool | np.bool_):
        return None
    item_id = whole_number(item_id)
    if isinstance(item_id, numbers.Integral):
        # Python refuses to write out integers of thousands of digits; no table can hold them either.
        return str(int(item_id)) if -(2**63) <= int(item_id) < 2**64 else None
    return str(item_id) if isinstance(item_id, str) and is_encodable(item_id) else None
