"""English words in the forms that are compared: lower case, singular and plural."""

import re

_CURLY_APOSTROPHE = "\N{RIGHT SINGLE QUOTATION MARK}"  # typed by phones instead of an apostrophe
_NOT_INFLECTED = re.compile(r"[^\w-]|\d")


def lowercase(text: str) -> str:
    """A text in lower case, with single spaces and straight apostrophes.

    Each character is lowered on its own, as Arrow does when it compares, so "ß" stays.
    """
    letters = ((letter, letter.lower()) for letter in " ".join(text.split()).replace(_CURLY_APOSTROPHE, "'"))
    return "".join(lower if len(lower) == 1 else letter for letter, lower in letters)


def inflections(word: str) -> tuple[str, ...]:
    """The singular and plural forms of a word in lower case, likeliest singular first.

    A plural with an ambiguous ending ("cookies", "leaves") yields each singular it may have.
    """
    word = lowercase(word)
    if "'" in word:
        return word, word.replace("'", _CURLY_APOSTROPHE)
    if _NOT_INFLECTED.search(word):
        return (word,)
    singulars = _singulars(word)
    return (*singulars, word, *([] if singulars else _plurals(word)))


def _singulars(word: str) -> list[str]:
    """The singulars that a word may have; none if it is not a plural."""
    if len(word) < 4 or not word.endswith("s") or word.endswith("ss"):
        return []
    if word.endswith("ies") and len(word) > 4:
        return [word[:-3] + "y", word[:-1]]
    if word.endswith(("sses", "shes", "ches", "xes", "zes", "oes")):
        return [word[:-2], word[:-1]]
    if word.endswith("ves"):
        return [word[:-1], word[:-3] + "f", word[:-3] + "fe"]
    return [word[:-1], word[:-2]] if word.endswith("ses") else [word[:-1]]


def _plurals(word: str) -> list[str]:
    if word.endswith("y") and word[-2:-1] not in tuple("aeiou"):
        return [word[:-1] + "ies"]
    if word.endswith(("s", "sh", "ch", "x", "z")):
        return [word + "es"]
    if word.endswith("o"):
        return [word + "s", word + "es"]
    if word.endswith(("f", "fe")):
        return [word + "s", word.removesuffix("e")[:-1] + "ves"]
    return [word + "s"]
