"""Readers: tables depend on the content only, and unreadable files are refused with the line and a remedy."""

import contextlib
import json
import pickle
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.catalog import read_catalog
from genrec.data.column_mapping import ColumnMapping
from genrec.data.interactions import read_interactions
from genrec.data.readers import read_table
from genrec.data.table import Table
from genrec.errors import InputError

ITEMS = {"item_id": ["00123", "7", "x"], "title": ["2048", "Alien", "NA"], "price": [1.5, None, 3.0]}
SUFFIXES = [".csv", ".tsv", ".jsonl", ".parquet"]


def written(folder: Path, table: pa.Table, suffix: str) -> Path:
    path = folder / f"items{suffix}"
    if suffix == ".parquet":
        parquet.write_table(table, path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()), encoding="utf-8")
    else:
        arrow_csv.write_csv(table, path, arrow_csv.WriteOptions(delimiter="," if suffix == ".csv" else "\t"))
    return path


def text_file(folder: Path, content: str | bytes, name: str = "items.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(source: Any, **options: Any) -> Table:
    mapping = ColumnMapping(("item_id", "title"), options.pop("optional", None), options.pop("columns", {}))
    return read_table(source, mapping, as_text=("item_id", "title"), **options)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_reads_the_same(tmp_path: Path, suffix: str) -> None:
    """Otherwise ids lose their zeros, titles such as NA vanish, or prices change type with the file format."""
    table = read(written(tmp_path, pa.table(ITEMS), suffix))
    assert {name: column.to_pylist() for name, column in table.columns.items()} == ITEMS
    assert table.source == f"items{suffix}"


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame, pl.LazyFrame, pa.table, pa.RecordBatch.from_pydict])
def test_every_frame_reads_the_same(frame: Any) -> None:
    """Otherwise a catalog depends on the data frame library."""
    table = read(frame(ITEMS))
    assert table.columns["item_id"].to_pylist() == ITEMS["item_id"]
    assert table.columns["price"].to_pylist()[::2] == [1.5, 3.0]


def test_a_filtered_pandas_frame_reads_as_its_rows() -> None:
    """Otherwise the index of a filtered frame becomes a column or shifts the rows."""
    frame = pd.DataFrame(ITEMS)
    table = read(frame[frame["item_id"] != "7"])
    assert list(table.columns) == list(ITEMS)
    assert table.columns["item_id"].to_pylist() == ["00123", "x"]


def test_categories_and_small_types_become_plain_types() -> None:
    """Otherwise filters and fingerprints depend on how a frame stores its values."""
    frame = pl.DataFrame(
        {"item_id": [1, 2], "title": ["a", "b"], "genre": ["x", "y"], "tags": [["p"], []]}
    ).with_columns(
        pl.col("item_id").cast(pl.Int16), pl.col("genre").cast(pl.Categorical), pl.col("title").cast(pl.Categorical)
    )
    columns = read(frame).columns
    assert columns["item_id"].type == pa.int64()
    assert columns["genre"].type == columns["title"].type == pa.large_string()
    assert columns["tags"].type == pa.large_list(pa.large_string())


def test_csv_columns_become_numbers_only_if_all_values_are_numbers(tmp_path: Path) -> None:
    """Otherwise postcodes and product codes lose digits, or prices stay text and cannot be filtered."""
    content = (
        "item_id,title,price,zip,year,sold,mixed,hexed,ean\n"
        "1,a,1.50,00123,1990,true,5,0x10,1234567890123456789012\n"
        "2,b,NA,99999,2001,False,five,10,1\n"
    )
    columns = {name: column.to_pylist() for name, column in read(text_file(tmp_path, content)).columns.items()}
    assert columns["price"] == [1.5, None]
    assert columns["zip"] == ["00123", "99999"]
    assert columns["year"] == [1990, 2001]
    assert columns["sold"] == [True, False]
    assert columns["mixed"] == ["5", "five"]
    assert columns["hexed"] == ["0x10", "10"]
    assert columns["ean"] == ["1234567890123456789012", "1"]


def test_quoted_commas_quotes_newlines_and_a_byte_order_mark_are_text(tmp_path: Path) -> None:
    """Otherwise a title with a line break in it is cut or shifts every row behind it."""
    path = text_file(tmp_path, '\ufeff item_id ,title\n"1","a, ""b""\nc"\n\n2,5" disk\n')
    columns = read(path).columns
    assert columns["item_id"].to_pylist() == ["1", "2"]
    assert columns["title"].to_pylist() == ['a, "b"\nc', '5" disk']


