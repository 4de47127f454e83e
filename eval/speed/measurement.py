"""Time what is compared in turns, and find the memory that a build needs at its highest."""

import gc
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median over the rounds, the least and the most."""

    seconds: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Peak:
    """Bytes of a process of its own that built an index.

    Attributes:
        highest: the most it ever held.
        imported: the most it had held before it read the rows: interpreter, libraries, compiled functions.
        kept: what it held at the end more than before, the rows not counted.
    """

    highest: int
    imported: int
    kept: int


def interleave(
    workloads: Mapping[str, Callable[[], object]], *, rounds: int, min_seconds: float = 0.02, warm_up: bool = True
) -> dict[str, Timing]:
    """Time A B A B ..., so that a machine that slows down slows all of them.

    Args:
        workloads: what is compared, by name.
        rounds: samples of each.
        min_seconds: a sample repeats calls until about so many seconds have passed; only after a warm-up is it known how
            many that takes.
        warm_up: call each before it is timed; without, a sample is one call.
    """
    repeats = {name: _repeats(work, min_seconds) if warm_up else 1 for name, work in workloads.items()}
    samples: dict[str, list[float]] = {name: [] for name in workloads}
    for _ in range(rounds):
        for name, work in workloads.items():
            samples[name].append(_sample(work, repeats[name]))
    return {name: Timing(statistics.median(own), min(own), max(own), rounds) for name, own in samples.items()}


def cycling(work: Callable[..., object], inputs: Sequence[tuple[Any, ...]]) -> Callable[[], object]:
    """The work on the next of its inputs at each call: what one call leaves in the caches does not serve the next."""
    source = itertools.cycle(inputs)
    return lambda: work(*next(source))


def call_and_store(last: dict[str, Any], name: str, work: Callable[[], Any]) -> Any:
    """Do the work and leave its result in `last`, so that what was timed can be compared."""
    last[name] = work()
    return last[name]


def peak_memory(builder: str, rows: Path, vocab_size: int) -> Peak:
    """Build the index of `rows` (a .npy file) in a fresh process; `builder` is a name of `eval.speed.memory`."""
    command = [sys.executable, "-m", "eval.speed.memory", builder, str(rows), str(vocab_size)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}
    )
    if done.returncode:
        raise RuntimeError(f"{builder} could not be built in a process of its own: {done.stderr.strip()[-2000:]}")
    return Peak(**json.loads(done.stdout))


def _sample(work: Callable[[], object], repeats: int) -> float:
    kept = None
    begin = time.perf_counter()
    for _ in range(repeats):
        kept = work()  # held, so that a single call is not charged for taking its result apart
    seconds = time.perf_counter() - begin
    del kept
    return seconds / repeats


def _repeats(work: Callable[[], object], min_seconds: float) -> int:
    gc.collect()
    seconds = _sample(work, 1)
    if seconds < min_seconds:
        seconds = _sample(work, 3)
    return max(1, round(min_seconds / max(seconds, 1e-9)))
