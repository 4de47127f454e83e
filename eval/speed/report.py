"""What was measured: rows with their floors and aims, as JSON and as a table."""

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
    """What must hold, and what is aimed at.

    Attributes:
        floor, aim: bounds of what is judged; None for a row that only informs.
        judged: the ratio, or genrec's own value.
        at: whether the bounds are the most or the least that it may be.
    """

    floor: float | None = None
    aim: float | None = None
    judged: Literal["ratio", "genrec"] = "ratio"
    at: Literal["most", "least"] = "most"

    def is_met(self, value: float | None, bound: float | None) -> bool | None:
        """Whether a value keeps a bound; None where either is missing."""
        if value is None or bound is None:
            return None
        return value <= bound if self.at == "most" else value >= bound


@dataclass(frozen=True)
class BenchmarkRow:
    """One figure of genrec beside one of a peer; None where there is none, and `note` says why.

    Attributes:
        id: as in the list of figures to beat, "C5".
        variant: what of it, "10M uniform L8 V2048".
        genrec, peer: in `unit`.
        ratio_of: which way the ratio is taken.
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
        """In a word."""
        row = self.as_json()
        if row["aim_holds"]:
            return "aim"
        return {True: "floor", False: "MISSED", None: "-" if self.genrec is not None else "not measured"}[row["holds"]]

    def as_json(self) -> dict[str, Any]:
        """Flat, with what follows from it."""
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
    """A row from two timings; the peer's version is found by its name's first word."""
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
    """The version of the package that a peer is made of."""
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
    "genrec": "genrec",
}


@dataclass(frozen=True)
class BenchmarkJob:
    """Some rows that are measured together.

    Attributes:
        name: shown while it runs.
        rows: the ids of the rows that it can give.
        run: measures them.
    """

    name: str
    rows: tuple[str, ...]
    run: Callable[[], Iterable[BenchmarkRow]]


@dataclass(frozen=True)
class BenchmarkOptions:
    """How to measure.

    Attributes:
        quick: small enough for a minute.
        rounds: samples of everything that is timed.
        rows: ids of the rows that are wanted; empty for all.
        data: a folder of video games, see `eval.data`; without it, its rows are left out.
    """

    quick: bool = False
    rounds: int = 5
    rows: frozenset[str] = frozenset()
    data: Path | None = None

    def wants(self, *rows: str) -> bool:
        """Whether any of these rows is wanted."""
        return not self.rows or bool(self.rows & set(rows))


def machine() -> dict[str, Any]:
    """Where this was measured."""
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
    """The commit this was measured at; "+" where files differ from it; nothing without git."""
    if not shutil.which("git"):
        return ""
    answers = [
        subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=ROOT).stdout.strip()
        for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    ]
    return answers[0] + ("+" if answers[1] else "")


def write_json(path: Path, rows: Sequence[BenchmarkRow], facts: Mapping[str, Any]) -> None:
    """The rows and the facts about the run."""
    content = {"rows": [row.as_json() for row in rows], **facts}
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def render_table(rows: Sequence[BenchmarkRow]) -> None:
    """The rows as a table, then what is to be said about them."""
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
    """A value with its unit, seconds in their handiest multiple; nothing for None."""
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
