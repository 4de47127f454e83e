"""Checks of values before they are stored: the message has the name of the value, and its position from 1."""

from genrec.data.ids import key_of
from genrec.errors import InputError, check_number, format_value

MAX_ID_LENGTH = 200  # characters


def checked_id(name: str, value: object, position: int | None = None) -> str:
    """An id as text.

    Raises:
        InputError: the value is neither text nor an integer, or blank or too long.
    """
    key = key_of(value)
    if key is None or not key.strip():
        raise InputError(f"{_label(name, position)} is {format_value(value)}; use text or an integer that is not blank")
    return checked_text(name, key, position, MAX_ID_LENGTH)


def checked_text(name: str, value: object, position: int | None, max_length: int) -> str:
    """A text of at most `max_length` characters that both databases can store.

    Raises:
        InputError: the value is another one.
    """
    if not isinstance(value, str) or key_of(value) is None:
        raise InputError(f"{_label(name, position)} is {format_value(value)}; use text")
    if len(value) > max_length:
        raise InputError(
            f"{_label(name, position)} is {value!r:.40}, {len(value):,} characters long; use at most {max_length}"
        )
    if "\0" in value:  # PostgreSQL cannot store it
        raise InputError(f"{_label(name, position)} is {value!r:.80}, which contains a null character; remove it")
    return value


def checked_number(name: str, value: object, position: int) -> float:
    """A finite number.

    Raises:
        InputError: the value is another one.
    """
    return check_number(_label(name, position), value, "use a finite number")


def _label(name: str, position: int | None) -> str:
    return name if position is None else f"{name} number {position:,}"
