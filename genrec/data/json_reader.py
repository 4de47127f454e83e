"""JSON reader: objects a line, an array of objects, or one object of columns, as Arrow columns.

Lines are read by Arrow in blocks, and only the columns that are wanted are kept. What Arrow refuses, such as a column
that is text in one line and a list in the next, is read by Python, which leaves such a column out and names the line.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.column_types import has_timestamps, timestamps_as_text
from genrec.data.json_values import JsonRow, iter_json_rows
from genrec.data.read_errors import first_line, json_kind
from genrec.data.text_encoding import TextSource

_BLOCK_ROWS = 50_000
_ARROW_BLOCK = 1 << 24  # bytes
_MISFITS = (pa.ArrowException, ValueError, OverflowError, TypeError)  # what Arrow raises for values of several types


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A column that cannot be read.

    Attributes:
        line: the line number of the first value that does not fit, from 1.
        reason: what is wrong with it, such as "a list in line 3 and text in line 1".
    """

    line: int
    reason: str


@dataclass
class JsonColumns:
    """The columns of a JSON file.

    Attributes:
        arrays: the columns that can be read, as chunks of Arrow arrays.
        unreadable: the others, by name.
        num_rows: rows so far.
    """

    arrays: dict[str, list[pa.Array]] = field(default_factory=dict)
    unreadable: dict[str, Unreadable] = field(default_factory=dict)
    num_rows: int = 0
    _kinds: dict[str, tuple[str, int]] = field(default_factory=dict)

    def add(self, rows: Sequence[JsonRow], only: Sequence[str] | None = None) -> None:
        """Append rows; `only` names the columns to keep, None keeps all.

        Raises:
            InputError: a row is no JSON.
        """
        table = None if any(row.values is not None for row in rows) else _read_by_arrow(rows)
        if table is None:
            arrays = self._read_by_python(rows, only)
        else:
            names = [name for name in table.column_names if only is None or name in only]
            arrays = {name: _one_array(table.column(name)) for name in names}
        for name in [*arrays, *(name for name in self.arrays if name not in arrays)]:
            if name not in self.unreadable:
                self._append(name, arrays.get(name, pa.nulls(len(rows))), rows)
        self.num_rows += len(rows)
        for name in self.unreadable:
            self.arrays.pop(name, None)

    @property
    def names(self) -> list[str]:
        """The names of all columns, in the order of their first values."""
        return list(dict.fromkeys([*self.arrays, *self.unreadable]))

    def select(self, names: Sequence[str]) -> pa.Table:
        """Some columns that can be read, as a table."""
        return pa.table({name: self._joined(name) for name in names})

    def _append(self, name: str, added: pa.Array, rows: Sequence[JsonRow]) -> None:
        chunks = self.arrays.setdefault(name, [pa.nulls(self.num_rows)] if self.num_rows else [])
        chunks.append(added)
        try:
            _common_type([chunk.type for chunk in chunks])
        except pa.ArrowException as error:
            self.unreadable[name] = self._find_misfit(name, [(row.line, row.parse()) for row in rows], error)
        if name not in self._kinds and added.null_count < len(added):
            row = rows[pc.index(added.is_valid(), True).as_py()]
            self._kinds[name] = (json_kind(row.parse().get(name)), row.line)

    def _read_by_python(self, rows: Sequence[JsonRow], only: Sequence[str] | None) -> dict[str, pa.Array]:
        """The columns of some rows that have one type each; the others become unreadable."""
        parsed = [(row.line, row.parse()) for row in rows]
        arrays = {}
        for name in dict.fromkeys(name for _, values in parsed for name in values):
            if name in self.unreadable or (only is not None and name not in only):
                continue
            try:
                arrays[name] = _array_of([values.get(name) for _, values in parsed])
            except _MISFITS as error:
                self.unreadable[name] = self._find_misfit(name, parsed, error)
        return arrays

    def _find_misfit(self, name: str, parsed: Sequence[tuple[int, dict[str, Any]]], error: Exception) -> Unreadable:
        """The first value of a column that does not fit those before it."""
        first, at = self._kinds.get(name, ("", 0))
        for line, row in parsed:
            kind = json_kind(row.get(name))
            if kind and not first:
                first, at = kind, line
            elif kind and kind != first:
                return Unreadable(line, f"is {kind} in line {line:,} and {first} in line {at:,}")
        low, high = 0, len(parsed) - 1  # the values before row `low` fit, those up to row `high` do not
        while low < high:
            middle = (low + high) // 2
            try:
                _array_of([row.get(name) for _, row in parsed[: middle + 1]])
                low = middle + 1
            except _MISFITS:
                high = middle
        line = parsed[low][0]
        if first in ("a list", "an object"):
            return Unreadable(line, f"holds {first} in line {line:,} whose values are of another kind than before")
        return Unreadable(line, f"cannot be stored in line {line:,} ({first_line(error)})")

    def _joined(self, name: str) -> pa.ChunkedArray:
        chunks = self.arrays[name]
        tables = [pa.table({"0": chunk}) for chunk in chunks]
        return pa.concat_tables(tables, promote_options="permissive").column(0)


def read_json_columns(text: TextSource, only: Sequence[str] | None = None) -> JsonColumns:
    """Read the columns of a JSON file.

    Args:
        text: the file.
        only: columns to keep; None keeps all.

    Raises:
        InputError: a line is no JSON object or nested too deeply.
    """
    columns = JsonColumns()
    rows = iter_json_rows(text)
    while block := list(islice(rows, _BLOCK_ROWS)):
        columns.add(block, only)
    return columns


def read_json_names(text: TextSource) -> list[str]:
    """The names of the columns in the first rows of a JSON file.

    Raises:
        InputError: a line is no JSON object or nested too deeply.
    """
    rows = islice(iter_json_rows(text), _BLOCK_ROWS)
    return list(dict.fromkeys(name for row in rows for name in row.parse()))


def _array_of(values: list[Any]) -> pa.Array:
    array = pa.array(values)
    array.validate(full=True)
    return array


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    joined = column.combine_chunks()
    return pa.concat_arrays(joined.chunks) if isinstance(joined, pa.ChunkedArray) else joined


def _read_by_arrow(rows: Sequence[JsonRow]) -> pa.Table | None:
    """Read rows of one line each by Arrow; None if it refuses."""
    import pyarrow.json as arrow_json

    data = pa.py_buffer("\n".join(row.text for row in rows).encode("utf-8", "surrogatepass"))
    options = arrow_json.ReadOptions(block_size=max(_ARROW_BLOCK, min(len(data), 1 << 30)))
    try:
        table = arrow_json.read_json(pa.BufferReader(data), read_options=options)
        dated = [
            pa.field(field.name, timestamps_as_text(field.type)) for field in table.schema if has_timestamps(field.type)
        ]
        if dated:
            parse = arrow_json.ParseOptions(explicit_schema=pa.schema(dated))
            table = arrow_json.read_json(pa.BufferReader(data), read_options=options, parse_options=parse)
        table.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    repeated = len(set(table.column_names)) < len(table.column_names)
    return None if repeated or table.num_rows != len(rows) else table


def _common_type(kinds: Sequence[pa.DataType]) -> pa.DataType:
    """The type that holds values of some types.

    Raises:
        pyarrow.ArrowException: there is none.
    """
    schemas = [pa.schema([pa.field("0", kind)]) for kind in dict.fromkeys(kinds)]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
