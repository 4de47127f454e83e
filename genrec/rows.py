"""Rows of files that are larger than memory, found again from any place: CSV, TSV, JSON Lines and Parquet.

One pass says where blocks of rows begin and what the files' SHA-256 are; after that a block is read alone. A row that
cannot be read is told so and stands in nobody's way.
"""

import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from genrec.errors import InputError, MismatchError, check_count

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_PIECE = 1 << 20  # bytes hashed at once
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
    check_count("size", size)
    paths = _files(source)
    blocks: list[Block] = []
    first = 0
    for number, path in enumerate(paths):
        starts, total = _starts(path, size)
        for place, (start, line) in enumerate(starts):
            rows = min(size, total - place * size)
            blocks.append(Block(number, start, line, first, rows))
            first += rows
    if not blocks:
        raise InputError(f"{source} has no rows; check that it is what you meant")
    names = tuple(path.name if source.is_file() else str(path.relative_to(source)) for path in paths)
    return Survey(names, tuple(map(_digest, paths)), tuple(blocks))


def read_block(source: Path, found: Survey, block: Block) -> list[Row]:
    """The rows of a block.

    Raises:
        MismatchError: the file is not what it was any more.
    """
    name = found.files[block.file]
    path = source if source.is_file() else source / name
    try:
        if path.suffix.lower() == ".parquet":
            rows = list(_of_parquet(path, block))
        else:
            with path.open("rb") as file:
                rows = list(_of_text(file, path, block))
    except (OSError, pa.ArrowException) as error:
        raise MismatchError(
            f"{path} cannot be read any more: {error}; put back the file that the run began with"
        ) from error
    if len(rows) != block.rows:
        raise MismatchError(
            f"{path} has {len(rows)} rows from line {block.line:,} on, not {block.rows}; put back the file that the "
            "run began with"
        )
    return rows


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not paths:
            raise InputError(f"{source} holds no file that ends in {', '.join(SUFFIXES)}; name another folder")
        return paths
    if not source.is_file():
        raise InputError(f"{source} does not exist; name a file or a folder of {', '.join(SUFFIXES)}")
    if source.suffix.lower() not in SUFFIXES:
        raise InputError(f"{source} ends in {source.suffix or 'nothing'!r}; name a file of {', '.join(SUFFIXES)}")
    return [source]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


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
        for start, line, _ in _records(lines, path):
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


def _records(lines: _Lines, path: Path, header: Sequence[str] | None = None) -> Iterator[tuple[int, int, Row]]:
    """Every record from here on: where it starts, its line, and what it says. Blank lines are none."""
    delimiter = _DELIMITERS.get(path.suffix.lower())
    if delimiter is None:
        while True:
            start, line = lines.at, lines.line
            text = next(lines, None)
            if text is None:
                return
            if text.strip():
                yield start, line, _from_json(text, f"line {line:,} of {path.name}")
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        start, line = lines.at, lines.line
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield start, line, Row({}, f"line {line:,} of {path.name} cannot be read: {error}")
            continue
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            continue
        yield start, line, _from_cells(cells, header, f"line {line:,} of {path.name}")


def _from_json(text: str, place: str) -> Row:
    try:
        value = json.loads(text)
        text.encode()
    except UnicodeEncodeError:
        return Row({}, f"{place} is not UTF-8")
    except (ValueError, RecursionError) as error:
        return Row({}, f"{place} is no JSON object: {error}")
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
    delimiter, header = _DELIMITERS.get(path.suffix.lower()), None
    if delimiter is not None:
        header = [cell.strip() for cell in next(row for row in csv.reader(_Lines(file), delimiter=delimiter) if row)]
    file.seek(block.start)
    records = _records(_Lines(file, block.line), path, header)
    for _, (_, _, row) in zip(range(block.rows), records, strict=False):
        yield row


def _of_parquet(path: Path, block: Block) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        at = 0
        for group in range(file.num_row_groups):
            own = file.metadata.row_group(group).num_rows
            if at + own > block.start and at < block.start + block.rows:
                yield from _of_group(file, group, block.start - at, block.start + block.rows - at, block.rows)
            at += own


def _of_group(file: pq.ParquetFile, group: int, start: int, stop: int, size: int) -> Iterator[Row]:
    """Rows of a row group from `start` to `stop`, either of which may lie outside of it."""
    at = 0
    for batch in file.iter_batches(batch_size=size, row_groups=[group]):
        if at >= stop:
            return
        chosen = batch.slice(max(0, start - at), max(0, stop - max(start, at)))
        at += batch.num_rows
        if at > start:
            yield from map(Row, chosen.to_pylist())
