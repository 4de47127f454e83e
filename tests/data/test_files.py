"""Files as they come: every kind that people bring is read, or named for what it is with the remedy."""

import bz2
import gzip
import io
import json
import lzma
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from genrec.data.byte_source import MAX_EXPANSION, MIN_BOUNDED_SIZE
from genrec.data.catalog import Catalog, read_catalog
from genrec.data.file_options import FileFormat
from genrec.data.interactions import read_interactions
from genrec.errors import InputError

FILES = Path(__file__).parent / "files"
TABLE = "item_id,title\n1,Mug\n2,Lamp\n"


def notices(read: Any) -> str:
    return "; ".join(map(str, read.notices))


def titles(path: Path, **options: Any) -> tuple[str, ...]:
    return read_catalog(path, **options).titles


def written(folder: Path, content: str | bytes, name: str = "items.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "expected", "said"),
    [
        (
            "artists_tab.dat",
            ["Duran Trio", "!!!", "嵐", "3", "Duran Trio feat. Moon"],
            ["separator tab", "'name' as title"],
        ),
        ("array.json", ["One", "Two"], []),
        ("trailing_tabs.tsv", ["Decision", "Flu & Fever"], ["separators at the ends of lines ignored", "entities"]),
        ("catalog_gbk.csv", ["星海旅人", "雨夜咖啡馆"], ["encoding gb18030", "'类型' as lists"]),
        ("utf16_no_bom.csv", ["Mug", "Lamp"], ["encoding utf-16-le"]),
        ("comment_first.csv", ["Mug"], ["the first line skipped"]),
        ("sep_line.csv", ["Mug"], ["separator ';'"]),
        ("caret.csv", ["Mug", "Lamp"], ["separator '^'"]),
        ("gzip_named.csv", ["Mug"], ["gzip"]),
        ("one_table.zip", ["Deep Harbour", "Deep Harbour II"], ["'app' as item_id", "'Game Name' as title"]),
        (
            "meta.json.gz",
            ['Gift Card "Spring" & More', "Chili's Card", "Birthday Card"],
            ["'rank'", "'asin' as item_id", "'price' as numbers"],
        ),
        ("nested_mixed.json", ["Cafe One", "Cafe Two"], ["'attributes'", "line 2"]),
        ("prices_eu.csv", ["Tasse", "Lampe"], ["separator ';'", "'1.250,00 €' is 1250.0"]),
        ("prices.csv", ["Mug", "Lamp", "Tray", "Bowl"], ["'$1,250.00' is 1250.0", "'unknown' in row 3"]),
    ],
)
def test_a_catalog_is_read_and_what_was_inferred_is_said(name: str, expected: list[str], said: list[str]) -> None:
    """Otherwise people write a script for every data set, or do not see that their file was misunderstood."""
    catalog = read_catalog(FILES / name)
    assert list(catalog.titles) == expected
    assert all(words in notices(catalog) for words in said), notices(catalog)
    assert bool(catalog.notices) == bool(said)
    if name == "trailing_tabs.tsv":
        assert list(catalog.item_ids) == ["0060973129", "0374157065"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("html_as_csv.csv", ["is an HTML page"]),
        ("lfs_pointer.csv", ["git lfs pull"]),
        ("python_quotes.jsonl", ["Python dict", "ast.literal_eval"]),
        ("items_doublecolon_latin1.dat", ["no header", "Café Noir (1974)", "FileFormat(names=['item_id', 'title'"]),
    ],
)
def test_a_file_that_cannot_be_read_as_it_is_names_the_remedy(name: str, words: list[str]) -> None:
    """Otherwise the next command is a guess."""
    with pytest.raises(InputError) as caught:
        read_catalog(FILES / name)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_without_a_header_loses_no_row() -> None:
    """The first item would otherwise be taken for the names of the columns."""
    path = FILES / "items_doublecolon_latin1.dat"
    catalog = read_catalog(path, file_format=FileFormat(names=["item_id", "title", "genres"]))
    assert list(catalog.item_ids) == ["1", "2", "3", "4"]
    assert catalog.titles[:3] == ("Café Noir (1974)", "Señor Luna (1981)", "Der Flötenspieler (1990)")
    assert catalog.column("genres").to_pylist()[0] == ["Drama", "Crime"]
    assert catalog.column("year").to_pylist() == [1974, 1981, 1990, 2001]
    assert "separator '::', encoding cp1252" not in notices(catalog)
    assert all(words in notices(catalog) for words in ("separator '::'", "encoding cp1252, as in 'Café Noir (1974)'"))
    given = FileFormat("::", "latin-1", "none", names=["item_id", "title", "_"], types={"year": "text"})
    exact = read_catalog(path, file_format=given)
    assert exact.titles == catalog.titles
    assert exact.attribute_names == ()
    assert exact.notices == ()


