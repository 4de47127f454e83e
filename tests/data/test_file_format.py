"""File formats: a file that is not the table its name promises is named for what it is, with a remedy that is right."""

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.batch.input import build_input_index
from genrec.data.catalog import read_catalog
from genrec.data.file_options import FileFormat
from genrec.data.interactions import read_interactions
from genrec.errors import InputError

TABLE = b"item_id,title\n1,Mug\n2,Lamp\n"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 12345\n"


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, TABLE)
    return buffer.getvalue()


def refusal(path: Path, content: bytes, reader: Any = read_catalog) -> str:
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        reader(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Compressed tables, which a batch does not read, because it must begin anywhere in its input.
COMPRESSED = [
    (gzip.compress(TABLE), "compressed with gzip"),
    (bz2.compress(TABLE), "compressed with bzip2"),
    (lzma.compress(TABLE), "compressed with xz"),
    (b"\x28\xb5\x2f\xfd\x00\x00", "compressed with zstd"),
    (zipped("steam/items.csv"), "a ZIP archive that holds 'steam/items.csv'"),
]
FOREIGN = [
    (zipped("[Content_Types].xml", "xl/workbook.xml"), "an Excel workbook"),
    (zipped("mimetype", "content.xml"), "an OpenDocument file"),
    (b"PK\x03\x04 cut short", "a damaged ZIP archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook (.xls)"),
    (b"ARROW1\x00\x00", "an Arrow (Feather) file"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"%PDF-1.4\n", "a PDF document"),
    (b"\x80\x04\x95\x00", "never unpickles"),
    (b"<!DOCTYPE html><html><body>Sign in</body></html>", "an HTML page"),
    (b"\xef\xbb\xbf \n<HTML>", "an HTML page"),
    (b'<?xml version="1.0"?><a/>', "an XML document"),
    (LFS_POINTER, "git lfs pull"),
    (b"ORC\n\x1c\x00\x00", "an ORC file"),
    (b"Obj\x01\x04\x14", "an Avro file"),
    (b"\x04\x22\x4d\x18", "compressed with lz4"),
    (b"<!-- proxy --><script>location</script>", "an HTML page"),
    (b"<Error><Code>AccessDenied</Code></Error>", "an XML document"),
]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".dat"])
@pytest.mark.parametrize(("content", "words"), FOREIGN, ids=[words for _, words in FOREIGN])
def test_a_file_of_another_format_is_named_for_what_it_is(
    tmp_path: Path, content: bytes, words: str, suffix: str
) -> None:
    """Otherwise users are told to map columns or to re-encode what is not text at all."""
    assert words in refusal(tmp_path / f"items{suffix}", content)


