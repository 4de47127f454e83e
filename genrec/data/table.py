"""Tables people bring, read into Arrow columns under genrec's own names.

A table is a CSV, TSV, JSON Lines or Parquet file, or any data frame narwhals knows (pandas, Polars, Arrow, ...).
What comes out does not depend on where it came from: whole numbers are int64, fractions and decimals float64, text
large_string, instants timestamp[us], lists large_list. Columns of CSV and TSV files become numbers, or true and false,
only where every value is written as one; ids and titles never do, nor do codes such as 00123. Dates in text files stay
text. Data rows are counted from 1 and a header is none. Nothing is ever unpickled.
"""

import csv
import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.ids import Ids
from genrec.errors import InputError
from genrec.types import BoolArray

DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SUFFIXES = ".csv, .tsv, .jsonl, .ndjson, .parquet"
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib", ".npy", ".npz", ".pt", ".pth")
_BLOCK_SIZE = 1 << 24
_MAX_EXACT_INTEGER = 2**53

# Names other data sets use, likeliest first; compared without case and punctuation.
UNGUESSED = " with your own name for '...'"
_COLUMN_ALIASES = {
    "user_id": "userid uid user customerid customer reviewerid visitorid memberid accountid profileid playerid "
    "personid clientid u sessionid session",
    "item_id": "itemid iid item parentasin asin productid product movieid stockcode articleid newsid bookid isbn "
    "trackid songid artistid videoid gameid appid businessid sku i id",
    "timestamp": "timestamp unixtimestamp ts unixreviewtime reviewtime time datetime eventtime invoicedate "
    "orderdate purchasedate createdat date unixtime",
    "title": "title name itemname productname itemtitle producttitle movietitle booktitle headline description label",
}

_LoadColumns = Callable[[list[str]], pa.Table]


@dataclass(frozen=True, slots=True)
class Table:
    """Columns under genrec's names, and where they came from.

    Attributes:
        columns: Arrow arrays of equal length, by genrec's name.
        source: what messages call the table: a file's name, or "the data frame".
        source_columns: genrec's name to the name in the source.
    """

    columns: Mapping[str, pa.Array]
    source: str
    source_columns: Mapping[str, str]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def describe_rows(self, bad: BoolArray) -> str:
        """Name the rows where `bad` [rows] holds: "data rows 3, 8 and 2 more of items.csv"."""
        rows = [f"{row + 1:,}" for row in np.flatnonzero(bad)[:3]]
        more = int(np.count_nonzero(bad)) - len(rows)
        if more:
            listed = f"rows {', '.join(rows)} and {more:,} more"
        else:
            listed = f"rows {', '.join(rows[:-1])} and {rows[-1]}" if len(rows) > 1 else f"row {rows[0]}"
        return f"data {listed} of {self.source}"

    def column_label(self, name: str) -> str:
        """A column's name for messages, with the source's own name where it differs."""
        theirs = self.source_columns.get(name, name)
        return name if theirs == name else f"{name} (column {theirs!r})"

    def id_column(self, name: str) -> Ids:
        """A column of ids.

        Raises:
            InputError: a row without an id, or ids that are neither text nor whole numbers.
        """
        values = self.columns[name]
        kind = values.type
        if not (pa.types.is_null(kind) or kind in (pa.large_string(), pa.int64(), pa.float64())):
            raise InputError(
                f"{self.column_label(name)} of {self.source} holds {describe_type(kind)}; ids are text or whole numbers, "
                "cast the column to one of them"
            )
        lacking = self._is_missing(values)
        if lacking.any():
            raise InputError(
                f"{self.describe_rows(lacking)} {has_or_have(lacking)} no {self.column_label(name)}; drop such rows or give them an id"
            )
        if kind == pa.float64():
            figures = values.to_numpy(zero_copy_only=False)
            odd = (figures != np.floor(figures)) | (np.abs(figures) > _MAX_EXACT_INTEGER)
            if odd.any():
                value = float(figures[np.argmax(odd)])
                raise InputError(
                    f"{self.describe_rows(odd)} {has_or_have(odd)} {self.column_label(name)} such as {value!r}; "
                    "ids are text or whole numbers, write these as text"
                )
            values = pa.array(figures.astype(np.int64))
        return Ids(values)

    def text_column(self, name: str) -> pa.Array:
        """A column of text that every row must have, as large_string; whole numbers are written out.

        Raises:
            InputError: a row without text, or a column of something else.
        """
        values = self.columns[name]
        if values.type == pa.int64():
            values = values.cast(pa.large_string())
        if not (pa.types.is_null(values.type) or values.type == pa.large_string()):
            raise InputError(
                f"{self.column_label(name)} of {self.source} holds {describe_type(values.type)}; it must be text, cast the column"
            )
        lacking = self._is_missing(values)
        if lacking.any():
            raise InputError(
                f"{self.describe_rows(lacking)} {has_or_have(lacking)} no {self.column_label(name)}; drop such rows or give them one"
            )
        return values

    @staticmethod
    def _is_missing(values: pa.Array) -> BoolArray:
        lacking = pc.is_null(values, nan_is_null=True)
        if values.type == pa.large_string():
            lacking = pc.or_(lacking, pc.equal(pc.utf8_trim_whitespace(values), "").fill_null(True))
        return np.asarray(lacking.to_numpy(zero_copy_only=False), dtype=np.bool_)


