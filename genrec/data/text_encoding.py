"""Text encodings: in which encoding the text of a file is.

Byte order marks and UTF-8 prove themselves. Everything else is a guess of chardet, which is taken only where the
evidence is good, and shown; else the text is shown in each encoding that fits, and the caller decides.
"""

import codecs
import io
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, cast

import pyarrow as pa

from genrec.data.byte_source import ByteSource
from genrec.data.file_format import utf_encoding
from genrec.errors import InputError, format_value

ENCODINGS = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "koi8-r"),
    *("gb18030", "big5", "cp932", "euc-jp", "cp949"),
)
"""The encodings of tables that are not in Unicode."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# The second byte of a character may be one of these separators in the encodings of Chinese and Japanese.
_WORD = re.compile(rb"(?:[\x80-\xff][\x40-\xff]?|[^\x00-\x1f,;|:=\"\x80-\xff])+")
_MAX_WORDS = 4_000
_MIN_CONFIDENCE = 0.04  # of chardet 7, over words with bytes above 127: right for titles of three words and more
_ALPHABETS = frozenset({"GREEK", "CYRILLIC", "HEBREW", "ARABIC"})
_MAX_EXAMPLE = 40  # characters
_EXCERPT = 12  # characters shown before and after a byte that is not UTF-8


@dataclass(frozen=True, slots=True)
class TextSource:
    """The text of a file, as UTF-8 without a byte order mark.

    Attributes:
        source: its bytes.
        encoding: Python's name of their encoding.
        mark: bytes of the byte order mark, to be skipped.
        evidence: "mark", "valid" (UTF-8 or ASCII), "option", "zeros" (UTF-16 or UTF-32 without a mark) or "detected".
        example: for a detected encoding, some of the text.
        quotes: number of double quotes in the file.
        size: bytes of the decompressed file.
    """

    source: ByteSource
    encoding: str
    mark: int = 0
    evidence: str = "valid"
    example: str = ""
    quotes: int = 0
    size: int = 0

    @classmethod
    def of(cls, source: ByteSource, encoding: str | None = None) -> "TextSource":
        """Find the encoding of a file, unless it is given, and check UTF-8 to the end.

        Raises:
            InputError: Python does not know the given encoding, or the text fits several and none clearly.
        """
        head = source.head()
        text = cls._of_head(source, head, encoding)
        survey = _Survey(is_utf8=text.encoding == "utf-8")
        for block in source.blocks():
            survey.add(block)
        survey.add(b"", final=True)
        text = replace(text, quotes=survey.quotes, size=survey.size)
        if text.encoding != "utf-8" or survey.is_utf8:
            return text
        if text.evidence in ("mark", "option") or survey.looks_like_utf8():
            raise text.encoding_error() or InputError(f"{source.label} is not {text.encoding}; write it again")
        return text._detected(b"\n".join(survey.words))

    @classmethod
    def _of_head(cls, source: ByteSource, head: bytes, encoding: str | None) -> "TextSource":
        """The text by its first bytes; UTF-8 is checked later."""
        mark, marked = next(((mark, name) for mark, name in _MARKS if head.startswith(mark)), (b"", None))
        if encoding is not None:
            name = _python_name(encoding)
            skipped = mark if marked == name or (marked or "").startswith(f"{name}-") else b""
            return cls(source, marked or name if skipped else name, len(skipped), "option")
        if marked is not None:
            return cls(source, marked, len(mark), "mark")
        if wide := utf_encoding(head):
            return cls(source, _python_name(wide), evidence="zeros")
        return cls(source, "utf-8")

    @property
    def label(self) -> str:
        """The name of the table in messages."""
        return self.source.label

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the text as UTF-8.

        Reading it raises UnicodeDecodeError where bytes are not of the encoding.
        """
        with self.source.open() as file:
            if self.mark:
                file.read(self.mark)
            if self.encoding == "utf-8":
                yield file
                return
            stream = pa.transcoding_input_stream(pa.PythonFile(file, mode="r"), self.encoding, "utf-8")
            yield cast("IO[bytes]", stream)

    @contextmanager
    def open_text(self, errors: str = "strict") -> Iterator[io.TextIOWrapper]:
        """Open the text; line ends are kept as they are."""
        with self.source.open() as file:
            if self.mark:
                file.read(self.mark)
            yield io.TextIOWrapper(cast("io.BufferedReader", file), self.encoding, errors, newline="")

    def encoding_error(self) -> InputError | None:
        """The error for the first bytes that are not of the encoding; None if there are none."""
        if self.encoding.startswith(("utf-16", "utf-32")):
            return None  # their lines cannot be split as bytes
        with self.source.open() as file:
            file.read(self.mark)
            for number, line in enumerate(file, 1):
                try:
                    line.decode(self.encoding)
                except UnicodeDecodeError as error:
                    shown = "UTF-8" if self.encoding == "utf-8" else self.encoding
                    return _error_of_byte(f"{self.label} is not {shown}", line, number, error.start)
        return None

    def _detected(self, words: bytes) -> "TextSource":
        """The text in the encoding that its words with bytes above 127 are in.

        Raises:
            InputError: they do not tell.
        """
        import chardet

        found = chardet.detect(words, include_encodings=ENCODINGS, prefer_superset=True, compat_names=False)
        unclear = InputError(
            f"the encoding of {self.label} is not clear", remedy="name it", file_format={"encoding": "NAME"}
        )
        if found["encoding"] is None or found["confidence"] < _MIN_CONFIDENCE:
            raise self.encoding_error() or unclear
        name = _python_name(found["encoding"])
        try:
            example = words.decode(name).split("\n", 1)[0].strip()
        except UnicodeDecodeError:
            raise self.encoding_error() or unclear from None
        if mixes_scripts(words.decode(name)):
            raise self.encoding_error() or unclear
        return replace(self, encoding=name, evidence="detected", example=example[:_MAX_EXAMPLE])