def test_a_nameless_index_column_is_ignored(tmp_path: Path) -> None:
    """Otherwise every CSV file that pandas wrote has a column without a name."""
    assert list(read(text_file(tmp_path, ",item_id,title\n0,x,a\n")).columns) == ["item_id", "title"]


def test_dates_in_json_lines_stay_text(tmp_path: Path) -> None:
    """Otherwise a title or an id that looks like a date becomes one."""
    path = text_file(tmp_path, '{"item_id": "2020-01-01", "title": "1984-01-01", "days": ["2020-01-01"]}\n', "i.jsonl")
    columns = read(path).columns
    assert [column.to_pylist() for column in columns.values()] == [["2020-01-01"], ["1984-01-01"], [["2020-01-01"]]]


def test_columns_are_renamed_by_the_mapping() -> None:
    """Otherwise callers must rewrite their files; swapping and reusing columns must work too."""
    table = read(
        pa.table({"id": ["1"], "title": ["short"], "long": ["longer"]}), columns={"item_id": "id", "title": "long"}
    )
    assert {name: column.to_pylist() for name, column in table.columns.items()} == {
        "item_id": ["1"],
        "title": ["longer"],
    }
    swapped = read(pa.table({"item_id": ["a"], "title": ["1"]}), columns={"item_id": "title", "title": "item_id"})
    assert swapped.columns["item_id"].to_pylist() == ["1"]
    same = read(pa.table({"title": ["Heat"]}), columns={"item_id": "title"})
    assert same.columns["item_id"].to_pylist() == same.columns["title"].to_pylist() == ["Heat"]


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["userId", "movieId", "rating", "timestamp"], {"user_id": "userId", "item_id": "movieId"}),
        (
            ["InvoiceNo", "StockCode", "Description", "InvoiceDate", "CustomerID"],
            {"user_id": "CustomerID", "item_id": "StockCode", "timestamp": "InvoiceDate"},
        ),
        (
            ["reviewerID", "asin", "reviewerName", "unixReviewTime"],
            {"user_id": "reviewerID", "item_id": "asin", "timestamp": "unixReviewTime"},
        ),
        (["user_id", "asin", "parent_asin", "timestamp"], {"item_id": "parent_asin"}),
        (["uid", "iid", "ts"], {"user_id": "uid", "item_id": "iid", "timestamp": "ts"}),
        (["sessionId", "product_id", "time"], {"user_id": "sessionId", "item_id": "product_id", "timestamp": "time"}),
    ],
)
def test_known_column_names_are_recognized_and_shown(names: list[str], hint: dict[str, str]) -> None:
    """Otherwise new users must map the columns of every well-known data set, or do not see what was taken."""
    frame = pa.table({name: ["1"] for name in names})
    read = read_interactions(frame)
    assert read.fingerprint == read_interactions(frame, columns=hint).fingerprint
    (notice,) = (notice for notice in read.notices if notice.code == "columns_recognized")
    assert all(f"{theirs!r} as {ours}" in str(notice) for ours, theirs in hint.items())


def test_the_suggested_mapping_includes_the_given_one() -> None:
    """Otherwise following the suggestion loses the mapping the caller passed, or what was recognised."""
    frame = pa.table({"kunde": ["1"], "movieId": ["2"], "wann": [3]})
    hint = r"pass columns=\{'user_id': 'kunde', 'item_id': 'movieId', 'timestamp': '...'\}"
    with pytest.raises(InputError, match=hint):
        read_interactions(frame, columns={"user_id": "kunde"})


