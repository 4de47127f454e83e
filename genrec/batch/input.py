"""Rows of files that are larger than memory, found again from any place: CSV, TSV, JSON Lines and Parquet.

A survey says where blocks of rows begin and what the files' SHA-256 are; after that a block is read alone. A row that
cannot be read is told so and stands in nobody's way.
"""

import csv
import itertools
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from genrec.artifact import sha256_of
from genrec.data.readers import DELIMITERS
from genrec.errors import InputError, MismatchError, check_count

SUPPORTED_SUFFIXES = (*DELIMITERS, ".jsonl", ".ndjson", ".parquet")
_PARQUET_BATCH_ROWS = 1024  # rows of Parquet that are decoded at once
_UTF8_BOM = b"\xef\xbb\xbf"  # that some programs begin UTF-8 with


@dataclass(frozen=True)
class RowBlock:
    """Rows that are read together.

    Attributes:
        file_index: its place among the files.
        offset: where its first row begins: a byte, or in Parquet a row.
        first_line: the number of its first line (of Parquet, row), from 1, for messages.
        first_row: the number of its first row among those of all files, from 0.
        num_rows: how many there are.
    """

    file_index: int
    offset: int
    first_line: int
    first_row: int
    num_rows: int


@dataclass(frozen=True)
class InputRow:
    """One row.

    Attributes:
        columns: its columns; {} where it cannot be read.
        error: why not, with its line; "" where it can.
    """

    columns: dict[str, Any]
    error: str = ""


@dataclass(frozen=True)
class InputIndex:
    """Where the rows are.

    Attributes:
        files: their names, in order, relative to the folder where there is one.
        digests: SHA-256 of each.
        blocks: in order; none holds rows of two files.
    """

    files: tuple[str, ...]
    digests: tuple[str, ...]
    blocks: tuple[RowBlock, ...]

    @property
    def num_rows(self) -> int:
        """How many there are."""
        return self.blocks[-1].first_row + self.blocks[-1].num_rows if self.blocks else 0


def build_input_index(source: Path, block_rows: int) -> InputIndex:
    """Look through a file, or through every file of a folder in the order of their names.

    Args:
        source: the file or the folder.
        block_rows: rows of a block at most.

    Raises:
        InputError: there is nothing to read, or a file is none of those that can be read.
    """
    check_count("rows of a part", block_rows)
    paths = _input_files(source)
    try:
        digests = tuple(map(sha256_of, paths))
        surveyed = [_block_starts(path, block_rows) for path in paths]
    except OSError as error:
        raise InputError(f"{error.filename or source} cannot be read: {error.strerror or error}") from error
    blocks: list[RowBlock] = []
    first = 0
    for number, (starts, total) in enumerate(surveyed):
        for place, (start, line) in enumerate(starts):
            rows = min(block_rows, total - place * block_rows)
            blocks.append(RowBlock(number, start, line, first, rows))
            first += rows
    if not blocks:
        raise InputError(f"{source} has no rows; check that it is what you meant")
    return InputIndex(tuple(input_file_names(source)), digests, tuple(blocks))


def input_file_names(source: Path) -> list[str]:
    """The files that rows are read from, as a survey calls them.

    Raises:
        InputError: there are none.
    """
    return [path.name if source.is_file() else str(path.relative_to(source)) for path in _input_files(source)]


