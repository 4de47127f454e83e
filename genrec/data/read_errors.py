"""Messages about text files that cannot be read, with the line where each one breaks.

Arrow's own messages count lines within a block, not within the file, so the file is read again to find the line.
"""

import csv
import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from genrec.data.file_format import convert_command, describe_json_array, read_head
from genrec.errors import InputError

_BLOCK_SIZE = 1 << 24  # bytes
_LEGACY_ENCODINGS = ("cp1252", "cp1250", "cp1251", "koi8-r", "gb18030", "big5", "cp932", "cp949", "euc-jp")
_EXCERPT = 12  # characters shown before and after a byte that is not UTF-8
_MAX_NESTING = 256  # lists and objects inside each other; Arrow ends the process at some thousands
_PYTHON_DICT = re.compile(r"\s*\{\s*'")


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
        header: list[str] = []
        try:
            for row in rows:
                header = header or row
                if row and len(row) != len(header):
                    return (
                        f"line {rows.line_num:,} of {path.name} has {len(row)} fields, but the header has "
                        f"{len(header)}; {_field_count_remedy(row, header)}"
                    )
        except csv.Error as error:
            return f"line {rows.line_num:,} of {path.name} cannot be read: {error}; repair the line"
    return None


def _field_count_remedy(row: Sequence[str], header: Sequence[str]) -> str:
    """What to do about a row with another number of fields than the header."""
    if len(row) > len(header):
        if not any(row[len(header) :]):
            return "it ends with a separator; end the header with one too, or remove it from every line"
        return "quote fields that contain the separator, or repair the line"
    if not any(header[len(row) :]):
        return "the header ends with a separator; remove it there, or end every line with one too"
    return "quote line breaks inside a field, or add the missing fields"


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


def find_json_line_error(path: Path) -> str | None:
    """Describe the first line of a JSON Lines file that is not an object or is nested too deeply; None if all are fine.

    Arrow must not see such a line: a block of its reader that begins with `null`, and deep nesting, end the process.
    """
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            text = line.strip()
            if not text:
                continue
            if not (text.startswith("{") and text.endswith("}")):
                return _find_encoding_error(path) or find_json_error(path)
            if text.count("[") + text.count("{") > _MAX_NESTING and _nesting(text) > _MAX_NESTING:
                return (
                    f"line {number:,} of {path.name} has lists or objects nested more than {_MAX_NESTING} levels deep; "
                    "omit that column"
                )
    return None


def _nesting(text: str) -> int:
    """How many lists and objects of a JSON text are inside each other at most."""
    depth = deepest = 0
    for mark in re.findall(r"[\[\]{}]", re.sub(r'"(?:[^"\\]|\\.)*"', "", text)):
        depth += 1 if mark in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def find_json_error(path: Path) -> str | None:
    """Describe the first line of a JSON Lines file that cannot be read; None if there is none."""
    if found := describe_json_array(path, read_head(path)):
        return f"{path.name} {found}"
    kinds: dict[str, tuple[str, int]] = {}
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                json.dumps(row, ensure_ascii=False).encode()
            except (ValueError, RecursionError) as error:
                return f"line {number:,} of {path.name} is not a JSON object: {_json_remedy(path, line, error)}"
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


def _json_remedy(path: Path, line: str, error: Exception) -> str:
    """What is wrong with a line that is not JSON, and what to do about it."""
    if _PYTHON_DICT.match(line):
        code = "import ast, json, sys; [print(json.dumps(ast.literal_eval(line))) for line in sys.stdin]"
        command = f'python -c "{code}" < {shlex.quote(path.name)} > {shlex.quote(f"json-{path.name}")}'
        return f"it is written as a Python dict; convert the file, for example: {command}"
    if line.lstrip().startswith("{") and not line.rstrip().endswith("}"):
        command = convert_command(path, "jq -c .", "lines-")
        return f"{first_line(error)}; repair the line, or if each object spans several lines, join them: {command}"
    return f"{first_line(error)}; repair the line"


def _find_encoding_error(path: Path) -> str | None:
    """Describe the first bytes of a file that are not UTF-8; None if there are none.

    No encoding is guessed: bytes of one encoding are valid in others, where they are other characters. The message
    shows what the bytes are in each encoding that fits, and a reader sees which is right.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                decoded = _decoded_excerpts(line, error.start)
                encoding = decoded[0][1] if len(decoded) == 1 else "ENCODING"
                shown = ", ".join(f"{text!r} in {name}" for text, name in decoded) or "in no common encoding"
                command = convert_command(path, f"iconv -f {encoding} -t UTF-8", "utf8-")
                return (
                    f"{path.name} is not UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1} of line "
                    f"{number:,}; the text there is {shown}; re-encode it from the right one: {command}"
                )
    return None


def _decoded_excerpts(line: bytes, start: int) -> list[tuple[str, str]]:
    """The text around a byte of a line in each encoding that fits, and the encoding; the same text once."""
    found: dict[str, str] = {}
    for encoding in _LEGACY_ENCODINGS:
        try:
            text = line.decode(encoding).rstrip("\r\n")
        except UnicodeDecodeError:
            continue
        at = len(line[:start].decode(encoding, "ignore"))
        excerpt = text[max(0, at - _EXCERPT) : at + _EXCERPT]
        if excerpt.replace("\t", " ").isprintable():
            found.setdefault(excerpt, encoding)
    return list(found.items())


def _count_quotes(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b'"') for block in iter(lambda: file.read(_BLOCK_SIZE), b""))


def _json_kind(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"
