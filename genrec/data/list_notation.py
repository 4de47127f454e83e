"""List notation: lists written as text, such as "['a', 'b']", '["a", "b"]' and "a|b".

Letters: N rows.
"""

import ast
import json

import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.notation import TypedValues

_BRACKETS = r"(?s)^\s*\[.*\]\s*$"
_MIN_SEPARATED = 0.1  # of the texts have a "|": others have it by chance
_MAX_ELEMENT = 50  # characters; longer ones are sentences
_ELEMENTS = rf"^\s*[^|\s][^|]{{0,{_MAX_ELEMENT - 1}}}(\|\s*[^|\s][^|]{{0,{_MAX_ELEMENT - 1}}})*$"


def read_bracketed_lists(texts: pa.Array) -> TypedValues | None:
    """Read text as lists in the notation of Python or JSON, of texts or of numbers.

    Args:
        texts: large_string [N], null where there is nothing to read.

    Returns:
        Lists, null where a text is none; None if there are none, or if their elements have several types.
    """
    is_list = pc.match_substring_regex(texts, _BRACKETS)
    if not pc.any(is_list).as_py():
        return None
    encoded = pc.if_else(is_list, texts, None).dictionary_encode()
    try:
        lists = pa.array([_parse(text) for text in encoded.dictionary.to_pylist()]).take(encoded.indices)
    except (pa.ArrowException, OverflowError, UnicodeError):
        return None
    if not pa.types.is_list(lists.type):
        return None
    element = lists.type.value_type
    kind = pa.large_string() if pa.types.is_string(element) else element
    is_known = kind in (pa.large_string(), pa.int64(), pa.float64())
    return TypedValues("lists", lists.cast(pa.large_list(kind))) if is_known else None


def read_separated_lists(texts: pa.Array, *, is_given: bool = False) -> TypedValues | None:
    """Read text as lists of texts separated by "|"; a text without one is a list of one.

    Args:
        texts: large_string [N], null where there is nothing to read.
        is_given: whether the caller says that these are lists.

    Returns:
        Lists, null where an element is empty or long; None if few texts have a separator.
    """
    known = len(texts) - texts.null_count
    separated = pc.sum(pc.match_substring(texts, "|")).as_py() or 0
    if not is_given and separated < max(1, _MIN_SEPARATED * known):
        return None
    fits = pc.match_substring_regex(texts, _ELEMENTS)
    lists = pc.split_pattern(pc.if_else(fits, texts, None), "|").cast(pa.large_list(pa.large_string()))
    trimmed = pc.utf8_trim_whitespace(lists.flatten())
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths).cast(pa.int64())])
    return TypedValues("lists", pa.LargeListArray.from_arrays(offsets, trimmed, mask=lists.is_null()))


def _parse(text: str) -> list[str] | list[int] | list[float] | None:
    """The list that a text writes, of texts or of numbers; None if it writes none. Nothing is evaluated."""
    is_simple = '"' not in text and "\\" not in text  # then quotes of Python only open and close a text
    try:
        elements = json.loads(text.replace("'", '"') if is_simple else text)
    except (ValueError, RecursionError):
        try:
            elements = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    elements = [element for element in elements if element is not None]
    is_plain = all(isinstance(element, str | int | float) and not isinstance(element, bool) for element in elements)
    return elements if is_plain else None