def is_encodable(text: str) -> bool:
    """Whether it can be written: a lone surrogate, which JSON can spell, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def iter_rows(source: Path) -> Iterator[InputRow]:
    """Every row of a file or a folder, one after the other.

    Raises:
        InputError: there is nothing to read, or a file is none of those that can be read.
    """
    for path in _input_files(source):
        try:
            if path.suffix.lower() == ".parquet":
                with pq.ParquetFile(path) as table:
                    for batch in table.iter_batches(_PARQUET_BATCH_ROWS):
                        yield from _rows_from_arrow(batch)
                continue
            with path.open("rb") as file:
                lines = _LineReader(file)
                for _, _, row in _read_records(lines, path, _read_header(lines, path)):
                    yield row
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path} cannot be read: {error}; name another file") from error


def input_path(source: Path, name: str) -> Path:
    """A file of a survey: within the folder that was looked through, or the file itself."""
    return source / name if source.is_dir() else source


class BlockReader:
    """Reads blocks of a survey, fastest in their order.

    Args:
        source: the file or the folder that was looked through.
        index: where its rows are.
    """

    def __init__(self, source: Path, index: InputIndex) -> None:
        self._source, self._index = source, index
        self._cursor: _ParquetCursor | None = None

    def read(self, block: RowBlock) -> list[InputRow]:
        """The rows of a block.

        Raises:
            MismatchError: the file is not what it was any more.
        """
        path = input_path(self._source, self._index.files[block.file_index])
        try:
            if path.suffix.lower() == ".parquet":
                rows = list(self._read_parquet(path, block))
            else:
                with path.open("rb") as file:
                    rows = list(_read_text_block(file, path, block))
        except (OSError, InputError, pa.ArrowException) as error:
            raise MismatchError(
                f"{path} cannot be read any more: {error}; put back the file that the run began with"
            ) from error
        if len(rows) != block.num_rows:
            raise MismatchError(
                f"{path} has {len(rows)} rows from line {block.first_line:,} on, not {block.num_rows}; put back the file that "
                "the run began with"
            )
        return rows

    def _read_parquet(self, path: Path, block: RowBlock) -> Iterator[InputRow]:
        if self._cursor is None or not self._cursor.can_advance_to(path, block.offset):
            self._cursor = _ParquetCursor(path, block.offset)
        return self._cursor.read(block.offset, block.offset + block.num_rows)


def _input_files(source: Path) -> list[Path]:
    if source.is_dir():
        paths = sorted(
            path
            for path in source.rglob("*")
            if path.suffix.lower() in SUPPORTED_SUFFIXES and path.is_file() and not _is_hidden(path.relative_to(source))
        )
        if not paths:
            raise InputError(
                f"{source} holds no file that ends in {', '.join(SUPPORTED_SUFFIXES)}; name another folder"
            )
        return paths
    if not source.is_file():
        raise InputError(f"{source} does not exist; name a file or a folder of {', '.join(SUPPORTED_SUFFIXES)}")
    if source.suffix.lower() not in SUPPORTED_SUFFIXES:
        raise InputError(
            f"{source} ends in {source.suffix or 'nothing'!r}; name a file of {', '.join(SUPPORTED_SUFFIXES)}"
        )
    return [source]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _block_starts(path: Path, block_rows: int) -> tuple[list[tuple[int, int]], int]:
    """Where each block of a file starts, as (start, line), and how many rows the file has."""
    if path.suffix.lower() == ".parquet":
        try:
            rows = pq.read_metadata(path).num_rows
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path} is no readable Parquet file: {error}; write it again") from error
        return [(start, start + 1) for start in range(0, rows, block_rows)], rows
    starts: list[tuple[int, int]] = []
    count = 0
    with path.open("rb") as file:
        lines = _LineReader(file)
        for start, line, _ in _read_records(lines, path, _read_header(lines, path)):
            if count % block_rows == 0:
                starts.append((start, line))
            count += 1
    return starts, count


class _LineReader:
    """Lines of a file as text, and how far they were handed out; bytes that are no UTF-8 become lone surrogates."""

    def __init__(self, file: BinaryIO, line: int = 1) -> None:
        self._file, self.offset, self.line = file, file.tell(), line

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = self._file.readline()
        if not raw:
            raise StopIteration
        text = raw.removeprefix(_UTF8_BOM) if self.offset == 0 else raw
        self.offset, self.line = self.offset + len(raw), self.line + 1
        return text.decode("utf-8", "surrogateescape")

    def seek_after_line(self, start: int, line: int) -> None:
        """Go back to the line after one that began here."""
        self._file.seek(start)
        self.offset, self.line = start, line
        next(self)


def _read_records(lines: _LineReader, path: Path, header: Sequence[str]) -> Iterator[tuple[int, int, InputRow]]:
    """Every record from here on: where it starts, its line, and what it says. Blank lines are none."""
    delimiter = DELIMITERS.get(path.suffix.lower())
    if delimiter is not None:
        yield from _read_csv_records(lines, path, header, delimiter)
        return
    while True:
        start, line = lines.offset, lines.line
        text = next(lines, None)
        if text is None:
            return
        if text.strip():
            yield start, line, _row_from_json(text, f"line {line:,} of {path.name}")


def _read_csv_records(
    lines: _LineReader, path: Path, header: Sequence[str], delimiter: str
) -> Iterator[tuple[int, int, InputRow]]:
    """Records of a table of text. A quote that is closed wrongly or never costs its own line, and no others."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        start, line = lines.offset, lines.line
        place = f"line {line:,} of {path.name}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield start, line, InputRow({}, f"{place} cannot be read: {error}")
            lines.seek_after_line(start, line)
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            continue
        if cells is None:
            return
        if cells:
            yield start, line, _row_from_cells(cells, header, place)


