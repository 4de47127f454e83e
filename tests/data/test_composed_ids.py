"""Item ids made of several columns or of row numbers, and the choice of the columns that are read."""

import json
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from genrec.cli.app import app
from genrec.data.catalog import read_catalog
from genrec.data.composed_ids import compose_ids
from genrec.data.interactions import read_interactions
from genrec.errors import InputError

PRODUCTS = Path(__file__).parent / "files" / "products_no_id.csv"


def written(folder: Path, content: str, name: str = "items.csv") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def describe(*options: str) -> Any:
    return CliRunner().invoke(app, ["data", "describe", *options])


def flags(message: str) -> list[list[str]]:
    """The options after each `pass` or `, or` of an error message."""
    advice = message.strip().split("; pass ")[-1]
    return [shlex.split(part.split(" to ")[0].replace(" and ", " ")) for part in advice.split(", or ")]


@pytest.mark.parametrize(
    ("content", "closest", "advice"),
    [
        (PRODUCTS.read_text(), "'name' (2 distinct values in 3 rows), 'category'", ["--id-from name,price", "row"]),
        ("artist,name,year\nA,x,1\nA,y,1\nB,x,1\n", "'name' (2", ["--id-from artist,name", "row"]),
        ("a,b,c,name\n1,1,1,x\n1,2,1,x\n2,1,1,x\n2,2,1,x\n", "'a' (2", ["--id-from a,b", "row"]),
        ("name,price\nMug,1.5\nMug,1.5\n", "'name' (1", ["row"]),
        ("sku2,name\n7,Mug\n8,Mug\n", "", ["item_id=sku2", "row"]),
    ],
)
def test_a_table_without_ids_is_told_options_that_read_it(
    tmp_path: Path, content: str, closest: str, advice: list[str]
) -> None:
    """Otherwise people write a script that numbers their products; an option that fails is worse than none."""
    path = written(tmp_path, content)
    result = describe("--items", str(path))
    assert result.exit_code == 2
    assert closest in result.stderr
    assert all(words in result.stderr for words in advice), result.stderr
    assert len(flags(result.stderr)) == len(advice)
    for options in flags(result.stderr):
        read = describe("--items", str(path), *options)
        assert read.exit_code == 0, (options, read.output)


@given(st.lists(st.tuples(*[st.text("a|\\", max_size=3)] * 2), min_size=1, unique=True))
def test_different_values_make_different_ids(rows: list[tuple[str, str]]) -> None:
    """Two products would otherwise become one, or a catalog be refused for ids that do not repeat."""
    table = pa.table({"a": [a for a, _ in rows], "b": [b for _, b in rows]})
    ids = compose_ids(table, ["a", "b"], "t").to_pylist()
    assert len(set(ids)) == len(rows)
    assert [row == ("", "") for row in rows] == [item_id is None for item_id in ids]


def test_the_same_values_make_the_same_ids_in_every_file(tmp_path: Path) -> None:
    """Interactions would otherwise name no item of the catalog, because one file has text and the other numbers."""
    items = written(tmp_path, "artist,year,name\nNina,1965,Good\nMina,1960,Best\n")
    catalog = read_catalog(items, id_from=["artist", "year"])
    assert list(catalog.item_ids) == ["Nina|1965", "Mina|1960"]
    assert catalog.attribute_names == ("artist", "year")
    for years in ([1965, 1960], [1965.0, 1960.0], ["1965", "1960"], ["1965.0", "1960"]):
        table = pa.table({"user_id": ["u", "v"], "artist": ["Nina", "Mina"], "year": years, "timestamp": [1, 2]})
        parquet.write_table(table, tmp_path / "events.parquet")
        events = read_interactions(tmp_path / "events.parquet", id_from=["artist", "year"])
        assert events.to_indices(catalog).item_indices.tolist() == [0, 1]
    lines = written(tmp_path, '{"user_id": "u", "artist": "Mina", "year": 1960, "timestamp": 1}\n', "e.jsonl")
    assert read_interactions(lines, id_from=["artist", "year"]).to_indices(catalog).item_indices.tolist() == [1]


