"""Clauses: the parts of a message that are parsed one at a time."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from genrec.chat.languages.exclusion_phrases import continues_exclusion
from genrec.chat.languages.inflection import lowercase
from genrec.chat.languages.price_phrases import find_price_ranges
from genrec.chat.languages.stop_words import is_filler
from genrec.chat.parsers.item_references import find_item_references, is_item_reference
from genrec.types import Recommendation

MAX_CLAUSES = 8  # clauses of a message that are parsed; the others become a search phrase
_MAX_JOINED_PIECES = 16  # pieces of a clause, each of which may read the whole clause

_CLAUSE_SEPARATOR = re.compile(
    r"(?:[;!?\n]|,(?!\d)|\.(?!\d)(?!(?<=\bno\.)\s?\d))+|"
    r"(?<!anything )(?<!everything )(?<!all )(?<!colour )(?<!color )\bbut\b|\band\b",
    re.IGNORECASE,
)
_COPULA = re.compile(r"\b(?:is|isn't|looks?)\b")


@dataclass(frozen=True)
class ClauseContext:
    """A clause with the items that it may refer to.

    Attributes:
        text: the clause in lower case.
        shown: the list that was shown last, best first.
        mentioned: its items that the whole message refers to.
        excepted: its items that the message excepts from a judgement of all.
    """

    text: str
    shown: Sequence[Recommendation]
    mentioned: Sequence[Recommendation]
    excepted: Sequence[Recommendation]


def split_clauses(message: str, shown: Sequence[Recommendation]) -> tuple[list[str], list[str]]:
    """Split a message into clauses, without filler.

    A clause that only refers to an item stays with the judgement that follows ("the mug and the lamp are nice").

    Returns:
        The clauses to parse, at most `MAX_CLAUSES`, and the remaining pieces.
    """
    pieces = [(separator, piece) for separator, piece in _split_message(message) if not is_filler(lowercase(piece))]
    clauses: list[str] = []
    joined = 0  # pieces of the last clause
    only_refers = False  # whether the last clause refers to items and says nothing else
    for position, (separator, piece) in enumerate(pieces):
        text = lowercase(piece)
        refers = is_item_reference(text, shown)
        joins = 0 < joined < _MAX_JOINED_PIECES and separator.strip().lower() in ("and", ",")
        previous = lowercase(clauses[-1]) if joins else ""
        if (
            joins
            and only_refers
            and find_item_references(text, shown)
            and not (separator == "," and _COPULA.search(text))
        ):
            clauses[-1] = _join(clauses[-1], separator, piece)
            joined += 1
            only_refers = refers
        elif joins and (
            (refers and separator != "," and find_item_references(previous, shown))
            or continues_exclusion(previous, separator, text)
        ):
            clauses[-1] = _join(clauses[-1], separator, piece)
            joined += 1
        elif len(clauses) == MAX_CLAUSES:
            return clauses, [other for _, other in pieces[position:]]
        else:
            clauses.append(piece)
            joined = 1
            only_refers = refers
    return clauses, []


def _join(clause: str, separator: str, piece: str) -> str:
    return f"{clause}{separator} {piece}" if separator == "," else f"{clause} {separator} {piece}"


def _split_message(message: str) -> Iterator[tuple[str, str]]:
    """The pieces of a message, each with the separator before it; a range such as "between 2 and 5" is one piece."""
    ranges = find_price_ranges(message.lower()) if len(message.lower()) == len(message) else []
    separator, start = "", 0
    for match in _CLAUSE_SEPARATOR.finditer(message):
        if any(low < match.start() < high for low, high in ranges):
            continue
        if piece := message[start : match.start()].strip():
            yield separator, piece
        separator, start = match[0], match.end()
    if piece := message[start:].strip():
        yield separator, piece
