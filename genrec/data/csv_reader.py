"""CSV reader: delimited text as Arrow columns, whatever its separator, encoding and first lines.

The text is streamed, so that only the columns that are wanted are in memory.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import IO, cast

import pyarrow as pa

from genrec.data.byte_source import BLOCK_SIZE, read_fully
from genrec.data.dialect import STAND_IN, Dialect, find_dialect
from genrec.data.file_options import FileFormat
from genrec.data.read_errors import describe_field_count, empty_table_error, first_line
from genrec.data.text_encoding import TextSource
from genrec.errors import InputError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
"""The separators that suffixes of files promise."""

_SAMPLE_SIZE = 1 << 20  # characters
_DOUBTFUL_QUOTES = ("\t", "|", "^", "\x01")  # separators of files that are often written without quoting


@dataclass(frozen=True, slots=True)
class DelimitedText:
    """A text table whose dialect is known.

    Attributes:
        text: the file's text.
        dialect: how it is written.
    """

    text: TextSource
    dialect: Dialect

    @classmethod
    def of(cls, text: TextSource, options: FileFormat, known_names: frozenset[str]) -> "DelimitedText":
        """Find the dialect of a text table.

        Raises:
            InputError: it has no line with text, or its beginning is not in its encoding.
        """
        try:
            with text.open_text() as file:
                sample = file.read(_SAMPLE_SIZE)
                is_cut = bool(file.read(1))
        except UnicodeDecodeError as error:
            raise text.encoding_error() or InputError(f"{text.label} is not {text.encoding}") from error
        own = DELIMITERS.get(text.source.suffix)
        dialect = find_dialect(sample, own, options, known_names, is_cut=is_cut)
        if dialect is None:
            raise empty_table_error(text.label)
        table = cls(text, dialect)
        if dialect.quoted and text.quotes and dialect.separator in _DOUBTFUL_QUOTES and not table._quotes_are_closed():
            return replace(table, dialect=replace(dialect, quoted=False))
        return table

    def read(self, wanted: Sequence[str]) -> pa.Table:
        """Read some columns as text.

        Raises:
            InputError: a line has too many or too few fields, a quote is never closed, or text is not in the encoding.
        """
        import pyarrow.csv as arrow_csv

        dialect = self.dialect
        if not dialect.first_row:
            return pa.table({name: pa.array([], pa.large_string()) for name in wanted})
        # Arrow knows the columns by their positions, because names may repeat.
        columns = [str(dialect.names.index(name)) for name in wanted]
        try:
            with self._open_body() as body:
                table = arrow_csv.read_csv(
                    body,
                    read_options=arrow_csv.ReadOptions(
                        block_size=BLOCK_SIZE, column_names=[str(number) for number in range(len(dialect.names))]
                    ),
                    parse_options=arrow_csv.ParseOptions(
                        delimiter=dialect.delimiter,
                        quote_char='"' if dialect.quoted else False,
                        escape_char=dialect.escape or False,
                        newlines_in_values=dialect.quoted,
                    ),
                    convert_options=arrow_csv.ConvertOptions(
                        include_columns=columns, column_types=dict.fromkeys(columns, pa.large_string())
                    ),
                )
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise self._error(error) from error
        # In Arrow, a quote that is never closed swallows every row after it.
        if dialect.quoted and not dialect.escape and self.text.quotes % 2 and (unclosed := self._unclosed_quote()):
            raise InputError(unclosed)
        return table.rename_columns(list(wanted))

    @contextmanager
    def lines(self) -> Iterator[Iterator[str]]:
        """The lines of the table from its header on, or its first row, as the dialect's reader takes them."""
        with self.text.open_text("replace") as file:
            body = islice(file, len(self.dialect.skipped), None)
            yield (line.replace("::", STAND_IN) for line in body) if self.dialect.separator == "::" else body

    @contextmanager
    def _open_body(self) -> Iterator[IO[bytes]]:
        """The rows without the lines before them, in UTF-8, with a separator of one character."""
        dialect, skipped = self.dialect, self._body_offset()
        with self.text.open() as file:
            read_fully(file, skipped)
            if dialect.separator == "::":
                stream = file if isinstance(file, pa.NativeFile) else pa.PythonFile(file, mode="r")
                yield cast("IO[bytes]", pa.TransformInputStream(stream, _replace_separator()))
            else:
                yield file

    def _body_offset(self) -> int:
        """How many bytes of UTF-8 the lines before the first row take."""
        size = sum(len(line.encode()) for line in self.dialect.skipped)
        if not self.dialect.has_header:
            return size
        with self.lines() as lines:
            consumed: list[str] = []
            counted = (consumed.append(line) or line for line in lines)  # type: ignore[func-returns-value]
            next((row for row in self.dialect.rows(counted) if row), None)
        return size + sum(len(line.replace(STAND_IN, "::").encode()) for line in consumed)

    def _error(self, error: Exception) -> InputError:
        if isinstance(error, UnicodeDecodeError) and (found := self.text.encoding_error()):
            return found
        number = first = len(self.dialect.skipped)
        width = len(self.dialect.names)
        with self.lines() as lines:
            rows = self.dialect.rows(lines)
            try:
                for row in rows:
                    number = first + rows.line_num
                    if row and len(row) != width and (first + 1 < number or not self.dialect.has_header):
                        return describe_field_count(row, self.dialect, number, self.text.label)
            except Exception as problem:  # noqa: BLE001  (csv.Error, and whatever the decoder raises)
                return InputError(
                    f"line {number + 1:,} of {self.text.label} cannot be read: {problem}; repair the line"
                )
        return self.text.encoding_error() or InputError(f"{self.text.label} cannot be read: {first_line(error)}")

    def _unclosed_quote(self) -> str | None:
        """Describe a quote that is opened and never closed; None if there is none."""
        last = 0
        with self.lines() as lines:
            rows = self.dialect.rows(lines, strict=True)
            try:
                for _ in rows:
                    last = rows.line_num
            except Exception as error:  # noqa: BLE001  (csv.Error)
                if "unexpected end" in str(error):
                    return (
                        f"line {len(self.dialect.skipped) + last + 1:,} of {self.text.label} opens a quote that is "
                        'never closed; close it, or write the quote inside a field twice ("")'
                    )
        return None

    def _quotes_are_closed(self) -> bool:
        """Whether as many fields end with a quote as begin with one; else quotes are characters of the text."""
        mark = re.escape(self.dialect.delimiter.encode())
        opening, closing = re.compile(rb'(?:^|[\n\r]|%s)"' % mark), re.compile(rb'"(?=%s|[\r\n]|$)' % mark)
        opened = closed = 0
        with self._open_body() as body:
            rest = b""
            while block := body.read(BLOCK_SIZE):
                block, cut = (rest + block).rsplit(b"\n", 1) if b"\n" in block else (b"", rest + block)
                opened += len(opening.findall(block))
                closed += len(closing.findall(block))
                rest = b"\n" + cut
        return opened + len(opening.findall(rest)) == closed + len(closing.findall(rest))


def _replace_separator() -> Callable[[bytes], bytes]:
    """A function that replaces `::` by the stand-in in consecutive blocks; the last block is empty."""
    rest = b""

    def replace_block(block: bytes) -> bytes:
        nonlocal rest
        whole = rest + bytes(block)
        rest = b":" if block and whole.endswith(b":") and not whole.endswith(b"::") else b""
        return whole[: len(whole) - len(rest)].replace(b"::", STAND_IN.encode())

    return replace_block
