"""Typed columns: prices, durations, years, lists and booleans that are written as text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.catalog import Catalog, read_catalog
from genrec.data.file_options import FileFormat
from genrec.errors import FilterError, InputError

_FOUND: Mapping[str, str] = {}


def catalog_of(values: Sequence[Any], types: Mapping[str, str] | str = _FOUND) -> Catalog:
    """A catalog from a frame with the column x."""
    rows = range(len(values))
    frame = {"item_id": [*rows], "title": [f"t{row}" for row in rows], "x": values}
    return read_catalog(pa.table(frame), file_format=FileFormat(types=types))


def read(values: Sequence[Any], types: Mapping[str, str] | str = _FOUND) -> list[Any]:
    column: list[Any] = catalog_of(values, types).column("x").to_pylist()
    return column


def notices(catalog: Catalog) -> str:
    return "; ".join(map(str, catalog.notices))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["$5.00", "$1,250.00", "12.50"], [5.0, 1250.0, 12.5]),
        (["12,50", "1.250,00 €", "7 €"], [12.5, 1250.0, 7.0]),
        (["12,50", "0,99"], [12.5, 0.99]),
        (["1 250,00", "2\u202f000,50 EUR"], [1250.0, 2000.5]),
        (["CHF 1'250.50", "CHF 3.00"], [1250.5, 3.0]),
        (["₹1,25,000", "₹12,34,567.50"], [125000.0, 1234567.5]),
        (["1,234,567", "1,250"], [1234567, 1250]),
        (["1.234.567", "1.250"], [1234567, 1250]),
        (["-$5.50", "$-6.25", "$.99"], [-5.5, -6.25, 0.99]),
        (["US$ 5", "USD 6", "$7"], [5, 6, 7]),
        (["¥5", "¥1200"], [5, 1200]),
    ],
)
def test_amounts_are_numbers(texts: list[str], expected: list[float]) -> None:
    """Otherwise "under 20" finds nothing, and text sorts $15.00 before $5.00."""
    assert read(texts) == expected


@pytest.mark.parametrize(
    ("texts", "why", "types"),
    [
        (["$1,250", "$3,400", "$950"], "'1,250' has thousands or decimals", {"number": 1250, "decimal-comma": 1.25}),
        (["€1.250", "€3.400", "€9"], "'1.250' has thousands or decimals", {"number": 1.25, "decimal-comma": 1250}),
        (["12,50", "12.50"] * 9, "'12.50' and '12,50' do not have one decimal sign", {"number": None}),
        (["$5.00", "5.00 €"] * 9, "amounts in '$' and '€'", {"number": 5.0}),
        (["1:52", "2:10"], "'1:52' has hours or minutes first", {"h:m": 112, "m:s": pytest.approx(1 + 52 / 60)}),
    ],
)
def test_what_can_be_read_in_two_ways_stays_text(texts: list[str], why: str, types: dict[str, float | None]) -> None:
    """A price that is wrong by a factor of a thousand is worse than text."""
    catalog = catalog_of(texts)
    assert catalog.column("x").to_pylist() == texts
    assert why in notices(catalog)
    for kind, value in types.items():
        assert kind in notices(catalog)
        assert read(texts, {"x": kind})[0] == value


@given(
    st.lists(st.tuples(st.integers(0, 9_999_999), st.integers(0, 99)), min_size=1, max_size=40),
    st.sampled_from([(",", "."), (".", ","), (" ", ","), ("'", "."), ("", ","), ("", ".")]),
)
def test_one_notation_reads_every_value_alike(amounts: list[tuple[int, int]], signs: tuple[str, str]) -> None:
    """The decimal sign is a property of the column: no value may be read by another one."""
    thousands, decimal = signs
    texts = [f"{whole:,}".replace(",", thousands) + f"{decimal}{cents:02d}" for whole, cents in amounts]
    assert read(texts) == [float(f"{whole}.{cents:02d}") for whole, cents in amounts]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1h 52m", "2h", "45m"], [112, 120, 45]),
        (["112 min", "90 min."], [112, 90]),
        (["1:52:00", "0:45:30", "3:30"], [112.0, 45.5, 3.5]),
        (["3:45", "75:30"], [3.75, 75.5]),
        (["PT1H52M", "PT45M", "P1DT1H"], [112, 45, 1500]),
        (["1 hour and 52 minutes", "2 hrs, 5 mins", "90 seconds"], [112.0, 125.0, 1.5]),
    ],
)
def test_durations_are_minutes(texts: list[str], expected: list[float]) -> None:
    """Otherwise "less than two hours" cannot be asked for."""
    assert read(texts) == expected


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["['a', 'b']", "[]", '["Bob\'s"]'], [["a", "b"], [], ["Bob's"]]),
        (['["a", "b\\n"]', '["c"]'], [["a", "b\n"], ["c"]]),
        (["[1, 2]", "[3]"], [[1, 2], [3]]),
        (["Drama|Crime", "Comedy", "Sci-Fi | Drama"], [["Drama", "Crime"], ["Comedy"], ["Sci-Fi", "Drama"]]),
        (["a|b", "(no genres listed)"], [["a", "b"], None]),
    ],
)
def test_lists_written_as_text_are_lists(texts: list[str], expected: list[Any]) -> None:
    """In text, "art" is a part of "['party']"; in a list it is not an element."""
    assert read(texts) == expected


@pytest.mark.parametrize("pair", [("yes", "no"), ("Y", "N"), ("TRUE", "false"), ("t", "f")])
def test_yes_and_no_are_booleans(pair: tuple[str, str]) -> None:
    """Otherwise `where="in_stock"` is refused."""
    assert read([*pair, "n/a", pair[0]]) == [True, False, None, True]


@pytest.mark.parametrize(
    "texts",
    [
        ["00123", "00124"],
        ["85710", "85711"],
        ["12345678901234567890", "1.5"],
        ["M", "F"],
        ["F", "F"],
        ["5 m", "7 m"],
        ["SKU 12", "SKU 13"],
        ["2020-01-01", "2021-01-01"],
        ["[{'id': 1}]", "[{'id': 2}]"],
        ["[1, 'a']", "['b']"],
        ["a", "b"],
        ["__import__('os')", "[__import__('os').system('false')]"],
        ["A long text | with a bar, of the kind that people write to describe a product", "short", "x" * 70],
        ["1.2.3", "1.2.4"],
        ["unknown", "n/a"],
    ],
)
def test_other_text_stays_text(texts: list[str]) -> None:
    """Codes lose their zeros as numbers, and descriptions are no lists."""
    catalog = catalog_of(texts)
    assert catalog.column("x").to_pylist() == texts
    assert catalog.notices == ()


def test_nearly_all_values_must_fit_and_the_others_are_shown() -> None:
    """One "call us" must not make a column of prices text, and a text must not vanish without a word."""
    texts = ["$5.00"] * 98 + ["call us", "from $3"]
    catalog = catalog_of(texts)
    assert catalog.column("x").to_pylist() == [5.0] * 98 + [None] * 2
    assert "values of column 'x' of the data frame are read as missing (2), because they are not numbers, such as " in (
        notices(catalog)
    )
    assert "'call us' in row 99" in notices(catalog)
    assert read(texts[1:]) == texts[1:]  # 97 of 99


def test_years_at_the_ends_of_titles_become_a_column(tmp_path: Path) -> None:
    """ "Films of the nineties" needs a year; titles keep theirs, and a column with years is left alone."""
    titles = [f"Film {number} ({1950 + number % 60})" for number in range(99)] + ["Babylon 5"]
    rows = {"item_id": [*range(100)], "title": titles}
    catalog = read_catalog(pa.table(rows))
    assert list(catalog.titles) == titles
    assert catalog.column("year").to_pylist() == [1950 + number % 60 for number in range(99)] + [None]
    assert "'year' from the ends of titles" in notices(catalog)
    assert "'Babylon 5' in row 100" in notices(catalog)
    assert read_catalog(pa.table({**rows, "Release Year": ["?"] * 100})).attribute_names == ("Release Year",)
    assert read_catalog(pa.table(rows), file_format=FileFormat(types={"year": "text"})).attribute_names == ()
    assert read_catalog(pa.table(rows), file_format=FileFormat(types="text")).attribute_names == ()
    assert read_catalog(pa.table(rows), take=[]).attribute_names == ()
    catalog.write(tmp_path / "saved.parquet")
    assert Catalog.read(tmp_path / "saved.parquet").fingerprint == catalog.fingerprint


def test_ids_and_titles_never_change() -> None:
    """An id names the same item in every file; a title is what the model writes."""
    rows = {"item_id": ["$5.00", "$6.00"], "title": ["1:52:00", "yes"], "x": ["$1.00", "$2.00"]}
    catalog = read_catalog(pa.table(rows))
    assert list(catalog.item_ids) == rows["item_id"]
    assert list(catalog.titles) == rows["title"]
    assert catalog.column("x").to_pylist() == [1.0, 2.0]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_types_do_not_depend_on_the_format(tmp_path: Path, suffix: str) -> None:
    """The same shop as CSV, JSON or Parquet must take the same filters."""
    rows = [
        {
            "item_id": f"i{row}",
            "title": f"t{row}",
            "price": f"${row}.50",
            "stock": "yes" if row else "no",
            "tags": "a|b",
        }
        for row in range(3)
    ]
    path = tmp_path / f"items.{suffix}"
    if suffix == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == "csv":
        path.write_text("\n".join(",".join(line) for line in [[*rows[0]], *(row.values() for row in rows)]))
    else:
        import json

        path.write_text("\n".join(map(json.dumps, rows)))
    catalog = read_catalog(path)
    assert catalog.where("price < 2 and stock and 'a' in tags").tolist() == [False, True, False]
    assert sum(notice.code == "columns_typed" for notice in catalog.notices) == 1


def test_text_tables_have_no_other_way_to_write_numbers(tmp_path: Path) -> None:
    """In CSV every value is text, so a word for missing must not make a column of numbers text."""
    path = tmp_path / "items.csv"
    path.write_text("item_id,title,year,zip,code\n1,a,1999,10115,001\n2,b,unknown,80331,002\n")
    catalog = read_catalog(path)
    assert [catalog.column(name).to_pylist() for name in catalog.attribute_names] == [
        [1999, None],
        [10115, 80331],
        ["001", "002"],
    ]
    plain = read_catalog(path, file_format=FileFormat(types={"zip": "text", "code": "number"}))
    assert plain.column("zip").to_pylist() == ["10115", "80331"]
    assert plain.column("code").to_pylist() == [1, 2]
    assert set(read_catalog(path, file_format=FileFormat(types="text")).column("year").to_pylist()) == {
        "1999",
        "unknown",
    }


@pytest.mark.parametrize(
    ("types", "words"),
    [
        ({"y": "number"}, "types names 'y', which is no attribute of the data frame; these are x"),
        ({"title": "list"}, "types names 'title'"),
        ({"x": "decimal-coma"}, "did you mean 'decimal-comma'?"),
        ({"x": 1}, "the type of 'x' is 1"),
        ({"x": "number"}, "types makes 'x' of the data frame 'number', but none of its values is one, such as 'a'"),
        ("number", "types is 'number'"),
    ],
)
def test_a_type_that_cannot_be_is_refused(types: Any, words: str) -> None:
    """A typing error must not leave a column as it was, or empty it."""
    with pytest.raises(InputError) as caught:
        catalog_of(["a", "b"], types)
    assert words in str(caught.value)


def test_a_filter_names_the_first_value_that_does_not_fit() -> None:
    """With its row the value can be repaired, or its column be given a type."""
    catalog = catalog_of(["$5.00", "call us", "ask", "$7.00"])
    with pytest.raises(FilterError, match=r"x holds text, such as 'call us' in row 2, but 5 is a number"):
        catalog.where("x < 5")
    assert catalog_of(["$5.00", "call us", "$7.00"], {"x": "number"}).where("x < 6").tolist() == [True, False, False]
