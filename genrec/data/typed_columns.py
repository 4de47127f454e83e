"""Typed columns: attributes written as text, such as prices and durations, as the numbers, lists or booleans they are.

A column changes its type if at least 98 % of its text can be read; the rest becomes missing, and a notice shows it.
Words such as "unknown" count as missing.

Letters: N rows.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc

from genrec.data.dialect import plain_name
from genrec.data.duration_notation import read_durations
from genrec.data.list_notation import read_bracketed_lists, read_separated_lists
from genrec.data.notation import MIN_SHARE, Ambiguous, TypedValues
from genrec.data.number_notation import read_numbers
from genrec.data.table import Table
from genrec.errors import InputError, format_names
from genrec.notices import Notice

_FIXED = ("item_id", "title", "user_id")
_MISSING_WORDS = (
    *("na", "n/a", "#n/a", "nan", "null", "none", "unknown", "tbd", "tba", "?", "-", "--", "\u2013", "\u2014"),
    *("\\n", "(no genres listed)"),  # MySQL; MovieLens
)
_BOOLEANS = (("yes", "no"), ("true", "false"), ("y", "n"), ("t", "f"))
_TITLE_YEAR = r"\((?P<year>1[89][0-9]{2}|20[0-9]{2})\)\s*$"
_SHOWN_ROWS = 100  # among which the example of a notice is chosen
_SHOWN_LENGTH = 60  # characters of a value in a notice

_Found = TypedValues | Ambiguous | None

# Each key is one of `genrec.data.file_options.TYPES`, which has the sentence that explains it.
_READERS: Mapping[str, Callable[[pa.Array], _Found]] = MappingProxyType(
    {
        "number": lambda texts: read_numbers(texts, "."),
        "decimal-comma": lambda texts: read_numbers(texts, ","),
        "boolean": lambda texts: _read_booleans(texts),
        "list": lambda texts: read_bracketed_lists(texts) or read_separated_lists(texts, is_given=True),
        "minutes": lambda texts: read_durations(texts, is_given=True),
        "h:m": lambda texts: read_durations(texts, "h:m"),
        "m:s": lambda texts: read_durations(texts, "m:s"),
    }
)


def type_columns(table: Table, types: Mapping[str, str], *, is_text_table: bool, adds_year: bool) -> Table:
    """Give attributes that are written as text their types.

    Args:
        table: ids and titles stay as they are.
        types: the types of some columns instead of those that are found; see `genrec.data.file_options.FileFormat`.
        is_text_table: whether the source is a text table, which cannot tell numbers from text.
        adds_year: whether to add a column `year` if titles end with one, as in "Heat (1995)", and no column has it.

    Raises:
        InputError: `types` names a column that is missing or not text, or a type that none of its values has.
    """
    columns, typed, notices = dict(table.columns), [], []
    _check_names(table, types)
    for name, column in table.columns.items():
        if name in _FIXED or types.get(name) == "text" or column.type != pa.large_string():
            continue
        texts = _known_texts(column)
        found = _read_given(table, name, types[name], texts) if name in types else _find_type(texts, is_text_table)
        if isinstance(found, TypedValues):
            columns[name] = found.values
            typed.append(f"{name!r} as {found.what}{_example(texts, found.values)}")
            notices += _notice_of_missing(table, name, found)
        elif found is not None:
            fields = {"column": name, "source": table.source, "why": found.why, "types": [*found.types]}
            notices.append(Notice("column_ambiguous", fields))
    if adds_year and types.get("year") != "text" and (years := _years_of_titles(table)) is not None:
        columns["year"] = years.values
        typed.append("'year' from the ends of titles")
        notices += _notice_of_missing(table, "title", years)
    if typed:
        notices.insert(0, Notice("columns_typed", {"source": table.source, "columns": typed}))
    return replace(table, columns=columns, notices=(*table.notices, *notices))


def _check_names(table: Table, types: Mapping[str, str]) -> None:
    names = [name for name in table.columns if name not in _FIXED]
    for name, kind in types.items():
        if name not in names and (name, kind) != ("year", "text"):
            close = difflib.get_close_matches(name, names, 1)
            raise InputError(
                f"types names {name!r}, which is no attribute of {table.source}; these are {format_names(names)}",
                remedy=f"did you mean {close[0]!r}?" if close else "use some of these names",
            )


def _read_given(table: Table, name: str, kind: str, texts: pa.Array) -> TypedValues:
    found = _READERS[kind](texts)
    if isinstance(found, TypedValues) and found.values.null_count < len(texts):
        return found
    example = next((text for text in texts.to_pylist() if text is not None), None)
    raise InputError(
        f"types makes {name!r} of {table.source} {kind!r}, but none of its values is one, such as {example!r:.60}",
        remedy="correct the type, or write 'text'",
    )


def _find_type(texts: pa.Array, is_text_table: bool) -> _Found:
    """The first type that at least 98 % of the texts have."""
    known = len(texts) - texts.null_count
    readers: tuple[Callable[[], _Found], ...] = (
        lambda: _read_booleans(texts),
        lambda: read_bracketed_lists(texts),
        lambda: read_durations(texts),
        lambda: read_numbers(texts, is_text_table=is_text_table),
        lambda: read_separated_lists(texts),
    )
    for read in readers if known else ():
        found = read()
        if isinstance(found, Ambiguous):
            return found
        if found is not None and len(texts) - found.values.null_count >= MIN_SHARE * known:
            return found
    return None


def _known_texts(column: pa.Array) -> pa.Array:
    """A column of text with null for what is empty or a word for missing."""
    words = pa.array(("", *_MISSING_WORDS), pa.large_string())
    return pc.if_else(pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(column)), value_set=words), None, column)


def _read_booleans(texts: pa.Array) -> TypedValues | None:
    lower = pc.utf8_lower(pc.utf8_trim_whitespace(texts))
    for pair in _BOOLEANS:
        is_either = pc.is_in(lower, value_set=pa.array(pair, pa.large_string()))
        has_both = all(pc.any(pc.equal(lower, word)).as_py() for word in pair)
        if has_both or (len(pair[0]) > 1 and pc.any(is_either).as_py()):
            return TypedValues("true or false", pc.if_else(is_either, pc.equal(lower, pair[0]), None))
    return None


def _years_of_titles(table: Table) -> TypedValues | None:
    """The years at the ends of titles; None if too few have one, or a column has years."""
    titles = table.columns.get("title")
    if titles is None or titles.type != pa.large_string() or any("year" in plain_name(name) for name in table.columns):
        return None
    years = pc.struct_field(pc.extract_regex(titles, _TITLE_YEAR), "year").cast(pa.int64())
    return TypedValues("years", years) if len(years) - years.null_count >= MIN_SHARE * len(years) else None


def _example(texts: pa.Array, values: pa.Array) -> str:
    """The longest of the first texts and what was read from it, for a notice."""
    pairs = zip(texts[:_SHOWN_ROWS].to_pylist(), values[:_SHOWN_ROWS].to_pylist(), strict=True)
    shown = [(text, value) for text, value in pairs if value is not None and len(text) <= _SHOWN_LENGTH]
    if not shown:
        return ""
    text, value = max(shown, key=lambda pair: len(pair[0]))
    return f" ({text!r} is {value!r})"


def _notice_of_missing(table: Table, name: str, found: TypedValues) -> list[Notice]:
    """A notice of the texts that became missing, if there are any."""
    column = table.columns[name]
    lost = pc.and_(pc.is_null(found.values), pc.not_equal(pc.utf8_trim_whitespace(column), "").fill_null(False))
    count = pc.sum(lost).as_py()
    if not count:
        return []
    row = pc.index(lost, True).as_py()
    fields = {"column": name, "source": table.source, "count": count, "what": found.what}
    example = f"{column[row].as_py()!r:.{_SHOWN_LENGTH}}"
    return [Notice("values_missing", fields | {"value": example, "row": row + 1})]
