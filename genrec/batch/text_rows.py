"""Rows of text files: CSV, TSV and JSON Lines, read from any record on."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from genrec.batch.row import InputRow
from genrec.data.csv_reader import DELIMITERS
from genrec.errors import InputError

_UTF8_BOM = b"\xef\xbb\xbf"


def iter_text_rows(file: BinaryIO, path: Path) -> Iterator[tuple[int, int, InputRow]]:
    """Every record of a file: the byte offset where it starts, its line number from 1, and its row.

    Raises:
        InputError: a CSV or TSV file has no readable header.
    """
    lines = _LineReader(file)
    return _read_records(lines, path, _read_header(lines, path))


def read_text_rows(file: BinaryIO, path: Path, offset: int, line: int, count: int) -> Iterator[InputRow]:
    """Read `count` rows from a byte offset on; `line` is the line number there.

    Raises:
        InputError: a CSV or TSV file has no readable header.
    """
    header = _read_header(_LineReader(file), path)
    file.seek(offset)
    records = _read_records(_LineReader(file, line), path, header)
    for _, (_, _, row) in zip(range(count), records, strict=False):
        yield row


class _LineReader:
    """Iterates over the lines of a file and tracks offset and line number; invalid UTF-8 becomes lone surrogates."""

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
        """Move to the end of the line that starts at a byte offset."""
        self._file.seek(start)
        self.offset, self.line = start, line
        next(self)


def _read_records(lines: _LineReader, path: Path, header: Sequence[str]) -> Iterator[tuple[int, int, InputRow]]:
    """Every record from here on, as (offset, line number, row); blank lines are skipped."""
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
    """Records of a CSV or TSV file. A quote that is never closed, or closed wrongly, spoils its own line only."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        start, line = lines.offset, lines.line
        location = f"line {line:,} of {path.name}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield start, line, InputRow({}, f"{location} cannot be read: {error}")
            lines.seek_after_line(start, line)
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            continue
        if cells is None:
            return
        if cells:
            yield start, line, _row_from_cells(cells, header, location)


def _read_header(lines: _LineReader, path: Path) -> list[str]:
    """The column names of a CSV or TSV file; [] for JSON Lines.

    Raises:
        InputError: the header cannot be read.
    """
    delimiter = DELIMITERS.get(path.suffix.lower())
    if delimiter is None:
        return []
    try:
        cells = next((cells for cells in csv.reader(lines, delimiter=delimiter, strict=True) if cells), [])
        "".join(cells).encode()
    except (csv.Error, UnicodeEncodeError) as error:
        raise InputError(
            f"the header of {path} cannot be read: {error}; write it as UTF-8, in a line of its own"
        ) from error
    names = [cell.strip() for cell in cells]
    if again := next((name for position, name in enumerate(names) if name in names[:position]), None):
        raise InputError(f"the header of {path} names {again!r} twice; rename one of the two")
    return names


def _row_from_json(text: str, location: str) -> InputRow:
    try:
        value = json.loads(text)
        text.encode()
    except UnicodeEncodeError:
        return InputRow({}, f"{location} is not UTF-8")
    except (ValueError, RecursionError) as error:
        return InputRow({}, f"{location} is not a JSON object: {getattr(error, 'msg', error)}")
    return InputRow(value) if isinstance(value, dict) else InputRow({}, f"{location} is not a JSON object")


def _row_from_cells(cells: Sequence[str], header: Sequence[str], location: str) -> InputRow:
    if len(cells) != len(header):
        return InputRow({}, f"{location} has {len(cells)} fields, but the header has {len(header)}")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return InputRow({}, f"{location} is not UTF-8")
    return InputRow(dict(zip(header, cells, strict=True)))
