"""Timestamps: in which unit the times of events are written, and what orders events without times.

Numbers are told apart by their size: the years 1995 to 2100 in seconds, milliseconds, microseconds and nanoseconds are
ranges that do not overlap, and smaller numbers are order numbers. Letters: E events.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.column_types import describe_type
from genrec.data.table import Table
from genrec.errors import InputError, check_number, format_value
from genrec.notices import Notice
from genrec.types import BoolArray, FloatArray, IntArray

EventOrder = Literal["time", "numbers", "rows", "none"]
OrderChoice = Literal["time", "s", "ms", "us", "ns", "numbers", "rows", "none"]
"""What orders the events of a user: "time", the column timestamp, whose numbers are in the unit that their size shows;
the same in seconds ("s"), milliseconds, microseconds or nanoseconds since 1970, or as order "numbers"; the order of the
"rows"; or "none", for events without a known order."""

ORDERS_WITHOUT_TIME: Mapping[str, str] = {
    "rows": "if the rows are in order of time",
    "none": "if they are in no order",
}
"""The choices for a table without times, and when each of them is right."""

_PER_SECOND: Mapping[str, float] = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_UNIT_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_EARLIEST, _LATEST = 788_918_400.0, 4_102_444_800.0  # 1995, when the oldest public logs begin, and 2100
# A number's position among the limits is odd if it is a time in one of the units, and 0 for order numbers.
_LIMITS = np.array([limit * factor for factor in _PER_SECOND.values() for limit in (_EARLIEST, _LATEST)])
_UNIT_POSITIONS = {2 * number + 1: unit for number, unit in enumerate(_PER_SECOND)}
_NUMBERS = "order numbers"


class Timestamps(NamedTuple):
    """The timestamps of E events.

    Attributes:
        values: float64 [E], seconds since 1970 if `order` is "time". Otherwise order numbers, numbers of rows from 1,
            or zeros if the events have no order.
        order: what the values are.
        notices: how the column was understood, unless the caller has said it.
    """

    values: FloatArray
    order: EventOrder
    notices: tuple[Notice, ...] = ()


def offer_orders(orders: Mapping[str, str], option: str = "order={!r}") -> str:
    """Choices of `order` for a remedy, each with when or why to take it; `option` is how a choice is set."""
    return ", or ".join(f"{option.format(choice)} {why}" for choice, why in orders.items())


def check_order_choice(order: object) -> OrderChoice:
    """Check a choice of what orders events.

    Raises:
        InputError: there is no such choice.
    """
    choices: tuple[OrderChoice, ...] = get_args(OrderChoice)
    for choice in choices:
        if order == choice:
            return choice
    raise InputError(f"order is {format_value(order)}; use {', '.join(choices[:-1])} or {choices[-1]}")


def needs_timestamp(order: OrderChoice) -> bool:
    """Whether a choice reads the column timestamp.

    Raises:
        InputError: there is no such choice.
    """
    return check_order_choice(order) not in ORDERS_WITHOUT_TIME


def read_timestamps(table: Table, order: OrderChoice) -> Timestamps:
    """Read the column timestamp of a table, or do without it.

    Dates and ISO 8601 text become seconds since 1970, in UTC where no zone is given. A text column is read as numbers
    if all its values are numbers.

    Raises:
        InputError: a time is missing or cannot be read, the numbers are in no known unit or in several, or `order`
            names a unit and the column has dates.
    """
    if order == "rows":
        return Timestamps(np.arange(1.0, len(table) + 1), "rows")
    if order == "none":
        return Timestamps(np.zeros(len(table)), "none")
    table.require_values("timestamp", "drop such rows or give them a time or an order number")
    numbers = _numbers(table)
    if numbers is None:
        if order != "time":
            raise InputError(
                f"order is {order!r}, but {table.column_label('timestamp')} of {table.source} has dates; omit order"
            )
        values = _dates(table)
        return Timestamps(values, "time", (_notice(table, values, "time", "dates, in UTC where no zone is given"),))
    if order != "time":
        return Timestamps(numbers / _PER_SECOND.get(order, 1.0), "numbers" if order == "numbers" else "time")
    unit = _find_unit(numbers, table)
    kind: EventOrder = "numbers" if unit is None else "time"
    values = numbers if unit is None else numbers / _PER_SECOND[unit]
    words = _NUMBERS if unit is None else f"{_UNIT_WORDS[unit]} since 1970"
    return Timestamps(values, kind, (_notice(table, values, kind, words),))


def format_timestamp(value: float, order: EventOrder) -> str | float:
    """A timestamp for people: a date and a time to the minute, in UTC; numbers that are no times as they are."""
    if order == "time":
        try:
            text = datetime.fromtimestamp(value, UTC).isoformat(timespec="minutes")
            return text.replace("+00:00", "Z")
        except (ValueError, OverflowError, OSError):  # beyond the year 9999
            pass
    return int(value) if float(value).is_integer() else value


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


def _find_unit(numbers: FloatArray, table: Table) -> str | None:
    """The unit of numbers [E] by their size; None for order numbers.

    Numbers that are a time in no unit, such as 0, do not count if they are the smaller part.
    """
    positions: IntArray = np.searchsorted(_LIMITS, numbers, side="right")
    if not positions.any():
        return None
    found = [position for position in _UNIT_POSITIONS if (positions == position).any()]
    if len(found) == 1 and 2 * np.count_nonzero(positions == found[0]) >= len(numbers):
        return _UNIT_POSITIONS[found[0]]
    largest = int(np.argmax(positions))
    label = table.column_label("timestamp")
    problem = (
        f"{label} of {table.source} has numbers such as {numbers[largest]:.15g}, no time of 1995 to 2100 in any unit"
    )
    if found:
        others = positions != positions[largest]
        problem = (
            f"{table.describe_rows(others)} a {label} such as {numbers[int(np.argmax(others))]:.15g}, but data row "
            f"{largest + 1:,} has {numbers[largest]:.15g}, as in {_UNIT_WORDS[_UNIT_POSITIONS[found[-1]]]}"
        )
    units = [_UNIT_POSITIONS[position] for position in found] or ["s"]
    orders = {unit: f"to read all of them as {_UNIT_WORDS[unit]}" for unit in units}
    orders["numbers"] = f"as {_NUMBERS}"
    raise InputError(problem, remedy=f"pass {offer_orders(orders)}", code="unknown_time_unit", orders=orders)


def _notice(table: Table, values: FloatArray, order: EventOrder, words: str) -> Notice:
    first, last = (format_timestamp(float(value), order) for value in (values.min(), values.max()))
    return Notice("timestamps_read", {"source": table.source, "first": first, "last": last, "unit": words})


def _numbers(table: Table) -> FloatArray | None:
    """The column timestamp as finite numbers [E]; None if it has dates or text that is not all numbers."""
    values = table.columns["timestamp"]
    kind = values.type
    if kind == pa.large_string():
        try:
            values = pc.utf8_trim_whitespace(values).cast(pa.float64())
        except pa.ArrowInvalid:
            return None
    elif describe_type(kind) == "dates":
        return None
    elif describe_type(kind) != "numbers":
        raise InputError(
            f"{table.column_label('timestamp')} of {table.source} holds {describe_type(kind)}; "
            "use seconds, order numbers, dates or ISO 8601 text"
        )
    numbers = np.array(values.to_numpy(zero_copy_only=False), dtype=np.float64)
    table.require_finite("timestamp", numbers)
    return numbers


def _dates(table: Table) -> FloatArray:
    """Dates and ISO 8601 text as seconds since 1970 [E]."""
    values = table.columns["timestamp"]
    if values.type != pa.large_string():
        return _epoch_seconds(values)
    texts = pc.utf8_trim_whitespace(values)
    try:
        return _epoch_seconds(texts.cast(pa.timestamp("us")))
    except pa.ArrowInvalid:
        pass
    # Zones and rarer forms of ISO 8601: each distinct text is parsed once.
    encoded = texts.dictionary_encode()
    parsed = np.array([_parse_iso_8601(text) for text in encoded.dictionary.to_pylist()], dtype=np.float64)
    seconds: FloatArray = parsed[encoded.indices.to_numpy()]
    bad: BoolArray = np.isnan(seconds)
    if bad.any():
        value = format_value(texts[int(np.argmax(bad))].as_py())
        raise InputError(
            f"{table.describe_rows(bad)} a {table.column_label('timestamp')} that is neither a number nor ISO 8601 "
            f"(2010-12-01T08:26:00), such as {value}",
            remedy=f"write the times so, or pass {offer_orders(ORDERS_WITHOUT_TIME)}",
            orders=ORDERS_WITHOUT_TIME,
        )
    return seconds


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
