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


FOREIGN = [
    (gzip.compress(TABLE), "compressed with gzip"),
    (bz2.compress(TABLE), "compressed with bzip2"),
    (lzma.compress(TABLE), "compressed with xz"),
    (b"\x28\xb5\x2f\xfd\x00\x00", "compressed with zstd"),
    (zipped("steam/items.csv"), "a ZIP archive that holds 'steam/items.csv'"),
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


@pytest.mark.parametrize(("content", "words"), FOREIGN, ids=[words for _, words in FOREIGN])
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
    assert "has no column" in refusal(path, f"{header}\n1,Mug\n".encode())


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
@given(title=st.text(st.sampled_from("aé漢🎁 '"), max_size=8), header=st.sampled_from(["item_id,title", "编号,标题"]))
def test_text_of_wide_encodings_is_named_with_or_without_a_byte_order_mark(
    tmp_path_factory: pytest.TempPathFactory, encoding: str, title: str, header: str
) -> None:
    """Otherwise users get column names full of zero bytes, or the advice to convert from another encoding."""
    path = tmp_path_factory.getbasetemp() / "wide.csv"
    told = refusal(path, f"{header}\n1,{title}\n2,Lamp\n".encode(encoding))
    assert f"encoded as {encoding.upper().replace('-LE', 'LE').replace('-BE', 'BE')}" in told
    subprocess.run(told.rpartition(": ")[2], shell=True, cwd=path.parent, check=True)
    assert (path.parent / "utf8-wide.csv").read_text(encoding="utf-8-sig") == f"{header}\n1,{title}\n2,Lamp\n"


@pytest.mark.parametrize(
    ("encoding", "title"),
    [
        ("cp1252", "Señor Müller"),
        ("cp1251", "Привет мир"),
        ("koi8-r", "Привет мир"),
        ("gb18030", "星海旅人"),
        ("big5", "台灣人"),
        ("cp932", "日本の本"),
        ("cp949", "안녕하세요"),
    ],
)
def test_no_encoding_is_advised_but_the_text_is_shown_in_each_that_fits(
    tmp_path: Path, encoding: str, title: str
) -> None:
    """Following the advice of a wrong encoding changes every title silently."""
    told = refusal(tmp_path / "items.csv", f"item_id,title\n1,{title}\n".encode(encoding))
    assert f"'1,{title}' in {encoding}" in told
    assert "byte 0x" in told
    assert "line 2" in told
    assert "iconv -f ENCODING -t UTF-8" in told


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ('[\n {\n  "item_id": "a"\n }\n]\n', "x.jsonl", ["holds a JSON array", "jq -c '.[]' x.jsonl"]),
        ('[{"item_id": "a"},\n{"item_id": "b"}]\n', "x.jsonl", ["holds a JSON array"]),
        ('[{"item_id": "a"}]', "x.json", ["holds a JSON array"]),
        ('[{"item_id": "a"}]', "x.csv", ["holds a JSON array"]),
        ('{"item_id": "a"}\n', "x.json", ["holds JSON objects", "rename it to .jsonl"]),
        ('{"item_id": "a"}\n', "x.csv", ["holds JSON objects", "rename it to .jsonl"]),
        ("{'item_id': 'a'}\n", "x.jsonl", ["line 1 of x.jsonl", "Python dict", "ast.literal_eval"]),
        ("item_id::title\n1::Mug\n", "x.csv", ["separated by '::'"]),
        ("item_id^title\n1^Mug\n", "x.csv", ["separated by '^'"]),
        ("item_id|title\n1|Mug\n", "x.tsv", ["separated by '|'"]),
        ("item_id,title\n1,Mug\n", "x.tsv", ["separated by ','", "rename it to .csv"]),
        ("item_id\ttitle\n1\tMug\n", "x.csv", ["separated by '\\t'", "rename it to .tsv"]),
        ("item_id\x01title\n1\x01Mug\n", "x.csv", ["separated by '\\x01'"]),
        ('{\n"item_id": "a",\n"title": "Mug"\n}\n', "x.jsonl", ["line 1 of x.jsonl", "jq -c . x.jsonl"]),
        ("sep=,\nitem_id,title\n1,Mug\n", "x.csv", ["remove the first line, which is for Excel only"]),
        ("sep=;\nitem_id;title\n1;Mug\n", "x.csv", ["remove the first line", "save it with commas"]),
        ("# exported\nitem_id,title\n1,Mug\n", "x.csv", ["begins with '#'", "remove it"]),
        ("item_id,title\n1,Mug,\n", "x.csv", ["line 2", "ends with a separator", "end the header with one too"]),
        ("item_id\ttitle\n1\tMug\t\n", "x.tsv", ["line 2", "ends with a separator"]),
        ("item_id,title,\n1,Mug\n", "x.csv", ["line 2", "the header ends with a separator"]),
        ("item_id,title,price\n1,Mug\n", "x.csv", ["line 2", "add the missing fields"]),
        ("item_id,title\n1,Mug, big\n", "x.csv", ["line 2", "quote fields that contain the separator"]),
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
