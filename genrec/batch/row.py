"""Rows of a batch run: their columns, ids and users."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from genrec.data.ids import is_encodable as is_encodable
from genrec.data.ids import is_int64, whole_number
from genrec.errors import InputError, UnknownItemError, UnknownUserError, format_value
from genrec.types import History

if TYPE_CHECKING:
    from genrec.data.user_frames import UserLike

_USER_COLUMNS = ("history", "words", "user_id")
_Parsed = TypeVar("_Parsed")


@dataclass(frozen=True)
class InputRow:
    """One row.

    Attributes:
        columns: its values by column; {} if the row cannot be read.
        error: why it cannot be read, with its line number; "" if it can.
    """

    columns: dict[str, Any]
    error: str = ""


def parse_user(row: InputRow) -> "UserLike":
    """The user of a row: a known user's id, or a `History` of items or words.

    Raises:
        InputError: the row cannot be read, or has none of these.
    """
    user = parse_id(row, "user_id")
    words = row.columns.get("words") or ""
    if not isinstance(words, str) or not is_encodable(words):
        raise InputError(f"words is {format_value(words)}; give text")
    history = row.columns.get("history")
    if history is None or (isinstance(history, str | list) and not history):
        if user is not None and not words:
            return user
        if not words and not isinstance(history, list):
            raise InputError(
                f"{', '.join(_USER_COLUMNS)} are all empty or missing; the columns are "
                f"{', '.join(row.columns) or 'none'}: rename one of them, or fill it"
            )
        return History((), words, user)
    if isinstance(history, str):
        history = _parse_list(history)
    if not isinstance(history, list) or not all(map(_is_valid_id, history)):
        raise InputError(f"history is {format_value(history)}; give a list of item ids, oldest first")
    item_ids: list[Any] = [whole_number(item_id) for item_id in history]
    return History(tuple(item_ids), words, user)


def parse_id(row: InputRow, column: str, id_type: pa.DataType | None = None) -> str | int | None:
    """The id in a column; None if the column is missing or empty.

    Args:
        row: the row.
        column: name of the column.
        id_type: type of the ids in all rows, see `id_type_of`; None if they may differ.

    Raises:
        InputError: the row cannot be read, or the value is not an id of that type.
    """
    if row.error:
        raise InputError(row.error)
    value: Any = whole_number(row.columns.get(column))
    if value is None or (isinstance(value, str) and not value):
        return None
    if not _is_valid_id(value):
        raise InputError(f"{column} is {format_value(value)}; use text or 64-bit integers as ids")
    if id_type == pa.int64() and not isinstance(value, int):
        raise InputError(
            f"{column} is {format_value(value)}, but the first row has an integer; use one type in all rows"
        )
    return value if id_type != pa.string() else str(value)


def id_type_of(row: InputRow, column: str) -> pa.DataType:
    """The type of the id in a column: int64 or string."""
    return pa.int64() if isinstance(parse_id(row, column), int) else pa.string()


def first_valid_row(rows: Iterable[InputRow], parse: Callable[[InputRow], _Parsed]) -> tuple[InputRow, _Parsed]:
    """The first row that `parse` accepts, and the parsed value.

    Raises:
        InputError: `parse` accepts no row; the message gives the reason for the first row.
    """
    first_error: InputError | None = None
    for row in rows:
        try:
            return row, parse(row)
        except InputError as error:
            first_error = first_error or error
    raise InputError(f"no row can be read; the first one fails because {first_error}")


def row_key(row: InputRow, key_columns: tuple[str, ...]) -> str | int | None:
    """The caller's id of a row that may be unreadable: the first of some columns that holds an id."""
    values: Iterator[Any] = (whole_number(row.columns.get(name)) for name in key_columns)
    return next(filter(_is_valid_id, values), None)


def failure_code(error: InputError) -> str:
    """The failure code for an error in a row."""
    if isinstance(error, UnknownUserError):
        return "unknown_user"
    return "unknown_item" if isinstance(error, UnknownItemError) else "unreadable"


def _parse_list(text: str) -> Any:
    """A list in a CSV cell: JSON, or ids separated by spaces."""
    if not text.lstrip().startswith("["):
        return text.split()
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"history is {format_value(text)}, which is not a JSON list: {error}") from error


def _is_valid_id(value: object) -> bool:
    """Whether a table can hold a value as an id."""
    value = whole_number(value)
    return is_encodable(value) if isinstance(value, str) else is_int64(value)
