"""File options: how a file of text is to be read, where the caller says so instead of having it found out."""

from collections.abc import Sequence
from dataclasses import dataclass

from genrec.errors import InputError, format_value

_SEPARATOR_NAMES = {
    "tab": "\t",
    "\\t": "\t",
    "comma": ",",
    "semicolon": ";",
    "pipe": "|",
    "caret": "^",
    "\\x01": "\x01",
}
IGNORED = "_"
"""In a list of column names: a column without a name, which is not read."""


@dataclass(frozen=True, slots=True)
class FileFormat:
    """How a file of text is to be read; None stands for what its text shows.

    Attributes:
        separator: one character, "::", or the name "tab", "comma", "semicolon", "pipe" or "caret".
        encoding: Python's name of an encoding, such as "cp1252".
        header: "first" if the first line has the names of the columns, "none" if it is data.
        names: names of the columns, in their order, for a file without a header; "_" for a column that is not read.
    """

    separator: str | None = None
    encoding: str | None = None
    header: str | None = None
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        separator = self.separator
        if separator is not None:
            separator = _SEPARATOR_NAMES.get(separator, separator) if isinstance(separator, str) else ""
            if separator != "::" and (len(separator) != 1 or separator in '"\r\n'):
                raise InputError(
                    f"separator {format_value(self.separator)} is neither one character nor '::'; "
                    "use for example ';', '|' or tab"
                )
            object.__setattr__(self, "separator", separator)
        if self.header not in (None, "first", "none"):
            raise InputError(f"header is {format_value(self.header)}; use 'first' or 'none'")
        if self.encoding is not None and not isinstance(self.encoding, str):
            raise InputError(
                f"encoding is {format_value(self.encoding)}; use the name of an encoding, such as 'cp1252'"
            )
        names = [] if isinstance(self.names, str) else list(self.names)
        kept = [name for name in names if name != IGNORED]
        if (self.names and not names) or not all(isinstance(name, str) and name for name in names):
            raise InputError(f"names is {format_value(self.names)}; pass a list of column names in the file's order")
        if len(set(kept)) < len(kept):
            raise InputError(f"names is {format_value(self.names)}, which has a name twice; rename one of the two")
        if names and self.header == "first":
            raise InputError("header 'first' and a list of names cannot be combined; use one of them")
