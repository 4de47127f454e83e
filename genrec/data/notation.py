"""Notations: what came of reading a column of text as values of another type."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

MIN_SHARE = 0.98
"""Text becomes values of another type where at least this share of it can be read as them."""


@dataclass(frozen=True, slots=True)
class TypedValues:
    """Values that were read from N texts.

    Attributes:
        what: what they are, such as "numbers".
        values: an array [N], null where a text is no such value.
    """

    what: str
    values: pa.Array


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """Text that can be read in two ways.

    Attributes:
        why: what its values do not show, such as "whether '1,250' is 1250 or 1.25".
        types: the names of the types that decide it.
    """

    why: str
    types: Sequence[str]
