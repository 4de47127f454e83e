"""Column types: the few Arrow types genrec works with, and how columns of other types become one of them.

Whole numbers become int64, fractions and decimals float64, text large_string, instants timestamp[us], days date32, and
lists large_list.
"""

from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.read_errors import first_line
from genrec.errors import InputError
from genrec.types import BoolArray

_INTEGER_PATTERN = r"^-?(0|[1-9][0-9]{0,17})$"
_DECIMAL_PATTERN = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_CODE_PATTERN = r"^[+-]?(0[0-9]|[0-9]{19})"
_BOOLEAN_PATTERN = r"^(true|True|TRUE|false|False|FALSE)$"
_DAYS = (date.min.toordinal() - date(1970, 1, 1).toordinal(), date.max.toordinal() - date(1970, 1, 1).toordinal())
_MICROSECONDS = (_DAYS[0] * 86_400_000_000, (_DAYS[1] + 1) * 86_400_000_000 - 1)
_NULL_TEXTS = ("", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None")


UNREADABLE = "unreadable_column"
"""The code of the error for a column whose values genrec has no type for; its field `reason` follows the name."""


def describe_type(kind: pa.DataType) -> str:
    """Name what a column of this type holds: "numbers", "text", "true or false", "dates", "lists" or "nothing".

    These words are part of a catalog's fingerprint, so they must not change.
    """
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "numbers"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_boolean(kind):
        return "true or false"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "dates"
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return "lists"
    return "nothing" if pa.types.is_null(kind) else f"values of type {kind}"


def missing_mask(values: pa.Array) -> BoolArray:
    """Find missing values: bool [N], true for null, NaN, and text that is empty or only spaces."""
    missing = pc.is_null(values, nan_is_null=True)
    if values.type == pa.large_string():
        missing = pc.or_(missing, pc.equal(pc.utf8_trim_whitespace(values), "").fill_null(True))
    return np.asarray(missing.to_numpy(zero_copy_only=False), dtype=np.bool_)


def normalize_array(column: pa.ChunkedArray | pa.Array, name: str, label: str) -> pa.Array:
    """Convert a column to one array of one of genrec's types.

    Args:
        column: values of any Arrow type.
        name: the column's name in the source, for messages.
        label: the source's name, for messages.

    Raises:
        InputError: genrec has no type for these values, or a value would lose digits.
    """
    if isinstance(column, pa.Array):
        column = pa.chunked_array([column])
    try:
        if isinstance(column.type, pa.BaseExtensionType):
            column = column.cast(column.type.storage_type)
        if pa.types.is_struct(column.type) and column.type.num_fields == 0:
            return pa.nulls(len(column))
        # Nanoseconds may be cut to microseconds; nothing else may lose a digit.
        options = pc.CastOptions(_normalize_type(column.type), allow_time_truncate=True)
        array = column.cast(options=options).combine_chunks()
    except (pa.ArrowException, UnicodeError) as error:
        reason = f"has the type {column.type}, which genrec does not read ({first_line(error)})"
        raise InputError(
            f"column {name!r} of {label} {reason}",
            remedy="cast it to text, numbers, dates or lists of these, or omit it",
            code=UNREADABLE,
            reason=reason,
        ) from error
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    _require_values_of_python(array, name, label)
    return array


def _require_values_of_python(array: pa.Array, name: str, label: str) -> None:
    """Refuse dates that Python cannot represent.

    Raises:
        InputError: there is one; the message has its column and value.
    """
    if _is_list(array.type) or pa.types.is_struct(array.type):
        parts = [array.flatten()] if _is_list(array.type) else array.flatten()
        for part in parts:
            _require_values_of_python(part, name, label)
    elif array.type in (pa.date32(), pa.timestamp("us"), pa.timestamp("us", "UTC")):
        numbers = array.cast(pa.int32() if array.type == pa.date32() else pa.int64())
        low, high = _DAYS if array.type == pa.date32() else _MICROSECONDS
        outside = pc.or_(pc.less(numbers, low), pc.greater(numbers, high))
        if pc.any(outside).as_py():
            unit = "days" if array.type == pa.date32() else "microseconds"
            value, row = numbers.filter(outside)[0].as_py(), pc.index(outside, True).as_py() + 1
            reason = f"has the date {value:,} {unit} since 1970 in row {row:,}, which is outside the years 1 to 9999"
            raise InputError(
                f"column {name!r} of {label} {reason}",
                remedy="correct its unit, or omit it",
                code=UNREADABLE,
                reason=reason,
            )


def infer_type(column: pa.Array) -> pa.Array:
    """Convert text of a CSV file to numbers or booleans if every value is written as one; else return it unchanged."""
    # Created here rather than at import: the first array Arrow creates loads pandas, where that is installed.
    null_texts = pa.array(_NULL_TEXTS, pa.large_string())
    known = pc.if_else(pc.is_in(column, value_set=null_texts), None, column)
    if known.null_count == len(known):
        return pc.if_else(pc.equal(column, ""), None, column)

    def all_match(pattern: str) -> bool:
        return bool(pc.all(pc.match_substring_regex(known, pattern)).as_py())

    if all_match(_BOOLEAN_PATTERN):
        return pc.equal(pc.utf8_lower(known), "true")
    if all_match(_DECIMAL_PATTERN) and not pc.any(pc.match_substring_regex(known, _CODE_PATTERN)).as_py():
        return known.cast(pa.int64() if all_match(_INTEGER_PATTERN) else pa.float64())
    return column


def has_timestamps(kind: pa.DataType) -> bool:
    """Whether a type is a timestamp, or a list or struct that contains one."""
    if pa.types.is_struct(kind):
        return any(has_timestamps(field.type) for field in kind)
    return has_timestamps(kind.value_type) if _is_list(kind) else bool(pa.types.is_timestamp(kind))


def timestamps_as_text(kind: pa.DataType) -> pa.DataType:
    """Replace every timestamp within a type by text."""
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, timestamps_as_text(field.type)) for field in kind])
    if _is_list(kind):
        return pa.list_(timestamps_as_text(kind.value_type))
    return pa.string() if pa.types.is_timestamp(kind) else kind


def _normalize_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _normalize_type(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.large_string()
    if _is_bytes(kind):
        return pa.large_string()  # the cast refuses bytes that are not UTF-8
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return pa.float64()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if pa.types.is_date(kind):
        return pa.date32()
    if pa.types.is_duration(kind) or pa.types.is_interval(kind) or pa.types.is_union(kind):
        raise pa.ArrowNotImplementedError(f"no column holds values of type {kind}")
    if _is_list(kind):
        return pa.large_list(_normalize_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _normalize_type(field.type)) for field in kind])
    return kind


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
