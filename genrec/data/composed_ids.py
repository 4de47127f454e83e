"""Composed ids: item ids made of several columns, or of row numbers, where no column of a table has them.

Letters: N rows.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.column_types import describe_type, infer_type, missing_mask, normalize_array
from genrec.data.table_source import TableSource
from genrec.errors import InputError, format_names
from genrec.types import IntArray

ROW = "row"
"""Instead of the names of columns: the number of the row, counted from 1."""

REPEATED_REMEDY = "add a column that tells them apart to id_from, or number the rows with id_from 'row'"
"""What to do where composed ids repeat."""

_JOIN, _ESCAPE = "|", "\\"
_MAX_COLUMNS = 4  # of a suggestion
_MAX_NAMED = 3


def compose_ids(data: pa.Table, names: Sequence[str], label: str) -> pa.Array:
    """One id for each row: the values of some columns joined by "|", or the number of the row.

    Different values never make the same id: "|" and the backslash inside a value are written behind a backslash. A
    missing value is empty text, and a row of missing values has no id. Whole numbers that are written as floats, such
    as 7.0, are 7, so that the same values make the same id in every file.

    Args:
        data: a table that has the columns.
        names: their names; "row", if the table has no such column, must be alone.
        label: the source's name, for messages.

    Returns:
        large_string [N], or int64 [N] for row numbers.

    Raises:
        InputError: a column holds lists or objects, or "row" is not alone.
    """
    if ROW in names and ROW not in data.column_names:
        if len(names) > 1:
            raise InputError(
                f"id_from is {format_names(list(map(repr, names)))}, but {label} has no column {ROW!r}; "
                "name columns only, or pass 'row' alone to number the rows"
            )
        return pa.array(np.arange(1, data.num_rows + 1))
    texts = [_column_text(data.column(name), name, label) for name in names]
    if len(texts) == 1:
        return texts[0]
    is_missing = np.logical_and.reduce([missing_mask(text) for text in texts])
    for sign in (_ESCAPE, _JOIN):
        texts = [pc.replace_substring(text, sign, _ESCAPE + sign) for text in texts]
    joined = pc.binary_join_element_wise(*texts, pa.scalar(_JOIN, pa.large_string()))
    return pc.if_else(pa.array(is_missing), pa.scalar(None, pa.large_string()), joined)


def suggest_ids(error: InputError, source: TableSource) -> InputError:
    """The error for a table without a column of item ids, with what the ids could be: a unique column, several columns
    that are unique together, or the numbers of the rows.

    Args:
        error: says which columns are missing.
        source: the table, which is read for the suggestion.
    """
    columns = cast("Mapping[str, str]", error.fields.get("columns") or {})
    if error.code != "missing_columns" or columns.get("item_id") != "...":
        return error
    codes, sizes = _candidate_codes(source)
    if not codes:
        return error
    rows = len(next(iter(codes.values())))
    title = columns.get("title")
    candidates = sorted((name for name in codes if name in sizes), key=lambda name: (-sizes[name], name == title))
    if candidates and sizes[candidates[0]] == rows:
        named = {**columns, "item_id": candidates[0]}
        remedy = f"pass columns={named!r}, or id_from=['row'] to number the rows"
        return InputError(error.problem, remedy=remedy, code=error.code, columns=named, id_from=[])
    named = {name: theirs for name, theirs in columns.items() if name != "item_id" and theirs == "..."}
    candidates.sort(key=lambda name: (-sizes[name], name != title))
    closest = [f"{name!r} ({sizes[name]:,} distinct values in {rows:,} rows)" for name in candidates[:_MAX_NAMED]]
    problem = f"{error.problem}; no column of text or whole numbers is unique"
    problem += f", the closest {'is' if len(closest) == 1 else 'are'} {', '.join(closest)}" if closest else ""
    together = _unique_together(codes, candidates)
    options = [f"id_from={together!r} to make the ids of these columns"] if together else []
    options.append("id_from=['row'] to number the rows")
    remedy = f"pass {f'columns={named!r} and ' if named else ''}{', or '.join(options)}"
    return InputError(problem, remedy=remedy, code=error.code, columns=named, id_from=together)


def _column_text(column: pa.ChunkedArray, name: str, label: str) -> pa.Array:
    array = normalize_array(column, name, label)
    if pa.types.is_nested(array.type):
        raise InputError(
            f"id_from names the column {name!r} of {label}, which holds {describe_type(array.type)}; "
            "name columns of text or numbers"
        )
    text = pc.fill_null(array.cast(pa.large_string()), "")
    return pc.replace_substring_regex(text, r"^(-?[0-9]+)\.0$", r"\1")


def _candidate_codes(source: TableSource) -> tuple[dict[str, IntArray], dict[str, int]]:
    """For each column that ids can be made of, the number of each row's value: int64 [N]; and for those that may be
    ids alone, text and whole numbers, how many distinct values they have."""
    data = source.load([name for name in source.columns if name not in source.unreadable])
    codes: dict[str, IntArray] = {}
    sizes: dict[str, int] = {}
    for name in data.column_names:
        try:
            array = normalize_array(data.column(name), name, source.label)
        except InputError:
            continue
        array = infer_type(array) if source.is_text else array
        if pa.types.is_nested(array.type) or not len(array) or array.null_count == len(array):
            continue
        encoded = _column_text(data.column(name), name, source.label).dictionary_encode()
        codes[name] = encoded.indices.to_numpy().astype(np.int64)
        if array.type in (pa.int64(), pa.large_string()):
            sizes[name] = len(encoded.dictionary) - bool(missing_mask(array).any())
    return codes, sizes


def _unique_together(codes: Mapping[str, IntArray], candidates: Sequence[str]) -> list[str]:
    """Columns whose values are unique together, few of them, in the table's order; [] if none were found.

    Columns are added by how many values they tell apart, text and whole numbers before fractions, which change.
    """
    others = [name for name in codes if name not in candidates]
    rows = len(next(iter(codes.values())))
    chosen: list[str] = []
    combined, distinct = np.zeros(rows, dtype=np.int64), 1
    for pool in (candidates, [*candidates, *others]):
        while len(chosen) < _MAX_COLUMNS and distinct < rows:
            trials = [(name, *_combine(combined, codes[name])) for name in pool if name not in chosen]
            best = max(trials, key=lambda trial: trial[2], default=None)
            if best is None or best[2] == distinct:
                break
            chosen.append(best[0])
            combined, distinct = best[1], best[2]
    return [name for name in codes if name in chosen] if distinct == rows else []


def _combine(first: IntArray, second: IntArray) -> tuple[IntArray, int]:
    """The number of each row's pair of values, and how many pairs there are."""
    pairs, numbers = np.unique(first * (int(second.max()) + 1) + second, return_inverse=True)
    return numbers.astype(np.int64), len(pairs)
