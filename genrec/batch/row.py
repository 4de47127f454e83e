"""What a row of a batch run says: ids, and who is meant."""

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pyarrow as pa

from genrec.batch.input import Row, is_text
from genrec.errors import InputError, UnknownItemError, UnknownUserError
from genrec.recommender import Person
from genrec.types import History

_SHOWS = ("history", "words", "user_id")
_LARGEST = 2**63
_Read = TypeVar("_Read")


def person_of(row: Row) -> Person:
    """Who a row is: a known user, or somebody with a history or words of their own.

    Raises:
        InputError: it cannot be read, or says neither.
    """
    user = id_of(row, "user_id")
    words = row.value.get("words") or ""
    if not isinstance(words, str) or not is_text(words):
        raise InputError(f"words is {words!r:.80}; give text")
    history = row.value.get("history")
    if history is None or history in ("", []):
        if user is not None and not words:
            return user
        if not words and history != []:
            raise InputError(
                f"there is nothing in {', '.join(_SHOWS)}; the columns are {', '.join(row.value) or 'none'}: rename "
                "or fill them"
            )
        return History((), words, user)
    if isinstance(history, str):
        history = _listed(history)
    if not isinstance(history, list) or not all(map(_is_id, history)):
        raise InputError(f"history is {history!r:.80}; give a list of item ids, oldest first")
    return History(tuple(history), words, user)


def id_of(row: Row, name: str, kind: pa.DataType | None = None) -> str | int | None:
    """The id in a column; None where there is none.

    Args:
        row: the row.
        name: of the column.
        kind: of the ids of all rows, see `id_kind`; None where they need not be alike.

    Raises:
        InputError: the row cannot be read, or holds something else there.
    """
    if row.fault:
        raise InputError(row.fault)
    found: Any = row.value.get(name)
    if found is None or found == "":
        return None
    if not _is_id(found):
        raise InputError(f"{name} is {found!r:.80}; ids are text or whole numbers of 64 bits, cast the column")
    if kind == pa.int64() and not isinstance(found, int):
        raise InputError(f"{name} is {found!r:.80} where the first row's is a number; write all alike")
    return found if kind != pa.string() else str(found)


def id_kind(row: Row, name: str) -> pa.DataType:
    """Of the ids in a column, as one row has them: int64 or string."""
    return pa.int64() if isinstance(id_of(row, name), int) else pa.string()


def first_readable(rows: Iterable[Row], read: Callable[[Row], _Read]) -> tuple[Row, _Read]:
    """The first row that can be read, and what was read of it.

    Raises:
        InputError: there is none; it says why the first row cannot be read.
    """
    refused: InputError | None = None
    for row in rows:
        try:
            return row, read(row)
        except InputError as error:
            refused = refused or error
    raise InputError(f"no row can be read; of the first: {refused}")


def name_of(row: Row, names: tuple[str, ...]) -> str | int | None:
    """What the caller calls a row that may be unreadable: the first of some columns that holds an id."""
    return next((row.value[name] for name in names if _is_id(row.value.get(name))), None)


def code_of(problem: InputError) -> str:
    """The kind of failure that a row's problem is."""
    if isinstance(problem, UnknownUserError):
        return "unknown_user"
    return "unknown_item" if isinstance(problem, UnknownItemError) else "unreadable"


def _listed(text: str) -> Any:
    """A list in a table of text: in JSON, or ids with spaces between them."""
    if not text.lstrip().startswith("["):
        return text.split()
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"history is {text!r:.80}, which is no JSON list: {error}") from error


def _is_id(value: object) -> bool:
    """Whether a table can hold it as an id."""
    if isinstance(value, str):
        return is_text(value)
    return isinstance(value, int) and not isinstance(value, bool) and -_LARGEST <= value < _LARGEST
