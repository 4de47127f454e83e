"""Words as they are compared: in small letters, and one of a thing or many, in English."""

import re

_CURLY_APOSTROPHE = "\N{RIGHT SINGLE QUOTATION MARK}"  # that telephones write for an apostrophe
_NOT_INFLECTED = re.compile(r"[^\w-]|\d")


def lowercase(text: str) -> str:
    """A text in small letters, one by one as Arrow compares them ("ß" stays); single blanks, straight quotes."""
    letters = ((letter, letter.lower()) for letter in " ".join(text.split()).replace(_CURLY_APOSTROPHE, "'"))
    return "".join(lower if len(lower) == 1 else letter for letter, lower in letters)


def inflections(word: str) -> tuple[str, ...]:
    """A word in small letters as it is written of one and of many, likeliest singular first.

    Where the ending does not tell ("cookies", "leaves"), each singular that it could have is there.
    """
    word = lowercase(word)
    if "'" in word:
        return word, word.replace("'", _CURLY_APOSTROPHE)
    if _NOT_INFLECTED.search(word):
        return (word,)
    singulars = _singulars(word)
    return (*singulars, word, *([] if singulars else _plurals(word)))


def _singulars(word: str) -> list[str]:
    """Of a plural; nothing for a word that is none."""
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
