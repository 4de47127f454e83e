"""Series of items: titles that begin with the same words."""

import re
from collections.abc import Sequence

from genrec.chat.languages.inflection import lowercase

_MAX_PHRASE_LENGTH = 200  # characters of a prefix, quoted as in a filter


def common_title_prefix(titles: Sequence[str]) -> str:
    """The longest prefix, in whole words, that the first title shares with any other; "" if there is none.

    In lower case, with the whitespace of the title, and short enough for a filter.
    """
    first = lowercase(titles[0]).split()
    size = max((shared_prefix_length(first, lowercase(title).split()) for title in titles[1:]), default=0)
    ends = [match.end() for match in re.finditer(r"\S+", titles[0])]
    prefixes = (titles[0][:end] for end in reversed(ends[:size]))
    prefix = next((candidate for candidate in prefixes if len(repr(candidate)) <= _MAX_PHRASE_LENGTH), "")
    return "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in prefix).strip()


def shared_prefix_length(first: Sequence[str], second: Sequence[str]) -> int:
    """How many words at the start of two titles are equal."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((size for size, (one, other) in pairs if one != other), min(len(first), len(second)))
