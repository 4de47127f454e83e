"""MovieLens: conversion of its tables to genrec's columns, and film titles in their natural word order.

Source: F. Maxwell Harper and Joseph A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5, 4, 2015.
"""

import html
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_YEAR = re.compile(r"\s*\((\d{4})(?:-\d{0,4})?\)\s*$")
# "Cité des enfants perdus, La": a name, perhaps in brackets, whose article was moved to its end for sorting.
_ARTICLE = re.compile(
    r"(?P<name>[^()]+?), (?P<article>The|An?|La|Les?|L'|Une?|Der|Die|Das|El|L[ao]s|Il|Lo|I|O|Det|Den|De|En)"
    r"(?=\s*(?:[()]|$))"
)
_ALSO_KNOWN_AS = re.compile(r"(?:a\.?k\.?a\.? )?", re.IGNORECASE)


def convert_latest_small(movies: Path, ratings: Path) -> "tuple[pa.Table, pa.Table]":
    """Convert movies.csv and ratings.csv of MovieLens latest-small to items and interactions."""
    import pyarrow as pa
    from pyarrow import csv

    text = csv.ConvertOptions(column_types={"movieId": pa.string(), "userId": pa.string(), "rating": pa.float64()})
    films = csv.read_csv(movies, convert_options=text)
    events = csv.read_csv(ratings, convert_options=text)
    genres = [
        None if names == "(no genres listed)" else names.replace("|", ", ") for names in films["genres"].to_pylist()
    ]
    return (
        _items_table(films["movieId"], films["title"].to_pylist(), genres),
        _interactions_table(events["userId"], events["movieId"], events["timestamp"], events["rating"]),
    )


def convert_1m(movies: Path, ratings: Path) -> "tuple[pa.Table, pa.Table]":
    """Convert the tables of MovieLens 1M, in RecBole's format, to items and interactions."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    tabs = csv.ParseOptions(delimiter="\t", quote_char=False)
    text = csv.ConvertOptions(
        column_types={"user_id:token": pa.string(), "item_id:token": pa.string(), "timestamp:float": pa.int64()}
    )
    films = csv.read_csv(movies, parse_options=tabs, convert_options=text)
    events = csv.read_csv(ratings, parse_options=tabs, convert_options=text)
    genres = [names.replace(" ", ", ") for names in films["genre:token"].to_pylist()]
    users = pc.replace_substring_regex(events["user_id:token"], "^1m_", "")
    return (
        _items_table(films["item_id:token"], films["item_id:token"].to_pylist(), genres),
        _interactions_table(users, events["item_id:token"], events["timestamp:float"], events["rating:float"]),
    )


def normalize_movie_title(title: str) -> tuple[str, int | None]:
    """Move articles to the front of a film title, and read its year.

    Returns:
        The title, and the first year in brackets at its end, or None.

    >>> normalize_movie_title("City of Lost Children, The (Cité des enfants perdus, La) (1995)")
    ('The City of Lost Children (La Cité des enfants perdus) (1995)', 1995)
    """
    found = _YEAR.search(title)
    name = html.unescape(title[: found.start()] if found else title)
    name = " ".join(_ARTICLE.sub(_move_article_to_front, name).split()).replace(" )", ")")
    if found is None:
        return name, None
    return f"{name} {found[0].strip()}", int(found[1])


def _items_table(item_ids: "pa.ChunkedArray", titles: list[str], genres: list[str | None]) -> "pa.Table":
    import pyarrow as pa

    normalized = [normalize_movie_title(title) for title in titles]
    return pa.table(
        {
            "item_id": item_ids,
            "title": pa.array([title for title, _ in normalized], pa.string()),
            "year": pa.array([year for _, year in normalized], pa.int32()),
            "genres": pa.array(genres, pa.string()),
        }
    )


def _interactions_table(
    users: "pa.ChunkedArray", items: "pa.ChunkedArray", timestamps: "pa.ChunkedArray", ratings: "pa.ChunkedArray"
) -> "pa.Table":
    import numpy as np
    import pyarrow as pa

    table = pa.table(
        {"user_id": users, "item_id": items, "timestamp": timestamps, "weight": ratings.cast(pa.float64())}
    )
    user_numbers = users.cast(pa.int64()).to_numpy()
    # lexsort is stable: events with equal timestamps stay in the order of the source.
    return table.take(pa.array(np.lexsort((timestamps.to_numpy(), user_numbers))))


def _move_article_to_front(found: re.Match[str]) -> str:
    name, article = found["name"], found["article"]
    prefix = _ALSO_KNOWN_AS.match(name)
    start = prefix.end() if prefix else 0
    return f"{name[:start]}{article}{'' if article.endswith(chr(39)) else ' '}{name[start:]}"
