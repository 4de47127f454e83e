"""File options: how a file of text is to be read, where the caller says so instead of having it found out."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

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

TYPES = ("text", "number", "decimal-comma", "boolean", "list", "minutes", "h:m", "m:s")
"""What an attribute can be read as: what is written; numbers with a point or a comma as the decimal sign; yes and no;
lists as in Python or JSON, or separated by "|"; durations in minutes, where "1:52" has hours or minutes first."""


@dataclass(frozen=True, slots=True)
class FileFormat:
    """How a file is to be read; None stands for what its text shows.

    Attributes:
        separator: one character, "::", or the name "tab", "comma", "semicolon", "pipe" or "caret".
        encoding: Python's name of an encoding, such as "cp1252".
        header: "first" if the first line has the names of the columns, "none" if it is data.
        names: names of the columns, in their order, for a file without a header; "_" for a column that is not read.
        types: what attributes are read as, such as {"price": "decimal-comma"}, by their names; each one of `TYPES`.
            "text" for all leaves every attribute as it is written. They apply to data frames, too.
    """

    separator: str | None = None
    encoding: str | None = None
    header: str | None = None
    names: Sequence[str] = ()
    types: Mapping[str, str] | str = field(default_factory=lambda: MappingProxyType({}))

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
        self._check_types()

    def _check_types(self) -> None:
        types = self.types
        if types != "text" and not isinstance(types, Mapping):
            raise InputError(f"types is {format_value(types)}; pass a mapping of columns to types, or 'text'")
        for name, kind in types.items() if isinstance(types, Mapping) else ():
            if kind not in TYPES:
                close = difflib.get_close_matches(str(kind), TYPES, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(TYPES)}"
                raise InputError(f"the type of {name!r} is {format_value(kind)}, which is no type", remedy=hint)
