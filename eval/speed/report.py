"""Benchmark results: rows with floors and aims, as JSON and as a table."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from eval.progress import wide_console
from eval.speed.measurement import ROOT, Timing

RatioOf = Literal["genrec/peer", "peer/genrec"]


@dataclass(frozen=True)
class Target:
    """The required and the desired bound of a row.

    Attributes:
        floor, aim: the required and the desired bound; None for an informative row.
        judged: the judged value: the ratio, or genrec's own value.
        at: whether the bounds are upper (`most`) or lower (`least`) bounds.
    """

    floor: float | None = None
    aim: float | None = None
    judged: Literal["ratio", "genrec"] = "ratio"
    at: Literal["most", "least"] = "most"

    def is_met(self, value: float | None, bound: float | None) -> bool | None:
        """Whether a value meets a bound; None if either is missing."""
        if value is None or bound is None:
            return None
        return value <= bound if self.at == "most" else value >= bound


@dataclass(frozen=True)
class BenchmarkRow:
    """One figure of genrec and one of a peer; None if there is none, with the reason in `note`.

    Attributes:
        id: the id of the row, such as "C5".
        variant: the measured case, such as "10M uniform L8 V2048".
        genrec, peer: values in `unit`.
        ratio_of: direction of the ratio.
    """

    id: str
    variant: str
    genrec: float | None
    unit: str
    target: Target = Target()
    peer: float | None = None
    peer_name: str = ""
    peer_version: str = ""
    ratio_of: RatioOf = "genrec/peer"
    note: str = ""
    genrec_range: tuple[float, float] | None = None
    peer_range: tuple[float, float] | None = None

    @property
    def ratio(self) -> float | None:
        """The ratio, if there is a peer."""
        if not self.genrec or not self.peer:
            return None
        return self.genrec / self.peer if self.ratio_of == "genrec/peer" else self.peer / self.genrec

    @property
    def verdict(self) -> str:
        """The verdict in a word."""
        row = self.as_json()
        if row["aim_holds"]:
            return "aim"
        return {True: "floor", False: "MISSED", None: "-" if self.genrec is not None else "not measured"}[row["holds"]]

    def as_json(self) -> dict[str, Any]:
        """A flat dictionary, with ratio and verdict."""
        row = asdict(self)
        target = row.pop("target")
        value = self.ratio if self.target.judged == "ratio" else self.genrec
        return {
            **row,
            "ratio": self.ratio,
            **target,
            "holds": self.target.is_met(value, self.target.floor),
            "aim_holds": self.target.is_met(value, self.target.aim),
        }


def timed(
    identifier: str,
    variant: str,
    genrec: Timing,
    peer: Timing | None = None,
    *,
    target: Target = Target(),
    peer_name: str = "",
    ratio_of: RatioOf = "genrec/peer",
    note: str = "",
) -> BenchmarkRow:
    """A row from two timings; the version of the peer is looked up by its name."""
    return BenchmarkRow(
        identifier,
        variant,
        genrec.seconds,
        "s",
        target,
        peer=None if peer is None else peer.seconds,
        peer_name=peer_name,
        peer_version=version_of(peer_name),
        ratio_of=ratio_of,
        note=note,
        genrec_range=(genrec.low, genrec.high),
        peer_range=None if peer is None else (peer.low, peer.high),
    )


def version_of(peer_name: str) -> str:
    """The version of the package that implements a peer."""
    for word, package in PACKAGES.items():
        if word in peer_name:
            try:
                return f"{package} {version(package)}"
            except PackageNotFoundError:
                return ""
    return ""


PACKAGES = {
    "STATIC": "torch",
    "Hugging Face": "transformers",
    "Transformers": "transformers",
    "vLLM": "vllm",
    "torch": "torch",
    "numpy": "numpy",
    "implicit": "implicit",
    "genrec": "genrec",
}


@dataclass(frozen=True)
class BenchmarkJob:
    """A group of rows that are measured together.

    Attributes:
        name: name in the progress output.
        rows: ids of the rows.
        run: measures the rows.
    """

    name: str
    rows: tuple[str, ...]
    run: Callable[[], Iterable[BenchmarkRow]]


@dataclass(frozen=True)
class BenchmarkOptions:
    """The options of a benchmark run.

    Attributes:
        quick: use small sizes, which take about a minute.
        rounds: number of samples per timing.
        rows: ids of the requested rows; empty for all.
        data: directory of the video games data, see `eval.data`; its rows are omitted without it.
    """

    quick: bool = False
    rounds: int = 5
    rows: frozenset[str] = frozenset()
    data: Path | None = None

    def wants(self, *rows: str) -> bool:
        """Whether any of these rows is requested."""
        return not self.rows or bool(self.rows & set(rows))


def machine() -> dict[str, Any]:
    """Facts of the machine."""
    import torch

    packages = ("torch", "numpy", "numba", "transformers", "genrec")
    found: dict[str, Any] = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def commit() -> str:
    """The current commit, with "+" if tracked files were modified; empty without git."""
    if not shutil.which("git"):
        return ""
    answers = [
        subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=ROOT).stdout.strip()
        for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    ]
    return answers[0] + ("+" if answers[1] else "")


def write_json(path: Path, rows: Sequence[BenchmarkRow], facts: Mapping[str, Any]) -> None:
    """Write the rows and the facts of the run."""
    content = {"rows": [row.as_json() for row in rows], **facts}
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def render_table(rows: Sequence[BenchmarkRow]) -> None:
    """Print the rows as a table, then their notes."""
    table = Table("row", "variant", "genrec", "peer", "peer's name", "ratio", "floor", "aim", "verdict")
    for row in rows:
        of = "" if row.ratio is None else f"{row.ratio:.3g} {row.ratio_of}"
        bounds = [_bound(row, bound) for bound in (row.target.floor, row.target.aim)]
        values = [format_value(value, row.unit) for value in (row.genrec, row.peer)]
        table.add_row(row.id, row.variant, *values, row.peer_name, of, *bounds, row.verdict)
    console = wide_console()
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"{row.id} {row.variant}: {row.note}", highlight=False, markup=False)


def _bound(row: BenchmarkRow, bound: float | None) -> str:
    if bound is None:
        return ""
    sign = "<=" if row.target.at == "most" else ">="
    return f"{sign} {format_value(bound, row.unit) if row.target.judged == 'genrec' else f'{bound:g}x'}"


def format_value(value: float | None, unit: str) -> str:
    """A value with its unit, seconds with a suitable prefix; empty for None."""
    if value is None:
        return ""
    if unit == "s":
        for size, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
            if value >= size:
                return f"{value / size:.3g} {name}"
    return f"{value:.4g} {unit}"


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
