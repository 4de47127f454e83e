"""Rows of Parquet files, read from any row on."""

import itertools
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from genrec.batch.row import InputRow

_BATCH_ROWS = 1024  # rows decoded at once


def iter_parquet_rows(path: Path) -> Iterator[InputRow]:
    """Every row of a Parquet file."""
    with pq.ParquetFile(path) as table:
        for batch in table.iter_batches(_BATCH_ROWS):
            yield from _rows_from_arrow(batch)


class ParquetCursor:
    """Reads ascending ranges of rows; decoding starts at a row group, and no row is decoded twice.

    Args:
        path: the Parquet file.
        start: the first row that will be read.
    """

    def __init__(self, path: Path, start: int) -> None:
        self._path, self._file = path, pq.ParquetFile(path)
        sizes = [self._file.metadata.row_group(number).num_rows for number in range(self._file.num_row_groups)]
        self._group_offsets = [0, *itertools.accumulate(sizes)]
        group = self._row_group_of(start)
        self._offset = self._group_offsets[group]
        self._batches = self._file.iter_batches(_BATCH_ROWS, row_groups=list(range(group, len(sizes))))
        self._current_batch = next(self._batches, None)

    def can_advance_to(self, path: Path, start: int) -> bool:
        """Whether this cursor reaches a row without decoding a row group that a new cursor would skip."""
        return path == self._path and self._group_offsets[self._row_group_of(start)] <= self._offset <= start

    def read(self, start: int, stop: int) -> Iterator[InputRow]:
        """Rows from `start` up to `stop`, which is excluded."""
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
    except (ValueError, OverflowError) as error:  # a timestamp out of Python's range, or invalid UTF-8
        if batch.num_rows == 1:
            yield InputRow({}, f"a row cannot be read: {error}")
            return
        for position in range(batch.num_rows):
            yield from _rows_from_arrow(batch.slice(position, 1))
