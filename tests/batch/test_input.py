"""Rows are found again from any place, whatever the file looks like, and what cannot be read stands in nobody's way."""

import json
import random
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.batch.input import BlockReader, build_input_index
from genrec.batch.row import InputRow
from genrec.errors import InputError, MismatchError

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8)


def read(source: Path, size: int) -> list[InputRow]:
    """Every block: in order, the last one first, each alone, and in any order."""
    found = build_input_index(source, size)
    assert all(block.num_rows <= size for block in found.blocks)
    mixed = random.Random(size).sample(found.blocks, len(found.blocks))
    answers = []
    for order in (found.blocks, found.blocks[::-1], mixed):
        reader = BlockReader(source, found)
        blocks = {block.first_row: reader.read(block) for block in order}
        answers.append([row for first in sorted(blocks) for row in blocks[first]])
    answers.append([row for block in found.blocks for row in BlockReader(source, found).read(block)])
    assert len(answers[0]) == found.num_rows
    assert all(own == answers[0] for own in answers)
    return answers[0]


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=12), size=st.integers(1, 5))
def test_blocks_hold_what_the_whole_file_holds(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[str, str]], size: int
) -> None:
    """Quotes, line ends within fields, blank fields and any script: a block that begins elsewhere is other people."""
    folder = tmp_path_factory.mktemp("rows")
    frame = pd.DataFrame(values, columns=["user_id", "words"])
    frame.to_csv(folder / "a.csv", index=False, quoting=1)
    frame.to_csv(folder / "b.tsv", index=False, sep="\t", quoting=1)
    frame.to_json(folder / "c.jsonl", orient="records", lines=True)
    frame.to_parquet(folder / "d.parquet", row_group_size=3)
    expected = frame.to_dict("records")
    for name in ("a.csv", "b.tsv", "c.jsonl", "d.parquet"):
        assert [row.columns for row in read(folder / name, size)] == expected, name
    assert [row.columns for row in read(folder, size)] == expected * 4


def test_unreadable_row_is_reported_with_its_line(tmp_path: Path) -> None:
    """One broken line of a million must cost one row."""
    lines = [b'{"user_id": 1}', b"{broken", b"", b"[1, 2]", b'{"user_id": "\xff"}', b'{"user_id": 2}', b"[" * 99_999]
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    for size in (1, 2, 10):
        rows = read(tmp_path / "a.jsonl", size)
        assert [row.columns for row in rows] == [{"user_id": 1}, {}, {}, {}, {"user_id": 2}, {}]
        faults = [row.error for row in rows]
        assert faults[0] == faults[4] == ""
        assert faults[1].startswith("line 2 of a.jsonl is not a JSON object: ")
        assert faults[2] == "line 4 of a.jsonl is not a JSON object"
        assert faults[3] == "line 5 of a.jsonl is not UTF-8"
        assert faults[5].startswith("line 7 of a.jsonl is not a JSON object: ")
    (tmp_path / "a.csv").write_bytes(b'user_id,words\n1,"two\nlines"\n2\n\n3,\xff\n4,' + b"x" * 200_000 + b"\n5,end\n")
    for size in (1, 2, 10):
        rows = read(tmp_path / "a.csv", size)
        assert [row.columns for row in rows if row.columns] == [
            {"user_id": "1", "words": "two\nlines"},
            {"user_id": "5", "words": "end"},
        ]
        assert rows[1].error == "line 4 of a.csv has 1 fields, but the header has 2"
        assert rows[2].error == "line 6 of a.csv is not UTF-8"
        assert rows[3].error.startswith("line 7 of a.csv cannot be read: field larger")


def test_a_file_that_changed_is_another_one(tmp_path: Path) -> None:
    """Half a run over one file and half over another is a run over neither."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"user_id": number}) + "\n" for number in range(10)), encoding="utf-8")
    found = build_input_index(path, 4)
    path.write_text('{"user_id": 1}\n', encoding="utf-8")
    with pytest.raises(MismatchError, match="restore the file that the run started with"):
        BlockReader(path, found).read(found.blocks[1])
    path.unlink()
    with pytest.raises(MismatchError, match="can no longer be read"):
        BlockReader(path, found).read(found.blocks[1])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"user_id,words,user_id\n1,a,2\n", "names 'user_id' twice"),
        ("a.jsonl", b"", "has no rows"),
        ("a.csv", b"user_id\n", "has no rows"),
        ("a.txt", b"1\n", "ends in '.txt'; name a file that ends in .csv"),
        ("a.parquet", b"nothing", "is not a readable Parquet file"),
        ("", b"", "does not exist"),
        (".", b"", "contains no file that ends in"),
    ],
)
def test_what_holds_no_rows_is_refused(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    """Nothing to do is a mistake in the command, not a run of no rows."""
    if name.strip("."):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        build_input_index(tmp_path / (name or "nothing"), 10)


def test_a_stray_quote_costs_its_own_line(tmp_path: Path) -> None:
    """Without this it swallows everybody up to the next quote, or to the end, and nobody is told."""
    (tmp_path / "a.csv").write_text('user_id\n"5\n' + "".join(f"{user}\n" for user in range(1000)), encoding="utf-8")
    (tmp_path / "b.tsv").write_text('user_id\twords\n7\t"12 inch\n8\ta\n9\tb\n10\t"c\n11\td\n', encoding="utf-8")
    for size in (1, 3, 5000):
        rows = read(tmp_path / "a.csv", size)
        assert [row.columns.get("user_id") for row in rows] == [None, *map(str, range(1000))]
        assert rows[0].error.startswith("line 2 of a.csv cannot be read")
        rows = read(tmp_path / "b.tsv", size)
        assert [row.columns.get("user_id") for row in rows] == [None, "8", "9", None, "11"]


@pytest.mark.parametrize("content", [b"user_id,n\xe4me\n1,2\n", b'user_id,"words\n1,2\n', b"user_id\r1\r2\r"])
def test_a_header_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes) -> None:
    """Every row would fail, each with a name nobody wrote."""
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"the header of .*a\.csv cannot be read"):
        build_input_index(tmp_path / "a.csv", 10)
