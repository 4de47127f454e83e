"""What a row of a batch run says: ids, and who is meant."""

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pyarrow as pa

from genrec.batch.input import InputRow, is_encodable
from genrec.errors import InputError, UnknownItemError, UnknownUserError
from genrec.recommender import UserLike
from genrec.types import History

_USER_COLUMNS = ("history", "words", "user_id")
_INT64_LIMIT = 2**63
_Parsed = TypeVar("_Parsed")


def parse_user(row: InputRow) -> UserLike:
    """Who a row is: a known user, or somebody with a history or words of their own.

    Raises:
        InputError: it cannot be read, or says neither.
    """
    user = parse_id(row, "user_id")
    words = row.columns.get("words") or ""
    if not isinstance(words, str) or not is_encodable(words):
        raise InputError(f"words is {words!r:.80}; give text")
    history = row.columns.get("history")
    if history is None or history in ("", []):
        if user is not None and not words:
            return user
        if not words and history != []:
            raise InputError(
                f"there is nothing in {', '.join(_USER_COLUMNS)}; the columns are {', '.join(row.columns) or 'none'}: rename "
                "or fill them"
            )
        return History((), words, user)
    if isinstance(history, str):
        history = _parse_list(history)
    if not isinstance(history, list) or not all(map(_is_valid_id, history)):
        raise InputError(f"history is {history!r:.80}; give a list of item ids, oldest first")
    return History(tuple(history), words, user)


def parse_id(row: InputRow, column: str, id_type: pa.DataType | None = None) -> str | int | None:
    """The id in a column; None where there is none.

    Args:
        row: the row.
        column: of the column.
        id_type: of the ids of all rows, see `id_type_of`; None where they need not be alike.

    Raises:
        InputError: the row cannot be read, or holds something else there.
    """
    if row.error:
        raise InputError(row.error)
    found: Any = row.columns.get(column)
    if found is None or found == "":
        return None
    if not _is_valid_id(found):
        raise InputError(f"{column} is {found!r:.80}; ids are text or whole numbers of 64 bits, cast the column")
    if id_type == pa.int64() and not isinstance(found, int):
        raise InputError(f"{column} is {found!r:.80} where the first row's is a number; write all alike")
    return found if id_type != pa.string() else str(found)


def id_type_of(row: InputRow, column: str) -> pa.DataType:
    """Of the ids in a column, as one row has them: int64 or string."""
    return pa.int64() if isinstance(parse_id(row, column), int) else pa.string()


def first_valid_row(rows: Iterable[InputRow], parse: Callable[[InputRow], _Parsed]) -> tuple[InputRow, _Parsed]:
    """The first row that can be read, and what was read of it.

    Raises:
        InputError: there is none; it says why the first row cannot be read.
    """
    refused: InputError | None = None
    for row in rows:
        try:
            return row, parse(row)
        except InputError as error:
            refused = refused or error
    raise InputError(f"no row can be read; of the first: {refused}")


def row_key(row: InputRow, key_columns: tuple[str, ...]) -> str | int | None:
    """What the caller calls a row that may be unreadable: the first of some columns that holds an id."""
    return next((row.columns[name] for name in key_columns if _is_valid_id(row.columns.get(name))), None)


def failure_code(error: InputError) -> str:
    """The kind of failure that a row's problem is."""
    if isinstance(error, UnknownUserError):
        return "unknown_user"
    return "unknown_item" if isinstance(error, UnknownItemError) else "unreadable"


def _parse_list(text: str) -> Any:
    """A list in a table of text: in JSON, or ids with spaces between them."""
    if not text.lstrip().startswith("["):
        return text.split()
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"history is {text!r:.80}, which is no JSON list: {error}") from error


def _is_valid_id(value: object) -> bool:
    """Whether a table can hold it as an id."""
    if isinstance(value, str):
        return is_encodable(value)
    return isinstance(value, int) and not isinstance(value, bool) and -_INT64_LIMIT <= value < _INT64_LIMIT