def has_or_have(bad: BoolArray) -> str:
    """The verb behind `Table.describe_rows`: "has" for one row, "have" for several."""
    return "have" if np.count_nonzero(bad) > 1 else "has"


def format_value(value: object) -> str:
    """A value for messages, as the caller wrote it: NumPy's numbers without their type."""
    return repr(value.item() if isinstance(value, np.generic) else value)


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
        required: columns that must be there.
        optional: columns taken where they are there; None takes every column.
        columns: genrec's name to the name in the source, for columns that are called otherwise there. Where the
            source also has a column of genrec's name, the mapping wins and that column is left out.
        as_text: columns that stay text when the source is a text file.

    Raises:
        InputError: the source cannot be read, lacks a column, or has no rows.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        label, names, load = path.name, *_open_file(path)
        texts_only = path.suffix.lower() in DELIMITERS
    else:
        label, names, load = "the data frame", *_open_frame(source)
        texts_only = False
    origin = _select_columns(names, required, optional, dict(columns or {}), label, source)
    data = load(list(dict.fromkeys(origin.values())))
    if data.num_rows == 0:
        raise InputError(f"{label} has no data rows; check that it is the file you meant")
    read: dict[str, pa.Array] = {}
    for ours, theirs in origin.items():
        column = _normalize_array(data.column(theirs), theirs, label)
        read[ours] = _infer_type(column) if texts_only and ours not in as_text else column
    return Table(read, label, origin)


def table_from_arrow(columns: Mapping[str, pa.Array | pa.ChunkedArray], source: str) -> Table:
    """A table of Arrow columns that already bear genrec's names."""
    plain = {name: _normalize_array(column, name, source) for name, column in columns.items()}
    return Table(plain, source, {name: name for name in plain})


