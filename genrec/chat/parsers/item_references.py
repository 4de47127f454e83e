"""Which items of a list somebody points at: by their places, or by words of their titles."""

import re
from collections.abc import Iterator, Sequence

from genrec.chat.parsers.title_lookup import plain
from genrec.types import Recommendation

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "last")
_COUNTS = {"two": 2, "three": 3, "four": 4, "2": 2, "3": 3, "4": 4}
_NTH = rf"(?:{'|'.join(_ORDINALS)}|\d{{1,3}}(?:st|nd|rd|th))"
_VERBS = (
    r"is|isn't|are|aren't|was|were|looks?|seems?|feels?|sounds?|smells?|costs?|has|would|wouldn't|could|can|will|might|"
    r"does|doesn't|do|don't"
)
_JOINS = r"and|or|but|please|thanks?|though|too|instead|with|than|over|versus|vs|again|best|most|as well|at all"
_BEHIND = rf"(?=\s*(?:$|[,.;:!?)])|\s*'s\b|\s+(?:ones?|items?|of (?:these|those|them)|{_JOINS}|{_VERBS})(?![\w']))"
# An ordinal in an ordinary noun ("first aid kit", "my second child") names no place.
_PLACE = re.compile(
    rf"(?:\b(?:the|and|or|than)\s+|^(?=\S+\s+(?:and|or)\b))(?P<nth>{_NTH})\b(?:\s+(?P<many>two|three|four|[234]))?{_BEHIND}"
    rf"|(?:\bnumbers?\s*|\bno\.?\s*|(?<!\w)#\s*)(?P<number>\d{{1,4}})\b{_BEHIND}"
    r"|\b(?:like|compare|and|or|versus|vs|why|(?<=\d )with)\s+(?P<bare>\d{1,2})\b"
    r"(?!\s*%|\.\d|\s+(?!(?:and|or|but|with|are|is|look)\b)\w)"
    r"|^(?P<begun>\d{1,2})(?=\s*(?:,|and\b|or\b)\s*(?:\d{1,2})\b|\s+(?:is|are|looks?)\b)"
)
_THE = frozenset(("the", "that", "this"))
_POLITE = re.compile(r"^(?:yes|both|and|or)\s+|\s+(?:please|thanks|as well|both)$")
_ALONE = re.compile(rf"(?:the )?{_NTH}(?: one| item)?|(?:number |no\.? ?|# ?)?\d{{1,2}}")


def placed(said: str, shown: Sequence[Recommendation]) -> list[Recommendation]:
    """The items of a list that a text in small letters names by their places, each once, in the order of the text."""
    places: list[int] = []
    for match in _PLACE.finditer(said):
        if nth := match["nth"]:
            many = _COUNTS.get(match["many"] or "", 1)
            first = len(shown) - many if nth == "last" else _number(nth) - 1
            places += range(first, first + many)
        else:
            places.append(int(match["number"] or match["bare"] or match["begun"]) - 1)
    return [shown[place] for place in dict.fromkeys(places) if 0 <= place < len(shown)]


def pointed(said: str, shown: Sequence[Recommendation]) -> list[Recommendation]:
    """The items of a list that a text in small letters points at: "the mug", "that vanilla one".

    By what only one of the titles ends with, or, before "one", by a word that only one of them holds.
    """
    found = {place for _, _, place in _runs(plain(said).split(), shown)}
    return [item for place, item in enumerate(shown) if place in found]


def is_pointer(said: str, shown: Sequence[Recommendation]) -> bool:
    """Whether a text in small letters points at an item and says nothing else."""
    said = _POLITE.sub("", _POLITE.sub("", said))
    words = plain(said).split()
    return bool(_ALONE.fullmatch(said)) or any((start, end) == (0, len(words)) for start, end, _ in _runs(words, shown))


def _runs(words: Sequence[str], shown: Sequence[Recommendation]) -> Iterator[tuple[int, int, int]]:
    """Where an item is pointed at: from which word to which, and its place in the list."""
    titles = [plain(item.title).split() for item in shown]
    held = [frozenset(title) for title in titles]
    for start in (place for place, word in enumerate(words) if word in _THE):
        for place, (title, own) in enumerate(zip(titles, held, strict=True)):
            end = start + 1
            while end < len(words) and words[end] in own and end - start <= len(title):
                end += 1
            # The last word of a title that was reached, or a word of its own before "one".
            while end > start + 1:
                word = words[end - 1]
                alone = sum(word in other for other in held) == 1
                if alone and end < len(words) and words[end] in ("one", "ones") and end == start + 2:
                    yield start, end + 1, place
                    break
                if alone and word == title[-1]:
                    yield start, end, place
                    break
                end -= 1


def _number(nth: str) -> int:
    return _ORDINALS.index(nth) + 1 if nth in _ORDINALS else int(nth[:-2])
