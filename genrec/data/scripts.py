"""Scripts of texts, such as LATIN, CJK or CYRILLIC, by the Unicode names of their letters.

Scripts and not languages: titles are too short to tell languages apart, and which script it is decides whether a model
can read them.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable

NO_LETTERS = "no letters"


def count_scripts(texts: Iterable[str]) -> dict[str, int]:
    """The number of texts with letters of each script, the most common first; a text with two counts for both."""
    counts: Counter[str] = Counter()
    scripts: dict[str, str] = {}
    for text in texts:
        letters = {character for character in text if character.isalpha()}
        scripts |= {letter: _script_of(letter) for letter in letters - scripts.keys()}
        counts.update({scripts[letter] for letter in letters} or {NO_LETTERS})
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def _script_of(character: str) -> str:
    """The script of a letter: the first word of its name."""
    return unicodedata.name(character, "UNNAMED").partition(" ")[0]
