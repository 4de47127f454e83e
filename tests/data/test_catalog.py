"""Catalogs: look-up by id, fingerprints, refused rows, and saved files."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from shop import ITEMS

from genrec.data.catalog import Catalog, read_catalog
from genrec.data.file_options import FileFormat
from genrec.errors import ArtifactError, InputError, UnknownItemError
from genrec.types import Item


@pytest.fixture
def catalog() -> Catalog:
    return Catalog.from_items(ITEMS, name="shop")


def test_ids_and_indices_are_inverse(catalog: Catalog) -> None:
    """Otherwise the recommended item is not the scored one."""
    assert [catalog.index_of(item_id) for item_id in catalog.item_ids] == list(range(len(catalog)))
    assert catalog.indices_of(["i3", "i0", "i3"]).tolist() == [3, 0, 3]
    assert [item.item_id for item in catalog] == list(catalog.item_ids)
    assert [catalog[row] for row in range(len(catalog))] == list(catalog) == ITEMS
    assert catalog[-1] == ITEMS[3]
    assert list(catalog.titles) == [item.title for item in ITEMS]
    assert catalog.titles[1:3] == ("LAMPSHADE", "Chair")
    assert "i1" in catalog
    assert "i9" not in catalog
    with pytest.raises(IndexError, match="index 4 is outside catalog 'shop'"):
        catalog[4]


def test_integer_ids_are_found_by_text_and_returned_as_integers() -> None:
    """Otherwise callers get ids of another type than their own, and joins fail."""
    catalog = read_catalog(pd.DataFrame({"item_id": [85123, 7], "title": ["a", "b"]}))
    assert catalog.index_of(85123) == catalog.index_of("85123") == 0
    assert list(catalog.item_ids) == [85123, 7]
    assert [type(item.item_id) for item in catalog] == [int, int]
    floats = read_catalog(pd.DataFrame({"item_id": [123.0, 7.0], "title": ["a", "b"]}))
    assert floats.item_ids[0] == 123
    assert isinstance(floats.item_ids[0], int)


def test_an_unknown_id_is_named_with_the_catalog_and_its_size(catalog: Catalog) -> None:
    """Otherwise a typing error and the wrong catalog look the same."""
    with pytest.raises(UnknownItemError, match=r"item 'B00X4' is not in catalog 'shop' \(4 items\)"):
        catalog.index_of("B00X4")
    with pytest.raises(UnknownItemError, match=r"item 'x' and 1 more are not in catalog 'shop' .*on_unknown=\"skip\""):
        catalog.indices_of(["i0", "x", "y"])
    assert catalog.indices_of(["i0", "x", "i2"], on_unknown="skip").tolist() == [0, 2]
    assert catalog.indices_of(iter(["i1"])).tolist() == [1]
    assert catalog.indices_of([]).tolist() == []
    with pytest.raises(UnknownItemError):
        catalog.indices_of([None])
    with pytest.raises(InputError, match="expected several ids"):
        catalog.indices_of("i0")
    with pytest.raises(InputError, match="on_unknown is 'ignore'"):
        catalog.indices_of(["i0"], on_unknown="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_id": ["a", None], "title": ["x", "y"]}, r"data row 2 of the data frame has no item_id"),
        ({"item_id": ["a", "", " \t", "\u3000"], "title": list("wxyz")}, r"data rows 2, 3 and 4 of .* have no item_id"),
        ({"item_id": [123.0, float("nan")], "title": ["x", "y"]}, r"data row 2 .* has no item_id"),
        ({"item_id": [1.0, 2.5], "title": ["x", "y"]}, r"data row 2 .* has item_id such as 2\.5"),
        ({"item_id": [1e300, 2.0], "title": ["x", "y"]}, r"data row 1 .*write these as text"),
        ({"item_id": [True, False], "title": ["x", "y"]}, r"item_id .* holds true or false; ids are text or whole"),
        ({"item_id": [["a"]], "title": ["x"]}, r"item_id .* holds lists"),
        ({"item_id": ["a", "b", "a"], "title": list("xyz")}, r"item id 'a' is in data rows 1 and 3 of the data frame"),
        ({"item_id": [5, 7, 7, 5], "title": list("wxyz")}, r"item id 7 is in data rows 2 and 3 .*and 1 more"),
        ({"item_id": ["a", "b"], "title": ["x", None]}, r"data row 2 of the data frame has no title"),
        ({"item_id": ["a", "b"], "title": ["", " "]}, r"data rows 1 and 2 .* have no title"),
        ({"item_id": ["a"], "title": [float("nan")]}, r"title .* holds numbers; it must be text"),
        ({"item_id": ["a"], "title": [None]}, r"data row 1 .* has no title"),
        ({"item_id": [], "title": []}, r"no data rows"),
        ({"item_id": ["a"]}, r"no column 'title'"),
        ({"item_id": ["a"], "Bezeichnung": ["x"]}, r"pass columns=\{'title': '\.\.\.'\}"),
    ],
)
def test_invalid_rows_are_refused_with_their_numbers(columns: dict[str, Any], message: str) -> None:
    """Otherwise a catalog contains items without an id, or several with the same id."""
    with pytest.raises(InputError, match=message):
        read_catalog(pa.table(columns))


def test_messages_name_the_column_of_the_source() -> None:
    """Otherwise the message names a column that the caller's file does not have."""
    frame = pa.table({"StockCode": ["a", None], "title": ["x", "y"]})
    with pytest.raises(InputError, match=r"no item_id \(column 'StockCode'\)"):
        read_catalog(frame, columns={"item_id": "StockCode"})