def _read_header(lines: _LineReader, path: Path) -> list[str]:
    """The columns of a table of text; [] of any other file.

    Raises:
        InputError: there are none that can be read.
    """
    delimiter = DELIMITERS.get(path.suffix.lower())
    if delimiter is None:
        return []
    try:
        cells = next((cells for cells in csv.reader(lines, delimiter=delimiter, strict=True) if cells), [])
        "".join(cells).encode()
    except (csv.Error, UnicodeEncodeError) as error:
        raise InputError(
            f"the header of {path} cannot be read: {error}; write it in UTF-8, a line of its own"
        ) from error
    names = [cell.strip() for cell in cells]
    if again := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise InputError(f"the header of {path} names {again!r} twice; rename one of the two")
    return names


def _row_from_json(text: str, location: str) -> InputRow:
    try:
        value = json.loads(text)
        text.encode()
    except UnicodeEncodeError:
        return InputRow({}, f"{location} is not UTF-8")
    except (ValueError, RecursionError) as error:
        return InputRow({}, f"{location} is no JSON object: {getattr(error, 'msg', error)}")
    return InputRow(value) if isinstance(value, dict) else InputRow({}, f"{location} is no JSON object")


def _row_from_cells(cells: Sequence[str], header: Sequence[str], location: str) -> InputRow:
    if len(cells) != len(header):
        return InputRow({}, f"{location} has {len(cells)} fields where the header has {len(header)}")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return InputRow({}, f"{location} is not UTF-8")
    return InputRow(dict(zip(header, cells, strict=True)))


def _read_text_block(file: BinaryIO, path: Path, block: RowBlock) -> Iterator[InputRow]:
    header = _read_header(_LineReader(file), path)
    file.seek(block.offset)
    records = _read_records(_LineReader(file, block.first_line), path, header)
    for _, (_, _, row) in zip(range(block.num_rows), records, strict=False):
        yield row


class _ParquetCursor:
    """Rows of a Parquet file, decoded from the beginning of a row group on and no more than once."""

    def __init__(self, path: Path, start: int) -> None:
        self._path, self._file = path, pq.ParquetFile(path)
        sizes = [self._file.metadata.row_group(number).num_rows for number in range(self._file.num_row_groups)]
        self._group_offsets = [0, *itertools.accumulate(sizes)]
        group = self._row_group_of(start)
        self._offset = self._group_offsets[group]
        self._batches = self._file.iter_batches(_PARQUET_BATCH_ROWS, row_groups=list(range(group, len(sizes))))
        self._current_batch = next(self._batches, None)

    def can_advance_to(self, path: Path, start: int) -> bool:
        """Whether a row is reached by going on, with nothing decoded for nothing."""
        return path == self._path and self._group_offsets[self._row_group_of(start)] <= self._offset <= start

    def read(self, start: int, stop: int) -> Iterator[InputRow]:
        """Rows from `start` to `stop`."""
        while self._current_batch is not None and self._offset < stop:
            low, high = max(start - self._offset, 0), min(stop - self._offset, self._current_batch.num_rows)
            if low < high:
                yield from _rows_from_arrow(self._current_batch.slice(low, high - low))
            if self._offset + self._current_batch.num_rows > stop:
                return
            self._offset += self._current_batch.num_rows
            self._current_batch = next(self._batches, None)

    def _row_group_of(self, row: int) -> int:
        return max(0, bisect_right(self._group_offsets, row) - 1)


def _rows_from_arrow(batch: pa.RecordBatch) -> Iterator[InputRow]:
    try:
        yield from [InputRow(value) for value in batch.to_pylist()]
    except (ValueError, OverflowError) as error:  # a time that Python cannot hold, text that is no UTF-8
        if batch.num_rows == 1:
            yield InputRow({}, f"a row cannot be read: {error}")
            return
        for place in range(batch.num_rows):
            yield from _rows_from_arrow(batch.slice(place, 1))
