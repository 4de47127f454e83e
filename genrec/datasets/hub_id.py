"""Ids of models on the Hugging Face Hub."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_ID = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w-][\w./-]*))?", re.ASCII)
_DEFAULT_REVISION = "main"


@dataclass(frozen=True)
class HubId:
    """The id of a model on the Hub: `ORGANISATION/NAME`, or `ORGANISATION/NAME@REVISION`.

    Attributes:
        name: organisation and name.
        revision: a branch, a tag or a commit.
    """

    name: str
    revision: str = _DEFAULT_REVISION

    @classmethod
    def parse(cls, text: str | Path) -> Self | None:
        """Parse an id; None if the text is none, or is the path of an existing folder or file."""
        found = _ID.fullmatch(str(text))
        if found is None or Path(text).exists() or ".." in str(text):
            return None
        return cls(found["name"], found["revision"] or _DEFAULT_REVISION)

    def __str__(self) -> str:
        return self.name if self.revision == _DEFAULT_REVISION else f"{self.name}@{self.revision}"
