"""An item named in a reply, as Markdown: `[title](#item=id)`, so that what comes back still says which item it is.

The text of a reply goes out to any chat client and returns with the next request. The id is quoted as in a URL (RFC
3986, section 2.1), and of the title no character can end the mention or begin another one.
"""

import re
from urllib.parse import quote, unquote

from genrec.template import one_line
from genrec.types import ItemId

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~])")
_MENTION = re.compile(r"\[(?:[^\\\[\]]|\\.)*\]\(#item=([^()\s]+)\)")


def write_mention(item_id: ItemId, title: str) -> str:
    """An item by its title, with its id."""
    escaped = _SPECIAL.sub(r"\\\1", one_line(title))
    return f"[{escaped}](#item={quote(str(item_id), safe='')})"


def read_mentions(text: str) -> tuple[str, ...]:
    """The ids of the items that a text names, in its order; whether there are such items is for a catalog to say."""
    return tuple(unquote(found[1]) for found in _MENTION.finditer(text))