def test_row_numbers_count_from_one_unless_a_column_has_the_name(tmp_path: Path) -> None:
    """Messages count data rows from 1, so a person finds the item of an id in the file."""
    assert list(read_catalog(PRODUCTS, id_from=["row"]).item_ids) == [1, 2, 3]
    path = written(tmp_path, "row,name\nx,Mug\ny,Cup\n")
    assert list(read_catalog(path, id_from=["row"]).item_ids) == ["x", "y"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"id_from": ["category", "name"]}, "'bag|Crossbody Bag' is in data rows 1 and 2"),
        ({"id_from": ["category", "name"]}, "add a column that tells them apart to id_from"),
        ({"id_from": ["row", "name"]}, "'row' alone"),
        ({"id_from": ["nam"]}, "did you mean 'name'?"),
        ({"id_from": "name"}, "pass a list of column names"),
        ({"take": "name"}, "pass a list of column names"),
        ({"take": ["prise"]}, "did you mean 'price'?"),
        ({"id_from": ["name"], "columns": {"item_id": "name"}}, "use one of them"),
    ],
)
def test_a_choice_of_columns_that_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    """Otherwise a typing error is answered by a traceback, or by another catalog than was asked for."""
    with pytest.raises(InputError) as caught:
        read_catalog(PRODUCTS, **options)
    assert words in str(caught.value)


def test_lists_and_rows_without_values_make_no_ids(tmp_path: Path) -> None:
    """An id such as "['a']|" is nobody's id."""
    path = written(tmp_path, '{"a": ["x"], "b": "y", "title": "Mug"}\n', "x.jsonl")
    with pytest.raises(InputError, match=r"'a' of x\.jsonl, which holds lists"):
        read_catalog(path, id_from=["a", "b"])
    with pytest.raises(InputError, match=r"data row 2 of items\.csv has no item_id \(column 'a, b'\)"):
        read_catalog(written(tmp_path, "a,b,title\nx,y,Mug\n,,Cup\n"), id_from=["a", "b"])


def test_only_the_columns_that_are_taken_must_be_readable(tmp_path: Path) -> None:
    """One column of a data set that nobody needs would otherwise cost memory, time, or all of it."""
    rows = [{"asin": "B1", "name": "Mug", "genre": "a", "odd": 1}, {"asin": "B2", "name": "Cup", "odd": ["x"]}]
    path = written(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "x.json")
    catalog = read_catalog(path, take=["genre"])
    assert catalog.attribute_names == ("genre",)
    assert "left_out" not in {notice.code for notice in catalog.notices}
    assert read_catalog(path, take=[]).attribute_names == ()
    assert read_catalog(path, take=["name", "kind"], columns={"kind": "genre"}).attribute_names == ("kind",)
    with pytest.raises(InputError, match="column 'odd' of x"):
        read_catalog(path, take=["odd"])
    table = pa.table({"item_id": [1], "title": ["Mug"], "ok": [1], "blob": [b"\xff"]})
    assert read_catalog(table, take=["ok"]).notices == ()


def test_the_command_line_reads_the_same(tmp_path: Path) -> None:
    """What the library can read must not need a script on the command line."""
    items = written(tmp_path, 'artist,track,plays\nNina,Good,3\nMina,Best,"4,5"\n')
    events = written(tmp_path, "user_id,artist,track,timestamp\nu,Nina,Good,1\nu,Mina,Best,2\n", "events.csv")
    options = ("--id-from", "artist,track", "--columns", "title=track", "--take", "plays")
    options += ("--types", "plays=decimal-comma")
    result = describe("--items", str(items), "--interactions", str(events), *options, "--json")
    assert result.exit_code == 0, result.output
    read = json.loads(result.stdout)
    assert [item["item_id"] for item in read["items"]["examples"]] == ["Nina|Good", "Mina|Best"]
    assert read["items"]["attributes"]["plays"]["max"] == 4.5
    assert read["interactions"]["of_unknown_items"] == 0
    wrong = describe("--items", str(items), "--types", "plays")
    assert wrong.exit_code == 2
    assert "--types 'plays' is not COLUMN=TYPE" in wrong.output
