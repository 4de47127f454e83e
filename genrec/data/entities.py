"""HTML entities: titles that were written for a page, as the text they stand for."""

import html
import re
from dataclasses import replace
from html.entities import html5

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.table import Table
from genrec.notices import Notice

# With its semicolon, because "&copy" and "&not" are parts of names, such as those of companies.
_ENTITY = r"&(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"


def decode_entities(table: Table, name: str) -> Table:
    """Decode the HTML entities of a column of text once; a notice says so if there are any."""
    column = table.columns[name]
    if column.type != pa.large_string():
        return table
    rows = pc.indices_nonzero(pc.fill_null(pc.match_substring_regex(column, _ENTITY), False))
    before = column.take(rows).to_pylist()
    changed = {text: decoded for text in dict.fromkeys(before) if (decoded := decode_text(text)) != text}
    if not changed:
        return table
    mask = np.zeros(len(column), np.bool_)
    mask[rows.to_numpy()] = True
    decoded = pa.array([changed.get(text, text) for text in before], pa.large_string())
    replaced = pc.replace_with_mask(column, pa.array(mask), decoded)
    first = next(iter(changed))
    notice = Notice(
        "entities_decoded",
        {
            "count": sum(text in changed for text in before),
            "source": table.source,
            "before": first[:60],
            "after": changed[first][:60],
        },
    )
    return replace(table, columns={**table.columns, name: replaced}, notices=(*table.notices, notice))


def decode_text(text: str) -> str:
    """A text with its HTML entities decoded once: "&amp;amp;" becomes "&amp;"."""
    return re.sub(_ENTITY, _decode, text)


def _decode(match: re.Match[str]) -> str:
    name = match[1]
    return html.unescape(match[0]) if name.startswith("#") or f"{name};" in html5 else match[0]
