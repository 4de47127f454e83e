"""Numbers written as text, such as "$5.00": text sorts "$15.00" before "$5.00".

Letters: N rows.
"""

import re

import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.notation import TypedValues
from genrec.data.number_notation import read_numbers

# A number with an optional currency sign or unit of a few characters before or after it.
_NUMBER = r"^[^0-9-]{0,4}(?P<number>-?[0-9][0-9,]*(?:\.[0-9]+)?)[^0-9]{0,4}$"


def first_misfit(column: pa.Array, *, is_number: bool) -> int | None:
    """The row of the first text of a column [N] that cannot be compared with a number, or of the first text, counted
    from 0; None if there is none."""
    misfits = column.is_valid()
    numbers = read_numbers(column, ".") if is_number else None
    if isinstance(numbers, TypedValues) and numbers.values.null_count > column.null_count:
        misfits = pc.and_(misfits, numbers.values.is_null())
    row = pc.index(misfits, True).as_py()
    return row if row >= 0 else None


def misplaced_number(column: pa.Array, text: str) -> int | None:
    """The row of the first text of a column [N] that sorts on another side of a given one than its number does.

    Returns:
        None if there is none, or if the given text, or most of the column, is no number.
    """
    match = re.match(_NUMBER, text)
    if match is None:
        return None
    number = float(match["number"].replace(",", ""))
    found = pc.struct_field(pc.extract_regex(column, _NUMBER), "number")
    if 2 * (len(found) - found.null_count) < len(column) - column.null_count:
        return None
    numbers = pc.replace_substring(found, ",", "").cast(pa.float64())
    differs = pc.not_equal(pc.less(column, pa.scalar(text, column.type)), pc.less(numbers, number))
    misplaced = pc.and_(differs, pc.not_equal(numbers, number))
    first = pc.index(misplaced, True).as_py()
    return first if first >= 0 else None
