"""The text of an item by which it is found: its title and other columns that hold words.

Letters: N items.
"""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.catalog import Catalog
from genrec.errors import InputError, format_value
from genrec.types import IntArray

_SAMPLE = 1000  # values of a column that decide whether it holds words
_WORD = re.compile(r"[^\W\d_]{2}")
_ADDRESS = re.compile(r"://|^www\.|\.(?:jpe?g|png|gif|webp|svg|mp[34]|html?)$", re.IGNORECASE)


def text_columns(catalog: Catalog, chosen: Sequence[str] | None = None) -> tuple[str, ...]:
    """The columns that make the text of an item: the chosen ones, or the title and every other column of words.

    A column of words holds text or lists of text, not all the same, and at least half of its first 1,000 values have
    two letters in a row and are no addresses of pages or pictures.

    Raises:
        InputError: the catalog lacks a chosen column, one is chosen twice, or none is.
    """
    if chosen is None:
        return ("title", *(name for name in catalog.attribute_names if _holds_words(catalog.column(name))))
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError(f"text is {format_value(list(chosen))}; name one column or more, each once")
    for name in chosen:
        catalog.column(name)
    return tuple(chosen)


def item_texts(catalog: Catalog, columns: Sequence[str]) -> list[str]:
    """The text of each item: [N], the values of the columns, joined by ". "; columns it lacks and nulls are skipped."""
    names = {"item_id", "title", *catalog.attribute_names}
    parts = [_as_text(catalog.column(name).to_pylist()) for name in columns if name in names]
    return [". ".join(filter(None, values)) for values in zip(*parts, strict=True)] if parts else [""] * len(catalog)


def unchanged_text_indices(before: Catalog, after: Catalog, columns: Sequence[str]) -> tuple[IntArray, list[str]]:
    """How the texts of two versions of a catalog differ.

    Returns:
        int64 [N], the index of each item of `before` in `after`, -1 if it was removed or its text was changed; and the
        texts of all other items of `after`, in its order.
    """
    indices = after.item_ids.positions(before.item_ids)
    old, new = item_texts(before, columns), item_texts(after, columns)
    indices[[index >= 0 and text != new[index] for index, text in zip(indices.tolist(), old, strict=True)]] = -1
    changed = np.delete(np.arange(len(after)), indices[indices >= 0])
    return indices, [new[index] for index in changed.tolist()]


def _as_text(values: Sequence[object]) -> list[str]:
    return [
        value
        if isinstance(value, str)
        else ", ".join(str(part) for part in value if part is not None)
        if isinstance(value, list)
        else ""
        if value is None
        else str(value)
        for value in values
    ]


def _holds_words(column: pa.Array) -> bool:
    value_type = (
        column.type.value_type if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) else None
    )
    if not any(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) for kind in (column.type, value_type) if kind
    ):
        return False
    sample = _as_text(pc.drop_null(column).slice(0, _SAMPLE).to_pylist())
    words = [bool(_WORD.search(text)) and not _ADDRESS.search(text) for text in sample]
    return len(set(sample)) > 1 and 2 * sum(words) >= len(words)
