"""Item columns: conversion, concatenation, checks and fingerprints of the columns of a catalog.

Letters: N items.
"""

import hashlib
import json
import numbers
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.column_types import describe_type
from genrec.data.ids import Ids
from genrec.errors import InputError

_CHUNK_ROWS = 65_536  # rows converted to Python values at once


def item_values_to_array(name: str, values: list[Any]) -> pa.Array:
    """Convert one attribute of N items to an Arrow array; None and NaN become null.

    Raises:
        InputError: the values have several types, or one that Arrow cannot store.
    """
    kinds = {_value_kind(value) for value in values if value is not None}
    if len(kinds) > 1:
        raise InputError(f"{name} of the items holds {' and '.join(sorted(kinds))}; give every value one type")
    try:
        return pa.array([None if isinstance(v, float) and v != v else v for v in values])
    except (pa.ArrowException, ValueError, OverflowError, TypeError) as error:  # ValueError: NaT of pandas
        raise InputError(f"{name} of the items cannot be stored: {error}; use text, numbers, dates or lists") from error


def concatenate_columns(
    columns: Mapping[str, pa.Array], more: Mapping[str, pa.Array], size: int, added: int
) -> dict[str, pa.Array]:
    """Append the columns of a catalog with `added` items to those of one with `size` items.

    Columns that one of them lacks are filled with nulls.

    Raises:
        InputError: a column has different types in the two catalogs, or an id would change in a cast.
    """
    joined = {}
    for name in dict.fromkeys([*columns, *more]):
        present = [table[name] for table in (columns, more) if name in table]
        kinds = [array.type for array in present if not pa.types.is_null(array.type)]
        kind = kinds[0] if kinds else pa.null()
        if kinds == [pa.int64(), pa.float64()] and name != "item_id":
            kind = pa.float64()
        arrays = [
            table[name] if name in table else pa.nulls(count, kind) for table, count in ((columns, size), (more, added))
        ]
        problem = (
            f"{name} of the added items holds {describe_type(arrays[1].type)}, but the catalog's holds "
            f"{describe_type(kind)}"
        )
        if name != "item_id" and len(kinds) == 2 and not _is_same_content(*kinds):
            raise InputError(problem, remedy="give it the same type")
        try:
            joined[name] = pa.concat_arrays([array.cast(kind) for array in arrays])
        except pa.ArrowException as error:
            raise InputError(f"{problem} ({error})", remedy="give it the same type") from error
    _require_unchanged_ids(more["item_id"], joined["item_id"].slice(size))
    return joined


def _is_same_content(kind: pa.DataType, added: pa.DataType) -> bool:
    """Whether a cast from `added` to `kind` keeps what a value is, unlike "12" to 12; text may be read as dates."""
    content, added_content = describe_type(kind), describe_type(added)
    if content == added_content == "lists":
        inner = (kind.value_type, added.value_type)
        return any(pa.types.is_null(value_type) for value_type in inner) or _is_same_content(*inner)
    return content == added_content or (content, added_content) == ("dates", "text")


def _require_unchanged_ids(given: pa.Array, cast: pa.Array) -> None:
    """Refuse ids that the type of the catalog's ids changes, such as "007" to 7: they would name another item."""
    changed = pc.not_equal(given.cast(pa.large_string()), cast.cast(pa.large_string()))
    if (position := pc.index(changed, True).as_py()) >= 0:
        raise InputError(
            f"item id {given[position].as_py()!r} would become {cast[position].as_py()!r}, because the ids of the "
            "catalog are whole numbers; write it as such a number"
        )


def replace_missing_by_null(column: pa.Array) -> pa.Array:
    """An attribute with NaN, infinite numbers and empty text replaced by null."""
    if column.type == pa.float64():
        return pc.if_else(pc.is_finite(column), column, None)
    if column.type == pa.large_string():
        return pc.if_else(pc.equal(column, ""), None, column)
    return column


def require_distinct_ids(ids: Ids, source: str, remedy: str = "keep one row per item") -> None:
    """Refuse a column in which an id occurs twice.

    Args:
        ids: item ids [N].
        source: the table's name in messages.
        remedy: what to do about repeated ids.

    Raises:
        InputError: an id occurs twice, with the numbers of its rows.
    """
    encoded = ids.keys.dictionary_encode()
    if len(encoded.dictionary) == len(ids):
        return
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    first = np.unique(codes, return_index=True)[1]
    repeats = np.setdiff1d(np.arange(len(codes)), first)
    row = int(repeats[0])
    others = f", and {len(repeats) - 1:,} more rows repeat ids" if len(repeats) > 1 else ""
    rows = f"{int(first[codes[row]]) + 1:,} and {row + 1:,}"
    raise InputError(f"item id {ids[row]!r} is in data rows {rows} of {source}{others}", remedy=remedy)


def fingerprint_columns(columns: Mapping[str, pa.Array]) -> str:
    """SHA-256 over the values, independent of how Arrow stores them."""
    digest = hashlib.sha256(b"genrec catalog 2")
    for name, column in columns.items():
        empty = column.null_count == len(column)
        digest.update(json.dumps([name, len(column), None if empty else describe_type(column.type)]).encode())
        for start in range(0, len(column), _CHUNK_ROWS):
            values = column.slice(start, _CHUNK_ROWS).to_pylist()
            digest.update(json.dumps(values, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _value_kind(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "true or false"
    if isinstance(value, numbers.Real | Decimal):
        return "numbers"
    return "text" if isinstance(value, str) else "lists" if isinstance(value, list | tuple) else type(value).__name__