def test_a_number_of_the_row_is_no_item() -> None:
    """A log whose rows have numbers would otherwise have as many items as rows."""
    with pytest.raises(InputError, match="has no column 'item_id'"):
        read_interactions(pa.table({"id": [1], "user_id": [1], "timestamp": [1]}))
    assert list(read_catalog(pa.table({"id": [1], "name": ["Mug"]})).item_ids) == [1]


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("item_id,title\n1,a\n2,b,c\n", "x.csv", ["line 3 of x.csv", "3 fields", "header has 2", "quote"]),
        ('item_id,title\n"1\n",a\n2\n', "x.csv", ["line 4 of x.csv", "1 fields"]),
        ('item_id,title\n1,a\n2,"b\n3,c\n', "x.csv", ["line 3 of x.csv", "never closed"]),
        (b"item_id,caf\xe9\n1,a\n", "x.tsv", ["byte 0xe9", "line 1", "x.tsv"]),
        (b'{"item_id": "1", "title": "caf\xe9"}\n', "x.jsonl", ["byte 0xe9", "line 1", "FileFormat(encoding="]),
        ("", "x.csv", ["x.csv is empty"]),
        ("\n\n", "x.csv", ["x.csv is empty"]),
        ("", "x.parquet", ["x.parquet is empty"]),
        ("\n", "x.jsonl", ["x.jsonl"]),
        ("item_id,title\n", "x.csv", ["x.csv has no data rows"]),
        ("1,5,4.0\n2,5,3.0\n", "x.csv", ["no header", "FileFormat(names=['item_id', 'title', 'column_3'])"]),
        ("item_id,title,title\n1,a,b\n", "x.csv", ["more than one column 'title'"]),
        (
            '{"item_id": 1, "title": "a"}\n\n{"item_id": "x", "title": "b"}\n',
            "x.jsonl",
            ["'item_id'", "line 3", "line 1"],
        ),
        ('{"item_id": 1, "title": "a"}\n{"item_id": \n', "x.jsonl", ["line 2 of x.jsonl", "repair"]),
        ('[{"item_id": 1}]\n', "x.jsonl", ["x.jsonl has no column 'title'"]),
        ('["item_id"]\n', "x.jsonl", ["line 1 of x.jsonl", "one object a line"]),
        ('{"item_id": "\\ud800", "title": "a"}\n', "x.jsonl", ["'item_id' of x.jsonl", "line 1"]),
        ("PAR1 not really", "x.parquet", ["x.parquet is not a readable Parquet file"]),
        (pickle.dumps({"item_id": [1]}), "x.pkl", ["never unpickles", "x.pkl"]),
    ],
)
def test_a_broken_file_is_refused_with_its_line_and_a_remedy(
    tmp_path: Path, content: str | bytes, name: str, words: list[str]
) -> None:
    """Otherwise users must search a million lines for the wrong one."""
    with pytest.raises(InputError) as caught:
        read(text_file(tmp_path, content, name))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_refused_by_name(tmp_path: Path) -> None:
    """Otherwise callers get an OSError from within Arrow."""
    with pytest.raises(InputError, match=r"none\.csv does not exist; check the path"):
        read(tmp_path / "none.csv")
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(InputError, match=r"folder\.parquet is a directory; name one file"):
        read(str(tmp_path / "folder.parquet"))
    with pytest.raises(InputError, match=r"does not exist|cannot be read"):
        read("\0.csv")


def test_sources_that_are_not_tables_are_refused() -> None:
    """Otherwise callers get an AttributeError from the data frame library."""
    for source in ({"item_id": ["1"]}, [1], None, pd.Series([1])):
        with pytest.raises(InputError, match="pass a path"):
            read(source)
    with pytest.raises(InputError, match="column 'item_id' of the data frame cannot be read"):
        read(pd.DataFrame({"item_id": [1, "a"], "title": ["x", "y"]}, dtype=object))
    with pytest.raises(InputError, match=r"frame's index, pass frame\.reset_index"):
        read(pd.DataFrame({"item_id": [1], "title": ["x"]}).set_index("item_id"))


def test_an_invalid_mapping_is_refused() -> None:
    """Otherwise a typing error in the mapping silently selects another column."""
    frame = pa.table({"StockCode": ["1"], "title": ["a"]})
    with pytest.raises(
        InputError, match=r"maps 'item_id' to 'StockCod', which the data frame lacks.*did you mean 'StockCode'"
    ):
        read(frame, columns={"item_id": "StockCod"})
    with pytest.raises(InputError, match=r"other way round, pass columns=\{'item_id': 'StockCode'\}"):
        read(frame, columns={"StockCode": "item_id"})
    with pytest.raises(InputError, match="'colour', which is not used here"):
        read(frame, columns={"item_id": "StockCode", "colour": "title"}, optional=())


@given(st.binary(max_size=200), st.sampled_from(SUFFIXES))
def test_every_file_gives_a_catalog_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    """Any other exception would show the user a traceback."""
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    path.write_bytes(b"item_id,title\n" * (suffix == ".csv") + content)
    with contextlib.suppress(InputError):
        assert len(read_catalog(path)) > 0
