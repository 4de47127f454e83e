"""File formats: recognises a file that is not the table that its name promises, by its first bytes.

Each format is told with the command that makes a table of it. Sources: the magic numbers in the specification of each
format, and of Git LFS (docs/spec.md) for pointers.
"""

import codecs
import re
import shlex
import zipfile
from collections.abc import Sequence
from pathlib import Path

from genrec.errors import InputError

_HEAD_SIZE = 4096  # bytes
_TAR_MAGIC_AT = 257
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_UTF_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_UTF_WITHOUT_MARK = ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE")
_ARRAY_OF_OBJECTS = re.compile(rb"\s*\[\s*\{")
_JSON_OBJECT = re.compile(rb"\s*\{\s*(\"|u?'[^']*'\s*:)")
# Without the separators of Hive and ASCII, which a header may hold, and the escape character, which titles may.
_CONTROL_CHARACTER = re.compile(rb"[\x00\x02-\x08\x0b\x0e-\x1a\x1c\x1d]")
_COMPRESSED = "is compressed with {0}; decompress it first, for example: {0} -dc {{file}} > {{plain}}"
# Regular expressions for the first bytes, without case for pages only, and what such a file is and what to do about it.
_SIGNATURES = (
    (rb"\x1f\x8b", _COMPRESSED.format("gzip")),
    (rb"BZh[1-9]1AY&SY", _COMPRESSED.format("bzip2")),
    (rb"\xfd7zXZ\x00", _COMPRESSED.format("xz")),
    (rb"\x28\xb5\x2f\xfd", _COMPRESSED.format("zstd")),
    (rb"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive; extract it first"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an Excel workbook (.xls); save its sheet as CSV UTF-8"),
    (rb"PAR1[\x00-\x1f]", "is a Parquet file; rename it to .parquet"),
    (rb"ARROW1\x00\x00", "is an Arrow (Feather) file; write it as Parquet, or pass it as a data frame"),
    (rb"SQLite format 3\x00", "is an SQLite database; export its table as CSV"),
    (rb"\x89HDF\r\n\x1a\n", "is an HDF5 file; write its table as Parquet"),
    (rb"%PDF-", "is a PDF document, not a table; export the table as CSV"),
    (rb"\x80[\x02-\x05]", "is a pickle, and genrec never unpickles, because that can run code; write it as Parquet"),
    (
        rb"version https://git-lfs\.github\.com/spec/",
        "is a pointer of Git LFS, not the table itself; fetch the table with: git lfs pull",
    ),
    (
        rb"(?is)\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body|table|div|script|meta)\b",
        "is an HTML page, such as a login or an error page, not a table; download the table itself",
    ),
    # A header may be <TICKER>,<DATE>: after a tag of XML stands no separator.
    (
        rb"\s*<(\?xml\b|[A-Za-z][\w:-]*(\s[^<>]*)?>(?!\s*[,;\t|]))",
        "is an XML document, not a table; export the table as CSV",
    ),
    (rb"ORC(?![\w,;\t -])", "is an ORC file; write its table as Parquet"),
    (rb"Obj\x01", "is an Avro file; write its table as Parquet"),
    (rb"\x04\x22\x4d\x18", _COMPRESSED.format("lz4")),
)


def check_format(path: Path) -> None:
    """Refuse a file that is not a table of the format that its suffix says.

    Raises:
        InputError: the file is empty, compressed, a workbook, a page, a pointer or text in UTF-16 or UTF-32; the
            message says which, and how to make a table of it.
        OSError: the file cannot be read.
    """
    head = read_head(path)
    if not head:
        raise empty_file_error(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet" and head.startswith(b"PAR1"):
        return
    if found := _describe_zip(path) if head.startswith(b"PK\x03\x04") else _describe_signature(path, head):
        raise InputError(f"{path.name} {found}")
    if suffix == ".parquet":
        return
    if encoding := utf_encoding(head):
        command = convert_command(path, f"iconv -f {encoding} -t UTF-8", "utf8-")
        raise InputError(f"{path.name} is encoded as {encoding}; re-encode it to UTF-8, for example: {command}")
    if _is_binary(head):
        raise InputError(f"{path.name} is a binary file, not a table of text; export the table as CSV or Parquet")
    if suffix in (".csv", ".tsv") and (found := describe_json(path, head)):
        raise InputError(f"{path.name} {found}")


def check_content(path: Path, head: bytes) -> None:
    """Refuse a file that holds no table, whatever its name and its compression.

    Args:
        path: the file.
        head: its first bytes, decompressed.

    Raises:
        InputError: it is a document, a page, a pointer, an archive, or a table in a format that genrec does not read.
    """
    found = _describe_signature(path, head)
    if found is None and head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar":
        found = f"is a tar archive; extract it first, for example: tar -xf {shlex.quote(path.name)}"
    if found is None and utf_encoding(head) is None and _is_binary(head):
        found = "is a binary file, not a table of text; export the table as CSV or Parquet"
    if found is not None:
        raise InputError(f"{path.name} {found}")


def is_parquet(head: bytes) -> bool:
    """Whether a file with these first bytes is in the Parquet format."""
    return re.match(rb"PAR1[\x00-\x1f]", head) is not None


def is_json(head: bytes) -> bool:
    """Whether a file with these first bytes holds a JSON object or an array of objects."""
    encoding = utf_encoding(head)
    text = head if encoding is None else head.decode(encoding, "ignore").encode()
    return any(pattern.match(text.removeprefix(codecs.BOM_UTF8)) for pattern in (_JSON_OBJECT, _ARRAY_OF_OBJECTS))


def read_head(path: Path) -> bytes:
    """The first bytes of a file, without a byte order mark of UTF-8.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return file.read(_HEAD_SIZE).removeprefix(codecs.BOM_UTF8)


def empty_file_error(path: Path) -> InputError:
    """The error for a file without content."""
    return InputError(f"{path.name} is empty; check that it was written completely")


def describe_json(path: Path, head: bytes) -> str | None:
    """What a JSON file holds and how to make JSON Lines of it, after the file's name; None if it is not JSON."""
    if _JSON_OBJECT.match(head):
        return "holds JSON objects; if there is one a line, rename it to .jsonl"
    return describe_json_array(path, head)


def describe_json_array(path: Path, head: bytes) -> str | None:
    """How to make JSON Lines of an array of objects, after the file's name; None if the file does not begin with one.

    Args:
        path: the file.
        head: its first bytes.
    """
    if not _ARRAY_OF_OBJECTS.match(head):
        return None
    command = f"jq -c '.[]' {shlex.quote(path.name)} > {shlex.quote(f'{path.stem}-lines.jsonl')}"
    return f"holds a JSON array; write one object a line (JSON Lines), for example: {command}"


def convert_command(path: Path, command: str, prefix: str) -> str:
    """A shell command that converts a file into one with a prefix before its name."""
    return f"{command} {shlex.quote(path.name)} > {shlex.quote(prefix + path.name)}"


def _describe_signature(path: Path, head: bytes) -> str | None:
    plain = path.stem if path.suffix.lower() in (".gz", ".bz2", ".xz", ".zst") else f"plain-{path.name}"
    names = {"file": shlex.quote(path.name), "plain": shlex.quote(plain)}
    return next((text.format(**names) for pattern, text in _SIGNATURES if re.match(pattern, head)), None)


def _describe_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "is a damaged ZIP archive; write it again"
    if document := describe_zip_document(names):
        return document
    inside = f" that holds {names[0]!r:.80}" if names else ""
    return f"is a ZIP archive{inside}; extract it first, for example: unzip {shlex.quote(path.name)}"


def describe_zip_document(names: Sequence[str]) -> str | None:
    """Which document of an office program a ZIP archive with these members is, after the file's name; else None."""
    if any(name.startswith("xl/") for name in names):
        return "is an Excel workbook; save its sheet as CSV UTF-8"
    if "mimetype" in names and "content.xml" in names:
        return "is an OpenDocument file; save its sheet as CSV with the character set UTF-8"
    return None


def utf_encoding(head: bytes) -> str | None:
    """The encoding of text in UTF-16 or UTF-32, with or without a byte order mark, by its first bytes; else None.

    ASCII characters such as line ends have zero bytes in these encodings, and none in UTF-8.
    """
    marked = next((name for mark, name in _UTF_MARKS if head.startswith(mark)), None)
    if marked is not None or b"\0" not in head:
        return marked
    for encoding in _UTF_WITHOUT_MARK:
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(head)  # the last character may be cut
        except UnicodeDecodeError:
            continue
        lines = text.splitlines()
        # Two lines at least, and two columns: other bytes could be read in any of them.
        if "\n" in text and lines[0].replace("\t", " ").isprintable() and re.search(r"[,;\t|:^~{]", lines[0]):
            return encoding
    return None


def _is_binary(head: bytes) -> bool:
    """Whether the first bytes of a file are no text: control characters in the first line, or zeros beside bytes
    that are not UTF-8."""
    if _CONTROL_CHARACTER.search(head.split(b"\n", 1)[0]):
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return b"\0" in head
    return False
