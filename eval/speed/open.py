"""Benchmark of opening a large log without a model: the first list (O1), the second start (O2), the evaluation of 1,000
people after it (O3), and the peak memory of the first list (O4), each as a process of its own, beside implicit and
RecTools on the same files.

RecTools needs an environment of its own: set RECTOOLS_PYTHON to the interpreter of one, with `pip install rectools`.
"""

import csv
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from eval.speed.measurement import ROOT, process_memory
from eval.speed.report import BenchmarkJob, BenchmarkOptions, BenchmarkRow, Target, version_of
from genrec.types import IntArray

EVENTS, ITEMS, USERS, GROUPS = 1_000_000, 300_000, 50_000, 500
PEOPLE = 1000
FIRST, SECOND, EVALUATION = (Target(seconds, judged="genrec") for seconds in (60.0, 3.0, 60.0))
MEMORY = Target(2000, judged="genrec")
_FAVOURITE_SHARE = 0.7  # events of a user with items of the user's own group
_SAMPLE_INTERVAL = 0.05  # seconds between two samples of the memory


@dataclass(frozen=True)
class ProcessCost:
    """Wall-clock seconds and peak memory in MB of a process."""

    seconds: float
    megabytes: float


def jobs(options: BenchmarkOptions) -> list[BenchmarkJob]:
    """The jobs of `python -m eval.speed open`."""
    return [BenchmarkJob("opening a log", ("O1", "O2", "O3", "O4"), partial(opening, options))]


def opening(options: BenchmarkOptions) -> Iterator[BenchmarkRow]:
    """Rows O1 to O4, for each peer."""
    scale = 20 if options.quick else 1
    variant = f"{EVENTS // scale:,} events, {ITEMS // scale:,} items, {USERS // scale:,} users"
    with TemporaryDirectory() as directory:
        folder = Path(directory)
        write_log(folder, scale)
        files = ["--items", str(folder / "items.csv"), "--interactions", str(folder / "events.csv")]
        genrec = [sys.executable, "-m", "genrec"]
        without_models = [*files, "--model", "none", "--encoder", "none"]
        environment = {"GENREC_CACHE": str(folder / "cache")}
        first, second = (run_measured([*genrec, "recommend", "u0", *without_models], environment) for _ in range(2))
        evaluated = run_measured([*genrec, "evaluate", *without_models, "--users", str(PEOPLE), "--json"], environment)
        for library, interpreter in peers():
            peer = [interpreter, str(ROOT / "eval/speed/open_peers.py"), library, str(folder / "events.csv")]
            one, many = (run_measured([*peer, str(count)], {}) for count in (1, PEOPLE))
            for identifier, case, own, other, target in (
                ("O1", "first list", first, one, FIRST),
                ("O2", "second start", second, one, SECOND),
                ("O3", f"evaluation of {PEOPLE:,} people", evaluated, many, EVALUATION),
            ):
                note = "the peer keeps nothing and lists without measuring" if identifier != "O1" else ""
                yield BenchmarkRow(
                    *(identifier, f"{case}: {variant}", own.seconds, "s", target, other.seconds, library),
                    peer_version=version_of(library),
                    note=note,
                )
            yield BenchmarkRow(
                *("O4", f"first list: {variant}", first.megabytes, "MB", MEMORY, one.megabytes, library),
                peer_version=version_of(library),
            )


def peers() -> list[tuple[str, str]]:
    """The peers and their interpreters."""
    own = [("implicit", sys.executable)]
    return [*own, ("rectools", os.environ["RECTOOLS_PYTHON"])] if "RECTOOLS_PYTHON" in os.environ else own


def write_log(folder: Path, scale: int) -> None:
    """Write `items.csv` and `events.csv`: users mostly choose popular items of one group."""
    random = np.random.default_rng(0)
    n_items, n_users, n_events = ITEMS // scale, USERS // scale, EVENTS // scale
    words = np.array(["".join(random.choice(list("abcdefghijklmnoprstuvw"), 6)) for _ in range(20_000)])
    titles = words[random.integers(0, len(words), (n_items, 5))]
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["item_id", "title", "price"])
        rows.writerows((f"i{item}", " ".join(title), item % 97 + 0.99) for item, title in enumerate(titles))
    users = random.integers(0, n_users, n_events)
    own = users % GROUPS + GROUPS * _popular(random, n_items // GROUPS, n_events)
    items = np.where(random.random(n_events) < _FAVOURITE_SHARE, own, _popular(random, n_items, n_events))
    times = 1_600_000_000 + random.integers(0, 30_000_000, n_events)
    with (folder / "events.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["user_id", "item_id", "timestamp"])
        rows.writerows(
            (f"u{user}", f"i{item}", when)
            for user, item, when in zip(users.tolist(), items.tolist(), times.tolist(), strict=True)
        )


def _popular(random: np.random.Generator, size: int, count: int) -> IntArray:
    """`count` draws of 0 to size - 1; low numbers are drawn most often, by Zipf's law."""
    shares = 1.0 / (np.arange(size) + 20.0)
    return random.choice(size, count, p=shares / shares.sum())


def run_measured(command: list[str], environment: dict[str, str]) -> ProcessCost:
    """Run a process to its end.

    Raises:
        ValueError: it failed.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    peak = 0
    while process.poll() is None:
        time.sleep(_SAMPLE_INTERVAL)
        with suppress(OSError, IndexError):
            peak = max(peak, process_memory("VmHWM", process.pid))
    seconds = time.perf_counter() - began
    if process.returncode:
        raise ValueError(f"{' '.join(command)} ended with exit code {process.returncode}")
    return ProcessCost(seconds, peak / 1e6)
