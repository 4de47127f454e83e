"""Input of batch runs: files larger than memory, indexed once and then read block by block.

Formats: CSV, TSV, JSON Lines and Parquet. The index holds where each block of rows starts and the SHA-256 of each file.
A row that cannot be read carries an error and does not affect other rows.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from genrec.artifact import sha256_of
from genrec.batch.parquet_rows import ParquetCursor, iter_parquet_rows
from genrec.batch.row import InputRow
from genrec.batch.text_rows import iter_text_rows, read_text_rows
from genrec.data.csv_reader import DELIMITERS
from genrec.data.file_format import check_format
from genrec.errors import InputError, MismatchError, check_count

SUPPORTED_SUFFIXES = (*DELIMITERS, ".jsonl", ".ndjson", ".parquet")


@dataclass(frozen=True)
class RowBlock:
    """Rows that are read together.

    Attributes:
        file_index: index of the file in `InputIndex.files`.
        offset: where the first row starts: a byte, or in Parquet a row number.
        first_line: line number of the first row (in Parquet, row number), from 1, for messages.
        first_row: number of the first row among the rows of all files, from 0.
        num_rows: number of rows.
    """

    file_index: int
    offset: int
    first_line: int
    first_row: int
    num_rows: int


@dataclass(frozen=True)
class InputIndex:
    """Where the rows of an input are.

    Attributes:
        files: file names in reading order, relative to the input folder if the input is one.
        digests: SHA-256 of each file.
        blocks: in reading order; no block spans two files.
    """

    files: tuple[str, ...]
    digests: tuple[str, ...]
    blocks: tuple[RowBlock, ...]

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return self.blocks[-1].first_row + self.blocks[-1].num_rows if self.blocks else 0


def build_input_index(source: Path, block_rows: int) -> InputIndex:
    """Index a file, or all files of a folder sorted by path.

    Args:
        source: the file or the folder.
        block_rows: maximum number of rows in a block.

    Raises:
        InputError: there are no rows, or a file cannot be read.
    """
    check_count("rows of a part", block_rows)
    paths = _input_files(source)
    try:
        for path in paths:
            _check_format(path)
        digests = tuple(map(sha256_of, paths))
        starts_and_totals = [_block_starts(path, block_rows) for path in paths]
    except OSError as error:
        raise InputError(
            f"{error.filename or source} cannot be read: {error.strerror or error}; check the path and its permissions"
        ) from error
    blocks: list[RowBlock] = []
    first_row = 0
    for file_index, (starts, total) in enumerate(starts_and_totals):
        for number, (offset, line) in enumerate(starts):
            rows = min(block_rows, total - number * block_rows)
            blocks.append(RowBlock(file_index, offset, line, first_row, rows))
            first_row += rows
    if not blocks:
        raise InputError(f"{source} has no rows; name a file or folder with at least one")
    return InputIndex(tuple(input_file_names(source)), digests, tuple(blocks))


def input_file_names(source: Path) -> list[str]:
    """Names of the input files, as in `InputIndex.files`.

    Raises:
        InputError: there are none.
    """
    return [path.name if source.is_file() else str(path.relative_to(source)) for path in _input_files(source)]


def input_path(source: Path, name: str) -> Path:
    """The path of an input file, given its name in `InputIndex.files`."""
    return source / name if source.is_dir() else source


def iter_rows(source: Path) -> Iterator[InputRow]:
    """Every row of a file or a folder, in order.

    Raises:
        InputError: there are no files, or one cannot be read.
    """
    for path in _input_files(source):
        try:
            _check_format(path)
            if path.suffix.lower() == ".parquet":
                yield from iter_parquet_rows(path)
                continue
            with path.open("rb") as file:
                for _, _, row in iter_text_rows(file, path):
                    yield row
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path} cannot be read: {error}; name another file") from error


class BlockReader:
    """Reads blocks of an indexed input; fastest in their order.

    Args:
        source: the file or the folder that was indexed.
        index: where its rows are.
    """

    def __init__(self, source: Path, index: InputIndex) -> None:
        self._source, self._index = source, index
        self._cursor: ParquetCursor | None = None

    def read(self, block: RowBlock) -> list[InputRow]:
        """The rows of a block.

        Raises:
            MismatchError: the file has changed since it was indexed.
        """
        path = input_path(self._source, self._index.files[block.file_index])
        try:
            if path.suffix.lower() == ".parquet":
                rows = list(self._read_parquet(path, block))
            else:
                with path.open("rb") as file:
                    rows = list(read_text_rows(file, path, block.offset, block.first_line, block.num_rows))
        except (OSError, InputError, pa.ArrowException) as error:
            raise MismatchError(
                f"{path} can no longer be read: {error}; restore the file that the run started with"
            ) from error
        if len(rows) != block.num_rows:
            raise MismatchError(
                f"{path} has {len(rows)} rows from line {block.first_line:,} on, not {block.num_rows}; restore the "
                "file that the run started with"
            )
        return rows

    def _read_parquet(self, path: Path, block: RowBlock) -> Iterator[InputRow]:
        if self._cursor is None or not self._cursor.can_advance_to(path, block.offset):
            self._cursor = ParquetCursor(path, block.offset)
        return self._cursor.read(block.offset, block.offset + block.num_rows)


def _input_files(source: Path) -> list[Path]:
    suffixes = ", ".join(SUPPORTED_SUFFIXES)
    if os.path.isdir(source):
        paths = sorted(
            path
            for path in source.rglob("*")
            if path.suffix.lower() in SUPPORTED_SUFFIXES and path.is_file() and not _is_hidden(path.relative_to(source))
        )
        if not paths:
            raise InputError(f"{source} contains no file that ends in {suffixes}; name another folder")
        return paths
    if not os.path.isfile(source):
        raise InputError(f"{source} does not exist; name a file ({suffixes}) or a folder of such files")
    if source.suffix.lower() not in SUPPORTED_SUFFIXES:
        raise InputError(f"{source} ends in {source.suffix or 'nothing'!r}; name a file that ends in {suffixes}")
    return [source]


def _check_format(path: Path) -> None:
    """Refuse a file whose content is not a table in the format of its suffix; an empty file has no rows."""
    if path.stat().st_size:
        check_format(path)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _block_starts(path: Path, block_rows: int) -> tuple[list[tuple[int, int]], int]:
    """Where each block of a file starts, as (offset, line number), and the number of rows in the file."""
    if path.suffix.lower() == ".parquet":
        try:
            rows = pq.read_metadata(path).num_rows
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path} is not a readable Parquet file: {error}; write it again") from error
        return [(start, start + 1) for start in range(0, rows, block_rows)], rows
    starts: list[tuple[int, int]] = []
    count = 0
    with path.open("rb") as file:
        for offset, line, _ in iter_text_rows(file, path):
            if count % block_rows == 0:
                starts.append((offset, line))
            count += 1
    return starts, count