def test_the_conversion_of_python_objects_that_is_named_works(tmp_path: Path) -> None:
    """A remedy that fails is worse than none."""
    shutil.copy(FILES / "python_quotes.jsonl", tmp_path)
    with pytest.raises(InputError) as caught:
        read_catalog(tmp_path / "python_quotes.jsonl")
    subprocess.run(str(caught.value).split("for example: ")[1], shell=True, check=True, cwd=tmp_path)
    assert titles(tmp_path / "python_quotes-json.jsonl") == ("Bob's Mug", "Tea Set")


def test_events_of_well_known_names_are_read() -> None:
    """Reviews of Amazon are the data set that most people try first."""
    read = read_interactions(FILES / "reviews.json")
    assert list(read.user_ids) == ["A1", "A2"]
    assert list(read.item_ids) == ["B01", "B02"]
    assert read.timestamps.tolist() == [1395446400.0, 1395446401.0, 1395532800.0]
    assert "'unixReviewTime' as timestamp" in notices(read)
    assert list(read_interactions(FILES / "users_through_floats.csv").user_ids) == ["1", "2"]
    with pytest.raises(InputError, match="rounded number"):
        read_interactions(FILES / "ids_through_floats.csv")


def test_a_column_whose_kind_changes_is_left_out_only_if_nobody_asked_for_it(tmp_path: Path) -> None:
    """One mixed column of a data set would otherwise cost all of it; one that is needed must not vanish silently."""
    catalog = read_catalog(FILES / "meta.json.gz")
    assert catalog.attribute_names == ("price",)
    (said,) = [notice for notice in catalog.notices if notice.code == "column_left_out"]
    assert str(said) == "column 'rank' of meta.json.gz was left out, because it is text in line 2 and a list in line 1"
    with pytest.raises(InputError, match="column 'rank' of meta"):
        read_catalog(FILES / "meta.json.gz", columns={"place": "rank"})
    path = written(tmp_path, '{"item_id": 1, "title": "a"}\n{"item_id": 2, "title": ["b"]}\n', "x.jsonl")
    with pytest.raises(InputError, match=r"'title' of x\.jsonl is a list in line 2 and text in line 1"):
        read_catalog(path)


@pytest.mark.parametrize("rows", [60_000, 120_000])
def test_kinds_are_compared_over_the_whole_file(tmp_path: Path, rows: int) -> None:
    """A file is read in blocks; a column that changes its kind between two must not be cut or cast."""
    lines = [
        {"item_id": n, "title": f"t{n}", "x": 1 if n < rows - 2 else "one", "y": n, "late": None} for n in range(rows)
    ]
    lines[-1] |= {"y": 0.5, "late": ["a"], "new": "z"}
    path = written(tmp_path, "".join(json.dumps(line) + "\n" for line in lines), "x.jsonl")
    catalog = read_catalog(path)
    assert len(catalog) == rows
    assert catalog.attribute_names == ("y", "late", "new")
    assert f"text in line {rows - 1:,} and a number in line 1" in notices(catalog)
    assert catalog.column("y").to_pylist()[-2:] == [rows - 2, 0.5]
    assert catalog.column("late").to_pylist()[-2:] == [None, ["a"]]


JSON_FORMS = {
    "lines": '{"item_id": "1", "title": "Mug"}\n{"item_id": "2", "title": "Lamp"}\n',
    "array": '[{"item_id": "1", "title": "Mug"}, {"item_id": "2", "title": "Lamp"}]',
    "indented array": json.dumps([{"item_id": "1", "title": "Mug"}, {"item_id": "2", "title": "Lamp"}], indent=2),
    "indented objects": '{\n "item_id": "1",\n "title": "Mug"\n}\n{\n "item_id": "2",\n "title": "Lamp"\n}\n',
    "columns by row": '{"item_id": {"0": "1", "1": "2"}, "title": {"0": "Mug", "1": "Lamp"}}',
    "columns as lists": '{"item_id": ["1", "2"],\n "title": ["Mug", "Lamp"]}',
    "under one key": '{"items": [{"item_id": "1", "title": "Mug"}, {"item_id": "2", "title": "Lamp"}]}',
    "byte order mark": '\ufeff{"item_id": "1", "title": "Mug"}\n{"item_id": "2", "title": "Lamp"}\n',
}


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.ndjson", "x.txt", "x.csv"])
@pytest.mark.parametrize("form", JSON_FORMS)
def test_json_is_read_in_every_form(tmp_path: Path, form: str, name: str) -> None:
    """The same table must not depend on which program wrote it."""
    catalog = read_catalog(written(tmp_path, JSON_FORMS[form], name))
    assert [(item.item_id, item.title) for item in catalog] == [("1", "Mug"), ("2", "Lamp")]
    assert ("JSON" in notices(catalog)) == (name in ("x.txt", "x.csv"))


