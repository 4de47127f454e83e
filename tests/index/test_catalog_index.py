"""Laws of the catalog index: save and load round trips, updates, and checks of tokenizer and identifiers."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import damaged_copies

from genrec import artifact
from genrec.data.catalog import Catalog
from genrec.data.subset import Boost, Mask, Subset
from genrec.errors import ArtifactError, InputError, MismatchError, TokenizerMismatchError, UnknownItemError
from genrec.index.catalog_index import CatalogIndex
from genrec.index.identifiers import TitleIdentifiers
from genrec.testing import ByteTokenizer
from genrec.types import Item

ITEMS = [Item(f"i{number}", f"title {number % 7}", {"price": number / 2}) for number in range(40)]


class OtherTokenizer(ByteTokenizer):
    fingerprint = "other"


def build(items: list[Item]) -> CatalogIndex:
    return CatalogIndex.build(Catalog.from_items(items, name="shop"), TitleIdentifiers(), ByteTokenizer())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    build(ITEMS).save(tmp_path / "index")
    return tmp_path / "index"


def test_every_item_has_a_row_with_its_title() -> None:
    """The search returns rows; a row with the wrong item recommends that item."""
    index = build(ITEMS)
    assert sorted(index.trie.items.tolist()) == list(range(len(ITEMS)))
    for row, item in enumerate(index.trie.items):
        assert ByteTokenizer().decode(index.trie.tokens_of_row(row).tolist()).startswith(ITEMS[item].title)


def test_save_and_load_round_trip(saved: Path) -> None:
    """Otherwise rankings change after a restart."""
    index, again = build(ITEMS), CatalogIndex.load(saved, tokenizer=ByteTokenizer())
    assert list(again.catalog) == list(index.catalog)
    assert again.catalog.name == "shop"
    assert again.fingerprint == index.fingerprint
    for name in ("tokens", "shared", "tails", "items"):
        array, other = getattr(index.trie, name), getattr(again.trie, name)
        assert array.dtype == other.dtype
        np.testing.assert_array_equal(array, other)
    assert sorted(path.name for path in saved.iterdir()) == ["catalog.parquet", "manifest.json", "trie.safetensors"]
    again.save(saved)
    assert CatalogIndex.load(saved).fingerprint == index.fingerprint


def test_an_index_can_be_pickled(saved: Path) -> None:
    """A batch run sends it to each of its processes."""
    for index in (build(ITEMS), CatalogIndex.load(saved)):
        index.to_row_subset(Subset.from_mask(Mask.from_bool(np.arange(len(ITEMS)) % 2 == 0)))
        again = pickle.loads(pickle.dumps(index))
        assert again.fingerprint == index.fingerprint
        assert list(again.catalog) == list(index.catalog)
        assert len({index, again}) == 2


@pytest.mark.parametrize("name", ["catalog.parquet", "trie.safetensors", "manifest.json"])
def test_any_changed_byte_is_refused_and_the_file_named(saved: Path, name: str) -> None:
    """One flipped bit in the trie recommends another product."""
    for content in damaged_copies(saved / name):
        (saved / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=name):
            CatalogIndex.load(saved)


def test_another_tokenizer_is_refused(saved: Path) -> None:
    """The same token ids mean other text there, so every score would be meaningless."""
    with pytest.raises(TokenizerMismatchError, match="index' was built for tokenizer bytes, not for other; build it"):
        CatalogIndex.load(saved, tokenizer=OtherTokenizer())
    assert CatalogIndex.load(saved).tokenizer_fingerprint == "bytes"


def test_parts_of_two_indexes_are_refused(saved: Path, tmp_path: Path) -> None:
    """Files copied from two indexes are each intact, but do not belong together."""
    build([*ITEMS, Item("new", "x")]).save(tmp_path / "other")
    facts = artifact.verify(saved, kind="index", version=2)
    for file in ("catalog.parquet", "trie.safetensors"):
        kept = {key: facts[key] for key in ("catalog", "items", "tokenizer", "identifiers")}
        user_data = artifact.UserData(**facts["user_data"])
        with artifact.artifact_writer(
            tmp_path / "mixed", kind="index", version=2, user_data=user_data, metadata=kept
        ) as folder:
            for one in ("catalog.parquet", "trie.safetensors"):
                shutil.copy((tmp_path / "other" if one == file else saved) / one, folder / one)
        with pytest.raises(MismatchError, match="belong to different indexes; build it again"):
            CatalogIndex.load(tmp_path / "mixed")


def tokens_of(index: CatalogIndex) -> dict[str, list[int]]:
    rows = index.trie.rows_of_items
    return {
        str(item.item_id): index.trie.tokens_of_row(int(row)).tolist()
        for item, row in zip(index.catalog, rows, strict=True)
    }


def test_an_update_equals_a_rebuild() -> None:
    """An item that an update loses is never recommended again; a withdrawn one that it keeps would still be."""
    changes: list[dict[str, Any]] = [
        {"withdraw": ["i3", "i0", "i39"]},
        {"add": [Item("n1", "brand new", {"price": 3.0}), Item("n2", "a lamp", {"price": None})]},
        {"retitle": {"i5": "changed", "i7": "a chair"}},
        {"add": [Item("n1", "title 99", {"price": 3.0})], "withdraw": ["i1", "i2"], "retitle": {"i8": "first"}},
        {},
    ]
    for change in changes:
        withdraw, retitle, add = change.get("withdraw", []), change.get("retitle", {}), change.get("add", [])
        # Distinct titles need no suffix, so an update and a rebuild encode them alike.
        items = [Item(f"i{number}", f"title {number}", {"price": number / 2}) for number in range(40)]
        expected = [
            Item(item.item_id, retitle.get(item.item_id, item.title), item.attributes)
            for item in items
            if item.item_id not in withdraw
        ] + add
        updated = build(items).update(
            TitleIdentifiers(),
            ByteTokenizer(),
            add=Catalog.from_items(add) if add else None,
            withdraw=withdraw,
            retitle=retitle,
        )
        rebuilt = build(expected)
        assert updated.fingerprint == rebuilt.fingerprint
        assert tokens_of(updated) == tokens_of(rebuilt)


def test_an_id_withdrawn_twice_is_removed_once() -> None:
    """Lists of ids come from joins and logs and contain duplicates; removing a row twice would remove its neighbour."""
    index = build(ITEMS)
    once, twice = (index.update(TitleIdentifiers(), ByteTokenizer(), withdraw=ids) for ids in (["i3"], ["i3", "i3"]))
    assert tokens_of(twice) == tokens_of(once)


def test_an_updated_index_is_not_taken_for_a_rebuilt_one() -> None:
    """They can encode an item differently, so a prior with the same key would correct the wrong tokens."""
    items = [Item(f"i{number}", f"title {number}") for number in range(5)]
    add = [Item("n", "title 3")]
    updated = build(items).update(TitleIdentifiers(), ByteTokenizer(), add=Catalog.from_items(add))
    rebuilt = build([*items, *add])
    assert tokens_of(updated) != tokens_of(rebuilt)
    assert updated.catalog.fingerprint == rebuilt.catalog.fingerprint
    assert updated.fingerprint != rebuilt.fingerprint


def test_a_duplicate_new_title_gets_a_suffix_and_the_old_one_stays() -> None:
    """Priors and adapters depend on the tokens of the old item, and not yet on those of the new one."""
    index = build(ITEMS)
    before = tokens_of(index)
    add = Catalog.from_items([Item("n1", "title 3", {"price": 1.5}), Item("n2", "title 3", {"price": 1.5})])
    updated = index.update(TitleIdentifiers(), ByteTokenizer(), add=add, retitle={"i4": "title 3 (1.5)"})
    after = tokens_of(updated)
    assert {item: after[item] for item in before if item != "i4"} == {
        item: tokens for item, tokens in before.items() if item != "i4"
    }
    assert len({tuple(tokens) for tokens in after.values()}) == len(ITEMS) + 2


def test_an_invalid_update_is_refused() -> None:
    """An update must be applied completely or not at all, and only to the index it was made for."""
    index, parts = build(ITEMS), (TitleIdentifiers(), ByteTokenizer())
    for change, message in (
        ({"withdraw": ["none"]}, "withdraw contains item 'none', which is not in catalog 'shop'"),
        ({"retitle": {"none": "x"}}, "retitle contains item 'none', which is not in catalog 'shop'"),
    ):
        with pytest.raises(UnknownItemError, match=message):
            index.update(*parts, **change)
    for change, message in (
        ({"add": ITEMS[:1]}, "add is a list; pass a Catalog"),
        ({"retitle": {"i3": 5}}, "the new title of item 'i3' is 5; pass a non-empty string"),
    ):
        with pytest.raises(InputError, match=message):
            index.update(*parts, **change)
    with pytest.raises(InputError, match="expected several ids, got the text 'i3'"):
        index.update(*parts, withdraw="i3")
    with pytest.raises(InputError, match="'i3' is in both withdraw and retitle"):
        index.update(*parts, withdraw=["i3"], retitle={"i3": "x"})
    with pytest.raises(InputError, match="'i3'"):
        index.update(*parts, add=Catalog.from_items([Item("i3", "x")]))
    with pytest.raises(InputError, match="price of the added items holds text, but the catalog"):
        index.update(*parts, add=Catalog.from_items([Item("n", "x", {"price": "cheap"})]))
    with pytest.raises(InputError, match="contains no items"):
        index.update(*parts, withdraw=[item.item_id for item in ITEMS])
    with pytest.raises(TokenizerMismatchError, match="update it with the tokenizer it was built for"):
        index.update(TitleIdentifiers(), OtherTokenizer(), withdraw=["i3"])
    with pytest.raises(MismatchError, match="update it with those it was built with"):
        index.update(TitleIdentifiers(max_tokens=5), ByteTokenizer(), withdraw=["i3"])


def test_subsets_and_boosts_of_items_become_those_of_their_rows() -> None:
    """A filter with wrong row numbers allows other items."""
    index = build(ITEMS)
    mask = Mask.from_bool(np.arange(40) % 3 == 0)
    for subset in (Subset.everything(40), Subset.from_indices(40, [7, 3]), Subset.from_mask(mask).without([9, 0])):
        rows = index.to_row_subset(subset)
        assert sorted(index.trie.items[rows.to_indices()]) == subset.to_indices().tolist()
    assert (
        index.to_row_subset(Subset.from_mask(mask)).mask
        is index.to_row_subset(Subset.from_mask(mask).without([3])).mask
    )
    for wrong in (Subset.everything(41), Subset.from_mask(Mask.from_bool(np.ones(39, dtype=bool)))):
        with pytest.raises(InputError, match="the index has 40; make it for this catalog"):
            index.to_row_subset(wrong)
    with pytest.raises(InputError, match="item 40 is boosted, but the index has items 0 to 39"):
        index.to_row_boost(Boost(np.array([40]), np.array([1.0])))
    boost = index.to_row_boost(Boost(np.array([3, 30]), np.array([1.0, 2.0])))
    assert boost.values_at(index.trie.rows_of_items[[3, 30, 4]]).tolist() == [1.0, 2.0, 0.0]


def test_the_fingerprint_covers_catalog_identifiers_and_tokenizer() -> None:
    """It is part of the key of priors; the prior of another index would correct the wrong items."""
    catalog = Catalog.from_items(ITEMS)
    indexes = [
        CatalogIndex.build(catalog, TitleIdentifiers(), ByteTokenizer()),
        CatalogIndex.build(catalog, TitleIdentifiers(max_tokens=20), ByteTokenizer()),
        CatalogIndex.build(catalog, TitleIdentifiers(), OtherTokenizer()),
        CatalogIndex.build(Catalog.from_items(ITEMS[1:]), TitleIdentifiers(), ByteTokenizer()),
    ]
    assert len({index.fingerprint for index in indexes}) == 4
    assert build(ITEMS).fingerprint == indexes[0].fingerprint


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    """A wrong path is the most frequent mistake."""
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ArtifactError, match="contains no saved index"):
            CatalogIndex.load(folder)
