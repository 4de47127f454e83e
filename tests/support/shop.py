"""A shop of four things, with something missing."""

from typing import Any

from genrec.types import Item

ROWS: list[dict[str, Any]] = [
    {"title": "Desk Lamp", "price": 4.5, "year": 1990, "genre": "Horror", "discontinued": False, "tags": ["a", "b"]},
    {"title": "LAMPSHADE", "price": 9.0, "year": 2000, "genre": "Drama", "discontinued": True, "tags": []},
    {"title": "Chair", "price": None, "year": None, "genre": None, "discontinued": None, "tags": None},
    {"title": "Alien", "price": 0.0, "year": 1979, "genre": "Comedy", "discontinued": False, "tags": ["b"]},
]
ITEMS = [
    Item(f"i{row}", str(values["title"]), {k: v for k, v in values.items() if k != "title"})
    for row, values in enumerate(ROWS)
]