def mixes_scripts(text: str) -> bool:
    """Whether a word of a text has Latin letters beside those of another alphabet, as "Caf\u03b9" has: it is then in
    another encoding."""
    for word in re.findall(r"[^\W\d_]+", text):
        scripts = {unicodedata.name(letter, "").split(" ", 1)[0] for letter in word}
        if "LATIN" in scripts and scripts & _ALPHABETS:
            return True
    return False


class _Survey:
    """What one pass over the bytes of a file tells: its size, its quotes, and whether it is UTF-8."""

    def __init__(self, *, is_utf8: bool) -> None:
        self.size = self.quotes = 0
        self.is_utf8, self._checks_utf8 = is_utf8, is_utf8
        self.words: dict[bytes, None] = {}
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def add(self, block: bytes, *, final: bool = False) -> None:
        self.size += len(block)
        self.quotes += block.count(b'"')
        if not self._checks_utf8 or (block.isascii() and not final and not self._decoder.getstate()[0]):
            return
        if self.is_utf8:
            try:
                self._decoder.decode(block, final)
            except UnicodeDecodeError:
                self.is_utf8 = False
        if not block.isascii() and len(self.words) < _MAX_WORDS:
            lines = block.split(b"\n")
            for line in lines[1:-1] if len(lines) > _MAX_WORDS else lines:  # the ends may be cut within a character
                if not line.isascii() and len(self.words) < _MAX_WORDS:
                    self.words |= {word.strip(): None for word in _WORD.findall(line) if not word.isascii()}

    def looks_like_utf8(self) -> bool:
        """Whether more than half of the words with bytes above 127 are UTF-8: the others are damage then."""
        valid = sum(_is_utf8(word) for word in self.words)
        return 2 * valid > len(self.words)


def _is_utf8(word: bytes) -> bool:
    try:
        word.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _python_name(encoding: str) -> str:
    """Python's name of an encoding.

    Raises:
        InputError: Python has no such text encoding.
    """
    try:
        info = codecs.lookup(encoding)
        if info._is_text_encoding:
            return "utf-8" if info.name == "utf-8-sig" else info.name
    except (LookupError, ValueError, UnicodeError):
        pass
    raise InputError(
        f"encoding {format_value(encoding)} is unknown; name one that Python knows, such as utf-8, cp1252 or gb18030"
    )


def _error_of_byte(problem: str, line: bytes, number: int, start: int) -> InputError:
    """The error for a byte of a line, with the text around it in each encoding that fits."""
    decoded = _decoded_excerpts(line, start)
    encoding = decoded[0][1] if len(decoded) == 1 else "NAME"
    shown = ", ".join(f"{text!r} in {name}" for text, name in decoded) or "in no common encoding"
    return InputError(
        f"{problem}: byte 0x{line[start]:02x} at position {start + 1} of line {number:,}; the text there is {shown}",
        remedy=f"name the right one, FileFormat(encoding={encoding!r})",
        file_format={"encoding": encoding},
    )


def _decoded_excerpts(line: bytes, start: int) -> list[tuple[str, str]]:
    """The text around a byte of a line in each encoding that fits, and the encoding; the same text once."""
    found: dict[str, str] = {}
    for encoding in ENCODINGS:
        try:
            text = line.decode(encoding).rstrip("\r\n")
        except UnicodeDecodeError:
            continue
        at = len(line[:start].decode(encoding, "ignore"))
        excerpt = text[max(0, at - _EXCERPT) : at + _EXCERPT]
        if excerpt.replace("\t", " ").isprintable() and not mixes_scripts(excerpt):
            found.setdefault(excerpt, encoding)
    return list(found.items())