@pytest.mark.parametrize(
    ("content", "words"), [*COMPRESSED, *FOREIGN], ids=[words for _, words in COMPRESSED + FOREIGN]
)
def test_a_batch_names_such_a_file_before_it_starts(tmp_path: Path, content: bytes, words: str) -> None:
    """Otherwise a run starts, and every one of its rows fails."""
    assert words in refusal(tmp_path / "rows.csv", content, lambda path: build_input_index(path, 10))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        b"\x93NUMPY\x01\x00v\x00{'descr'",
        b"\xff\xd8\xff\xe0\x00\x10JFIF",
        b"\x7fELF\x02\x01\x01\x00",
        b"items.csv" + b"\x00" * 200,
        b"\x03\x7a\x07\x1a",
    ],
)
def test_bytes_that_are_no_text_are_not_to_be_re_encoded(tmp_path: Path, content: bytes, suffix: str) -> None:
    """No encoding makes a table of an image, an array or an archive, and no mapping finds its columns."""
    assert "binary file" in refusal(tmp_path / f"items{suffix}", content)


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_a_table_of_text_is_never_taken_for_a_binary_file(tmp_path_factory: pytest.TempPathFactory, title: str) -> None:
    """Titles are data, whatever characters they hold."""
    path = tmp_path_factory.getbasetemp() / "text.jsonl"
    path.write_text(json.dumps({"item_id": "1", "title": f"x{title}"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert len(read_catalog(path)) == 1


@pytest.mark.parametrize("header", ["<TICKER>,<NAME>", "<id>\t<title>"])
def test_column_names_in_angle_brackets_are_no_page(tmp_path: Path, header: str) -> None:
    """Otherwise a table of market data is taken for a page of the web."""
    path = tmp_path / ("x.csv" if "," in header else "x.tsv")
    path.write_text(f"{header}\n1{',' if ',' in header else chr(9)}Mug\n", encoding="utf-8")
    assert read_catalog(path, columns={"item_id": header.split(",")[0].split("\t")[0]}).titles == ("Mug",)


ROW = '{"item_id": "a", "title": "Mug"}\n'


@pytest.mark.parametrize(
    "content",
    [
        "null\n",
        f"null\n{ROW}",
        f"\ufeffnull{ROW}",
        f"{ROW}null\n",
        f"{ROW}\nnull null\n{ROW}",
        '{"item_id": "a", "title": "Mug", "n": ' + "[" * 100_000 + "]" * 100_000 + "}\n",
        '{"item_id": "a", "title": "Mug", "n": ' + '{"n": ' * 2_000 + "1" + "}" * 2_000 + "}\n",
        '{\n"item_id": "a",\n"title": "Mug",\n"n": ' + "[\n" * 100_000 + "]\n" * 100_000 + "}\n",
    ],
    ids=["null", "null first", "null after a mark", "null last", "nulls", "lists", "objects", "lists over lines"],
)
def test_no_json_ends_the_process(tmp_path: Path, content: str) -> None:
    """Arrow's reader of JSON crashes on a block that begins with null and on deep nesting, and the server with it."""
    path = tmp_path / "items.jsonl"
    path.write_text(content, encoding="utf-8")
    code = "import sys; from genrec import read_catalog; read_catalog(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert "genrec.errors.InputError: line" in done.stderr, (done.returncode, done.stderr[-300:])
    assert done.returncode == 1


def test_brackets_in_titles_are_no_nesting(tmp_path: Path) -> None:
    """Otherwise a row is refused for the characters of its title."""
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps({"item_id": "a", "title": '[{"' * 1_000}) + "\n", encoding="utf-8")
    assert len(read_catalog(path)) == 1


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    """A pipe without a writer holds the program up for ever, and one with a writer can be read only once."""
    os.mkfifo(tmp_path / "items.csv")
    with pytest.raises(InputError, match="is a pipe or a device"):
        read_catalog(tmp_path / "items.csv")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-16", "utf-32"])
@given(
    title=st.text(st.sampled_from("aé漢🎁'"), min_size=1, max_size=8),
    header=st.sampled_from(["item_id,title", "编号,标题"]),
)
def test_text_of_wide_encodings_is_read_with_or_without_a_byte_order_mark(
    tmp_path_factory: pytest.TempPathFactory, encoding: str, title: str, header: str
) -> None:
    """Otherwise users get column names full of zero bytes, or must convert what Excel and SQL Server write."""
    path = tmp_path_factory.getbasetemp() / "wide.csv"
    path.write_bytes(f"{header}\n1,{title}\n2,Lamp\n".encode(encoding))
    catalog = read_catalog(path, columns=dict(zip(("item_id", "title"), header.split(","), strict=True)))
    assert catalog.titles == (title, "Lamp")
    assert encoding in str(catalog.notices[0]), catalog.notices


@pytest.mark.parametrize(
    ("encoding", "title", "is_clear"),
    [
        ("cp1252", "Señor Müller", False),
        ("cp1251", "Привет мир", True),
        ("koi8-r", "Привет мир", True),
        ("gb18030", "星海旅人", True),
        ("big5", "台灣人", True),
        ("cp932", "日本の本", True),
        ("cp949", "안녕하세요", True),
    ],
)
def test_an_encoding_is_taken_and_shown_where_the_text_tells_it(
    tmp_path: Path, encoding: str, title: str, is_clear: bool
) -> None:
    """A wrong encoding changes every title silently; where little text tells, the user sees it in each and chooses."""
    path = tmp_path / "items.csv"
    content = f"item_id,title\n1,{title}\n".encode(encoding)
    path.write_bytes(content)
    if is_clear:
        catalog = read_catalog(path)
        assert catalog.titles == (title,)
        assert f"encoding {encoding}" in str(catalog.notices[0])
        assert repr(title) in str(catalog.notices[0])
        return
    told = refusal(path, content)
    assert f"'1,{title}' in {encoding}" in told
    assert "line 2" in told
    assert "FileFormat(encoding=" in told
    assert read_catalog(path, file_format=FileFormat(encoding=encoding)).titles == (title,)


def test_a_few_damaged_bytes_do_not_change_the_encoding_of_a_file(tmp_path: Path) -> None:
    """Else one cut character turns every accent of a UTF-8 file into two wrong letters."""
    content = "item_id,title\n" + "".join(f"{number},Café Übermut\n" for number in range(50))
    told = refusal(tmp_path / "items.csv", content.encode() + b"50,Caf\xe9 \n")
    assert "is not UTF-8: byte 0xe9 at position 7 of line 52" in told


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("{'item_id': 'a'}\n", "x.jsonl", ["line 1 of x.jsonl", "Python dict", "ast.literal_eval"]),
        ("{u'item_id': u'a'}\n", "x.json", ["line 1 of x.json", "Python dict", "ast.literal_eval"]),
        ("item_id,title,price\n1,Mug\n", "x.csv", ["line 2", "add the missing fields"]),
        ("item_id,title\n1,Mug, big\n", "x.csv", ["line 2", "quote fields that contain the separator"]),
        ("item_id,title\n1,Mug,\n2,Lamp\n3,Tray\n", "x.csv", ["line 2", "ends with a separator"]),
        ('[{"item_id": "a"}, {"item_id": }]', "x.json", ["line 1 of x.json", "Expecting value"]),
        ('[{"item_id": "a"}, 1]', "x.json", ["line 1 of x.json", "not a JSON object"]),
        ('[{"item_id": "a"},\n', "x.json", ["x.json", "never closed"]),
        ("Dear all,\nplease find the table below\n", "x.txt", ["does not look like a table", "separator="]),
    ],
)
def test_a_table_of_another_form_is_refused_with_the_remedy_for_it(
    tmp_path: Path, content: str, name: str, words: list[str]
) -> None:
    """A remedy that does not fit sends the user away from the solution."""
    told = refusal(tmp_path / name, content.encode())
    assert all(word in told for word in words), told


