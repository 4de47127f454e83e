"""Filters: conditions over the columns of a table, and the rows they allow.

A filter is written like a Python condition over the names of the columns:

    price < 5 and genre in ['Horror', 'Comedy']
    not discontinued and 1990 <= year < 2000
    'lamp' in title                     # text: a part of it, ignoring case
    'art' not in words(title)           # text: whole words only, so "party" does not contain "art"
    'Horror' in genres                  # lists: an element, exactly
    released >= '2020-01-01' or released is None

Filters consist of `and`, `or`, `not`, comparisons (also chained), `in`, `not in`, `is None` and `is not None`, with
text, numbers, True, False and lists of these. Nothing is ever evaluated as Python. `words(NAME)` is allowed only after
`in` and `not in`. It finds text that no letter, digit, accent or "_" of any script continues at either end. Case is
ignored letter by letter, as Arrow does it: "STRASSE" does not contain "straße".

A filter may have several lines, and comments after "#". Filters are joined with `&` or `all_of` of
`genrec.data.filter_syntax`, after they were parsed; joining their texts would let a comment or a bracket of one change
the other.

A comparison with a missing value is unknown, neither true nor false. `not` leaves it unknown, and `and` and `or` follow
Kleene's three-valued logic. Rows whose result is unknown are not allowed: `not (price < 5)` does not allow an item
without a price. Use `is None` to find missing values.

Letters: N rows.
"""

import ast
import difflib
import unicodedata
from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.column_types import describe_type
from genrec.data.exact_numbers import compare_columns, compare_inexact, exact_scalar, is_among
from genrec.data.filter_syntax import Filter, parse_filter
from genrec.data.number_texts import first_misfit, misplaced_number
from genrec.data.read_errors import first_line
from genrec.data.whole_words import contains_whole_words
from genrec.deadline import Deadline
from genrec.errors import DeadlineExceededError, FilterError, format_names, format_value
from genrec.types import BoolArray

_UNCHECKED_ROWS = 1 << 20  # rows that the conditions of a filter may scan in total before the deadline is checked
_COMPARISONS = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_MIRRORED_OPERATORS = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}


def filter_mask(
    expression: "str | Filter | pc.Expression", columns: Mapping[str, pa.Array], deadline: Deadline | None = None
) -> BoolArray:
    """Which rows a filter allows: bool [N].

    Args:
        expression: a text in the language above, a parsed one, or a `pyarrow.compute.Expression` over the same columns.
        columns: arrays [N] of the types in `genrec.data.column_types`.
        deadline: when to stop a filter in the language above; by default never. It is checked between the scans of
            two conditions. The first scan, and those of up to 1,048,576 rows in total, take milliseconds and are always
            made, so that most filters are applied for a late request, too.

    Raises:
        FilterError: the filter does not parse, names no column, or compares values of different types.
        DeadlineExceededError: the deadline passed between two conditions. Without all of them the filter is not known,
            and it is never ignored.
    """
    if isinstance(expression, pc.Expression):
        return _evaluate_arrow(expression, columns)
    if isinstance(expression, Filter):
        return _FilterEvaluator(expression, columns, deadline).mask()
    if not isinstance(expression, str):
        raise FilterError(
            f"a filter is a text, a Filter or a pyarrow.compute.Expression, not {type(expression).__name__}; "
            'pass a condition such as "price < 5"'
        )
    try:
        parsed = parse_filter(expression)
    except FilterError as error:
        raise error.revised(remedy=f"{error.remedy} {_list_attributes(columns)}") from error
    return _FilterEvaluator(parsed, columns, deadline).mask()


def _evaluate_arrow(expression: "pc.Expression", columns: Mapping[str, pa.Array]) -> BoolArray:
    row = "row"
    while row in columns:
        row += "_"
    size = len(next(iter(columns.values())))
    try:
        kept = pa.table({**columns, row: pa.array(np.arange(size))}).filter(expression)
    except (pa.ArrowException, TypeError, ValueError, KeyError) as error:
        raise FilterError(
            f"the filter {expression} cannot be applied: {first_line(error)}; the attributes are {', '.join(columns)}"
        ) from error
    mask = np.zeros(size, dtype=np.bool_)
    mask[kept.column(row).to_numpy()] = True
    return mask


