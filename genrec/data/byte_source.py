"""Byte sources: the bytes of a table's file, decompressed where its first bytes say that it is compressed.

gzip, bzip2, xz and ZIP are read by Python's own modules, and zstd by Arrow. What a file holds is decided by its first
bytes, never by its name.
"""

import bz2
import gzip
import io
import lzma
import re
import shlex
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO, Any

import pyarrow as pa

from genrec.data.file_format import describe_zip_document, read_head
from genrec.errors import InputError, format_names

BLOCK_SIZE = 1 << 24  # bytes
MAX_EXPANSION = 200
"""How many times larger than its file a compressed table may be, beyond `MIN_BOUNDED_SIZE`; tables reach about 50."""

MIN_BOUNDED_SIZE = 1 << 28  # bytes

_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
)
_BZIP2 = re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")  # a header in CSV may begin with the three letters
_SUFFIXES: Mapping[str, str] = MappingProxyType(
    {".gz": "gzip", ".gzip": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".zstd": "zstd", ".zip": "zip"}
)
_TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".dat", ".data", ".json", ".jsonl", ".ndjson", ".parquet")
_TEXT_SUFFIXES = (".txt", ".base", ".item", ".user", "")
_DOCUMENT_NAMES = re.compile(r"(readme|licen[cs]e|copying|changelog|notice|about|citation)", re.IGNORECASE)
_DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, pa.ArrowException)


