"""Whole words in texts: "art" is one of "modern art", and not of "party".

A word ends where no letter, digit, accent or "_" of any script continues it.

Letters: N rows.
"""

import re
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_ASCII_WORD_BOUNDARY = r"(?:{}|[\x00-/:-@\[-^`\x7b-\x7f])"
_WORD_BOUNDARY = r"(?:{}|[^\pL\pM\pN_])"


def contains_whole_words(column: pa.Array, text: str) -> pa.Array:
    """Which texts of a column contain another text as whole words.

    Args:
        column: texts [N].
        text: not empty; case is ignored.

    Returns:
        Arrow booleans [N], null for missing texts.
    """
    candidates = pc.match_substring(column, text, ignore_case=True)
    rows = np.flatnonzero(candidates.fill_null(False).to_numpy(zero_copy_only=False))
    found = np.zeros(len(column), dtype=np.bool_)
    # A pattern with the letters of all scripts takes long to compile, so it is used for non-ASCII texts only.
    for edge, only_ascii in ((_ASCII_WORD_BOUNDARY, True), (_WORD_BOUNDARY, False)):
        rows = rows[~found[rows]]
        texts = column.take(pa.array(rows))
        if not only_ascii:
            rows = rows[~np.asarray(pc.string_is_ascii(texts).to_numpy(zero_copy_only=False), dtype=np.bool_)]
            texts = column.take(pa.array(rows))
        if len(rows):
            is_match = pc.match_substring_regex(texts, _whole_word_pattern(text, edge), ignore_case=True)
            found[rows] = is_match.to_numpy(zero_copy_only=False)
    return pc.if_else(pc.is_valid(column), pa.array(found), None)


def _whole_word_pattern(text: str, boundary: str) -> str:
    """A regular expression (RE2) for a text as whole words; RE2's own \\b is ASCII only."""
    before, after = (
        boundary.format(end) if letter == "_" or unicodedata.category(letter)[0] in "LMN" else ""
        for end, letter in (("^", text[0]), ("$", text[-1]))
    )
    return before + re.escape(text) + after
