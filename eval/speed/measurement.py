"""Interleaved timings, and the peak memory of an index build."""

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
    """Seconds of one call: median, minimum and maximum over the rounds."""

    seconds: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Peak:
    """Memory in bytes of a separate process that built an index.

    Attributes:
        highest: the peak.
        imported: the peak before it read the rows: interpreter, libraries, compiled functions.
        kept: the increase from before to after the build, without the rows.
    """

    highest: int
    imported: int
    kept: int


def interleave(
    workloads: Mapping[str, Callable[[], object]], *, rounds: int, min_seconds: float = 0.02, warm_up: bool = True
) -> dict[str, Timing]:
    """Time workloads in turns (A B A B ...), so that a slow phase of the machine affects all of them.

    Args:
        workloads: workloads by name.
        rounds: number of samples of each.
        min_seconds: approximate duration of a sample, which repeats the call; requires `warm_up`.
        warm_up: call each workload before it is timed; otherwise a sample is one call.
    """
    repeats = {name: _repeats(work, min_seconds) if warm_up else 1 for name, work in workloads.items()}
    samples: dict[str, list[float]] = {name: [] for name in workloads}
    for _ in range(rounds):
        for name, work in workloads.items():
            samples[name].append(_sample(work, repeats[name]))
    return {name: Timing(statistics.median(own), min(own), max(own), rounds) for name, own in samples.items()}


def cycling(work: Callable[..., object], inputs: Sequence[tuple[Any, ...]]) -> Callable[[], object]:
    """A function that runs the work on the next input at each call, so that caches do not serve repeated inputs."""
    source = itertools.cycle(inputs)
    return lambda: work(*next(source))


def call_and_store(last: dict[str, Any], name: str, work: Callable[[], Any]) -> Any:
    """Run the work and store its result in `last`, so that timed results can be compared."""
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
        raise RuntimeError(f"{builder} could not be built in a separate process: {done.stderr.strip()[-2000:]}")
    return Peak(**json.loads(done.stdout))


def process_memory(field: str, process: int | str = "self") -> int:
    """Bytes of a running process on Linux, by a field of its status: VmHWM is the peak, VmRSS what it holds now.

    Raises:
        OSError: the process has ended, or the system is not Linux.
        IndexError: the process has ended, and its memory is gone.
    """
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def _sample(work: Callable[[], object], repeats: int) -> float:
    kept = None
    begin = time.perf_counter()
    for _ in range(repeats):
        kept = work()  # kept, so that deallocation of the result is not timed
    seconds = time.perf_counter() - begin
    del kept
    return seconds / repeats


def _repeats(work: Callable[[], object], min_seconds: float) -> int:
    gc.collect()
    seconds = _sample(work, 1)
    if seconds < min_seconds:
        seconds = _sample(work, 3)
    return max(1, round(min_seconds / max(seconds, 1e-9)))
