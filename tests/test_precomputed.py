"""Item vectors from the cache."""

from pathlib import Path

import numpy as np
from ranker_support import LetterEncoder

from genrec.cache import ignore_progress
from genrec.data.catalog import Catalog
from genrec.precomputed import load_item_vectors
from genrec.types import Item


class PlaceEncoder(LetterEncoder):
    """Like release 0.1, gives equal texts vectors that differ by rounding."""

    def encode(self, texts, **options):  # type: ignore[no-untyped-def]
        vectors = super().encode(texts)
        return vectors * (1 + np.arange(len(texts))[:, None] * np.float32(1e-6))


def test_equal_titles_in_a_cache_of_an_earlier_release_tie(tmp_path: Path) -> None:
    """Vectors that differ by rounding rank items with one title in an order that nobody asked for."""
    catalog = Catalog.from_items([Item(f"i{place}", f"title {place % 3}") for place in range(9)])
    written = load_item_vectors(catalog, PlaceEncoder(), tmp_path, ignore_progress)  # type: ignore[arg-type]
    assert written[0].tolist() != written[3].tolist()
    read = load_item_vectors(catalog, PlaceEncoder(), tmp_path, ignore_progress)  # type: ignore[arg-type]
    for item in range(9):
        assert read[item].tolist() == read[item % 3].tolist() == written[item % 3].tolist()
