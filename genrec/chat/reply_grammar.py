"""The grammar of constrained replies: fixed sentence frames, filled with item names and true clauses."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from genrec.chat.conversation import TurnContext

OpeningStyle = Literal["quoting", "going on", "beginning"]

PLACEHOLDER = re.compile(r"\[([0-9]+|w)\]")
"""What a constrained reply writes for an item, as its number from 1, or for the quoted search phrase ("w")."""

MAX_DESCRIBED_ITEMS = 3
"""Items that a reply describes; the others are only named."""

# The openings of a style begin with the same words, which the model therefore need not choose.
_OPENINGS: Mapping[OpeningStyle, tuple[str, ...]] = MappingProxyType(
    {
        "quoting": tuple(
            f"For “[w]” {phrase} [1]" for phrase in ("I would start with", "my first suggestion is", "first comes")
        ),
        "going on": ("Now I would start with [1]", "Now my first suggestion is [1]", "Now first comes [1]"),
        "beginning": ("I would start with [1]", "I would first look at [1]"),
    }
)
_TRANSITIONS = (
    (" Then there is", " Next comes", " You could also take"),
    (" Another one is", " Or look at", " And there is"),
)
_CLOSINGS = ("", " Tell me which of these you like.", " Is there anything that I should leave out?")
_CHEAPER_QUESTION = " Shall I look for something cheaper?"


def reply_grammar(item_facts: Sequence[Sequence[str]], opening: OpeningStyle, *, has_prices: bool) -> str:
    """Build the grammar of a constrained reply, in llguidance's dialect of Lark.

    Items and the search phrase are written as placeholders; see `PLACEHOLDER`.

    Args:
        item_facts: for each item, best first, the clauses that may follow its name.
        opening: how the reply begins.
        has_prices: whether the reply may offer something cheaper.
    """
    rules = [f"open: {_alternatives(_OPENINGS[opening])}"]
    elements = ["open"]
    for number, facts in enumerate(item_facts[:MAX_DESCRIBED_ITEMS], start=1):
        if number > 1:
            rules.append(f"next{number}: {_alternatives(_TRANSITIONS[number - 2])}")
            elements += [f"next{number}", f'" [{number}]"']
        if facts:
            rules.append(f"clause{number}: {_alternatives(facts)}")
            elements.append(f"clause{number}")
        elements.append('"."')
    if others := [f"[{number}]" for number in range(MAX_DESCRIBED_ITEMS + 1, len(item_facts) + 1)]:
        several = f"There are also {', '.join(others[:-1])} and {others[-1]}."
        elements.append(f'" {several if others[1:] else f"There is also {others[0]}."}"')
    rules.append(f"close: {_alternatives((*_CLOSINGS, _CHEAPER_QUESTION) if has_prices else _CLOSINGS)}")
    return "\n".join([f"start: {' '.join([*elements, 'close'])}", *rules])


def opening_style(context: TurnContext) -> OpeningStyle:
    """How the reply to a turn begins: a new search phrase is quoted, an old one is not."""
    words = context.preferences.words
    if words and words != context.conversation.preferences.words:
        return "quoting"
    return "going on" if context.conversation.turns else "beginning"


def _alternatives(texts: Sequence[str]) -> str:
    return " | ".join(f'"{text}"' for text in texts)
