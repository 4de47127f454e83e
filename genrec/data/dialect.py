"""Dialects: how a text table is written, found out from its first megabyte.

The separator is the one that gives every line as many fields as the first. Lines before the table (comments, and `sep=`
for Excel) are skipped. A first line with numbers or dates in it, and no name that is known, is data.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from genrec.data.file_options import IGNORED, FileFormat


class CsvReader(Protocol):
    """Python's reader of delimited text, which counts lines."""

    line_num: int

    def __iter__(self) -> Iterator[list[str]]: ...
    def __next__(self) -> list[str]: ...


SEPARATORS = (",", "\t", ";", "|", "::", "^", "\x01")
STAND_IN = "\x1f"
"""Arrow's and Python's readers know separators of one character only, so `::` is read as this one (ASCII "unit")."""

_COMMENT = re.compile(r"\s*(#|%|//)")
_SEP_LINE = re.compile(r'\s*"?sep=(.?)"?;*\s*$', re.IGNORECASE)
_VALUE = re.compile(r"\s*[-+]?[\d.,]*\d[\d.,]*(e[-+]?\d+)?\s*$|\s*\d{4}-\d\d-\d\d\b.*$", re.IGNORECASE)
_MAX_ROWS = 2_000
_MIN_REGULAR = 0.98  # share of lines with as many fields as the first
# Files with these separators rarely quote, and a quote in them is then the first character of a title.
_RARELY_QUOTED = ("\t", "|", "::", "^", "\x01")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a text table is written.

    Attributes:
        separator: one character, or "::".
        names: the columns in the file's order; "" for a column that has no name.
        has_header: whether a line of the file names the columns.
        skipped: the lines before the header or, without one, before the first row.
        quoted: whether fields may be in double quotes.
        escape: the character before a quote inside a quoted field, or "" if such quotes are doubled.
        trailing: "rows" if rows end with a separator and the header does not, "header" for the opposite, else "".
        is_regular: whether the separator gives the lines of the sample equally many fields.
        first_row: the fields of the first line that is neither comment nor header, or ().
    """

    separator: str
    names: tuple[str, ...]
    has_header: bool = True
    skipped: tuple[str, ...] = ()
    quoted: bool = True
    escape: str = ""
    trailing: str = ""
    is_regular: bool = True
    first_row: tuple[str, ...] = ()

    @property
    def delimiter(self) -> str:
        """The separator as one character."""
        return STAND_IN if self.separator == "::" else self.separator

    def rows(self, lines: Iterable[str], *, strict: bool = False) -> "CsvReader":
        """Python's reader of lines in this dialect; `::` must have been replaced by the stand-in."""
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            escapechar=self.escape or None,
            strict=strict,
        )


def find_dialect(
    sample: str, own: str | None, options: FileFormat, known_names: frozenset[str], *, is_cut: bool = False
) -> Dialect | None:
    """Find the dialect of a text table.

    Args:
        sample: the beginning of the table.
        own: the separator that the file's suffix promises; None for none.
        options: what the caller says.
        known_names: column names that mark a first line as a header, in lower case, without punctuation.
        is_cut: whether the sample ends before the file does.

    Returns:
        None if the sample has no line with text.
    """
    if is_cut:
        sample = sample[: sample.rfind("\n") + 1] or sample
    lines = sample.splitlines(keepends=True) if "\x1c" not in sample else io.StringIO(sample, newline="").readlines()
    skipped, declared = _preamble(lines)
    body = "".join(lines[len(skipped) :])
    if not body.strip():
        return None
    chosen = options.separator or declared
    candidates = (chosen,) if chosen else tuple(dict.fromkeys((*((own,) if own else ()), *SEPARATORS)))
    found = [_read(body, separator, is_cut) for separator in candidates]
    regular = [table for table in found if table.is_regular and len(table.rows[0]) > 1]
    best = (
        max(regular, key=lambda table: (table.separator == own, len(table.rows[0])))
        if regular
        else max(found, key=lambda table: (table.separator == own, len(table.rows[0]) if table.rows else 0))
    )
    if best.separator != own and own and not chosen and len(found[0].rows[0]) > 1:
        best = found[0]  # the suffix is right, and a line is broken: the reader will name it
    return _describe(best, tuple(skipped), options, known_names)


@dataclass(frozen=True, slots=True)
class _Sample:
    """Rows of a sample, read with one separator."""

    separator: str
    quoted: bool
    escape: str
    rows: list[list[str]]
    is_regular: bool


