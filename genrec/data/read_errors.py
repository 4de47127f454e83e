"""Messages about text files that cannot be read, with the line where each one breaks.

Arrow's own messages count lines within a block, not within the file, so the file is read again to find the line.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path

from genrec.errors import InputError

_BLOCK_SIZE = 1 << 24  # bytes


def first_line(error: BaseException) -> str:
    """The first line of an error message, without a full stop at its end."""
    return str(error).split("\n", 1)[0].rstrip(".")


def read_error(path: Path, error: Exception, find: Callable[[], str | None]) -> InputError:
    """Make the error for a text file that Arrow cannot read.

    Args:
        path: the file.
        error: what Arrow raised; its first line is used if no bad line is found.
        find: describes the first bad line of the file, or returns None.
    """
    return InputError(_find_encoding_error(path) or find() or f"{path.name} cannot be read: {first_line(error)}")


def find_csv_error(path: Path, delimiter: str) -> str | None:
    """Describe the first line of a CSV file that cannot be read; None if there is none."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter)
        expected = 0
        try:
            for row in rows:
                expected = expected or len(row)
                if row and len(row) != expected:
                    return (
                        f"line {rows.line_num:,} of {path.name} has {len(row)} fields, but the header has {expected}; "
                        "quote fields that contain the separator, or repair the line"
                    )
        except csv.Error as error:
            return f"line {rows.line_num:,} of {path.name} cannot be read: {error}; repair the line"
    return None


def find_unclosed_quote(path: Path, delimiter: str) -> str | None:
    """Describe a quote of a CSV file that is opened and never closed; None if there is none."""
    if _count_quotes(path) % 2 == 0:
        return None
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        last = 0
        try:
            for _ in rows:
                last = rows.line_num
        except csv.Error as error:
            if "unexpected end" in str(error):
                return (
                    f"line {last + 1:,} of {path.name} opens a quote that is never closed; close it, "
                    'or write the quote inside a field twice ("")'
                )
    return None


def find_json_error(path: Path) -> str | None:
    """Describe the first line of a JSON Lines file that cannot be read; None if there is none."""
    kinds: dict[str, tuple[str, int]] = {}
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                json.dumps(row, ensure_ascii=False).encode()
            except (ValueError, RecursionError) as error:
                return f"line {number:,} of {path.name} is not a JSON object: {first_line(error)}; repair the line"
            if not isinstance(row, dict):
                return f"line {number:,} of {path.name} is not a JSON object; write one object a line (JSON Lines)"
            for name, value in row.items():
                kind = _json_kind(value)
                first, at = kinds.setdefault(name, (kind, number)) if kind else ("", 0)
                if kind and kind != first:
                    return (
                        f"{name!r} is {kind} in line {number:,} of {path.name} and {first} in line {at:,}; "
                        "give every value of a column one type"
                    )
    return None


def _find_encoding_error(path: Path) -> str | None:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                return (
                    f"{path.name} is not UTF-8: byte 0x{byte:02x} at position {error.start + 1} of line {number:,}; "
                    f"re-encode it, for example: iconv -f windows-1252 -t utf-8 {path.name} > utf8-{path.name}"
                )
    return None


def _count_quotes(path: Path) -> int:
    with path.open("rb") as file:
        return sum(part.count(b'"') for part in iter(lambda: file.read(_BLOCK_SIZE), b""))


def _json_kind(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"
