"""Readers: files and data frames of the caller as tables.

A source is a file of text, JSON or Parquet, plain or compressed, or any data frame narwhals knows (pandas, Polars,
Arrow, ...). The result does not depend on the format; see `genrec.data.column_types`. Columns of text tables become
numbers or booleans only if every value is written as one. Ids, titles and codes such as 00123 stay text, and so do
dates in text files. Nothing is ever unpickled.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from genrec.data.column_mapping import ColumnMapping
from genrec.data.column_types import UNREADABLE, infer_type, normalize_array
from genrec.data.composed_ids import compose_ids, suggest_ids
from genrec.data.file_options import FileFormat
from genrec.data.table import Table
from genrec.data.table_source import TableSource, open_file, open_frame
from genrec.data.typed_columns import type_columns
from genrec.errors import InputError, format_value
from genrec.notices import Notice

_MAX_PATH_LENGTH = 4096  # characters


def read_table(
    source: Any, mapping: ColumnMapping, *, as_text: Sequence[str] = (), file_format: FileFormat | None = None
) -> Table:
    """Read a file or a data frame.

    Args:
        source: path of a table, or a data frame.
        mapping: the columns that are wanted. Required ones with another name in the source are recognised by common
            names. If the source also has a column of a mapped name, the mapping wins and that column is ignored.
        as_text: columns that stay text when the source is a text file.
        file_format: how a file is to be read, where its text does not show it.

    Returns:
        The table; its notices say what was inferred, and which columns were left out.

    Raises:
        InputError: the source cannot be read, lacks a column, or has no rows.
    """
    index_names: Sequence[str] = ()
    file_format = file_format or FileFormat()
    types = file_format.types
    if types and mapping.optional is not None:
        raise InputError(f"types is {format_value(types)}, but only attributes of items have types; omit it")
    if isinstance(source, str | Path):
        if len(str(source)) > _MAX_PATH_LENGTH:
            raise InputError(
                f"{format_value(str(source))} is not a path, because it has {len(str(source)):,} characters; "
                "pass a path"
            )
        opened = open_file(Path(source), file_format, mapping)
    else:
        opened = open_frame(source)
        index_names = getattr(getattr(source, "index", None), "names", None) or ()
    try:
        chosen, notices = mapping.select(opened.columns, opened.label, index_names)
    except InputError as error:
        raise suggest_ids(error, opened) if mapping.optional is None else error from None
    kept, left_out = _without_unreadable(chosen, opened, mapping)
    id_columns = [name for name in mapping.id_from if name in opened.columns]
    data = opened.load(list(dict.fromkeys([*kept.values(), *id_columns])))
    if data.num_rows == 0:
        raise InputError(f"{opened.label} has no data rows; check that it is the file you meant")
    arrays: dict[str, pa.Array] = {}
    if mapping.id_from:
        arrays["item_id"] = compose_ids(data, mapping.id_from, opened.label)
    for ours, theirs in kept.items():
        try:
            array = normalize_array(data.column(theirs), theirs, opened.label)
        except InputError as error:
            if error.code != UNREADABLE or mapping.needs(ours):
                raise
            left_out.append(_left_out(theirs, opened.label, str(error.fields["reason"])))
            continue
        is_plain = opened.is_text and ours not in as_text and types != "text" and ours not in types
        arrays[ours] = infer_type(array) if is_plain else array
    kept = {name: kept.get(name, ", ".join(mapping.id_from)) for name in arrays}
    table = Table(arrays, opened.label, kept, (*opened.notices, *notices, *left_out))
    if mapping.optional is not None or isinstance(types, str):
        return table
    return type_columns(table, types, is_text_table=opened.is_text, adds_year=mapping.takes_all)


def _without_unreadable(
    chosen: Mapping[str, str], opened: TableSource, mapping: ColumnMapping
) -> tuple[dict[str, str], list[Notice]]:
    """The chosen columns that the source can load, and notices of the others.

    Raises:
        InputError: one that is needed cannot be loaded.
    """
    kept, left_out = dict(chosen), []
    needed = {name for ours, name in chosen.items() if mapping.needs(ours)} | {*mapping.id_from}
    for ours, theirs in {**chosen, **{f"{name} of id_from": name for name in mapping.id_from}}.items():
        if (problem := opened.unreadable.get(theirs)) is None:
            continue
        if theirs in needed:
            raise InputError(
                f"column {theirs!r} of {opened.label} {problem.reason}; give every value of the column one type"
            )
        left_out.append(_left_out(theirs, opened.label, problem.reason))
        del kept[ours]
    return kept, left_out


def _left_out(column: str, source: str, reason: str) -> Notice:
    return Notice("column_left_out", {"column": column, "source": source, "why": reason})
