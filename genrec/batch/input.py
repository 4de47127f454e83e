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
from genrec.data.table import DELIMITERS
from genrec.errors import InputError, MismatchError, check_count

SUFFIXES = (*DELIMITERS, ".jsonl", ".ndjson", ".parquet")
_BATCH = 1024  # rows of Parquet that are decoded at once
_MARK = b"\xef\xbb\xbf"  # that some programs begin UTF-8 with


@dataclass(frozen=True)
class Block:
    """Rows that are read together.

    Attributes:
        file: its place among the files.
        start: where its first row begins: a byte, or in Parquet a row.
        line: the number of its first line (of Parquet, row), from 1, for messages.
        first: the number of its first row among those of all files, from 0.
        rows: how many there are.
    """

    file: int
    start: int
    line: int
    first: int
    rows: int


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        value: its columns; {} where it cannot be read.
        fault: why not, with its line; "" where it can.
    """

    value: dict[str, Any]
    fault: str = ""


@dataclass(frozen=True)
class Survey:
    """Where the rows are.

    Attributes:
        files: their names, in order, relative to the folder where there is one.
        digests: SHA-256 of each.
        blocks: in order; none holds rows of two files.
    """

    files: tuple[str, ...]
    digests: tuple[str, ...]
    blocks: tuple[Block, ...]

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.blocks[-1].first + self.blocks[-1].rows if self.blocks else 0


def survey(source: Path, size: int) -> Survey:
    """Look through a file, or through every file of a folder in the order of their names.

    Args:
        source: the file or the folder.
        size: rows of a block at most.

    Raises:
        InputError: there is nothing to read, or a file is none of those that can be read.
    """
    check_count("rows of a part", size)
    paths = _files(source)
    try:
        digests = tuple(map(sha256_of, paths))
        surveyed = [_starts(path, size) for path in paths]
    except OSError as error:
        raise InputError(f"{error.filename or source} cannot be read: {error.strerror or error}") from error
    blocks: list[Block] = []
    first = 0
    for number, (starts, total) in enumerate(surveyed):
        for place, (start, line) in enumerate(starts):
            rows = min(size, total - place * size)
            blocks.append(Block(number, start, line, first, rows))
            first += rows
    if not blocks:
        raise InputError(f"{source} has no rows; check that it is what you meant")
    return Survey(tuple(file_names(source)), digests, tuple(blocks))


def file_names(source: Path) -> list[str]:
    """The files that rows are read from, as a survey calls them.

    Raises:
        InputError: there are none.
    """
    return [path.name if source.is_file() else str(path.relative_to(source)) for path in _files(source)]


def is_text(text: str) -> bool:
    """Whether it can be written: a lone surrogate, which JSON can spell, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def rows_of(source: Path) -> Iterator[Row]:
    """Every row of a file or a folder, one after the other.

    Raises:
        InputError: there is nothing to read, or a file is none of those that can be read.
    """
    for path in _files(source):
        try:
            if path.suffix.lower() == ".parquet":
                with pq.ParquetFile(path) as table:
                    for batch in table.iter_batches(_BATCH):
                        yield from _of_batch(batch)
                continue
            with path.open("rb") as file:
                lines = _Lines(file)
                for _, _, row in _records(lines, path, _read_header(lines, path)):
                    yield row
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path} cannot be read: {error}; name another file") from error


def path_of(source: Path, name: str) -> Path:
    """A file of a survey: within the folder that was looked through, or the file itself."""
    return source / name if source.is_dir() else source


class BlockReader:
    """Reads blocks of a survey, fastest in their order.

    Args:
        source: the file or the folder that was looked through.
        found: where its rows are.
    """

    def __init__(self, source: Path, found: Survey) -> None:
        self._source, self._found = source, found
        self._cursor: _Cursor | None = None

    def read(self, block: Block) -> list[Row]:
        """The rows of a block.

        Raises:
            MismatchError: the file is not what it was any more.
        """
        path = path_of(self._source, self._found.files[block.file])
        try:
            if path.suffix.lower() == ".parquet":
                rows = list(self._of_parquet(path, block))
            else:
                with path.open("rb") as file:
                    rows = list(_of_text(file, path, block))
        except (OSError, InputError, pa.ArrowException) as error:
            raise MismatchError(
                f"{path} cannot be read any more: {error}; put back the file that the run began with"
            ) from error
        if len(rows) != block.rows:
            raise MismatchError(
                f"{path} has {len(rows)} rows from line {block.line:,} on, not {block.rows}; put back the file that "
                "the run began with"
            )
        return rows

    def _of_parquet(self, path: Path, block: Block) -> Iterator[Row]:
        if self._cursor is None or not self._cursor.leads_to(path, block.start):
            self._cursor = _Cursor(path, block.start)
        return self._cursor.read(block.start, block.start + block.rows)


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        paths = sorted(
            path
            for path in source.rglob("*")
            if path.suffix.lower() in SUFFIXES and path.is_file() and not _is_hidden(path.relative_to(source))
        )
        if not paths:
            raise InputError(f"{source} holds no file that ends in {', '.join(SUFFIXES)}; name another folder")
        return paths
    if not source.is_file():
        raise InputError(f"{source} does not exist; name a file or a folder of {', '.join(SUFFIXES)}")
    if source.suffix.lower() not in SUFFIXES:
        raise InputError(f"{source} ends in {source.suffix or 'nothing'!r}; name a file of {', '.join(SUFFIXES)}")
    return [source]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _starts(path: Path, size: int) -> tuple[list[tuple[int, int]], int]:
    """Where each block of a file starts, as (start, line), and how many rows the file has."""
    if path.suffix.lower() == ".parquet":
        try:
            rows = pq.read_metadata(path).num_rows
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path} is no readable Parquet file: {error}; write it again") from error
        return [(start, start + 1) for start in range(0, rows, size)], rows
    starts: list[tuple[int, int]] = []
    count = 0
    with path.open("rb") as file:
        lines = _Lines(file)
        for start, line, _ in _records(lines, path, _read_header(lines, path)):
            if count % size == 0:
                starts.append((start, line))
            count += 1
    return starts, count


