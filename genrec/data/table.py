"""Tables: Arrow columns under genrec's own names, and checks of their values.

`genrec.data.readers` makes them from files and data frames. Data rows are counted from 1, without the header.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.column_types import describe_type, missing_mask, normalize_array
from genrec.data.ids import INTEGRAL_FLOAT, MAX_EXACT_INTEGER, Ids
from genrec.errors import InputError
from genrec.notices import Notice
from genrec.types import BoolArray, FloatArray

# Ids that went through floats, in the form that spreadsheets, pandas and Python give large numbers.
_ROUNDED_FLOAT = r"^-?[0-9]\.[0-9]+[eE]\+[0-9]+$"
_MAX_NAMED_ROWS = 3


@dataclass(frozen=True, slots=True)
class Table:
    """Columns under genrec's names, and where they came from.

    Attributes:
        columns: Arrow arrays of equal length, by genrec's name.
        source: the table's name in messages: a file's name, or "the data frame".
        source_columns: genrec's name to the name in the source.
        notices: what was inferred about the source, and what was left out.
    """

    columns: Mapping[str, pa.Array]
    source: str
    source_columns: Mapping[str, str]
    notices: tuple[Notice, ...] = ()

    @classmethod
    def from_arrow(cls, columns: Mapping[str, pa.Array | pa.ChunkedArray], source: str) -> "Table":
        """A table of Arrow columns that already have genrec's names.

        Raises:
            InputError: a column has a type that genrec does not read.
        """
        normal = {name: normalize_array(column, name, source) for name, column in columns.items()}
        return cls(normal, source, {name: name for name in normal})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def describe_rows(self, bad: BoolArray) -> str:
        """Name the rows where `bad` [rows] is true, with the verb: "data rows 3, 8 and 2 more of items.csv have"."""
        count = int(np.count_nonzero(bad))
        rows = [f"{row + 1:,}" for row in np.flatnonzero(bad)[:_MAX_NAMED_ROWS]]
        if count == 1:
            return f"data row {rows[0]} of {self.source} has"
        if count > len(rows):
            return f"data rows {', '.join(rows)} and {count - len(rows):,} more of {self.source} have"
        return f"data rows {', '.join(rows[:-1])} and {rows[-1]} of {self.source} have"

    def column_label(self, name: str) -> str:
        """A column's name for messages, with the source's own name if it differs."""
        theirs = self.source_columns.get(name, name)
        return name if theirs == name else f"{name} (column {theirs!r})"

    def id_column(self, name: str) -> Ids:
        """A column of ids. If all are written as floats, such as 7.0, they are the whole numbers, here 7.

        Raises:
            InputError: a row without an id, ids that are neither text nor whole numbers, or numbers so large that two
                ids may have become one float.
        """
        values = self.columns[name]
        kind = values.type
        if not (pa.types.is_null(kind) or kind in (pa.large_string(), pa.int64(), pa.float64())):
            raise InputError(
                f"{self.column_label(name)} of {self.source} holds {describe_type(kind)}; "
                "ids are text or whole numbers, cast the column to one of them"
            )
        self.require_values(name, "drop such rows or give them an id")
        if kind == pa.large_string():
            values = self._without_fraction(name, values)
        if kind == pa.float64():
            numbers = values.to_numpy(zero_copy_only=False)
            bad = (numbers != np.floor(numbers)) | (np.abs(numbers) > MAX_EXACT_INTEGER)
            if bad.any():
                raise InputError(
                    f"{self.describe_rows(bad)} {self.column_label(name)} such as {float(numbers[np.argmax(bad)])!r}; "
                    "ids are text or whole numbers, write these as text"
                )
            values = pa.array(numbers.astype(np.int64))
        return Ids(values)

    def _without_fraction(self, name: str, values: pa.Array) -> pa.Array:
        """Ids as text, without the ".0" of a column whose ids are all written as floats."""
        rounded = pc.match_substring_regex(values, _ROUNDED_FLOAT)
        if pc.all(pc.match_substring_regex(values, INTEGRAL_FLOAT)).as_py():
            values = pc.utf8_slice_codeunits(values, 0, -2)
            digits = pc.utf8_length(pc.utf8_ltrim(values, "-"))
            rounded = pc.greater(digits, len(str(MAX_EXACT_INTEGER)) - 1)
        bad = np.asarray(rounded.to_numpy(zero_copy_only=False), dtype=np.bool_)
        if bad.any():
            raise InputError(
                f"{self.describe_rows(bad)} {self.column_label(name)} such as {values[int(np.argmax(bad))].as_py()!r}, "
                "a rounded number in which two ids may have become one; write the ids again as text, from the source"
            )
        return values

    def text_column(self, name: str) -> pa.Array:
        """A column of text without missing values, as large_string; whole numbers are written out.

        Raises:
            InputError: a row without text, or a column of another type.
        """
        values = self.columns[name]
        if values.type == pa.int64():
            values = values.cast(pa.large_string())
        if not (pa.types.is_null(values.type) or values.type == pa.large_string()):
            raise InputError(
                f"{self.column_label(name)} of {self.source} holds {describe_type(values.type)}; "
                "it must be text, cast the column"
            )
        self.require_values(name, f"drop such rows or give them a {name}")
        return values

    def require_values(self, name: str, remedy: str) -> None:
        """Refuse a column with missing values.

        Raises:
            InputError: rows without a value, named by their numbers; the message ends with `remedy`.
        """
        missing = missing_mask(self.columns[name])
        if missing.any():
            raise InputError(f"{self.describe_rows(missing)} no {self.column_label(name)}; {remedy}")

    def require_finite(self, name: str, values: FloatArray) -> None:
        """Refuse numbers read from a column if one of them is NaN or infinite.

        Raises:
            InputError: such rows, named by their numbers.
        """
        bad = ~np.isfinite(values)
        if bad.any():
            raise InputError(
                f"{self.describe_rows(bad)} no finite number in {self.column_label(name)}; "
                "drop such rows or repair them"
            )
