"""A cache that cannot be written costs time at the next start, never an answer."""

from pathlib import Path

import pyarrow as pa
from full_disk import full_disk

from genrec import Catalog, Item, Settings, open_recommender, read_interactions
from genrec.cache import cache_write_error


def test_a_full_disk_is_found_before_anything_is_lost(tmp_path: Path) -> None:
    """A full disk has room for an empty folder, so making one proves nothing."""
    assert cache_write_error(tmp_path) is None
    assert not list(tmp_path.iterdir())
    with full_disk():
        assert cache_write_error(tmp_path)
    (tmp_path / "file").touch()
    assert cache_write_error(tmp_path / "file")


def test_a_full_disk_changes_no_list_and_is_told_once(tmp_path: Path) -> None:
    """The answer is computed already; and a silent failure makes every start slow for ever."""
    catalog = Catalog.from_items(Item(f"i{place}", f"thing {place}") for place in range(20))
    users, items = [f"u{place % 9}" for place in range(60)], [f"i{(place * 7) % 20}" for place in range(60)]
    log = read_interactions(pa.table({"user_id": users, "item_id": items, "timestamp": range(60)}))
    settings = Settings(model=None, encoder=None)
    good = open_recommender(catalog, log, cache=tmp_path / "good", settings=settings).recommend("u1", 5)
    with full_disk():
        recommender = open_recommender(catalog, log, cache=tmp_path / "full", settings=settings)
        answer = recommender.recommend("u1", 5)
    assert answer.items == good.items
    assert [notice.code for notice in recommender.notices] == ["cache_not_writable"]
    assert [notice.code for notice in answer.notices].count("cache_not_writable") == 1
