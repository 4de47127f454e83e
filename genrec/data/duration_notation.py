"""Duration notation: lengths of time written as text, such as "1h 52m", "112 min", "1:52:00" and "PT1H52M".

Letters: N rows.
"""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.notation import MIN_SHARE, Ambiguous, TypedValues

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_UNITS = (
    rf"(?i)^\s*(?:P(?:(?P<d>[0-9]+)D)?T?)?(?:(?P<h>{_NUMBER})\s*(?:h|hrs?|hours?)\.?)?[\s,]*(?:and\s+)?"
    rf"(?:(?P<m>{_NUMBER})\s*(?:m|mins?|minutes?)\.?)?[\s,]*(?:and\s+)?(?:(?P<s>{_NUMBER})\s*(?:s|secs?|seconds?)\.?)?\s*$"
)
_CLOCK = r"^\s*(?P<h>[0-9]+):(?P<m>[0-5][0-9]):(?P<s>[0-5][0-9](?:\.[0-9]+)?)\s*$"
_PAIR = r"^\s*(?P<first>[0-9]+):(?P<second>[0-5][0-9])\s*$"
_MINUTES = {"d": 1440.0, "h": 60.0, "m": 1.0, "s": 1 / 60}
# "5 m" and "5 s" alone may be metres and seasons.
_PLAIN = r"(?i)[:h]|min|sec|[0-9]\s*m\b.*[0-9]\s*s\b|^\s*P"
PAIR_TYPES = {"h:m": (60.0, 1.0), "m:s": (1.0, 1 / 60)}
"""What two numbers with a colon are, such as "1:52", as minutes of each."""


def read_durations(
    texts: pa.Array, pair: str | None = None, *, is_given: bool = False
) -> TypedValues | Ambiguous | None:
    """Read text as durations in minutes.

    Args:
        texts: large_string [N], null where there is nothing to read.
        pair: a key of `PAIR_TYPES`; by default it is found out.
        is_given: whether the caller says that these are durations.

    Returns:
        Minutes, int64 if all are whole, else float64; None if there are none, or too few.
    """
    if not (is_given or pair or pc.any(pc.match_substring_regex(texts, _PLAIN)).as_py()):
        return None
    clocks = pc.extract_regex(texts, _CLOCK)
    minutes = _sum_parts(clocks, _MINUTES)
    minutes = pc.coalesce(minutes, _sum_parts(pc.extract_regex(texts, _UNITS), _MINUTES))
    pairs = pc.extract_regex(texts, _PAIR)
    if pair is None and pairs.null_count < len(pairs):
        hours = pc.struct_field(pairs, "first").cast(pa.float64())
        if clocks.null_count == len(clocks) and not pc.any(pc.greater_equal(hours, 24)).as_py():
            if len(pairs) - pairs.null_count < MIN_SHARE * (len(texts) - texts.null_count):
                return None
            example = texts.filter(pairs.is_valid())[0].as_py()
            return Ambiguous(f"its values do not show whether {example!r} has hours or minutes first", [*PAIR_TYPES])
        pair = "m:s"
    if pair is not None:
        minutes = pc.coalesce(minutes, _sum_parts(pairs, dict(zip(("first", "second"), PAIR_TYPES[pair], strict=True))))
    is_whole = pc.all(pc.equal(minutes, pc.floor(minutes))).as_py()
    return TypedValues("minutes", minutes.cast(pa.int64()) if is_whole else minutes)


def _sum_parts(found: pa.Array, sizes: Mapping[str, float]) -> pa.Array:
    """The minutes of texts whose parts a pattern has found: float64 [N], null where it has found none."""
    total = pa.nulls(len(found), pa.float64())
    for field in found.type:
        part = pc.struct_field(found, field.name)
        size = pc.multiply(pc.if_else(pc.equal(part, ""), None, part).cast(pa.float64()), sizes[field.name])
        total = pc.coalesce(pc.add(total, size), total, size)
    return total