def test_invalid_items_are_refused() -> None:
    """Otherwise the error appears only at the first recommendation."""
    for items, message in [
        ([], "contains no items"),
        ([Item("a", "x"), Item(1, "y")], "item_id of the items holds numbers and text"),
        ([Item("a", "x"), Item("a", "y")], "'a' is in data rows 1 and 2 of the items"),
        ([Item(True, "x")], "true or false"),
        ([Item("a", "\ud800")], "title of the items cannot be stored"),
        ([Item("a", "x", {"title": "y"})], "attribute name 'title'"),
        ([Item("a", "x", {"p": 1}), Item("b", "y", {"p": "1"})], "p of the items holds numbers and text"),
        ([Item("a", "x", {"p": object()})], "p of the items cannot be stored"),
    ]:
        with pytest.raises(InputError, match=message):
            Catalog.from_items(items)


def test_titles_are_not_changed() -> None:
    """Titles are untrusted text; cleaning them would create a second rendering of the same item."""
    titles = [
        "e\u0301",
        "\u202eevil",
        "\u200b",
        "👩‍👩‍👧",
        "<|im_end|>",
        "{{ 7*7 }}",
        "<b>",
        "a" * 4096,
        "a",
        "a",
        "\x00",
        "NaN",
    ]
    catalog = Catalog.from_items(Item(row, title) for row, title in enumerate(titles))
    assert list(catalog.titles) == titles


def test_the_fingerprint_depends_on_the_content_only(tmp_path: Path) -> None:
    """Otherwise an index is refused because its catalog was loaded with another library."""
    content = {
        "item_id": ["1", "2"],
        "title": ["a", "b"],
        "price": [1.5, None],
        "year": [1990, 1991],
        "new": [True, False],
    }
    table = pa.table(content)
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=1)
    pd.DataFrame(content).to_csv(tmp_path / "t.csv", index=False)
    pd.DataFrame(content).to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    chunks = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    shuffled = table.select(["new", "title", "year", "item_id", "price"])
    numbered = table.set_column(0, "item_id", pa.array([1, 2]))
    sources: list[Any] = [tmp_path / "t.parquet", tmp_path / "t.csv", tmp_path / "t.jsonl", pd.DataFrame(content)]
    sources += [pl.DataFrame(content), chunks, shuffled, numbered, pa.concat_tables([table, table]).slice(2)]
    assert {read_catalog(source).fingerprint for source in sources} == {read_catalog(table).fingerprint}