class _Lines:
    """Lines of a file as text, and how far they were handed out; bytes that are no UTF-8 become lone surrogates."""

    def __init__(self, file: BinaryIO, line: int = 1) -> None:
        self._file, self.at, self.line = file, file.tell(), line

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = self._file.readline()
        if not raw:
            raise StopIteration
        text = raw.removeprefix(_MARK) if self.at == 0 else raw
        self.at, self.line = self.at + len(raw), self.line + 1
        return text.decode("utf-8", "surrogateescape")

    def go_behind(self, start: int, line: int) -> None:
        """Go back to the line after one that began here."""
        self._file.seek(start)
        self.at, self.line = start, line
        next(self)


def _records(lines: _Lines, path: Path, header: Sequence[str]) -> Iterator[tuple[int, int, Row]]:
    """Every record from here on: where it starts, its line, and what it says. Blank lines are none."""
    delimiter = DELIMITERS.get(path.suffix.lower())
    if delimiter is not None:
        yield from _csv_records(lines, path, header, delimiter)
        return
    while True:
        start, line = lines.at, lines.line
        text = next(lines, None)
        if text is None:
            return
        if text.strip():
            yield start, line, _from_json(text, f"line {line:,} of {path.name}")


def _csv_records(lines: _Lines, path: Path, header: Sequence[str], delimiter: str) -> Iterator[tuple[int, int, Row]]:
    """Records of a table of text. A quote that is closed wrongly or never costs its own line, and no others."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        start, line = lines.at, lines.line
        place = f"line {line:,} of {path.name}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield start, line, Row({}, f"{place} cannot be read: {error}")
            lines.go_behind(start, line)
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            continue
        if cells is None:
            return
        if cells:
            yield start, line, _from_cells(cells, header, place)


def _read_header(lines: _Lines, path: Path) -> list[str]:
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


def _from_json(text: str, place: str) -> Row:
    try:
        value = json.loads(text)
        text.encode()
    except UnicodeEncodeError:
        return Row({}, f"{place} is not UTF-8")
    except (ValueError, RecursionError) as error:
        return Row({}, f"{place} is no JSON object: {getattr(error, 'msg', error)}")
    return Row(value) if isinstance(value, dict) else Row({}, f"{place} is no JSON object")


def _from_cells(cells: Sequence[str], header: Sequence[str], place: str) -> Row:
    if len(cells) != len(header):
        return Row({}, f"{place} has {len(cells)} fields where the header has {len(header)}")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return Row({}, f"{place} is not UTF-8")
    return Row(dict(zip(header, cells, strict=True)))


def _of_text(file: BinaryIO, path: Path, block: Block) -> Iterator[Row]:
    header = _read_header(_Lines(file), path)
    file.seek(block.start)
    records = _records(_Lines(file, block.line), path, header)
    for _, (_, _, row) in zip(range(block.rows), records, strict=False):
        yield row


class _Cursor:
    """Rows of a Parquet file, decoded from the beginning of a row group on and no more than once."""

    def __init__(self, path: Path, start: int) -> None:
        self._path, self._file = path, pq.ParquetFile(path)
        sizes = [self._file.metadata.row_group(number).num_rows for number in range(self._file.num_row_groups)]
        self._begins = [0, *itertools.accumulate(sizes)]
        group = self._group_of(start)
        self._at = self._begins[group]
        self._batches = self._file.iter_batches(_BATCH, row_groups=list(range(group, len(sizes))))
        self._held = next(self._batches, None)

    def leads_to(self, path: Path, start: int) -> bool:
        """Whether a row is reached by going on, with nothing decoded for nothing."""
        return path == self._path and self._begins[self._group_of(start)] <= self._at <= start

    def read(self, start: int, stop: int) -> Iterator[Row]:
        """Rows from `start` to `stop`."""
        while self._held is not None and self._at < stop:
            low, high = max(start - self._at, 0), min(stop - self._at, self._held.num_rows)
            if low < high:
                yield from _of_batch(self._held.slice(low, high - low))
            if self._at + self._held.num_rows > stop:
                return
            self._at += self._held.num_rows
            self._held = next(self._batches, None)

    def _group_of(self, row: int) -> int:
        return max(0, bisect_right(self._begins, row) - 1)


def _of_batch(batch: pa.RecordBatch) -> Iterator[Row]:
    try:
        yield from [Row(value) for value in batch.to_pylist()]
    except (ValueError, OverflowError) as error:  # a time that Python cannot hold, text that is no UTF-8
        if batch.num_rows == 1:
            yield Row({}, f"a row cannot be read: {error}")
            return
        for place in range(batch.num_rows):
            yield from _of_batch(batch.slice(place, 1))
