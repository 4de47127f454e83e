"""Laws of the index: what is saved comes back, and no index serves what it was not built for."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hostile import damaged

from genrec import artifact
from genrec.catalog import Catalog
from genrec.errors import ArtifactError, MismatchError, TokenizerMismatchError
from genrec.identifiers import TitleIdentifiers
from genrec.index import CatalogIndex
from genrec.testing import ByteTokenizer
from genrec.types import Item

ITEMS = [Item(f"i{place}", f"title {place % 7}", {"price": place / 2}) for place in range(40)]


class OtherTokenizer(ByteTokenizer):
    fingerprint = "other"


def build(items: list[Item]) -> CatalogIndex:
    return CatalogIndex.build(Catalog.from_items(items, name="shop"), TitleIdentifiers(), ByteTokenizer())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    build(ITEMS).save(tmp_path / "index")
    return tmp_path / "index"


def test_every_item_has_a_row_that_says_its_title() -> None:
    """Search answers with rows; a row of another item recommends that one instead."""
    index = build(ITEMS)
    assert sorted(index.trie.items.tolist()) == list(range(len(ITEMS)))
    for row, item in enumerate(index.trie.items):
        assert ByteTokenizer().decode(index.trie.row(row).tolist()).startswith(ITEMS[item].title)


def test_what_was_saved_comes_back(saved: Path) -> None:
    """Otherwise tomorrow's answers are not today's."""
    index, again = build(ITEMS), CatalogIndex.load(saved, tokenizer=ByteTokenizer())
    assert list(again.catalog) == list(index.catalog)
    assert again.catalog.name == "shop"
    assert again.fingerprint == index.fingerprint
    for name in ("tokens", "offsets", "items"):
        array, other = getattr(index.trie, name), getattr(again.trie, name)
        assert array.dtype == other.dtype
        np.testing.assert_array_equal(array, other)
    assert sorted(path.name for path in saved.iterdir()) == ["catalog.parquet", "manifest.json", "trie.safetensors"]
    again.save(saved)
    assert CatalogIndex.load(saved).fingerprint == index.fingerprint


@pytest.mark.parametrize("name", ["catalog.parquet", "trie.safetensors", "manifest.json"])
def test_any_changed_byte_is_refused_and_the_file_named(saved: Path, name: str) -> None:
    """One flipped bit in the trie recommends another product."""
    for content in damaged(saved / name):
        (saved / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=name):
            CatalogIndex.load(saved)


def test_another_tokenizer_is_refused(saved: Path) -> None:
    """The same numbers are other words there, and every score would be nonsense."""
    with pytest.raises(TokenizerMismatchError, match="'index' was built for tokenizer bytes, not for other; build it"):
        CatalogIndex.load(saved, tokenizer=OtherTokenizer())
    assert CatalogIndex.load(saved).tokenizer_fingerprint == "bytes"


def test_parts_of_two_indexes_are_refused(saved: Path, tmp_path: Path) -> None:
    """Files copied together from two shops verify one by one, and fit none."""
    build([*ITEMS, Item("new", "x")]).save(tmp_path / "other")
    facts = artifact.verify(saved, kind="index", version=1)
    for file in ("catalog.parquet", "trie.safetensors"):
        kept = {key: facts[key] for key in ("catalog", "items", "tokenizer", "identifiers")}
        with artifact.writing(tmp_path / "mixed", kind="index", version=1, facts=kept) as folder:
            for one in ("catalog.parquet", "trie.safetensors"):
                shutil.copy((tmp_path / "other" if one == file else saved) / one, folder / one)
        with pytest.raises(MismatchError, match="not of one index; build it again"):
            CatalogIndex.load(tmp_path / "mixed")


def test_the_fingerprint_is_of_catalog_identifiers_and_tokenizer() -> None:
    """Priors are kept under it; a prior of another index would correct the wrong items."""
    catalog = Catalog.from_items(ITEMS)
    indexes = [
        CatalogIndex.build(catalog, TitleIdentifiers(), ByteTokenizer()),
        CatalogIndex.build(catalog, TitleIdentifiers(max_tokens=20), ByteTokenizer()),
        CatalogIndex.build(catalog, TitleIdentifiers(), OtherTokenizer()),
        CatalogIndex.build(Catalog.from_items(ITEMS[1:]), TitleIdentifiers(), ByteTokenizer()),
    ]
    assert len({index.fingerprint for index in indexes}) == 4
    assert build(ITEMS).fingerprint == indexes[0].fingerprint


def test_a_folder_without_an_index_says_so(tmp_path: Path) -> None:
    """The path is the first thing people get wrong."""
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(ArtifactError, match="holds no saved index"):
            CatalogIndex.load(place)
