"""Data sets have genrec's columns, known counts and readable titles."""

import shutil
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from genrec.datasets.movielens import normalize_movie_title
from genrec.datasets.registry import DATASETS, dataset_paths, get_dataset
from genrec.errors import ArtifactError, InputError


def test_the_embedded_set_holds_the_published_counts(tmp_path: Path) -> None:
    """Published measurements state these counts."""
    items, interactions = (pq.read_table(path) for path in dataset_paths("online-retail", tmp_path))
    assert items.column_names == ["item_id", "title", "price"]
    assert interactions.column_names == ["user_id", "item_id", "timestamp"]
    assert (items.num_rows, interactions.num_rows) == (3_659, 396_337)
    assert pc.count_distinct(items["item_id"]).as_py() == 3_659
    assert pc.count_distinct(interactions["user_id"]).as_py() == 4_334
    assert set(interactions["item_id"].unique().to_pylist()) == set(items["item_id"].to_pylist())


def test_the_embedded_set_is_sorted_by_user_and_time(tmp_path: Path) -> None:
    """Histories are read in this order."""
    table = pq.read_table(dataset_paths("online-retail", tmp_path)[1])
    rows = list(zip(table["user_id"].to_pylist(), table["timestamp"].to_pylist(), strict=True))
    assert rows == sorted(rows)


def test_the_embedded_set_is_small_and_names_its_source(tmp_path: Path) -> None:
    """It is part of every wheel, and its licence requires attribution."""
    items, interactions = dataset_paths("online-retail", tmp_path)
    assert items.stat().st_size + interactions.stat().st_size < 1_300_000
    readme = (items.parent / "README.md").read_text(encoding="utf-8")
    for part in ("10.24432/C5BW33", "CC BY 4.0", "396,337", "ea6b4871b48f3bafb05520ccaf978236b391b39c8c3aa84cfc8214a5"):
        assert part in readme


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_set_states_its_terms(name: str) -> None:
    """Users can follow only terms that are shown."""
    assert DATASETS[name].license
    assert "Cite:" in DATASETS[name].terms or "naming the author" in DATASETS[name].terms


@pytest.mark.parametrize("name", ["ml-latest-small", "ml-1m"])
def test_a_missing_set_is_named_with_the_command_that_downloads_it(name: str, tmp_path: Path) -> None:
    """Otherwise users do not know how to get it."""
    with pytest.raises(ArtifactError, match=f"{name}.*genrec data get {name}"):
        dataset_paths(name, tmp_path)


def test_an_unknown_set_is_an_input_error_that_lists_the_others(tmp_path: Path) -> None:
    """A typing error is not an engine failure."""
    with pytest.raises(InputError, match="online-retail"):
        get_dataset("ml-20m", tmp_path)


@pytest.mark.parametrize(
    ("name", "counts"), [("ml-latest-small", (9_125, 100_004, 671)), ("ml-1m", (3_883, 1_000_209, 6_040))]
)
def test_a_downloaded_film_set_is_complete(name: str, counts: tuple[int, int, int], cache: Path) -> None:
    """The counts are those that its authors published."""
    get_dataset(name, cache)
    items, interactions = (pq.read_table(path) for path in dataset_paths(name, cache))
    users = pc.count_distinct(interactions["user_id"]).as_py()
    assert (items.num_rows, interactions.num_rows, users) == counts
    assert interactions.column_names == ["user_id", "item_id", "timestamp", "weight"]
    assert set(interactions["item_id"].unique().to_pylist()) <= set(items["item_id"].to_pylist())
    films = {film["title"]: film for film in items.to_pylist()}
    assert films["The Matrix (1999)"]["year"] == 1999
    assert "Sci-Fi" in films["The Matrix (1999)"]["genres"].split(", ")


def test_an_altered_table_is_refused_and_named(cache: Path, tmp_path: Path) -> None:
    """Measurements on damaged data are wrong."""
    shutil.copytree(get_dataset("ml-latest-small", cache), tmp_path / "data" / "ml-latest-small")
    table = tmp_path / "data" / "ml-latest-small" / "interactions.parquet"
    content = bytearray(table.read_bytes())
    content[1000] ^= 1
    table.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"interactions\.parquet was altered"):
        dataset_paths("ml-latest-small", tmp_path)


@pytest.mark.parametrize(
    ("raw", "title", "year"),
    [
        ("Matrix, The (1999)", "The Matrix (1999)", 1999),
        ("Rocky VI (1986) ", "Rocky VI (1986)", 1986),
        ("Postman, The (Postino, Il) (1994)", "The Postman (Il Postino) (1994)", 1994),
        ("Star Maker, The (Uomo delle stelle, L') (1995)", "The Star Maker (L'Uomo delle stelle) (1995)", 1995),
        ("Boot, Das (Boat, The) (1981)", "Das Boot (The Boat) (1981)", 1981),
        ("Legend, The (a.k.a. Last Legend, The) (1999)", "The Legend (a.k.a. The Last Legend) (1999)", 1999),
        ("Girl, Interrupted (1999)", "Girl, Interrupted (1999)", 1999),
        ("Big Bang Theory, The (2007-)", "The Big Bang Theory (2007-)", 2007),
        ("Good, the Bad and the Ugly, The (1966)", "The Good, the Bad and the Ugly (1966)", 1966),
        ("Dieu&#8230; (1956)", "Dieu… (1956)", 1956),
        ("Stranger Things", "Stranger Things", None),
        ("2001: A Space Odyssey", "2001: A Space Odyssey", None),
    ],
)
def test_articles_are_moved_to_the_front_of_film_titles(raw: str, title: str, year: int | None) -> None:
    """Language models know "The Matrix" better than "Matrix, The"."""
    assert normalize_movie_title(raw) == (title, year)
