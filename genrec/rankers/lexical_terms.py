"""The terms by which a text is found in every language: its words, and the character n-grams of its words.

Scripts without spaces (Chinese, Japanese, Thai) and Hangul have single characters and pairs, as in Lucene's
CJKAnalyzer. All others have words and trigrams, so that parts of compounds, inflections and misspelt words are found,
too. Letters and digits are separate words, so "BX-4410", "BX4410" and "bx 4410" are the same.
"""

import re
import unicodedata
from collections.abc import Iterator

_ACCENTS = re.compile("[\u0300-\u036f]")  # of Latin, Greek and Cyrillic; vowel signs of other scripts are letters
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]+|\d+|[^\s\d{_UNSPACED}]+")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_N = 3  # characters of an n-gram; a word is written between two _ first


class Letters(dict[int, int | None]):
    """For `str.translate`: letters, marks, digits and emoji stay, format characters go, others become spaces."""

    def __missing__(self, code: int) -> int | None:
        category = unicodedata.category(chr(code))
        is_letter = category[0] in "LMN" or category == "So"
        self[code] = code if is_letter else None if category == "Cf" else ord(" ")
        return self[code]


def words_of(text: str, letters: Letters) -> list[str]:
    """The words of a text, in order, without case, accents and punctuation; runs of a script without spaces are words.

    Args:
        text: any text.
        letters: shared by many texts, because it remembers characters.
    """
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    plain = unicodedata.normalize("NFC", _ACCENTS.sub("", decomposed))
    return _WORD.findall(plain.translate(letters))


def terms_of(word: str) -> Iterator[str]:
    """The terms of one word of `words_of`: the word and its n-grams, or characters and pairs."""
    if _IS_UNSPACED.match(word):
        yield from word
        yield from (word[start : start + 2] for start in range(len(word) - 1))
        return
    yield word
    marked = f"_{word}_"
    if len(marked) > _N:
        yield from (marked[start : start + _N] for start in range(len(marked) - _N + 1))
