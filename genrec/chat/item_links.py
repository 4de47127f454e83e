"""Item links: how a reply names an item, as a Markdown link that carries the item's id.

    [Tea Pot \\[red\\]](#item=22423)

A Markdown reader shows the title; a client of genrec reads the id. All other text of a reply is escaped, so that
neither a title nor generated text can produce a link, an image or HTML.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, unquote

from genrec.prompting.template import one_line
from genrec.types import ItemId

_ESCAPE_IN_TITLE = re.compile(r"([\\`*_{}\[\]<>()#+!|~&])")
# An exclamation mark turns an item link after it into an image; elsewhere it is harmless.
_ESCAPE_IN_TEXT = re.compile(r"([\\`*_\[\]<>|~&]|!(?=\[|\Z))")
_ESCAPED = re.compile(r"\\([\\`*_{}\[\]<>()#+!|~&])")
# Bidirectional controls reorder the text after them, even outside the link.
_BIDI_CONTROLS = re.compile("[\u202a-\u202e\u2066-\u2069]")
# A backslash consumes the next character, so that an escaped bracket opens no link; an image is not an item link.
_LINK = re.compile(r"\\.|!?\[((?:\\.|[^\\\[\]])*)\]\(#item=([A-Za-z0-9_.~%-]*)\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ItemLink:
    """An item link in a text: the item's id as text, and the title that is shown."""

    item_id: str
    title: str


def format_item_link(item_id: ItemId, title: str) -> str:
    """Write an item link on one line.

    Control characters of the title become spaces and bidirectional controls are dropped. An item without a title is
    shown by its id.
    """
    shown = one_line(_BIDI_CONTROLS.sub("", title)) or one_line(_BIDI_CONTROLS.sub("", str(item_id)))
    escaped = _ESCAPE_IN_TITLE.sub(r"\\\1", shown)
    return f"[{escaped}](#item={quote(str(item_id), safe='')})"


def escape_markdown(text: str) -> str:
    """Escape plain text for Markdown, so that it opens no link, image or HTML next to any other text."""
    return _ESCAPE_IN_TEXT.sub(r"\\\1", text)


def extract_item_ids(text: str) -> tuple[str, ...]:
    """The ids of a text's item links, as text, in order and with repetitions."""
    return tuple(piece.item_id for piece in split_item_links(text) if isinstance(piece, ItemLink))


def split_item_links(text: str) -> Iterator[str | ItemLink]:
    """Split Markdown into item links and the text between them, which is yielded without its escapes."""
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
