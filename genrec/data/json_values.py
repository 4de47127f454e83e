"""JSON values: the objects of a JSON file one by one, with the lines where they begin.

A file holds an object a line (JSON Lines), an array of objects, objects of several lines, or one object of columns such
as pandas writes. Nothing is evaluated as code.
"""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from genrec.data.byte_source import ByteSource
from genrec.data.read_errors import json_error
from genrec.data.text_encoding import TextSource
from genrec.errors import InputError

_CHUNK = 1 << 20  # characters
_SPACE = re.compile(r"[\s,]*")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACKET = re.compile(r"[\[\]{}]")
_MAX_NESTING = 256  # lists and objects inside each other; Arrow ends the process at some thousands
_MAX_TOKEN = 32  # characters of a number or a word that may be cut at the end of a chunk


@dataclass(frozen=True, slots=True)
class JsonRow:
    """One object of a JSON file.

    Attributes:
        source: the file.
        line: the line number where the object begins, from 1.
        text: the object in one line; "" if it is parsed already.
        values: the object if it is parsed already.
    """

    source: ByteSource
    line: int
    text: str = ""
    values: dict[str, Any] | None = None

    def parse(self) -> dict[str, Any]:
        """The object.

        Raises:
            InputError: the text is none.
        """
        if self.values is not None:
            return self.values
        try:
            found: dict[str, Any] = json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise json_error(self.source, self.line, self.text, error) from error
        return found


def iter_json_rows(text: TextSource) -> Iterator[JsonRow]:
    """The objects of a JSON file in order.

    Raises:
        InputError: a line is no JSON object, is nested too deeply, or is not in the encoding.
    """
    try:
        with text.open_text() as file:
            first = next((line for line in file if line.strip()), "")
        with text.open_text() as file:
            if _is_row(first):
                yield from _iter_lines(text.source, file)
            elif first.strip():
                yield from _iter_documents(text.source, file)
    except UnicodeDecodeError as error:
        raise text.encoding_error() or InputError(f"{text.label} is not {text.encoding}; write it again") from error


def _is_row(line: str) -> bool:
    """Whether a line is a whole object, and not one of columns."""
    if not line.lstrip().startswith("{") or _nesting(line) > _MAX_NESTING:
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and _rows_inside(value) is None


def _iter_lines(source: ByteSource, file: io.TextIOWrapper) -> Iterator[JsonRow]:
    for number, line in enumerate(file, 1):
        text = line.strip()
        if not text:
            continue
        row = JsonRow(source, number, text)
        if not (text.startswith("{") and text.endswith("}")):
            row.parse()  # names what is wrong with it
            raise _object_error(source, number)
        _check_nesting(source, text, number)
        yield row


def _iter_documents(source: ByteSource, file: io.TextIOWrapper) -> Iterator[JsonRow]:
    """The objects of an array, objects of several lines, or the rows of an object of columns."""
    values = _DocumentReader(source, file)
    first = values.next_value()
    if isinstance(first, dict) and values.is_at_end() and (rows := _rows_inside(first)) is not None:
        yield from (JsonRow(source, 1, values=row) for row in rows)
        return
    value = first
    while value is not _END:
        if not isinstance(value, dict):
            raise _object_error(source, values.line)
        yield JsonRow(source, values.line, values=value)
        value = values.next_value()


_END = object()


class _DocumentReader:
    """Reads the values of an array, or values one after another, without the whole file in memory."""

    def __init__(self, source: ByteSource, file: io.TextIOWrapper) -> None:
        self._source, self._file = source, file
        self._text, self._at = file.read(_CHUNK), 0
        self._next_line = self.line = 1
        self._decoder = json.JSONDecoder()
        self._skip_space()
        self._in_array = self._text.startswith("[", self._at)
        self._at += self._in_array

    def is_at_end(self) -> bool:
        self._skip_space()
        return self._at >= len(self._text)

    def next_value(self) -> object:
        """The next value, or `_END`; `line` is where it begins."""
        self._skip_space()
        if self._in_array and self._text.startswith("]", self._at):
            self._at, self._in_array = self._at + 1, False
            self._skip_space()
        if self._at >= len(self._text):
            if self._in_array:
                raise json_error(self._source, self._next_line, "", ValueError("the array is never closed"))
            return _END
        self.line = self._next_line
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
                break
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _MAX_TOKEN
                if not (is_cut and self._read_more()):
                    raise json_error(
                        self._source, self._line_of(error.pos), self._text[self._at :][:80], error
                    ) from error
            except RecursionError as error:
                raise _nesting_error(self._source, self.line) from error
        _check_nesting(self._source, self._text[self._at : end], self.line)
        self._advance(end)
        return value

    def _line_of(self, position: int) -> int:
        return self._next_line + self._text.count("\n", self._at, position)

    def _advance(self, end: int) -> None:
        self._next_line, self._at = self._line_of(end), end

    def _skip_space(self) -> None:
        while True:
            match = _SPACE.match(self._text, self._at)
            self._advance(match.end() if match else self._at)
            if self._at < len(self._text) or not self._read_more():
                return

    def _read_more(self) -> bool:
        """Read at least as many characters as are left, so that a long value is parsed a few times only."""
        rest = self._text[self._at :]
        more = self._file.read(max(_CHUNK, len(rest)))
        self._text, self._at = rest + more, 0
        return bool(more)


def _rows_inside(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of an object that holds a table, as columns or as a list of objects; None if it is a row itself."""
    parts = list(value.values())
    lists = [part for part in parts if isinstance(part, list) and part and all(isinstance(row, dict) for row in part)]
    if len(parts) == len(lists) == 1:
        return lists[0]
    if len(parts) > 1 and all(isinstance(part, dict) for part in parts):
        rows = list(parts[0])
        if all(list(part) == rows for part in parts):
            return [{name: part[row] for name, part in value.items()} for row in rows]
    if len(parts) > 1 and all(isinstance(part, list) and len(part) == len(parts[0]) for part in parts):
        return [dict(zip(value, row, strict=True)) for row in zip(*parts, strict=True)]
    return None


def _check_nesting(source: ByteSource, text: str, line: int) -> None:
    if text.count("[") + text.count("{") > _MAX_NESTING and _nesting(text) > _MAX_NESTING:
        raise _nesting_error(source, line)


def _nesting(text: str) -> int:
    """How many lists and objects of a JSON text are inside each other at most."""
    depth = deepest = 0
    for mark in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if mark in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _nesting_error(source: ByteSource, line: int) -> InputError:
    return InputError(
        f"line {line:,} of {source.label} has lists or objects nested more than {_MAX_NESTING} levels deep; "
        "omit that column"
    )


def _object_error(source: ByteSource, line: int) -> InputError:
    return InputError(f"line {line:,} of {source.label} is not a JSON object; write one object a line (JSON Lines)")