class _FilterEvaluator:
    """Evaluates one filter over columns [N]; truth values are Arrow booleans, with null for unknown."""

    def __init__(self, parsed: Filter, columns: Mapping[str, pa.Array], deadline: Deadline | None = None) -> None:
        self._filter, self._deadline = parsed, deadline or Deadline.never()
        self._n_scans = 0
        self.columns = columns
        self.size = len(next(iter(columns.values())))

    def mask(self) -> BoolArray:
        truth = self._evaluate(self._filter.tree)
        return np.asarray(truth.fill_null(False).to_numpy(zero_copy_only=False), dtype=np.bool_)

    def _evaluate(self, node: ast.expr) -> pa.Array:
        match node:
            case ast.BoolOp(op, values):
                join = pc.and_kleene if isinstance(op, ast.And) else pc.or_kleene
                return reduce(join, map(self._evaluate, values))
            case ast.UnaryOp(ast.Not(), operand):
                return pc.invert(self._evaluate(operand))
            case ast.Compare(left, ops, comparators):
                sides = [left, *comparators]
                pairs = zip(sides, ops, sides[1:], strict=False)
                return reduce(pc.and_kleene, [self._compare(left, op, right) for left, op, right in pairs])
            case ast.Name(name):
                self._begin_scan()
                column = self._column(node)
                if pa.types.is_null(column.type):
                    return self._all_unknown()
                if column.type != pa.bool_():
                    raise self._error(f"{name} holds {describe_type(column.type)}; compare it with a value")
                return column
        raise TypeError(f"{node!r} is not a condition")

    def _begin_scan(self) -> None:
        """Check the deadline before a scan of all rows, except before the first ones."""
        if self._n_scans * self.size > _UNCHECKED_ROWS and self._deadline.remaining() < 0:
            raise DeadlineExceededError(
                f"the deadline passed after {self._n_scans:,} conditions of a filter over {self.size:,} rows",
                remedy="allow more time, or write fewer conditions",
                conditions=self._n_scans,
            )
        self._n_scans += 1

    def _compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> pa.Array:
        self._begin_scan()
        if isinstance(op, ast.In | ast.NotIn):
            truth = self._membership(left, right)
            return pc.invert(truth) if isinstance(op, ast.NotIn) else truth
        if isinstance(op, ast.Is | ast.IsNot):
            column = self._column(left)
            return pc.is_null(column) if isinstance(op, ast.Is) else pc.is_valid(column)
        kind: Any = type(op)
        if not isinstance(left, ast.Name):
            left, right, kind = right, left, _MIRRORED_OPERATORS.get(kind, kind)
        name, column = _name_of(left), self._column(left)
        if isinstance(right, ast.Name):
            other: Any = self._column(right)
            if pa.types.is_null(column.type) or pa.types.is_null(other.type):
                return self._all_unknown()
            if describe_type(column.type) != describe_type(other.type):
                raise self._error(
                    f"{name} holds {describe_type(column.type)} and {right.id} {describe_type(other.type)}; "
                    "compare values of one type"
                )
        else:
            if pa.types.is_null(column.type):
                return self._all_unknown()
            value = _value_of(right)
            other = self._scalar(value, name, column.type)
            if other is None:
                return compare_inexact(column, _COMPARISONS[kind], value)
            if isinstance(value, str) and column.type == pa.large_string() and kind not in (ast.Eq, ast.NotEq):
                self._check_text_order(name, column, value)
        if describe_type(column.type) not in ("numbers", "text", "dates") and kind not in (ast.Eq, ast.NotEq):
            raise self._error(f"{name} holds {describe_type(column.type)}, which has no order; use == or !=")
        if isinstance(other, pa.Array) and describe_type(column.type) == "numbers":
            return compare_columns(column, _COMPARISONS[kind], other)
        try:
            return _COMPARISONS[kind](column, other)
        except pa.ArrowException as error:
            raise self._error(
                f"{name} cannot be compared: {first_line(error)}; compare it with a value of its own type"
            ) from error

    def _membership(self, left: ast.expr, right: ast.expr) -> pa.Array:
        if isinstance(right, ast.List):
            name, column = _name_of(left), self._column(left)
            if pa.types.is_null(column.type):
                return self._all_unknown()
            if pa.types.is_large_list(column.type):
                raise self._error(f"{name} holds lists; write: 'element' in {name}")
            return is_among(column, [self._scalar(_value_of(element), name, column.type) for element in right.elts])
        if isinstance(right, ast.Call):
            return self._contains_words(left, right)
        name, column, value = _name_of(right), self._column(right), _value_of(left)
        if pa.types.is_null(column.type):
            return self._all_unknown()
        if pa.types.is_large_list(column.type):
            return self._list_contains(column, self._scalar(value, name, column.type.value_type))
        if column.type != pa.large_string():
            raise self._error(f"{name} holds {describe_type(column.type)}; use in with text or lists")
        if not isinstance(value, str):
            raise self._error(f"{name} holds text, but {format_value(value)} is not text; write it in quotes")
        self._scalar(value, name, column.type)  # refuses what is not Unicode
        return pc.match_substring(column, value, ignore_case=True)

    def _contains_words(self, left: ast.expr, call: ast.Call) -> pa.Array:
        """Whether each text contains another one as whole words."""
        name, column, value = _name_of(call.args[0]), self._column(call.args[0]), _value_of(left)
        if pa.types.is_null(column.type):
            return self._all_unknown()
        if column.type != pa.large_string():
            raise self._error(f"{name} holds {describe_type(column.type)}; use words with text")
        if not isinstance(value, str):
            raise self._error(f"{name} holds text, but {format_value(value)} is not text; write it in quotes")
        self._scalar(value, name, column.type)  # refuses what is not Unicode
        if not value.strip():
            raise self._error(f"{format_value(value)} has no words; write at least one")
        return contains_whole_words(column, value)

    def _list_contains(self, column: pa.Array, value: pa.Scalar | None) -> pa.Array:
        if value is None:
            return pc.if_else(pc.is_valid(column), False, None)
        # Arrow may keep elements under a null list. `flatten` skips them, so rows are counted by the lengths of lists.
        hits = pc.equal(column.flatten(), value).fill_null(False).to_numpy(zero_copy_only=False)
        lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        rows = np.repeat(np.arange(self.size), lengths)[hits]
        found = np.zeros(self.size, dtype=np.bool_)
        found[rows] = True
        return pc.if_else(pc.is_valid(column), pa.array(found), None)

    def _column(self, node: ast.expr) -> pa.Array:
        # Python's parser normalises names to NFKC; the names of the table may not be.
        written = _name_of(node)
        same = (name for name in self.columns if unicodedata.normalize("NFKC", name) == written)
        name = written if written in self.columns else next(same, None)
        if name is not None:
            return self.columns[name]
        close = difflib.get_close_matches(written, self.columns, 1)
        hint = f"did you mean {close[0]!r}?" if close else "write text in quotes"
        raise self._error(f"{written!r} is not an attribute; {hint}")

    def _scalar(self, value: Any, name: str, kind: pa.DataType) -> pa.Scalar | None:
        """A literal in the type of the column it is compared with; None for a number that the type does not have."""
        holds, shown = describe_type(kind), format_value(value)
        try:
            if holds == "text" and isinstance(value, str):
                return pa.scalar(value, kind)
            if holds == "true or false" and isinstance(value, bool):
                return pa.scalar(value)
            if holds == "numbers" and isinstance(value, int | float) and not isinstance(value, bool):
                return exact_scalar(value, kind)
            if holds == "dates" and isinstance(value, str):
                return _instant_scalar(value, kind)
        except UnicodeEncodeError as error:
            raise self._error(f"{shown} cannot be encoded as UTF-8; remove the lone surrogate") from error
        except (ValueError, OverflowError) as error:
            raise self._error(f"{name} holds dates, but {shown} is not a date; write '2020-12-31'") from error
        if holds == "lists":
            raise self._error(f"{name} holds lists; write: {shown} in {name}")
        given = "true or false" if isinstance(value, bool) else "text" if isinstance(value, str) else "a number"
        if holds == "text":
            remedy = "write the value in quotes"
            remedy += ", or set types to read the column as numbers" if given == "a number" else ""
            raise self._error(f"{name} holds text{self._example_text(name, given)}, but {shown} is {given}; {remedy}")
        example = {"numbers": "5", "true or false": "True", "dates": "'2020-12-31'"}.get(holds)
        raise self._error(
            f"{name} holds {holds}, but {shown} is {given}"
            + (f"; compare it with a value such as {example}" if example else "")
        )

    def _example_text(self, name: str, given: str) -> str:
        """The first text of a column that cannot be compared with what is given, and its row, for messages."""
        column = next(column for ours, column in self.columns.items() if unicodedata.normalize("NFKC", ours) == name)
        if column.type != pa.large_string():
            return ""
        row = first_misfit(column, is_number=given == "a number")
        return "" if row is None else f", such as {column[row].as_py()!r:.60} in row {row + 1:,}"

    def _check_text_order(self, name: str, column: pa.Array, value: str) -> None:
        """Refuse to compare numbers by their text, in which $15.00 is less than $5."""
        row = misplaced_number(column, value)
        if row is not None:
            raise self._error(
                f"{name} holds text, in which {column[row].as_py()!r:.60} in row {row + 1:,} and {value!r:.60} are not "
                "in the order of their numbers; set types to read the column as numbers"
            )

    def _all_unknown(self) -> pa.Array:
        return pa.nulls(self.size, pa.bool_())

    def _error(self, what: str) -> FilterError:
        return FilterError(f"filter {self._filter.source!r}: {what} {_list_attributes(self.columns)}")


def _name_of(node: ast.expr) -> str:
    """The attribute that a side names; `genrec.data.filter_syntax` has checked that it names one."""
    if not isinstance(node, ast.Name):
        raise TypeError(f"{node!r} is not an attribute")
    return node.id


def _value_of(node: ast.expr) -> Any:
    """The value of a literal."""
    if not isinstance(node, ast.Constant):
        raise TypeError(f"{node!r} is not a literal")
    return node.value


def _list_attributes(columns: Mapping[str, pa.Array]) -> str:
    return f"(attributes: {format_names(list(columns))})"


def _instant_scalar(value: str, kind: pa.DataType) -> pa.Scalar:
    if pa.types.is_date(kind):
        return pa.scalar(date.fromisoformat(value), kind)
    instant = datetime.fromisoformat(value)
    instant = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return pa.scalar(instant.astimezone(UTC) if kind.tz else instant.astimezone(UTC).replace(tzinfo=None), kind)
