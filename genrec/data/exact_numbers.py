"""Exact comparisons of whole numbers with fractions, which Arrow compares as float64, or refuses above 2 ** 53.

Letters: N rows.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Number = int | float

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_FLOAT64_MAX = float(np.finfo(np.float64).max)


def exact_scalar(value: Number, kind: pa.DataType) -> pa.Scalar | None:
    """A number in the type of a column, int64 or float64; None if no value of that type is equal to it."""
    low, high = _nearest_values(value, kind)
    return pa.scalar(low, kind) if low is not None and low == high else None


def compare_inexact(column: pa.Array, compare: Callable[..., pa.Array], value: Number) -> pa.Array:
    """Compare a column with a number that none of its values can be equal to; see `exact_scalar`.

    Args:
        column: int64 or float64 [N].
        compare: a comparison function of `pyarrow.compute`, such as `pc.less`.
        value: a finite number, or infinity.

    Returns:
        Arrow booleans [N], null where the column is.
    """
    low, high = _nearest_values(value, column.type)
    if compare in (pc.less, pc.less_equal) and low is not None:
        return pc.less_equal(column, pa.scalar(low, column.type))
    if compare in (pc.greater, pc.greater_equal) and high is not None:
        return pc.greater_equal(column, pa.scalar(high, column.type))
    return pc.if_else(pc.is_valid(column), compare is pc.not_equal, None)


def is_among(column: pa.Array, scalars: Sequence[pa.Scalar | None]) -> pa.Array:
    """Whether each value of a column is equal to one of some scalars of its type; None is equal to nothing.

    Args:
        column: [N], of any type but lists.
        scalars: of the same type, or None; see `exact_scalar`.

    Returns:
        Arrow booleans [N], null where the column is.
    """
    listed = pa.array([scalar.as_py() for scalar in scalars if scalar is not None], column.type)
    if column.type == pa.float64():  # 0 and -0 are equal, but Arrow finds them apart
        column, listed = pc.add(column, 0.0), pc.add(listed, 0.0)
    return pc.if_else(pc.is_valid(column), pc.is_in(column, value_set=listed), None)


def compare_columns(left: pa.Array, compare: Callable[..., pa.Array], right: pa.Array) -> pa.Array:
    """Compare two columns of numbers, int64 or float64 [N] each; null where one of them is."""
    if left.type == right.type:
        return compare(left, right)
    if left.type == pa.int64():
        return compare(_order(left, right), 0)
    return compare(0, _order(right, left))


def _nearest_values(value: Number, kind: pa.DataType) -> tuple[Number | None, Number | None]:
    """The greatest value of a type that is at most `value`, and the least that is at least `value`; None for none."""
    if kind == pa.int64():
        if value in (math.inf, -math.inf):
            return (_INT64_MAX, None) if value > 0 else (None, _INT64_MIN)
        low, high = math.floor(value), math.ceil(value)
        return (
            None if low < _INT64_MIN else min(low, _INT64_MAX),
            None if high > _INT64_MAX else max(high, _INT64_MIN),
        )
    try:
        nearest = float(value)
    except OverflowError:
        return (_FLOAT64_MAX, math.inf) if value > 0 else (-math.inf, -_FLOAT64_MAX)
    # Python compares whole numbers with floats exactly.
    below = nearest if nearest <= value else math.nextafter(nearest, -math.inf)
    return below, nearest if nearest >= value else math.nextafter(nearest, math.inf)


def _order(whole: pa.Array, fractions: pa.Array) -> pa.Array:
    """int8 [N]: -1, 0 or 1 as int64 [N] is below, equal to or above float64 [N]; null where one of them is."""
    integers = whole.fill_null(0).to_numpy(zero_copy_only=False)
    floats = fractions.fill_null(0.0).to_numpy(zero_copy_only=False)
    floors = np.floor(floats)
    inside = (floors >= _INT64_MIN) & (floors < 2.0**63)
    integral = np.where(inside, floors, 0.0).astype(np.int64)
    order = np.where(integers > integral, 1, np.where((integers < integral) | (floats > floors), -1, 0))
    order = np.where(inside, order, np.where(floats > 0, -1, 1)).astype(np.int8)
    valid = pc.and_(pc.is_valid(whole), pc.is_valid(fractions))
    return pc.if_else(valid, pa.array(order), pa.scalar(None, pa.int8()))
