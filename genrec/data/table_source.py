"""Table sources: files and data frames whose column names are known and whose columns can be loaded."""

import codecs
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from genrec.data.byte_source import ByteSource
from genrec.data.column_mapping import ColumnMapping
from genrec.data.csv_reader import DELIMITERS, DelimitedText
from genrec.data.file_format import check_content, is_json, is_parquet
from genrec.data.file_options import FileFormat
from genrec.data.json_reader import Unreadable, read_json_columns, read_json_names
from genrec.data.read_errors import empty_table_error, first_line
from genrec.data.text_encoding import TextSource
from genrec.data.timestamps import ORDERS_WITHOUT_TIME, offer_orders
from genrec.errors import InputError, format_names
from genrec.notices import Notice

_JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
_SUFFIXES = ".csv, .tsv, .txt, .dat, .json, .jsonl, .ndjson, .parquet, or one of these compressed"
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib", ".npy", ".npz", ".pt", ".pth")
_NETFLIX = re.compile(r"\d+:$")
_TIME = re.compile(r"\s*(\d{9,19}(\.\d+)?|\d{4}-\d\d-\d\d\b.*)\s*$")


@dataclass(frozen=True)
class TableSource:
    """A table whose column names are known and whose columns can be loaded.

    Attributes:
        label: its name in messages.
        columns: the names of its columns.
        load: reads some of them.
        is_text: whether values are text that may be written numbers.
        notices: what was inferred about the file.
        unreadable: columns that cannot be loaded, and why.
    """

    label: str
    columns: Sequence[str]
    load: Callable[[list[str]], pa.Table]
    is_text: bool = False
    notices: Sequence[Notice] = ()
    unreadable: Mapping[str, Unreadable] = field(default_factory=dict)


def open_file(path: Path, options: FileFormat, mapping: ColumnMapping) -> TableSource:
    """Open a file of any format.

    Args:
        path: the file.
        options: what the caller says about it.
        mapping: the columns that are wanted.

    Raises:
        InputError: it does not exist, cannot be read, or holds no table.
    """
    try:
        _check_path(path)
        source = ByteSource.of(path)
        head = source.head().removeprefix(codecs.BOM_UTF8)
        if not head:
            raise empty_table_error(source.label)
        if is_parquet(head) or source.suffix == ".parquet":
            if not is_parquet(head):
                check_content(path, head)
            return _open_parquet(source)
        if options.encoding is None or b"\0" not in head:
            check_content(path, head)
        text = TextSource.of(source, options.encoding)
        if is_json(head) or source.suffix in _JSON_SUFFIXES:
            return _open_json(text, mapping)
        return _open_text(text, options, mapping)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read: {reason}; check the path and its permissions") from error


def open_frame(source: Any) -> TableSource:
    """Open a data frame of any library that narwhals knows.

    Raises:
        InputError: the object is no data frame, or cannot be collected.
    """
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

    return TableSource("the data frame", names, load)


def _check_path(path: Path) -> None:
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


def _open_text(text: TextSource, options: FileFormat, mapping: ColumnMapping) -> TableSource:
    table = DelimitedText.of(text, options, mapping.known_names)
    dialect = table.dialect
    first = dialect.names if dialect.has_header else dialect.first_row
    if first and _NETFLIX.match(first[0]):
        awk = """awk -F, '/:/ {film = $0 + 0; next} {print $1 "," film "," $2 "," $3}'"""
        raise InputError(
            f"{text.label} has the number of a film on a line above its ratings, as in the Netflix Prize",
            remedy="make a table of the files without a header, for example: "
            f"{awk} {shlex.quote(text.source.path.name)} > ratings.csv",
        )
    if not dialect.is_regular and text.source.suffix not in DELIMITERS and options.separator is None:
        raise InputError(
            f"{text.label} does not look like a table: no separator gives its lines equally many fields",
            remedy="name it, FileFormat(separator=...)",
            file_format={"separator": "CHARACTER"},
        )
    if len(options.names) > len(dialect.first_row) > 0:
        raise InputError(
            f"{len(options.names)} column names are given for {text.label}, but its first line has "
            f"{len(dialect.first_row)} fields; name one column for each, '_' for one that is not read"
        )
    if not dialect.has_header and not options.names and (missing := mapping.missing(dialect.names)):
        raise _missing_header_error(text.label, dialect.first_row, missing, mapping.required)
    notices = _form_notices(text, _text_form(table, options))
    return TableSource(text.label, [name for name in dialect.names if name], table.read, True, notices)


