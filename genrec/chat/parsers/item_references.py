"""References to items of the list that was shown last: by position ("the second") or by title ("the mug")."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from genrec.chat.parsers.title_lookup import normalize_words
from genrec.types import Recommendation

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "last")
_NUMBER_WORDS = {"two": 2, "three": 3, "four": 4, "2": 2, "3": 3, "4": 4}
_ORDINAL = rf"(?:{'|'.join(_ORDINALS)}|\d{{1,3}}(?:st|nd|rd|th))"
_VERBS = (
    r"is|isn't|are|aren't|was|were|looks?|seems?|feels?|sounds?|smells?|costs?|has|would|wouldn't|could|can|will|might|"
    r"does|doesn't|do|don't"
)
_CONNECTIVES = r"and|or|but|please|thanks?|though|too|instead|with|than|over|versus|vs|again|best|most|as well|at all"
_REFERENCE_LOOKAHEAD = (
    rf"(?=\s*(?:$|[,.;:!?)])|\s*'s\b|\s+(?:ones?|items?|of (?:these|those|them)|{_CONNECTIVES}|{_VERBS})(?![\w']))"
)
# An ordinal inside a noun phrase ("first aid kit", "my second child") is not a position.
_ORDINAL_REFERENCE = re.compile(
    rf"(?:\b(?:the|and|or|than)\s+|^(?=\S+\s+(?:and|or)\b))(?P<nth>{_ORDINAL})\b(?:\s+(?P<many>two|three|four|[234]))?{_REFERENCE_LOOKAHEAD}"
    rf"|(?:\bnumbers?\s*|\bno\.?\s*|(?<!\w)#\s*)(?P<number>\d{{1,4}})\b{_REFERENCE_LOOKAHEAD}"
    r"|\b(?:like|compare|and|or|versus|vs|why|(?<=\d )with)\s+(?P<bare>\d{1,2})\b"
    r"(?!\s*%|\.\d|\s+(?!(?:and|or|but|with|are|is|look)\b)\w)"
    r"|^(?P<begun>\d{1,2})(?=\s*(?:,|and\b|or\b)\s*(?:\d{1,2})\b|\s+(?:is|are|looks?)\b)"
)
_DETERMINERS = frozenset(("the", "that", "this"))
_POLITE_WORDS = re.compile(r"^(?:yes|both|and|or)\s+|\s+(?:please|thanks|as well|both)$")
_CONJUNCTION = re.compile(r" ?(?:,|\band\b) ?")
_BARE_REFERENCE = re.compile(rf"(?:the )?{_ORDINAL}(?: one| item)?|(?:number |no\.? ?|# ?)?\d{{1,2}}")


def find_item_references(text: str, shown: Sequence[Recommendation]) -> list[Recommendation]:
    """The items that a text in lower case refers to by position or else by title."""
    return find_ordinal_references(text, shown) or find_title_references(text, shown)


def find_ordinal_references(text: str, shown: Sequence[Recommendation]) -> list[Recommendation]:
    """The items that a text in lower case refers to by position, each once, in the order of the text."""
    positions: list[int] = []
    for match in _ORDINAL_REFERENCE.finditer(text):
        if nth := match["nth"]:
            many = _NUMBER_WORDS.get(match["many"] or "", 1)
            first = len(shown) - many if nth == "last" else _ordinal_to_number(nth) - 1
            positions += range(first, first + many)
        else:
            positions.append(int(match["number"] or match["bare"] or match["begun"]) - 1)
    return [shown[position] for position in dict.fromkeys(positions) if 0 <= position < len(shown)]


def find_title_references(text: str, shown: Sequence[Recommendation]) -> list[Recommendation]:
    """The items that a text in lower case refers to by title: "the mug", "that vanilla one".

    A reference ends with the last word of a title that no other title contains, or with "one" after such a word.
    """
    found = {position for _, _, position in _title_reference_spans(normalize_words(text).split(), shown)}
    return [item for position, item in enumerate(shown) if position in found]


def is_item_reference(text: str, shown: Sequence[Recommendation]) -> bool:
    """Whether a text in lower case only refers to an item and says nothing about it."""
    text = _POLITE_WORDS.sub("", _POLITE_WORDS.sub("", text))
    words = normalize_words(text).split()
    return bool(_BARE_REFERENCE.fullmatch(text)) or any(
        (start, end) == (0, len(words)) for start, end, _ in _title_reference_spans(words, shown)
    )


def only_refers_to_items(text: str, shown: Sequence[Recommendation]) -> bool:
    """Whether a text in lower case only refers to items, one or more, and says nothing about them."""
    return all(is_item_reference(piece, shown) for piece in _CONJUNCTION.split(text))


def _title_reference_spans(words: Sequence[str], shown: Sequence[Recommendation]) -> Iterator[tuple[int, int, int]]:
    """References by title: the first word, the end (exclusive) and the position of the item in the list.

    Takes time in proportion to the words and to the titles, so that no message is slow.
    """
    starts = [index for index, word in enumerate(words) if word in _DETERMINERS]
    if not starts:
        return
    titles = [normalize_words(item.title).split() for item in shown]
    counts = Counter(word for title in titles for word in frozenset(title))
    for position, title in enumerate(titles):
        vocabulary = frozenset(title)
        if not vocabulary.intersection(words):
            continue
        last = title[-1] if counts[title[-1]] == 1 else None
        run_ends, last_ends = _run_ends(words, vocabulary), _last_ends(words, last)
        for start in starts:
            # The longest run of words of the title, shortened until it ends in a word that identifies the title.
            end = last_ends[min(run_ends[start + 1], start + 1 + len(title))]
            if end > start + 2:
                yield start, end, position
            elif run_ends[start + 1] >= start + 2 and counts[words[start + 1]] == 1:
                if words[start + 2 : start + 3] in (["one"], ["ones"]):
                    yield start, start + 3, position
                elif words[start + 1] == last:
                    yield start, start + 2, position


def _run_ends(words: Sequence[str], vocabulary: frozenset[str]) -> list[int]:
    """For each position up to the number of words, the end of the run of words of a vocabulary that starts there."""
    ends = [len(words)] * (len(words) + 1)
    for index in range(len(words) - 1, -1, -1):
        ends[index] = ends[index + 1] if words[index] in vocabulary else index
    return ends


def _last_ends(words: Sequence[str], last: str | None) -> list[int]:
    """For each end, the largest end up to it before which a given word stands; 0 if there is none."""
    ends = [0]
    for index, word in enumerate(words, start=1):
        ends.append(index if word == last else ends[-1])
    return ends


def _ordinal_to_number(ordinal: str) -> int:
    return _ORDINALS.index(ordinal) + 1 if ordinal in _ORDINALS else int(ordinal[:-2])