@pytest.mark.parametrize(("header", "line"), [("item_id,title,", "1,Mug,"), ("item_id,title", "1,Mug")])
def test_both_remedies_for_trailing_separators_work(tmp_path: Path, header: str, line: str) -> None:
    """Otherwise the message advises what is refused again."""
    (tmp_path / "x.csv").write_text(f"{header}\n{line}\n", encoding="utf-8")
    assert len(read_catalog(tmp_path / "x.csv")) == 1


@pytest.mark.parametrize("name", ["none", "none.csv", "none.json", "none.xlsx"])
def test_a_missing_file_is_missing_whatever_its_suffix(tmp_path: Path, name: str) -> None:
    """Otherwise a typing error in a path is answered by advice about formats."""
    with pytest.raises(InputError, match=rf"{name} does not exist"):
        read_catalog(tmp_path / name)
    with pytest.raises(InputError, match="is a directory"):
        read_catalog(tmp_path)


@pytest.mark.parametrize("text", ["9.95279394541916e+17", "1.2E+16", "9007199254740993.0"])
def test_ids_that_were_rounded_are_refused(tmp_path: Path, text: str) -> None:
    """Two ids that went through floats may have become one, and two items or users are then one silently."""
    path = tmp_path / "x.csv"
    for column, row in (("item_id", f"u,{text},1"), ("user_id", f"{text},a,1")):
        told = refusal(path, f"user_id,item_id,timestamp\n{row}\n".encode(), read_interactions)
        assert column in told
        assert "data row 1 of x.csv" in told
        assert repr(text.removesuffix(".0")) in told
    assert text.removesuffix(".0") in refusal(path, f"item_id,title\n{text},Mug\n".encode())


def test_a_column_of_ids_written_as_floats_holds_whole_numbers(tmp_path: Path) -> None:
    """pandas writes 1.0 for user 1 if another row has no user; both files must mean the same user."""
    (tmp_path / "floats.csv").write_text("user_id,item_id,timestamp\n1.0,7.0,1\n2.0,0.0,2\n", encoding="utf-8")
    events = read_interactions(tmp_path / "floats.csv")
    assert list(events.user_ids) == ["1", "2"]
    assert list(events.item_ids) == ["0", "7"]
    (tmp_path / "versions.csv").write_text("item_id,title\n1.0,a\n1.10,b\n", encoding="utf-8")
    assert list(read_catalog(tmp_path / "versions.csv").item_ids) == ["1.0", "1.10"]