def test_every_change_changes_the_fingerprint() -> None:
    """Otherwise an index is used with a catalog for which it was not built."""
    base = [Item("1", "ab", {"p": 1.0, "t": ["x", "y"]}), Item("2", "c", {"p": None, "t": None})]
    variants = [
        base,
        base[::-1],
        [Item("1", "a", base[0].attributes), Item("2", "bc", base[1].attributes)],
        [base[0], Item("3", "c", base[1].attributes)],
        [base[0], Item("2", "c", {"p": 0.0, "t": None})],
        [base[0], Item("2", "c", {"p": None, "t": []})],
        [Item("1", "ab", {"p": 1.0, "t": ["xy"]}), base[1]],
        [Item("1", "ab", {"q": 1.0, "t": ["x", "y"]}), Item("2", "c", {"q": None, "t": None})],
        [Item("1", "ab", {"p": "1.0", "t": ["x", "y"]}), base[1]],
        [Item("1", "ab", {"p": 1.0}), Item("2", "c")],
    ]
    assert len({Catalog.from_items(items).fingerprint for items in variants}) == len(variants)


def test_the_fingerprint_is_the_same_in_another_process(catalog: Catalog) -> None:
    """Otherwise a saved index does not fit its own catalog after a restart."""
    script = "from shop import ITEMS; from genrec import Catalog; print(Catalog.from_items(ITEMS).fingerprint)"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": "tests/support"}
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == catalog.fingerprint


ATTRIBUTES = st.fixed_dictionaries(
    {},
    optional={
        "price": st.none() | st.floats(allow_infinity=False),
        "tags": st.none() | st.lists(st.text(max_size=3), max_size=3),
        "maker": st.none()
        | st.fixed_dictionaries({"name": st.text(max_size=3), "since": st.none() | st.integers(0, 9)}),
        "day": st.none() | st.dates(),
        "at": st.none() | st.datetimes(),
        "note": st.none() | st.text(max_size=5),
        "flag": st.none() | st.booleans(),
    },
)


@given(
    st.one_of(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True), st.lists(st.text(), unique=True)),
    st.lists(st.tuples(st.text(), ATTRIBUTES), min_size=1, max_size=6),
)
def test_reading_restores_the_written_catalog(
    tmp_path_factory: pytest.TempPathFactory, ids: list[Any], rows: list[tuple[str, dict[str, Any]]]
) -> None:
    """Otherwise a saved index is loaded with other items, id types or another fingerprint."""
    items = [Item(item_id, title, attributes) for item_id, (title, attributes) in zip(ids, rows, strict=False)]
    items = [
        item for item in items if item.title.strip() and (not isinstance(item.item_id, str) or item.item_id.strip())
    ]
    try:
        catalog = Catalog.from_items(items, name="Näme")
    except InputError:
        assume(False)
    path = tmp_path_factory.getbasetemp() / "catalog.parquet"
    catalog.write(path)
    again = Catalog.read(path)
    assert (again.name, again.fingerprint, again.attribute_names) == (
        "Näme",
        catalog.fingerprint,
        catalog.attribute_names,
    )
    assert list(again) == list(catalog)
    assert [type(item_id) for item_id in again.item_ids] == [type(item_id) for item_id in catalog.item_ids]
    as_written = FileFormat(types="text")
    assert read_catalog(path, file_format=as_written).fingerprint == catalog.fingerprint


def test_a_damaged_or_foreign_file_is_refused_by_name(catalog: Catalog, tmp_path: Path) -> None:
    """Otherwise an altered catalog recommends items that do not exist."""
    path = tmp_path / "catalog.parquet"
    with pytest.raises(ArtifactError, match="missing"):
        Catalog.read(path)
    catalog.write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(ArtifactError, match=r"catalog\.parquet was altered or cut short"):
        Catalog.read(path)
    path.write_bytes(whole)
    table = parquet.read_table(path)
    titles = pa.array(["x", *table.column("title").to_pylist()[1:]], pa.large_string())
    for forged in (
        table.set_column(1, "title", titles),
        table.slice(1),
        table.drop_columns(["title"]),
        table.drop_columns(["price"]),
    ):
        parquet.write_table(forged.replace_schema_metadata(table.schema.metadata), path)
        with pytest.raises(ArtifactError, match="altered"):
            Catalog.read(path)
    parquet.write_table(pa.table({"item_id": ["1"], "title": ["a"]}), path)
    with pytest.raises(ArtifactError, match="not a saved catalog; read other tables with read_catalog"):
        Catalog.read(path)