@dataclass(frozen=True, slots=True)
class ByteSource:
    """The bytes of one table.

    Attributes:
        path: the file.
        compression: "gzip", "bzip2", "xz", "zstd", "zip", or "" for none.
        member: the table inside a ZIP archive; "" for other files.
    """

    path: Path
    compression: str = ""
    member: str = ""

    @classmethod
    def of(cls, path: Path) -> "ByteSource":
        """Find out how a file is compressed, by its first bytes.

        Raises:
            InputError: it is an archive of no table or of several, or an office document.
            OSError: the file cannot be read.
        """
        head = read_head(path)
        kind = next((name for magic, name in _MAGIC if head.startswith(magic)), "")
        if kind == "bzip2" and not _BZIP2.match(head):
            kind = ""
        return cls(path, kind, _only_table(path) if kind == "zip" else "")

    @property
    def label(self) -> str:
        """The name of the table in messages."""
        return f"{PurePosixPath(self.member).name} in {self.path.name}" if self.member else self.path.name

    @property
    def suffix(self) -> str:
        """The suffix of the table's own name, in lower case: ".csv" for items.csv.gz."""
        name = PurePosixPath(self.member or self.path.name)
        if not self.member and self.compression and _SUFFIXES.get(name.suffix.lower()) == self.compression:
            name = name.with_suffix("")
        return name.suffix.lower()

    @property
    def is_named_otherwise(self) -> bool:
        """Whether the file is compressed and its name does not say so."""
        return bool(self.compression) and _SUFFIXES.get(self.path.suffix.lower()) != self.compression

    @property
    def shell_input(self) -> str:
        """A shell command that writes the table to standard output."""
        name = shlex.quote(self.path.name)
        if self.member:
            return f"unzip -p {name} {shlex.quote(self.member)}"
        return f"{self.compression} -dc {name}" if self.compression else f"cat {name}"

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the decompressed bytes from the start.

        Reading them raises InputError if the compressed data is damaged.

        Raises:
            InputError: the archive is damaged or encrypted.
            OSError: the file cannot be read.
        """
        if not self.compression:
            with self.path.open("rb") as plain:
                yield plain
            return
        with ExitStack() as stack:
            try:
                if self.compression == "zip":
                    archive = stack.enter_context(zipfile.ZipFile(self.path))
                    stream: Any = stack.enter_context(archive.open(self.member))
                elif self.compression == "zstd":
                    stream = stack.enter_context(pa.CompressedInputStream(pa.OSFile(str(self.path)), "zstd"))
                else:
                    opener: Any = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}[self.compression]
                    stream = stack.enter_context(opener(self.path, "rb"))
            except RuntimeError as error:  # zipfile: the member is encrypted
                raise InputError(f"{self.label} cannot be read: {_reason(error)}; extract it first") from error
            except _DAMAGE as error:
                raise self._damaged(error) from error
            yield io.BufferedReader(_CheckedStream(stream, self._damaged), 1 << 20)

    def _damaged(self, error: Exception) -> InputError:
        return InputError(
            f"{self.path.name} is a damaged or incomplete {self.compression} file ({_reason(error)}); "
            "download or write it again"
        )

    def head(self, size: int = 4096) -> bytes:
        """The first `size` bytes of the table, or all of them if there are fewer.

        Raises:
            InputError: the compressed data is damaged.
        """
        with self.open() as file:
            return read_fully(file, size)

    def blocks(self) -> Iterator[bytes]:
        """The table in blocks of at most `BLOCK_SIZE` bytes.

        Raises:
            InputError: the compressed data is damaged, or expands as no table does.
        """
        compressed, size = max(1, self.path.stat().st_size), 0
        with self.open() as file:
            while block := file.read(BLOCK_SIZE):
                size += len(block)
                if self.compression and size > MIN_BOUNDED_SIZE and size > MAX_EXPANSION * compressed:
                    raise InputError(
                        f"{self.path.name} expands to more than {MAX_EXPANSION} times its {compressed:,} bytes, as "
                        f"only files made to fill memory do; if it is a table, write it uncompressed first: "
                        f"{self.shell_input} > table"
                    )
                yield block


class _CheckedStream(io.RawIOBase):
    """A decompressed stream whose reads raise InputError if the compressed data is damaged."""

    def __init__(self, stream: Any, damaged: Callable[[Exception], InputError]) -> None:
        self._stream, self._error = stream, damaged

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            block = self._stream.read(len(buffer))
        except _DAMAGE as error:
            raise self._error(error) from error
        buffer[: len(block)] = block
        return len(block)


def read_fully(file: IO[bytes], size: int) -> bytes:
    """The next `size` bytes of a file, or fewer at its end."""
    parts = io.BytesIO()
    while (missing := size - parts.tell()) and (block := file.read(missing)):
        parts.write(block)
    return parts.getvalue()


def _only_table(path: Path) -> str:
    """The name of the one table in a ZIP archive.

    Raises:
        InputError: there is none or there are several, or the archive is a document of an office program.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path.name} is a damaged ZIP archive; write it again") from error
    if document := describe_zip_document(names):
        raise InputError(f"{path.name} {document}")
    visible = [name for name in names if not name.startswith("__MACOSX/") and PurePosixPath(name).name[:1] != "."]
    tables = _named(visible, _TABLE_SUFFIXES) or [
        name for name in _named(visible, _TEXT_SUFFIXES) if not _DOCUMENT_NAMES.match(PurePosixPath(name).name)
    ]
    if len(tables) == 1:
        return tables[0]
    if not tables:
        inside = f"it holds {format_names([repr(name) for name in names], 5)}" if names else "it is empty"
        raise InputError(f"{path.name} is a ZIP archive without a table: {inside}; name another file")
    command = f"unzip {shlex.quote(path.name)}"
    raise InputError(
        f"{path.name} is a ZIP archive of {len(tables)} tables, {format_names([repr(name) for name in tables], 20)}; "
        f"extract them ({command}) and name one"
    )


def _named(names: list[str], suffixes: tuple[str, ...]) -> list[str]:
    """The names that end in one of some suffixes, or in one followed by that of a compressed file."""
    plain = {name: PurePosixPath(name) for name in names}
    return [
        name
        for name, path in plain.items()
        if (path.with_suffix("") if path.suffix.lower() in _SUFFIXES else path).suffix.lower() in suffixes
    ]


def _reason(error: BaseException) -> str:
    return str(error).split("\n", 1)[0].rstrip(".") or type(error).__name__