def describe_type(kind: pa.DataType) -> str:
    """What a column of this type holds, in the words of the messages."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "numbers"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_boolean(kind):
        return "true or false"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "dates"
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return "lists"
    return "nothing" if pa.types.is_null(kind) else f"values of type {kind}"


def _open_file(path: Path) -> tuple[list[str], _LoadColumns]:
    suffix = path.suffix.lower()
    if suffix in _PICKLE_SUFFIXES:
        raise InputError(
            f"{path} is a {suffix} file; genrec never unpickles, because that can run code. "
            f"Save the table as one of {_SUFFIXES}, or pass the data frame"
        )
    if suffix not in DELIMITERS and suffix not in (".jsonl", ".ndjson", ".parquet"):
        hint = "; if it holds one JSON object a line, rename it to .jsonl" if suffix == ".json" else ""
        hint = "; decompress it first" if suffix in (".gz", ".zip", ".bz2", ".zst", ".xz") else hint
        raise InputError(
            f"{path} has the suffix {suffix or 'none'!r}, which genrec does not read; use one of {_SUFFIXES}{hint}"
        )
    try:
        if path.is_dir():
            raise InputError(f"{path} is a directory; name one file inside it ({_SUFFIXES})")
        with path.open("rb") as file:
            head = file.read(4)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path, genrec reads local files") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not head:
        raise InputError(f"{path.name} is empty; check that it was written completely")
    if suffix == ".parquet":
        return _open_parquet(path)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(
            f"{path.name} is encoded as UTF-16; re-encode it to UTF-8, for example: "
            f"iconv -f utf-16 -t utf-8 {path.name} > utf8-{path.name}"
        )
    return _open_json(path) if suffix in (".jsonl", ".ndjson") else _open_csv(path, DELIMITERS[suffix])


def _open_csv(path: Path, delimiter: str) -> tuple[list[str], _LoadColumns]:
    import pyarrow.csv as arrow_csv

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            raw = next((row for row in csv.reader(file, delimiter=delimiter) if row), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise _read_error(path, error, lambda: _find_csv_error(path, delimiter)) from error
    if not raw:
        raise InputError(f"{path.name} is empty; check that it was written completely")
    header = [name.strip() for name in raw]

    def load(wanted: list[str]) -> pa.Table:
        # The nameless column pandas writes for its index cannot be asked for, so its name may repeat.
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
            raise _read_error(path, error, lambda: _find_csv_error(path, delimiter)) from error
        # Arrow lets a quote that is never closed swallow every row behind it.
        if _count_quotes(path) % 2 and (fault := _find_unclosed_quote(path, delimiter)):
            raise InputError(fault)
        return table.rename_columns(wanted)

    return [name for name in header if name], load


def _open_json(path: Path) -> tuple[list[str], _LoadColumns]:
    import pyarrow.json as arrow_json

    options = arrow_json.ReadOptions(block_size=_BLOCK_SIZE)
    try:
        table = arrow_json.read_json(path, read_options=options)
        dated = [
            pa.field(field.name, _timestamps_as_text(field.type))
            for field in table.schema
            if _has_timestamps(field.type)
        ]
        if dated:
            parse = arrow_json.ParseOptions(explicit_schema=pa.schema(dated))
            table = arrow_json.read_json(path, read_options=options, parse_options=parse)
        names = list(table.column_names)
        table.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _read_error(path, error, lambda: _find_json_error(path)) from error
    return names, table.select


def _open_parquet(path: Path) -> tuple[list[str], _LoadColumns]:
    import pyarrow.parquet as parquet

    def damaged(error: Exception) -> InputError:
        return InputError(f"{path.name} is no readable Parquet file ({_first_line(error)}); write it again")

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

    return names, load


def _open_frame(source: Any) -> tuple[list[str], _LoadColumns]:
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
        raise InputError(f"the data frame cannot be read: {_first_line(error)}") from error

    def load(wanted: list[str]) -> pa.Table:
        try:
            return frame.select(wanted).to_arrow()
        except (pa.ArrowException, UnicodeEncodeError, TypeError, OverflowError) as error:
            bad = next((name for name in wanted if not _converts(frame, name)), None)
            what = f"column {bad!r} of the data frame" if bad else "the data frame"
            raise InputError(
                f"{what} cannot be read: {_first_line(error)}; give every value of the column one type"
            ) from error

    return names, load


def _converts(frame: Any, name: str) -> bool:
    try:
        frame.select([name]).to_arrow()
    except (pa.ArrowException, UnicodeEncodeError, TypeError, OverflowError):
        return False
    return True


def _select_columns(
    names: list[str],
    required: Sequence[str],
    optional: Sequence[str] | None,
    mapping: dict[str, str],
    label: str,
    source: Any,
) -> dict[str, str]:
    """Pair genrec's names with the source's, or say what to pass."""
    repeated = sorted({str(name) for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"{label} has more than one column {repeated[0]!r}; rename all but one")
    listed = ", ".join(repr(name) for name in names[:30]) + (f" and {len(names) - 30} more" if names[30:] else "")
    ours = (*required, *(optional or ()))
    for name, theirs in mapping.items():
        if theirs not in names:
            problem = f"columns maps {name!r} to {theirs!r}, which {label} lacks; its columns are {listed}"
            if name in names and theirs in ours:
                swapped = {str(theirs): name}
                remedy = f"the mapping is the other way round, pass columns={swapped!r}"
                raise InputError(problem, remedy=remedy, code="swapped_mapping", columns=swapped)
            close = difflib.get_close_matches(str(theirs), names, 1)
            raise InputError(problem, remedy=f"did you mean {close[0]!r}?" if close else "name one of these")
        if optional is not None and name not in ours:
            raise InputError(f"columns maps {name!r}, which is not used here; the names known are {', '.join(ours)}")
    lacking = [name for name in required if mapping.get(name, name) not in names]
    if lacking:
        problem = f"{label} has no column {' or '.join(map(repr, lacking))}; its columns are {listed}"
        if file_remedy := _file_remedy(names, required, lacking, source):
            raise InputError(problem, remedy=file_remedy, code="missing_columns")
        columns = _guess_columns(names, required, lacking, mapping)
        remedy = f"pass columns={columns!r}" + (UNGUESSED if "..." in columns.values() else "")
        raise InputError(problem, remedy=remedy, code="missing_columns", columns=columns)
    chosen = {name: mapping.get(name, name) for name in ours if mapping.get(name, name) in names}
    if optional is None:
        renamed = {name: theirs for name, theirs in mapping.items() if name not in chosen}
        taken = {*mapping, *mapping.values(), *chosen}
        chosen |= renamed | {name: name for name in names if name not in taken}
    return chosen


def _file_remedy(names: list[str], required: Sequence[str], missing: list[str], source: Any) -> str | None:
    """What to do about a file or a frame that a mapping of columns would not mend."""
    index = [name for name in getattr(getattr(source, "index", None), "names", None) or () if name in missing]
    if index:
        return f"{index[0]!r} is the frame's index, pass frame.reset_index()"
    if len(names) == 1 and (mark := next((sign for sign in ";\t|," if sign in names[0]), None)):
        return f"the file looks separated by {mark!r}; save it with commas as .csv, or with tabs as .tsv"
    if names and all(re.fullmatch(r"[-+\d.:]+", name) for name in names):
        return f"the file seems to lack a header line; put one on top, such as {','.join(required)}"
    return None


def _guess_columns(
    names: list[str], required: Sequence[str], missing: list[str], mapping: dict[str, str]
) -> dict[str, str]:
    """The mapping to pass: columns of the source by their usual names, "..." where none is recognised."""
    taken = {mapping.get(name, name) for name in required if name not in missing}
    simple = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(names) if name not in taken}
    found: dict[str, str] = {}
    for name in missing:
        known = (simple.get(alias) for alias in _COLUMN_ALIASES.get(name, "").split())
        found[name] = next((theirs for theirs in known if theirs and theirs not in found.values()), "...")
    passed = {name: theirs for name, theirs in mapping.items() if name not in missing}
    return {**passed, **found}


def _normalize_array(column: pa.ChunkedArray | pa.Array, name: str, label: str) -> pa.Array:
    """One array of one of the few types genrec works with."""
    if isinstance(column, pa.Array):
        column = pa.chunked_array([column])
    try:
        if isinstance(column.type, pa.BaseExtensionType):
            column = column.cast(column.type.storage_type)
        if pa.types.is_struct(column.type) and column.type.num_fields == 0:
            return pa.nulls(len(column))
        # Nanoseconds may be cut to microseconds; nothing else may lose a digit.
        array = column.cast(_normalize_type(column.type), safe=not _has_timestamps(column.type)).combine_chunks()
    except (pa.ArrowException, UnicodeError) as error:
        raise InputError(
            f"column {name!r} of {label} has the type {column.type}, which genrec does not read "
            f"({_first_line(error)}); cast it to text, numbers, dates or lists of these"
        ) from error
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    return array


def _normalize_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _normalize_type(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return pa.float64()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if pa.types.is_date(kind):
        return pa.date32()
    if _is_list(kind):
        return pa.large_list(_normalize_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _normalize_type(field.type)) for field in kind])
    return kind


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


_INTEGER_PATTERN = r"^-?(0|[1-9][0-9]{0,17})$"
_DECIMAL_PATTERN = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_CODE_PATTERN = r"^[+-]?(0[0-9]|[0-9]{19})"
_NULL_TEXTS = ("", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None")


def _infer_type(column: pa.Array) -> pa.Array:
    """Text of a CSV as numbers, or true and false, where every value is written so; else as it is."""
    # Made here and not with the module: the first array that Arrow makes loads pandas, where that is installed.
    absent = pa.array(_NULL_TEXTS, pa.large_string())
    known = pc.if_else(pc.is_in(column, value_set=absent), None, column)
    if known.null_count == len(known):
        return pc.if_else(pc.equal(column, ""), None, column)

    def every(pattern: str) -> bool:
        return bool(pc.all(pc.match_substring_regex(known, pattern)).as_py())

    if every(r"^(true|True|TRUE|false|False|FALSE)$"):
        return pc.equal(pc.utf8_lower(known), "true")
    if every(_DECIMAL_PATTERN) and not pc.any(pc.match_substring_regex(known, _CODE_PATTERN)).as_py():
        return known.cast(pa.int64() if every(_INTEGER_PATTERN) else pa.float64())
    return column


def _has_timestamps(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_has_timestamps(field.type) for field in kind)
    return _has_timestamps(kind.value_type) if _is_list(kind) else bool(pa.types.is_timestamp(kind))


def _timestamps_as_text(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _timestamps_as_text(field.type)) for field in kind])
    if _is_list(kind):
        return pa.list_(_timestamps_as_text(kind.value_type))
    return pa.string() if pa.types.is_timestamp(kind) else kind


def _read_error(path: Path, error: Exception, find: Callable[[], str | None]) -> InputError:
    """Say where a text file breaks: Arrow's own messages count within a block, not within the file."""
    return InputError(_find_encoding_error(path) or find() or f"{path.name} cannot be read: {_first_line(error)}")


