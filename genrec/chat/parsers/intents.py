"""Requests about a conversation or its last list: "why the second?", "compare 1 and 3", "undo"."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from genrec.chat.languages.inflection import lowercase
from genrec.chat.parsers.item_references import find_item_references
from genrec.types import Recommendation

_MAX_COMPARED_ITEMS = 3

_UNDO = re.compile(r"\W*(?:undo|go back|back|take (?:that|it) back|never ?mind)(?:\s+please)?\W*")
_START_OVER = re.compile(
    r"\W*(?:start (?:over|again)|begin again|new conversation|forget (?:it all|everything))(?: please)?\W*"
)
_WHY = re.compile(r"^\W*(?:but |and |so )?why\b(?! not\b)|\bwhat makes you\b")
_COMPARE = re.compile(r"\b(?:compare|comparison|difference between|versus|vs)\b")
_DESCRIBE = re.compile(
    r"\b(?:tell me (?:more )?about|how much (?:is|does|are)|what (?:is|does|about)|describe|details of)\b"
)
_WHICH_QUESTION = re.compile(r"^\W*which (?:one |item |product |of (?:these|them|those) )?(?:is|are)\b")
_COMPARE_ALL = re.compile(
    r"\W*(?:please |can you |could you |what is the |what's the )*(?:compare|comparison|difference between)"
    r"(?: (?:all|of|the|them|these|those|items?|both|first|two|three|please|for me))*\W*"
)


@dataclass(frozen=True)
class UserIntent:
    """A request that states no preference.

    Attributes:
        kind: "why" explains items, "compare" compares them (or describes a single one), "undo" removes the last turn,
            and "start over" removes all turns.
        items: the items it refers to, from the list that was shown last.
    """

    kind: Literal["why", "compare", "undo", "start over"]
    items: tuple[Recommendation, ...] = ()


def detect_intent(message: str, shown: Sequence[Recommendation]) -> UserIntent | None:
    """Recognise a request about the conversation or the list; None for a message that states preferences."""
    text = lowercase(message)
    if _UNDO.fullmatch(text):
        return UserIntent("undo")
    if _START_OVER.fullmatch(text):
        return UserIntent("start over")
    return _detect_question(text, shown) if shown else None


def _detect_question(text: str, shown: Sequence[Recommendation]) -> UserIntent | None:
    items = find_item_references(text, shown)
    if items and _DESCRIBE.search(text):
        return UserIntent("compare", tuple(items[:_MAX_COMPARED_ITEMS]))
    if _WHICH_QUESTION.search(text):
        return UserIntent("compare", tuple(shown))
    if _COMPARE.search(text):
        if len(items) < 2 and _COMPARE_ALL.fullmatch(text):
            items = list(shown)
        return UserIntent("compare", tuple(items[:_MAX_COMPARED_ITEMS])) if len(items) > 1 else None
    return UserIntent("why", tuple(items or shown[:1])) if _WHY.search(text) else None
