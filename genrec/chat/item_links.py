"""How a reply names an item: a Markdown link that carries the item's id.

    [Tea Pot \\[red\\]](#item=22423)

A reader of Markdown shows the title; whoever knows genrec reads the id. All other text of a reply is escaped, so that
neither a title nor a word of a model's can make up a link, an image or HTML.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, unquote

from genrec.prompting.template import one_line
from genrec.types import ItemId

_IN_TITLES = re.compile(r"([\\`*_{}\[\]<>()#+!|~&])")
# An exclamation mark makes an image of the mention that may stand behind it, and is left alone elsewhere.
_IN_TEXTS = re.compile(r"([\\`*_\[\]<>|~&]|!(?=\[|\Z))")
_ESCAPED = re.compile(r"\\([\\`*_{}\[\]<>()#+!|~&])")
# Characters that turn the direction of what follows, beyond the mention they stand in.
_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")
# A backslash takes what follows it along, so that an escaped bracket opens nothing; an image is no mention.
_LINK = re.compile(r"\\.|!?\[((?:\\.|[^\\\[\]])*)\]\(#item=([A-Za-z0-9_.~%-]*)\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Mention:
    """An item that a text names: its id as text, and what it is called there."""

    item_id: str
    title: str


def write_mention(item_id: ItemId, title: str) -> str:
    """The mention of an item, on one line.

    Control characters of the title become spaces, those that turn the direction of a text are left out; an item without
    a title is called by its id.
    """
    shown = one_line(_TURNING.sub("", title)) or one_line(_TURNING.sub("", str(item_id)))
    escaped = _IN_TITLES.sub(r"\\\1", shown)
    return f"[{escaped}](#item={quote(str(item_id), safe='')})"


def write_text(text: str) -> str:
    """Text as it is, for where Markdown is read: it can open no link, no image and no HTML, whatever stands around."""
    return _IN_TEXTS.sub(r"\\\1", text)


def read_mentions(text: str) -> tuple[str, ...]:
    """The ids of the items that a text names, as texts, in their order; one that is named again comes again."""
    return tuple(part.item_id for part in read_parts(text) if isinstance(part, Mention))


def read_parts(text: str) -> Iterator[str | Mention]:
    """A text taken apart into what is plain, as it reads without Markdown's escapes, and what is a mention."""
    start = 0
    for found in _LINK.finditer(text):
        if found[2] is None or found[0].startswith("!"):
            continue
        if found.start() > start:
            yield _plain(text[start : found.start()])
        yield Mention(unquote(found[2]), _plain(found[1]))
        start = found.end()
    if start < len(text):
        yield _plain(text[start:])


def _plain(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)