def _find_encoding_error(path: Path) -> str | None:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                return (
                    f"{path.name} is not UTF-8: byte 0x{byte:02x} at position {error.start + 1} of line {number:,}; "
                    f"re-encode it, for example: iconv -f windows-1252 -t utf-8 {path.name} > utf8-{path.name}"
                )
    return None


def _find_csv_error(path: Path, delimiter: str) -> str | None:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter)
        expected = 0
        try:
            for row in rows:
                expected = expected or len(row)
                if row and len(row) != expected:
                    return (
                        f"line {rows.line_num:,} of {path.name} has {len(row)} fields where the header has {expected}; "
                        "quote fields that hold the separator, or repair the line"
                    )
        except csv.Error as error:
            return f"line {rows.line_num:,} of {path.name} cannot be read: {error}; repair the line"
    return None


def _count_quotes(path: Path) -> int:
    with path.open("rb") as file:
        return sum(part.count(b'"') for part in iter(lambda: file.read(_BLOCK_SIZE), b""))


def _find_unclosed_quote(path: Path, delimiter: str) -> str | None:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        last = 0
        try:
            for _ in rows:
                last = rows.line_num
        except csv.Error as error:
            if "unexpected end" in str(error):
                return (
                    f"line {last + 1:,} of {path.name} opens a quote that is never closed; close it, "
                    'or write the quote inside a field twice ("")'
                )
    return None


def _find_json_error(path: Path) -> str | None:
    kinds: dict[str, tuple[str, int]] = {}
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                json.dumps(row, ensure_ascii=False).encode()
            except (ValueError, RecursionError) as error:
                return f"line {number:,} of {path.name} is no JSON object: {_first_line(error)}; repair the line"
            if not isinstance(row, dict):
                return f"line {number:,} of {path.name} is no JSON object; write one object a line (JSON Lines)"
            for name, value in row.items():
                kind = _json_kind(value)
                first, at = kinds.setdefault(name, (kind, number)) if kind else ("", 0)
                if kind and kind != first:
                    return (
                        f"{name!r} is {kind} in line {number:,} of {path.name} and {first} in line {at:,}; "
                        "give every value of a column one type"
                    )
    return None


def _json_kind(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0].rstrip(".")