def _missing_header_error(
    label: str, row: Sequence[str], missing: Sequence[str], required: Sequence[str]
) -> InputError:
    """The error for a file without a header, with names for its columns, and what to do if none of them is a time."""
    names = _guess_names(row, required)
    remedy, fields = f"name its columns, for example FileFormat(names={names!r})", dict[str, object]()
    if "timestamp" in required and "timestamp" not in names:
        remedy += f", and without times {offer_orders(ORDERS_WITHOUT_TIME)}"
        fields["orders"] = ORDERS_WITHOUT_TIME
    return InputError(
        f"{label} has no column {' or '.join(map(repr, missing))}, because it has no header: its first line is "
        f"{format_names([f'{field:.40}' for field in row], 8)}",
        remedy=remedy,
        code="missing_header",
        file_format={"names": names},
        **fields,
    )


def _guess_names(row: Sequence[str], required: Sequence[str]) -> list[str]:
    """Names to suggest for the columns of a file without a header: the usual order, and the time if one is there."""
    found = [""] * len(row)
    if "timestamp" in required:
        for number in [number for number, value in enumerate(row) if _TIME.match(value)][-1:]:
            found[number] = "timestamp"
        required = [name for name in required if name != "timestamp"]
    others = [name for name in required if name not in found]
    for name, number in zip(others, [number for number in range(len(row)) if not found[number]], strict=False):
        found[number] = name
    if len(row) == 4 and found[2:] == ["", "timestamp"]:
        found[2] = "rating"
    return [name or f"column_{number + 1}" for number, name in enumerate(found)]


def _text_form(table: DelimitedText, options: FileFormat) -> dict[str, str]:
    """What was found out about how a table of text is written: a description by the option that changes it."""
    dialect, text = table.dialect, table.text
    found: dict[str, str] = {}
    if options.separator is None and DELIMITERS.get(text.source.suffix) != dialect.separator:
        found["separator"] = f"separator {'tab' if dialect.separator == chr(9) else repr(dialect.separator)}"
    if options.header is None and not options.names and not dialect.has_header:
        found["header"] = f"no header (columns {', '.join(name for name in dialect.names if name)})"
    lines = len([line for line in dialect.skipped if line.strip()])
    if lines:
        found[""] = f"the first {'line' if lines == 1 else f'{lines} lines'} skipped"
    if dialect.trailing:
        found["trailing"] = "separators at the ends of lines ignored"
    if dialect.escape:
        found["escape"] = "a backslash before quotes inside fields"
    if not dialect.quoted and text.quotes and dialect.separator != "::":
        found["quotes"] = "quotes as characters of the text"
    return found


def _form_notices(text: TextSource, found: dict[str, str]) -> list[Notice]:
    """The notice of how a file was read; none if its name says it all."""
    source = text.source
    if text.evidence == "detected":
        found = {"encoding": f"encoding {text.encoding}, as in {text.example!r}", **found}
    elif text.evidence in ("mark", "zeros") and text.encoding != "utf-8":
        found = {"encoding": f"encoding {text.encoding}", **found}
    if source.is_named_otherwise:
        found = {"compression": f"{source.compression} decompression, which its name does not say", **found}
    if not found:
        return []
    options = [name for name in ("separator", "encoding", "header") if name in found]
    fields: dict[str, object] = {"source": source.label, "found": list(found.values())}
    return [Notice("file_form_set", fields | {"options": options}) if options else Notice("file_form", fields)]


def _open_json(text: TextSource, mapping: ColumnMapping) -> TableSource:
    found = (
        {} if text.source.suffix in _JSON_SUFFIXES else {"format": "the reader of JSON, which its name does not say"}
    )
    notices = _form_notices(text, found)
    if mapping.takes_all:
        columns = read_json_columns(text)
        return TableSource(text.label, columns.names, columns.select, False, notices, columns.unreadable)

    def load(wanted: list[str]) -> pa.Table:
        columns = read_json_columns(text, wanted)
        if bad := next((name for name in wanted if name in columns.unreadable), None):
            raise InputError(f"column {bad!r} of {text.label} {columns.unreadable[bad].reason}; give it one type")
        return columns.select(wanted)

    return TableSource(text.label, read_json_names(text), load, False, notices)


def _open_parquet(source: ByteSource) -> TableSource:
    import pyarrow.parquet as parquet

    def damaged(error: Exception) -> InputError:
        return InputError(f"{source.label} is not a readable Parquet file ({first_line(error)}); write it again")

    content: Any = source.path
    if source.compression:  # the format is read from its end, so a stream does not do
        content = pa.BufferReader(b"".join(source.blocks()))
    try:
        names = list(parquet.read_schema(content).names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(error) from error

    def load(wanted: list[str]) -> pa.Table:
        try:
            with parquet.ParquetFile(content) as file:
                table = file.read(columns=wanted)
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise damaged(error) from error
        return table

    found = {} if source.suffix == ".parquet" else {"format": "the reader of Parquet, which its name does not say"}
    return TableSource(source.label, names, load, notices=_form_notices(TextSource(source, "utf-8"), found))


def _is_convertible(frame: Any, name: str) -> bool:
    try:
        frame.select([name]).to_arrow()
    except (pa.ArrowException, UnicodeEncodeError, TypeError, OverflowError):
        return False
    return True
