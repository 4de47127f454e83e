"""Readers: files and data frames of the caller as tables.

A source is a CSV, TSV, JSON Lines or Parquet file, or any data frame narwhals knows (pandas, Polars, Arrow, ...). The
result does not depend on the format; see `genrec.data.column_types`. Columns of CSV and TSV files become numbers or
booleans only if every value is written as one. Ids, titles and codes such as 00123 stay text, and so do dates in text
files. Nothing is ever unpickled.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from genrec.data.column_mapping import ColumnMapping
from genrec.data.column_types import has_timestamps, infer_type, normalize_array, timestamps_as_text
from genrec.data.file_format import check_format, describe_json, empty_file_error, read_head
from genrec.data.read_errors import (
    find_csv_error,
    find_json_error,
    find_json_line_error,
    find_unclosed_quote,
    first_line,
    read_error,
)
from genrec.data.table import Table
from genrec.errors import InputError, format_value

DELIMITERS: Mapping[str, str] = {".csv": ",", ".tsv": "\t"}
"""Delimiters of text tables, by the suffix of the file."""

_JSON_SUFFIXES = (".jsonl", ".ndjson")
_SUFFIXES = ".csv, .tsv, .jsonl, .ndjson, .parquet"
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib", ".npy", ".npz", ".pt", ".pth")
_COMPRESSED_SUFFIXES = (".gz", ".zip", ".bz2", ".zst", ".xz")
_BLOCK_SIZE = 1 << 24  # bytes
_MAX_PATH_LENGTH = 4096  # characters


class _Source(NamedTuple):
    """A file or data frame whose column names are known and whose columns can be loaded."""

    columns: list[str]
    load: Callable[[list[str]], pa.Table]


def read_table(
    source: Any,
    *,
    required: Sequence[str],
    optional: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    as_text: Sequence[str] = (),
) -> Table:
    """Read a file or a data frame.

    Args:
        source: path of a .csv, .tsv, .jsonl, .ndjson or .parquet file, or a data frame.
        required: columns that must exist.
        optional: columns to take if they exist; None takes every column.
        columns: genrec's name to the name in the source, for columns with another name there. If the source also has
            a column of genrec's name, the mapping wins and that column is ignored.
        as_text: columns that stay text when the source is a text file.

    Raises:
        InputError: the source cannot be read, lacks a column, or has no rows.
    """
    if columns is not None and not _is_mapping_of_texts(columns):
        raise InputError(
            f"columns is {format_value(columns)}; pass a mapping of genrec's names to the source's, "
            "such as {'item_id': 'StockCode'}"
        )
    if isinstance(source, str | Path):
        path = Path(source)
        if len(str(path)) > _MAX_PATH_LENGTH:
            raise InputError(
                f"{format_value(str(path))} is not a path, because it has {len(str(path)):,} characters; pass a path"
            )
        label, opened = path.name, _open_file(path)
        is_text_file = path.suffix.lower() in DELIMITERS
        index_names: Sequence[str] = ()
    else:
        label, opened = "the data frame", _open_frame(source)
        is_text_file = False
        index_names = getattr(getattr(source, "index", None), "names", None) or ()
    chosen = ColumnMapping(required, optional, dict(columns or {})).select(opened.columns, label, index_names)
    data = opened.load(list(dict.fromkeys(chosen.values())))
    if data.num_rows == 0:
        raise InputError(f"{label} has no data rows; check that it is the file you meant")
    arrays: dict[str, pa.Array] = {}
    for ours, theirs in chosen.items():
        array = normalize_array(data.column(theirs), theirs, label)
        arrays[ours] = infer_type(array) if is_text_file and ours not in as_text else array
    return Table(arrays, label, chosen)


def _is_mapping_of_texts(columns: object) -> bool:
    return isinstance(columns, Mapping) and all(isinstance(name, str) for pair in columns.items() for name in pair)


def _open_file(path: Path) -> _Source:
    try:
        if path.is_dir():
            raise InputError(f"{path} is a directory; name one file inside it ({_SUFFIXES})")
        if not path.exists():
            raise InputError(f"{path} does not exist; check the path, genrec reads local files")
        if not path.is_file():
            raise InputError(f"{path} is a pipe or a device, which cannot be read twice; write the table to a file")
        suffix = path.suffix.lower()
        if suffix in _PICKLE_SUFFIXES:
            raise InputError(
                f"{path} is a {suffix} file; genrec never unpickles, because that can run code. "
                f"Save the table as one of {_SUFFIXES}, or pass the data frame"
            )
        check_format(path)
        if suffix not in (*DELIMITERS, *_JSON_SUFFIXES, ".parquet"):
            raise _suffix_error(path)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read: {reason}; check the path and its permissions") from error
    if suffix == ".parquet":
        return _open_parquet(path)
    return _open_json(path) if suffix in _JSON_SUFFIXES else _open_csv(path, DELIMITERS[suffix])


def _suffix_error(path: Path) -> InputError:
    """The error for a file whose suffix is that of no table."""
    suffix = path.suffix.lower()
    problem = f"{path} has the suffix {suffix!r}, which genrec does not read" if suffix else f"{path} has no suffix"
    if found := describe_json(path, read_head(path)):
        return InputError(f"{problem}; it {found}")
    hint = "; decompress it first" if suffix in _COMPRESSED_SUFFIXES else ""
    return InputError(f"{problem}; write it as one of {_SUFFIXES}, or rename it if it is one of them{hint}")


def _open_csv(path: Path, delimiter: str) -> _Source:
    import pyarrow.csv as arrow_csv

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            raw = next((row for row in csv.reader(file, delimiter=delimiter) if row), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise read_error(path, error, lambda: find_csv_error(path, delimiter)) from error
    if not raw:
        raise empty_file_error(path)
    header = [name.strip() for name in raw]

    def load(wanted: list[str]) -> pa.Table:
        # The nameless column that pandas writes for its index cannot be selected, so its name may repeat.
        theirs = [raw[header.index(name)] for name in wanted]
        try:
            table = arrow_csv.read_csv(
                path,
                read_options=arrow_csv.ReadOptions(block_size=_BLOCK_SIZE),
                parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=theirs, column_types=dict.fromkeys(theirs, pa.large_string())
                ),
            )
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise read_error(path, error, lambda: find_csv_error(path, delimiter)) from error
        # In Arrow, a quote that is never closed swallows every row after it.
        if unclosed := find_unclosed_quote(path, delimiter):
            raise InputError(unclosed)
        return table.rename_columns(wanted)

    return _Source([name for name in header if name], load)


def _open_json(path: Path) -> _Source:
    import pyarrow.json as arrow_json

    options = arrow_json.ReadOptions(block_size=_BLOCK_SIZE)
    if broken := find_json_line_error(path):
        raise InputError(broken)
    try:
        table = arrow_json.read_json(path, read_options=options)
        dated = [
            pa.field(field.name, timestamps_as_text(field.type)) for field in table.schema if has_timestamps(field.type)
        ]
        if dated:
            parse = arrow_json.ParseOptions(explicit_schema=pa.schema(dated))
            table = arrow_json.read_json(path, read_options=options, parse_options=parse)
        names = list(table.column_names)
        table.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise read_error(path, error, lambda: find_json_error(path)) from error
    return _Source(names, table.select)


def _open_parquet(path: Path) -> _Source:
    import pyarrow.parquet as parquet

    def damaged(error: Exception) -> InputError:
        return InputError(f"{path.name} is not a readable Parquet file ({first_line(error)}); write it again")

    try:
        names = list(parquet.read_schema(path).names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(error) from error

    def load(wanted: list[str]) -> pa.Table:
        try:
            with parquet.ParquetFile(path) as file:
                table = file.read(columns=wanted)
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise damaged(error) from error
        return table

    return _Source(names, load)


def _open_frame(source: Any) -> _Source:
    import narwhals as nw

    if isinstance(source, pa.RecordBatch):
        source = pa.Table.from_batches([source])
    try:
        frame = nw.from_native(source)
        if isinstance(frame, nw.LazyFrame):
            frame = frame.collect()
        names = [str(name) for name in frame.columns]
        frame = frame.rename(dict(zip(frame.columns, names, strict=True)))
    except TypeError as error:
        raise InputError(
            f"cannot read a table from {type(source).__name__}; pass a path ({_SUFFIXES}) or a data frame "
            "of pandas, Polars or Arrow"
        ) from error
    except Exception as error:  # every frame library raises its own
        raise InputError(f"the data frame cannot be read: {first_line(error)}; collect or repair it first") from error

    def load(wanted: list[str]) -> pa.Table:
        try:
            return frame.select(wanted).to_arrow()
        except (pa.ArrowException, UnicodeEncodeError, TypeError, OverflowError) as error:
            bad = next((name for name in wanted if not _is_convertible(frame, name)), None)
            what = f"column {bad!r} of the data frame" if bad else "the data frame"
            raise InputError(
                f"{what} cannot be read: {first_line(error)}; give every value of the column one type"
            ) from error

    return _Source(names, load)


def _is_convertible(frame: Any, name: str) -> bool:
    try:
        frame.select([name]).to_arrow()
    except (pa.ArrowException, UnicodeEncodeError, TypeError, OverflowError):
        return False
    return True