def test_a_row_with_lists_and_objects_is_a_row(tmp_path: Path) -> None:
    """A file of one row must not be taken for an object of columns."""
    row = {"item_id": "1", "title": "Mug", "tags": ["a"], "size": {"x": 1}}
    assert titles(written(tmp_path, json.dumps(row), "x.json")) == ("Mug",)


def test_a_large_array_is_read_piece_by_piece(tmp_path: Path) -> None:
    """Values that lie across two pieces must not be lost or cut."""
    rows = [{"item_id": n, "title": f'é{n} \\ " ] }}', "pad": "x" * (n % 997)} for n in range(9_000)]
    path = written(tmp_path, json.dumps(rows, ensure_ascii=False), "x.json")
    assert list(titles(path)) == [row["title"] for row in rows]


COMPRESSIONS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    ".zip": lambda data: zipped({"folder/items.csv": data, "README.txt": b"about", "__MACOSX/._items.csv": b"x"}),
}


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_compressed_files_are_read_whatever_their_name(tmp_path: Path, suffix: str) -> None:
    """The first bytes say how a file is compressed; two members of a file are one table."""
    content = COMPRESSIONS[suffix](TABLE.encode())
    catalog = read_catalog(written(tmp_path, content, f"items.csv{suffix}"))
    assert catalog.titles == ("Mug", "Lamp")
    assert catalog.notices == ()
    other = read_catalog(written(tmp_path, content, "items.csv"))
    assert other.fingerprint == catalog.fingerprint
    assert "its name does not say" in notices(other)
    if suffix != ".zip":
        more = COMPRESSIONS[suffix](b"3,Tray\n")
        assert titles(written(tmp_path, content + more, f"items.csv{suffix}"))[-1] == "Tray"


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_damage_of_a_compressed_file_is_named(tmp_path: Path, suffix: str) -> None:
    """A download that was cut short must not be taken for the whole."""
    data = "".join(f"{number},Title {number * number}\n" for number in range(20_000)).encode()
    content = COMPRESSIONS[suffix](b"item_id,title\n" + data)
    with pytest.raises(InputError, match=r"damaged|incomplete|not closed"):
        read_catalog(written(tmp_path, content[: len(content) // 2], f"items.csv{suffix}"))


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_parquet_is_read_in_any_wrapping(tmp_path: Path, suffix: str) -> None:
    """A table must not need another tool only because of how it was packed."""
    import pyarrow.parquet as parquet

    buffer = io.BytesIO()
    parquet.write_table(pa.table({"item_id": [1, 2], "title": ["Mug", "Lamp"]}), buffer)
    data = buffer.getvalue()
    content = zipped({"a.parquet": data}) if suffix == ".zip" else COMPRESSIONS[suffix](data)
    assert titles(written(tmp_path, content, f"items.parquet{suffix}")) == ("Mug", "Lamp")
    assert titles(written(tmp_path, data, "items.data")) == ("Mug", "Lamp")


def test_an_archive_of_several_tables_names_them(tmp_path: Path) -> None:
    """Which one is the catalog cannot be known."""
    content = zipped({"ml/movies.csv": TABLE.encode(), "ml/ratings.csv": b"x", "ml/README.txt": b"x"})
    with pytest.raises(InputError, match=r"2 tables, 'ml/movies.csv', 'ml/ratings.csv'; extract them"):
        read_catalog(written(tmp_path, content, "ml.zip"))
    with pytest.raises(InputError, match=r"without a table: it holds 'a.png'"):
        read_catalog(written(tmp_path, zipped({"a.png": b"x"}), "x.zip"))
    with pytest.raises(InputError, match=r"without a table: it is empty"):
        read_catalog(written(tmp_path, zipped({}), "x.zip"))


def test_a_file_made_to_fill_memory_is_refused(tmp_path: Path) -> None:
    """A few kilobytes from a stranger must not take the machine down."""
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = b"1,aaaaaaaaaaaaaaaaaaaaaaaaaaaa\n" * (1 << 15)
    data = [packer.compress(b"item_id,title\n")]
    data += [packer.compress(block) for _ in range(MIN_BOUNDED_SIZE // len(block) + 2)]
    path = written(tmp_path, b"".join([*data, packer.flush()]), "bomb.csv.gz")
    with pytest.raises(InputError, match=rf"bomb.csv.gz expands to more than {MAX_EXPANSION} times"):
        read_catalog(path)


SEPARATORS = [",", ";", "\t", "|", "::", "^", "\x01"]


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.txt", "x.dat", "x"])
@pytest.mark.parametrize("separator", SEPARATORS)
def test_every_separator_is_found_under_every_name(tmp_path: Path, separator: str, name: str) -> None:
    """The name of a file says little about its separator."""
    rows = [("item_id", "title", "genres"), ("1", "Mug (a)", "a b"), ("2", "Lamp", "b"), ("3", "Tray", "a")]
    path = written(tmp_path, "".join(separator.join(row) + "\n" for row in rows), name)
    catalog = read_catalog(path)
    assert [(item.item_id, item.title, item.attributes["genres"]) for item in catalog] == rows[1:]
    assert ("separator" in notices(catalog)) == ((name, separator) not in (("x.csv", ","), ("x.tsv", "\t")))
    assert read_catalog(path, file_format=FileFormat(separator=separator)).fingerprint == catalog.fingerprint


def test_other_separators_inside_fields_do_not_mislead(tmp_path: Path) -> None:
    """Genres are lists with `|`, titles have commas, and prices too."""
    content = "1::Matrix, The (1999)::Action|Sci-Fi\n2::Alien; Director's Cut::Horror|Sci-Fi\n3::Up::Family|Fun\n"
    options = FileFormat(names=["item_id", "title", "genres"])
    assert titles(written(tmp_path, content, "movies.dat"), file_format=options)[0] == "Matrix, The (1999)"
    assert titles(written(tmp_path, "item_id;title;price\n1;Mug;1,5\n2;Cup;2,5\n", "a.csv")) == ("Mug", "Cup")
    assert titles(written(tmp_path, "item_id,title,tags\n1,Mug,a;b\n2,Cup,c;d\n", "a.txt")) == ("Mug", "Cup")


def test_separators_are_replaced_across_the_ends_of_blocks(tmp_path: Path) -> None:
    """`::` may lie across two reads of a file, and a colon alone belongs to a title."""
    rows = [f"{number}::A: {'x' * (number % 61)}::b" for number in range(60_000)]
    path = written(tmp_path, "\n".join(["item_id::title::c", *rows]) + "\n", "x.dat")
    catalog = read_catalog(path)
    assert len(catalog) == 60_000
    assert catalog.titles[7] == "A: xxxxxxx"
    assert set(catalog.column("c").to_pylist()) == {"b"}


@pytest.mark.parametrize(
    "first", ["# exported 2026-01-01\n", "# a\n# b\n\n", "% bip\n", "sep=,\n", '"sep=,"\n', "\n\n"]
)
def test_lines_before_the_table_are_skipped(tmp_path: Path, first: str) -> None:
    """Exports begin with comments, and those for Excel with the separator."""
    catalog = read_catalog(written(tmp_path, first + TABLE))
    assert catalog.titles == ("Mug", "Lamp")
    assert ("skipped" in notices(catalog)) == bool(first.strip())
    with pytest.raises(InputError, match=rf"line {first.count(chr(10)) + 3} of bad.csv has 3 fields"):
        read_catalog(written(tmp_path, first + "item_id,title\n1,a\n2,b,c\n3,d\n", "bad.csv"))


@pytest.mark.parametrize(("header", "line"), [("", ","), (",", "")])
@pytest.mark.parametrize("columns", ["item_id,title,price"])
def test_separators_at_the_ends_of_lines_are_ignored(tmp_path: Path, columns: str, header: str, line: str) -> None:
    """Many exports end every line with one, and their header with none."""
    catalog = read_catalog(written(tmp_path, f"{columns}{header}\n1,Mug,2{line}\n2,Cup,3{line}\n"))
    assert catalog.titles == ("Mug", "Cup")
    assert catalog.attribute_names == ("price",)
    assert "separators at the ends of lines ignored" in notices(catalog)


def test_quotes_of_titles_in_files_that_do_not_quote_are_text(tmp_path: Path) -> None:
    """A quote that is opened by a title swallows every row up to the next one, silently."""
    content = 'item_id\ttitle\turl\n1\t"Weird Al" live\tu\n2\t"Heroes\tu\n3\tMug\tu\n4\t"Foo\tu\n'
    catalog = read_catalog(written(tmp_path, content, "x.tsv"))
    assert catalog.titles == ('"Weird Al" live', '"Heroes', "Mug", '"Foo')
    quoted = 'item_id\ttitle\n1\t"a\tb"\n2\t"said ""hi"""\n'
    assert titles(written(tmp_path, quoted, "y.tsv")) == ("a\tb", 'said "hi"')


def test_backslashes_before_quotes_are_understood(tmp_path: Path) -> None:
    """MySQL writes quotes inside fields so, and Book-Crossing is such an export."""
    content = '"item_id";"title";"year"\n"1";"The \\"J. Peterman\\" Book";"1998"\n"2";"A; b";"1999"\n'
    catalog = read_catalog(written(tmp_path, content))
    assert catalog.titles == ('The "J. Peterman" Book', "A; b")
    assert "backslash" in notices(catalog)


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Flu &amp; Fever", "Flu & Fever"),
        ("&amp;amp;", "&amp;"),
        ("Chili&#39;s &quot;x&quot;", 'Chili\'s "x"'),
        ("&eacute;t&#xE9;", "été"),
        ("AT&T", "AT&T"),
        ("Rock &notes; &copy", "Rock &notes; &copy"),
        ("a &lt;b&gt;", "a <b>"),
    ],
)
def test_entities_of_titles_are_decoded_once(tmp_path: Path, title: str, expected: str) -> None:
    """A model reads and writes `&`, never `&amp;`; names that look like entities stay."""
    catalog = read_catalog(pa.table({"item_id": [1, 2], "title": [title, "Mug"]}))
    assert catalog.titles == (expected, "Mug")
    assert ("entities" in notices(catalog)) == (title != expected)
    catalog.write(tmp_path / "saved.parquet")
    assert Catalog.read(tmp_path / "saved.parquet").titles == catalog.titles


def test_ids_are_the_same_whether_text_or_numbers(tmp_path: Path) -> None:
    """Parquet keeps numbers, CSV has text; both name the same items."""
    catalog = read_catalog(written(tmp_path, TABLE))
    events = read_interactions(pa.table({"user_id": [1], "item_id": [2], "timestamp": [3]}))
    assert events.to_indices(catalog).item_indices.tolist() == [1]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"separator": ";;"}, "separator ';;'"),
        ({"separator": '"'}, "separator"),
        ({"separator": 1}, "separator 1"),
        ({"encoding": "klingon"}, "encoding 'klingon' is unknown"),
        ({"encoding": "base64"}, "encoding 'base64' is unknown"),
        ({"encoding": 1}, "encoding is 1"),
        ({"header": "second"}, "header is 'second'"),
        ({"names": "item_id"}, "names is 'item_id'"),
        ({"names": ["item_id", "item_id"]}, "a name twice"),
        ({"names": ["item_id", "title", "x"]}, "3 column names are given"),
        ({"names": ["item_id", "title"], "header": "first"}, "cannot be combined"),
    ],
)
def test_a_format_that_cannot_be_is_refused(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    """Otherwise a typing error is answered by a traceback or by wrong titles."""
    with pytest.raises(InputError) as caught:
        read_catalog(written(tmp_path, TABLE), file_format=FileFormat(**fields))
    assert words in str(caught.value)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "utf-16"])
def test_a_given_encoding_that_does_not_fit_is_refused(tmp_path: Path, encoding: str) -> None:
    """Otherwise titles lose characters, or a traceback answers."""
    content = "item_id,title\n1,Café\n".encode("cp1252")
    with pytest.raises(InputError):
        read_catalog(written(tmp_path, content), file_format=FileFormat(encoding=encoding))
    marked = written(tmp_path, TABLE.encode("utf-16"), "x.csv")
    assert titles(marked, file_format=FileFormat(encoding="utf-16")) == ("Mug", "Lamp")
    signed = written(tmp_path, TABLE.encode("utf-8-sig"), "x.csv")
    assert titles(signed, file_format=FileFormat(encoding="utf-8")) == ("Mug", "Lamp")
