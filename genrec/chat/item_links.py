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

_ESCAPE_IN_TITLE = re.compile(r"([\\`*_{}\[\]<>()#+!|~&])")
# An exclamation mark makes an image of the mention that may stand behind it, and is left alone elsewhere.
_ESCAPE_IN_TEXT = re.compile(r"([\\`*_\[\]<>|~&]|!(?=\[|\Z))")
_ESCAPED = re.compile(r"\\([\\`*_{}\[\]<>()#+!|~&])")
# Characters that turn the direction of what follows, beyond the mention they stand in.
_BIDI_CONTROLS = re.compile("[\u202a-\u202e\u2066-\u2069]")
# A backslash takes what follows it along, so that an escaped bracket opens nothing; an image is no mention.
_LINK = re.compile(r"\\.|!?\[((?:\\.|[^\\\[\]])*)\]\(#item=([A-Za-z0-9_.~%-]*)\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ItemLink:
    """An item that a text names: its id as text, and what it is called there."""

    item_id: str
    title: str


def format_item_link(item_id: ItemId, title: str) -> str:
    """The mention of an item, on one line.

    Control characters of the title become spaces, those that turn the direction of a text are left out; an item without
    a title is called by its id.
    """
    shown = one_line(_BIDI_CONTROLS.sub("", title)) or one_line(_BIDI_CONTROLS.sub("", str(item_id)))
    escaped = _ESCAPE_IN_TITLE.sub(r"\\\1", shown)
    return f"[{escaped}](#item={quote(str(item_id), safe='')})"


def escape_markdown(text: str) -> str:
    """Text as it is, for where Markdown is read: it can open no link, no image and no HTML, whatever stands around."""
    return _ESCAPE_IN_TEXT.sub(r"\\\1", text)


def extract_item_ids(text: str) -> tuple[str, ...]:
    """The ids of the items that a text names, as texts, in their order; one that is named again comes again."""
    return tuple(part.item_id for part in split_item_links(text) if isinstance(part, ItemLink))


def split_item_links(text: str) -> Iterator[str | ItemLink]:
    """A text taken apart into what is plain, as it reads without Markdown's escapes, and what is a mention."""
    start = 0
    for found in _LINK.finditer(text):
        if found[2] is None or found[0].startswith("!"):
            continue
        if found.start() > start:
            yield _unescape(text[start : found.start()])
        yield ItemLink(unquote(found[2]), _unescape(found[1]))
        start = found.end()
    if start < len(text):
        yield _unescape(text[start:])


def _unescape(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)
