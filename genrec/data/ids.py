"""Columns of the caller's ids.

Letters: N ids in a column, Q ids asked about.
"""

import numbers
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from genrec.errors import InputError
from genrec.types import IntArray, ItemId

_CHUNK_SIZE = 65_536  # ids that exist twice at once, as values or as the parts of a hash
_HASH_LOOKUP_RATIO = 8  # fewer than one in so many are looked up by their hashes; for more a table of all is cheaper
_HASH_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits as if drawn by chance


class Ids(Sequence[ItemId]):
    """An immutable column of ids: the caller's values, found again by their text.

    `ids[3]` is what the caller's table held, text or whole number; 85123 and "85123" are the same id. No Python object
    is kept for an id.
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
        """The caller's values as an Arrow array, large_string or int64."""
        return self._values

    def take(self, indices: IntArray) -> list[ItemId]:
        """The ids at some places, in their order."""
        taken: list[ItemId] = self._values.take(pa.array(indices)).to_pylist()
        return taken

    def position(self, item_id: object) -> int:
        """Where an id stands, or -1."""
        return int(self.positions([item_id])[0])

    def positions(self, ids: "Iterable[object] | Ids") -> IntArray:
        """Where each of n ids stands: int64 [n], -1 for what is not here; order and repeats are kept."""
        if isinstance(ids, str | bytes):
            raise InputError(f"expected several ids, got the text {ids!r}; pass a list, such as [{ids!r}]")
        if isinstance(ids, Ids):
            keys = ids.keys
        else:
            wanted = ids.to_pylist() if isinstance(ids, pa.Array | pa.ChunkedArray) else list(ids)
            keys = pa.array([key_of(one) for one in wanted], pa.large_string())
            if len(keys) * _HASH_LOOKUP_RATIO < max(len(self), _CHUNK_SIZE):
                return self._find_by_hash(keys)
        found = pc.index_in(keys, value_set=self.keys, skip_nulls=True)
        return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)

    def _find_by_hash(self, keys: pa.Array) -> IntArray:
        """Where each of Q texts stands, or -1: those whose hashes are equal are compared, the first that is equal wins.

        A sorted array of hashes takes 16 bytes an id and no Python object, and is asked about all Q at once.
        """
        hashes, rows = self._hash_index
        wanted = _hashes(keys)
        at = np.searchsorted(hashes, wanted)
        found = np.full(len(keys), -1, dtype=np.int64)
        left = np.arange(len(keys))
        while True:
            left = left[at[left] < len(hashes)]
            left = left[hashes[at[left]] == wanted[left]]
            if not left.size:
                return found
            here = rows[at[left]]
            equal = pc.equal(self.keys.take(pa.array(here)), keys.take(pa.array(left))).fill_null(False)
            same = np.asarray(equal.to_numpy(zero_copy_only=False), dtype=np.bool_)
            found[left[same]] = here[same]
            left = left[~same]
            at[left] += 1

    @cached_property
    def _hash_index(self) -> tuple[NDArray[np.uint64], IntArray]:
        """The hashes in order, and where the id of each stands; equal ones in the order of the column."""
        hashes = _hashes(self.keys)
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order


def _hashes(keys: pa.Array) -> NDArray[np.uint64]:
    """A number for each of N texts, uint64 [N]: its bytes are the digits of a polynomial, modulo 2 to the power 64."""
    found = [_hash_chunk(keys.slice(start, _CHUNK_SIZE)) for start in range(0, len(keys), _CHUNK_SIZE)]
    return np.concatenate([np.empty(0, dtype=np.uint64), *found])


def _hash_chunk(keys: pa.Array) -> NDArray[np.uint64]:
    _, bounds, data = keys.buffers()
    offsets = np.frombuffer(bounds, dtype=np.int64)[keys.offset : keys.offset + len(keys) + 1]
    sizes = np.diff(offsets)
    if not sizes.any():  # there may be no buffer of bytes
        return np.zeros(len(keys), dtype=np.uint64)
    digits = np.frombuffer(data, dtype=np.uint8)[offsets[0] : offsets[-1]].astype(np.uint64) + np.uint64(1)
    powers = np.multiply.accumulate(np.full(int(sizes.max()), _HASH_MULTIPLIER))
    ends = offsets - offsets[0]
    places = np.arange(len(digits)) - np.repeat(ends[:-1], sizes)
    sums = np.zeros(len(digits) + 1, dtype=np.uint64)
    np.cumsum(digits * powers[places], out=sums[1:])
    hashes: NDArray[np.uint64] = sums[ends[1:]] - sums[ends[:-1]]
    return hashes


def key_of(item_id: object) -> str | None:
    """The text that an id is found by, the same for 85123 and "85123"; None for what can be no id."""
    if isinstance(item_id, bool | np.bool_):
        return None
    if isinstance(item_id, numbers.Integral):
        return str(int(item_id))
    if not isinstance(item_id, str):
        return None
    try:
        item_id.encode()
    except UnicodeEncodeError:  # a lone surrogate: no table can hold it
        return None
    return str(item_id)
