"""Event columns: the items, times, weights and names of events.

Letters: E events.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.column_types import describe_type
from genrec.data.table import Table
from genrec.errors import InputError, check_number, format_value
from genrec.types import FloatArray, IntArray

_Array = TypeVar("_Array", IntArray, FloatArray)


@dataclass(frozen=True, slots=True)
class EventColumns:
    """The columns of E events, without their users.

    Attributes:
        item_codes: int64 [E], indices into the distinct items of a log.
        timestamps: float64 [E].
        weights: float64 [E], or None.
        event_names: large_string [E], or None.
    """

    item_codes: IntArray
    timestamps: FloatArray
    weights: FloatArray | None
    event_names: pa.Array | None

    @classmethod
    def from_table(cls, table: Table, item_codes: IntArray) -> "EventColumns":
        """Read the columns timestamp, weight and event of a table; the last two are optional.

        Raises:
            InputError: a time or a weight cannot be read.
        """
        return cls(
            item_codes,
            timestamps=_parse_timestamps(table),
            weights=_parse_weights(table) if "weight" in table.columns else None,
            event_names=_parse_event_names(table) if "event" in table.columns else None,
        )

    def take(self, rows: IntArray) -> "EventColumns":
        """The given events, in the given order."""
        return EventColumns(
            self.item_codes[rows],
            self.timestamps[rows],
            None if self.weights is None else self.weights[rows],
            None if self.event_names is None else self.event_names.take(pa.array(rows)),
        )


def read_only(array: _Array) -> _Array:
    """The array, which can no longer be changed."""
    array.setflags(write=False)
    return array


def offsets_from_counts(counts: IntArray) -> IntArray:
    """Where each of U groups of events begins, and where the last ends: int64 [U + 1], from their sizes [U]."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def to_epoch_seconds(at: object) -> float:
    """Convert a time to seconds since 1970; numbers are kept as they are.

    Args:
        at: a finite number, a datetime, or ISO 8601 text; UTC if no zone is given.

    Raises:
        InputError: `at` is not a time.
    """
    seconds = at
    if isinstance(at, str):
        seconds = _parse_iso_8601(at.strip())
    try:
        if isinstance(at, datetime):
            seconds = _seconds_of(at)
        return check_number("at", seconds, "")
    except (InputError, ValueError, OverflowError):  # ValueError: pandas' NaT, which is a datetime
        raise InputError(
            f"at is {format_value(at)}, not a time; pass seconds, a datetime, or ISO 8601 text such as '2011-09-01'"
        ) from None


def _parse_timestamps(table: Table) -> FloatArray:
    """Seconds since 1970, or order numbers: float64 [E].

    Numbers are kept as they are. Dates and ISO 8601 text become seconds, in UTC if no zone is given. A text column is
    read as numbers if all its values are numbers.
    """
    table.require_values("timestamp", "drop such rows or give them a time or an order number")
    values = table.columns["timestamp"]
    kind = values.type
    if kind == pa.large_string():
        return _parse_timestamp_texts(pc.utf8_trim_whitespace(values), table)
    if describe_type(kind) == "dates":
        return _epoch_seconds(values)
    if describe_type(kind) != "numbers":
        raise InputError(
            f"{table.column_label('timestamp')} of {table.source} holds {describe_type(kind)}; "
            "use seconds, order numbers, dates or ISO 8601 text"
        )
    return _finite_numbers(values, "timestamp", table)


def _parse_weights(table: Table) -> FloatArray:
    values = table.columns["weight"]
    if describe_type(values.type) not in ("numbers", "nothing"):
        raise InputError(
            f"{table.column_label('weight')} of {table.source} holds {describe_type(values.type)}; use numbers"
        )
    return _finite_numbers(values.cast(pa.float64()).fill_null(math.nan), "weight", table)


def _parse_event_names(table: Table) -> pa.Array:
    """Names of events: large_string [E], null if the text is empty."""
    values = table.columns["event"]
    if describe_type(values.type) not in ("text", "numbers", "true or false", "nothing"):
        raise InputError(
            f"{table.column_label('event')} of {table.source} holds {describe_type(values.type)}; use text"
        )
    texts = values.cast(pa.large_string())
    return pc.if_else(pc.equal(texts, ""), None, texts)


def _parse_timestamp_texts(values: pa.Array, table: Table) -> FloatArray:
    """Numbers or ISO 8601 text in seconds; the whole column is one or the other."""
    try:
        return _finite_numbers(values.cast(pa.float64()), "timestamp", table)
    except pa.ArrowInvalid:
        pass
    try:
        return _epoch_seconds(values.cast(pa.timestamp("us")))
    except pa.ArrowInvalid:
        pass
    # Zones and rarer forms of ISO 8601: each distinct text is parsed once.
    encoded = values.dictionary_encode()
    parsed = np.array([_parse_iso_8601(text) for text in encoded.dictionary.to_pylist()], dtype=np.float64)
    seconds: FloatArray = parsed[encoded.indices.to_numpy()]
    bad = np.isnan(seconds)
    if bad.any():
        value = format_value(values[int(np.argmax(bad))].as_py())
        raise InputError(
            f"{table.describe_rows(bad)} a {table.column_label('timestamp')} that cannot be read, such as {value}; "
            "write seconds, or ISO 8601 such as 2010-12-01T08:26:00"
        )
    return seconds


def _finite_numbers(values: pa.Array, name: str, table: Table) -> FloatArray:
    numbers = np.array(values.to_numpy(zero_copy_only=False), dtype=np.float64)
    table.require_finite(name, numbers)
    return numbers


def _epoch_seconds(instants: pa.Array) -> FloatArray:
    if pa.types.is_date(instants.type):
        instants = instants.cast(pa.timestamp("us"))
    return np.asarray(instants.cast(pa.int64()).to_numpy() / 1e6, dtype=np.float64)


def _parse_iso_8601(text: str) -> float:
    try:
        return _seconds_of(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return math.nan


def _seconds_of(instant: datetime) -> float:
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
