"""Columns of the caller's ids."""

import bisect
import numbers
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.errors import InputError
from genrec.types import IntArray, ItemId


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
        for start in range(0, len(self), 65536):
            yield from self._values.slice(start, 65536).to_pylist()

    def __contains__(self, item_id: object) -> bool:
        return self.position(item_id) >= 0

    def __repr__(self) -> str:
        return f"Ids({len(self):,} of type {'text' if self.keys is self._values else 'whole number'})"

    @property
    def array(self) -> pa.Array:
        """The caller's values as an Arrow array, large_string or int64."""
        return self._values

    def position(self, item_id: object) -> int:
        """Where an id stands, or -1; a comparison per halving, no hash table."""
        key = key_of(item_id)
        if key is None:
            return -1
        at = bisect.bisect_left(range(len(self)), key, key=lambda rank: self.keys[int(self._order[rank])].as_py())
        row = int(self._order[at]) if at < len(self) else -1
        return row if row >= 0 and self.keys[row].as_py() == key else -1

    def positions(self, ids: "Iterable[object] | Ids") -> IntArray:
        """Where each of n ids stands: int64 [n], -1 for what is not here; order and repeats are kept."""
        if isinstance(ids, str | bytes):
            raise InputError(f"expected several ids, got the text {ids!r}; pass a list, such as [{ids!r}]")
        if isinstance(ids, Ids):
            keys = ids.keys
        else:
            wanted = ids.to_pylist() if isinstance(ids, pa.Array | pa.ChunkedArray) else list(ids)
            texts = [key_of(one) for one in wanted]
            if len(texts) < max(64, len(self) // 200):  # cheaper than hashing every key of the table
                return np.array([self.position(text) for text in texts], dtype=np.int64)
            keys = pa.array(texts, pa.large_string())
        found = pc.index_in(keys, value_set=self.keys, skip_nulls=True)
        return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)

    @cached_property
    def _order(self) -> IntArray:
        # Arrow sorts by UTF-8 bytes and Python compares code points; the two orders are the same.
        return np.asarray(pc.sort_indices(self.keys).to_numpy(), dtype=np.int64)


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