def _preamble(lines: Sequence[str]) -> tuple[list[str], str | None]:
    """The lines before the table, and the separator that one of them declares."""
    skipped: list[str] = []
    declared = None
    for number, line in enumerate(lines):
        if match := _SEP_LINE.match(line):
            declared = match[1] or None
        elif line.strip() and not (_COMMENT.match(line) and not _is_header(line, lines[number + 1 :])):
            break
        skipped.append(line)
    return skipped, declared


def _is_header(line: str, following: Sequence[str]) -> bool:
    """Whether a line that begins as comments do has the fields of the next line."""
    after = next((other for other in following if other.strip()), "")
    return any(line.count(mark) == after.count(mark) > 0 for mark in SEPARATORS) and not _COMMENT.match(after)


def _read(body: str, separator: str, is_cut: bool) -> _Sample:
    """Read a sample with a separator, in the first way of quoting that fits."""
    text = body.replace("::", STAND_IN) if separator == "::" else body
    ways = [(True, ""), (True, "\\")] if '\\"' in body else [(True, "")]
    if separator in _RARELY_QUOTED:
        ways.append((False, ""))
    if separator == "::":
        ways = [(False, "")]
    first: _Sample | None = None
    for quoted, escape in ways:
        dialect = Dialect(separator, (), quoted=quoted, escape=escape)
        rows, is_whole = _parse(dialect, text, is_cut)
        sample = _Sample(separator, quoted, escape, rows, is_whole and _is_regular(rows))
        if sample.is_regular:
            return sample
        first = first or sample
    return first or _Sample(separator, True, "", [[]], False)


def _parse(dialect: Dialect, text: str, is_cut: bool) -> tuple[list[list[str]], bool]:
    """The first rows, and whether they could all be read."""
    rows: list[list[str]] = []
    try:
        for row in dialect.rows(io.StringIO(text, newline=""), strict=True):
            if row:
                rows.append(row)
            if len(rows) >= _MAX_ROWS:
                break
    except csv.Error as error:
        return rows or [[]], is_cut and "unexpected end" in str(error)
    return rows or [[]], True


def _is_regular(rows: Sequence[Sequence[str]]) -> bool:
    """Whether all rows have as many fields as the first, where one empty field at the end does not count."""
    width = len(rows[0])
    if len(rows) == 1:
        return True
    fitting = sum(len(row) == width or _trailing([rows[0], row]) != "" for row in rows[1:])
    return fitting >= _MIN_REGULAR * (len(rows) - 1)


def _trailing(rows: Sequence[Sequence[str]]) -> str:
    """Which side of a table ends with a separator that the other lacks: "rows", "header" or ""."""
    width = len(rows[0])
    if len(rows) > 1 and all(len(row) == width + 1 and not row[-1] for row in rows[1:]):
        return "rows"
    if len(rows) > 1 and width > 2 and not rows[0][-1] and all(len(row) == width - 1 for row in rows[1:]):
        return "header"
    return ""


def _describe(sample: _Sample, skipped: tuple[str, ...], options: FileFormat, known_names: frozenset[str]) -> Dialect:
    """The dialect of a sample, with the names of its columns."""
    rows = sample.rows
    has_header = options.header == "first" or (
        options.header is None and not options.names and not looks_like_data(rows[0], known_names)
    )
    if has_header:
        trailing = _trailing(rows)
        names = [name.strip() for name in rows[0]]
        names = [*names, ""] if trailing == "rows" else names[:-1] if trailing == "header" else names
    else:
        trailing = ""
        names = ["" if name == IGNORED else name for name in options.names]
        names += [f"column_{number + 1}" for number in range(len(names), len(rows[0]))]
        if len(rows) > 1 and all(not row[-1] for row in rows):
            names[-1] = ""
    first = rows[1:2] if has_header else rows[:1]
    return Dialect(
        sample.separator,
        tuple(names),
        has_header,
        skipped,
        sample.quoted,
        sample.escape,
        trailing,
        sample.is_regular,
        tuple(first[0]) if first else (),
    )


def plain_name(name: str) -> str:
    """A column's name in lower case, without punctuation, as names of columns are compared."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def looks_like_data(row: Sequence[str], known_names: frozenset[str]) -> bool:
    """Whether the first line of a table is data: a field is a number or a date, and none is a known column name."""
    if any(plain_name(name) in known_names for name in row):
        return False
    return any(_VALUE.match(field) for field in row)
