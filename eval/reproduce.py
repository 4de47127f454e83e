"""Rerun a table of figures, and check each against its expected value: python -m eval.reproduce TABLE [--data DIR].

TABLE is a name in eval/tables or a .toml file: a config, the data (the first 16 digits of their SHA-256), and the
expected figures with their tolerances. Answers that the run's directory already contains are reused. The exit code is
1 if a figure is not reproduced.
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
    """An expected figure, times 100.

    Attributes:
        ranker, metric: names as in a config.
        value: the expected value.
        within: the tolerance in either direction.
        source: who published it.
    """

    model_config = ConfigDict(extra="forbid")

    ranker: str
    metric: str
    value: float
    within: float
    source: str = "genrec"


class Table(BaseModel):
    """The expected figures of one run."""

    model_config = ConfigDict(extra="forbid")

    config: str
    data: str
    users: int | None = Field(default=None, ge=1)
    figures: list[Expected]


@dataclass(frozen=True)
class FigureCheck:
    """An expected and a measured figure."""

    expected: Expected
    measured: float

    @property
    def is_reproduced(self) -> bool:
        """Whether the difference is within the tolerance."""
        return abs(self.measured - self.expected.value) <= self.expected.within


def read_table(name: str) -> Table:
    """Read a table of `eval/tables` by its name, or a .toml file.

    Raises:
        InputError: it does not exist, or has an unknown or invalid key.
    """
    return read_toml(Table, name, TABLES_DIR, label="table", documented_in="eval/reproduce.py")[1]


def reproduce(table: Table, folder: Path, data: Path | None) -> list[FigureCheck]:
    """Measure the figures of a table.

    Raises:
        MismatchError: the data are not those of the table.
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
            raise InputError(f"config {table.config!r} does not measure {figure.metric!r}; correct the table")
        cells.append(FigureCheck(figure, found[key]))
    return cells


def main(arguments: Sequence[str] | None = None) -> None:
    """Rerun a table, and print expected and measured figures."""
    parser = argparse.ArgumentParser(prog="python -m eval.reproduce", description=__doc__)
    parser.add_argument("table", help="a name in eval/tables, or a .toml file")
    parser.add_argument("--data", type=Path, metavar="DIR", help="directory that contains games and beauty")
    parser.add_argument("--out", type=Path, metavar="DIR", help="directory of the run; default: runs/TABLE")
    options = parser.parse_args(arguments)
    try:
        out = options.out or Path("runs") / Path(options.table).stem
        cells = reproduce(read_table(options.table), out, options.data)
    except GenrecError as error:
        sys.exit(f"error: {error}")
    grid = Grid("ranker", "metric", "expected", "tolerance", "measured", "", "source")
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
