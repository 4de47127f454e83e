"""Event columns: the items, times, weights and names of events.

Letters: E events.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.column_types import describe_type
from genrec.data.table import Table
from genrec.errors import InputError
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
    def from_table(cls, table: Table, item_codes: IntArray, timestamps: FloatArray) -> "EventColumns":
        """Read the columns weight and event of a table, where it has them.

        Raises:
            InputError: a weight or the name of an event cannot be read.
        """
        return cls(
            item_codes,
            timestamps,
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


def _finite_numbers(values: pa.Array, name: str, table: Table) -> FloatArray:
    numbers = np.array(values.to_numpy(zero_copy_only=False), dtype=np.float64)
    table.require_finite(name, numbers)
    return numbers
