"""Rerun a table of figures, and say of each whether it came out: python -m eval.reproduce TABLE [--data DIR].

TABLE is a name in eval/tables or a .toml file: a config, the data it must be asked of (the first 16 digits of their
SHA-256), and the figures that are expected, each with what it may be off. What a run's folder already holds is not
asked again. Ends with 1 if a figure is off.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from rich.table import Table as Grid

from eval.config import read_config, read_toml
from eval.progress import wide_console
from eval.rank import measure
from genrec.errors import GenrecError, InputError

TABLES_DIR = Path(__file__).parent / "tables"


class Expected(BaseModel):
    """A figure, times 100 as the tables of the field have it.

    Attributes:
        ranker, metric, value: as in a config.
        within: what it may be off, either way.
        source: who found it.
    """

    model_config = ConfigDict(extra="forbid")

    ranker: str
    metric: str
    value: float
    within: float
    source: str = "genrec"


class Table(BaseModel):
    """Figures of one run."""

    model_config = ConfigDict(extra="forbid")

    config: str
    data: str
    users: int | None = Field(default=None, ge=1)
    figures: list[Expected]


@dataclass(frozen=True)
class FigureCheck:
    """What was expected and what came."""

    expected: Expected
    measured: float

    @property
    def is_reproduced(self) -> bool:
        """Whether it is within what it may be off."""
        return abs(self.measured - self.expected.value) <= self.expected.within


def read_table(name: str) -> Table:
    """A table of this folder by its name, or from a file.

    Raises:
        InputError: there is none, or a key is unknown or wrong (named).
    """
    return read_toml(Table, name, TABLES_DIR, label="table", documented_in="eval/reproduce.py")[1]


def reproduce(table: Table, folder: Path, data: Path | None) -> list[FigureCheck]:
    """Measure what the table speaks of, and put both side by side.

    Raises:
        MismatchError: the data are not the table's.
    """
    rankers = list(dict.fromkeys(figure.ranker for figure in table.figures))
    summary = measure(
        read_config(table.config), folder, data=data, users=table.users, chosen=rankers, digest=table.data
    )
    found: dict[tuple[Any, Any], float] = {
        (row["ranker"], row["metric"]): row["value"] for row in summary["rows"] if row["slice"] == "all"
    }
    cells = []
    for figure in table.figures:
        key = (figure.ranker, figure.metric)
        if key not in found:
            raise InputError(f"config {table.config!r} does not measure {figure.metric!r}; mend the table")
        cells.append(FigureCheck(figure, found[key]))
    return cells


def main(arguments: Sequence[str] | None = None) -> None:
    """Rerun, compare, print."""
    parser = argparse.ArgumentParser(prog="python -m eval.reproduce", description=__doc__)
    parser.add_argument("table", help="a name in eval/tables, or a .toml file")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder that holds games and beauty")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where answers are kept; runs/TABLE by default")
    options = parser.parse_args(arguments)
    try:
        out = options.out or Path("runs") / Path(options.table).stem
        cells = reproduce(read_table(options.table), out, options.data)
    except GenrecError as error:
        sys.exit(f"error: {error}")
    grid = Grid("ranker", "metric", "expected", "may be off", "got", "", "source")
    for cell in cells:
        one = cell.expected
        verdict = "within" if cell.is_reproduced else "OFF"
        grid.add_row(
            one.ranker, one.metric, f"{one.value:.2f}", f"{one.within:g}", f"{cell.measured:.2f}", verdict, one.source
        )
    wide_console().print(grid)
    sys.exit(0 if all(cell.is_reproduced for cell in cells) else 1)


if __name__ == "__main__":
    main()