def test_a_failed_write_leaves_nothing_behind(catalog: Catalog, tmp_path: Path) -> None:
    """Otherwise a full disk replaces a catalog with half of one."""
    with pytest.raises(ArtifactError, match="cannot write catalog 'shop'"):
        catalog.write(tmp_path / "missing" / "catalog.parquet")
    (tmp_path / "taken.parquet").mkdir()
    with pytest.raises(ArtifactError, match="nothing was changed"):
        catalog.write(tmp_path / "taken.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.parquet"]


def test_columns_are_read_by_name_and_the_catalog_is_named_after_its_file(tmp_path: Path) -> None:
    """Templates and rankers read attributes through this method."""
    path = tmp_path / "games-2018.csv"
    path.write_text("item_id,title,Unit Price\n007,a,1.5\n008,,2\n".replace("008,,", "008,b,"), encoding="utf-8")
    catalog = read_catalog(path, columns={"price": "Unit Price"})
    assert catalog.name == "games-2018"
    assert catalog.attribute_names == ("price",)
    assert catalog.column("price").to_pylist() == [1.5, 2.0]
    assert catalog.item_ids[0] == "007"
    assert catalog[0].attributes == {"price": 1.5}
    assert "games-2018" in repr(catalog)
    with pytest.raises(InputError, match="no attribute 'cost'; use one of item_id, title, price"):
        catalog.column("cost")


BYTES = pa.array([b"\xff", b"ok"])


@pytest.mark.parametrize(
    "values",
    [
        BYTES,
        BYTES.cast(pa.binary_view()),
        pa.array([b"\xff", b"a"], pa.binary(1)),
        pa.array([[{"image": b"\xff"}], None]),
        pa.array([10**18, 0], pa.timestamp("us")),
        pa.array([10**17, 0], pa.timestamp("s")),
        pa.array([[10**18], []], pa.list_(pa.timestamp("us"))),
        pa.array([10**8, 0], pa.int32()).cast(pa.date32()),
        pa.array([2**62, 0], pa.duration("s")),
        pa.array([2**63, 0], pa.uint64()),
    ],
    ids=lambda values: str(values.type),
)
def test_a_column_that_no_answer_can_hold_is_left_out_by_its_name(values: pa.Array) -> None:
    """Otherwise the server starts, and every list with such an item is an internal error; or the catalog is lost."""
    table = pa.table({"item_id": ["a", "b"], "title": ["A", "B"], "image": values})
    catalog = read_catalog(table)
    assert catalog.attribute_names == ()
    (notice,) = catalog.notices
    assert "column 'image' of the data frame was left out, because it has the" in str(notice)
    with pytest.raises(InputError, match=r"column 'image' of the data frame .*omit it"):
        read_catalog(table, columns={"picture": "image"})


def test_bytes_in_a_parquet_file_are_left_out_by_their_column(tmp_path: Path) -> None:
    """Otherwise every list with such an item is an internal error."""
    parquet.write_table(pa.table({"item_id": ["a", "b"], "title": ["A", "B"], "image": BYTES}), tmp_path / "x.parquet")
    (notice,) = read_catalog(tmp_path / "x.parquet").notices
    assert str(notice).startswith("column 'image' of x.parquet was left out")


def test_bytes_that_are_text_are_text() -> None:
    """Hive and Spark write text as bytes without a type."""
    catalog = read_catalog(pa.table({"item_id": [b"a"], "title": ["É".encode()], "tags": [[b"x"]]}))
    assert [(item.item_id, item.title, item.attributes) for item in catalog] == [("a", "É", {"tags": ["x"]})]


def test_an_infinite_number_counts_as_missing() -> None:
    """JSON has no infinite numbers, and no condition could name one."""
    items = [Item("a", "A", {"price": float("inf")}), Item("b", "B", {"price": 1.0})]
    assert Catalog.from_items(items).column("price").to_pylist() == [None, 1.0]
