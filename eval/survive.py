"""Fault injection for batch runs: kills, lost workers, bad rows, damaged parts, a full disk and a read-only disk.

    python -m eval.survive --kills 50 [--small DIR] [--json FILE]

runs `genrec batch run` over known users of Online Retail, injects faults, resumes, and compares every part with that of
an undisturbed run, byte by byte. DIR is an empty folder on a file system of a few megabytes, such as
`mount -t tmpfs -o size=4m tmpfs DIR` makes; it is filled up and, if this process may mount, remounted read-only.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from eval.progress import show_progress
from genrec import open_dataset
from genrec.cache import default_cache

ROWS, PARTS, K = 20_000, 80, 3
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_EXIT_FAILED_ROWS = 3  # the exit code of a finished run with failed rows
_TAKEOVER_TIMEOUT = 120  # seconds within which another worker must take over a part
_FREE_BYTES = 65_536  # bytes left free on a full disk


@dataclass(frozen=True)
class Outcome:
    """The outcome of one trial.

    Attributes:
        what: the injected fault.
        lost, doubled: number of missing and of repeated rows at the end.
        equal: whether every part equals that of the undisturbed run, byte for byte; for bad rows, whether the exit
            codes are right.
        told: further observations.
    """

    what: str
    lost: int
    doubled: int
    equal: bool
    told: str = ""

    @property
    def passed(self) -> bool:
        """Whether no row was lost or repeated, and all parts are equal."""
        return self.equal and not self.lost and not self.doubled


class CrashTrial:
    """Input rows, an undisturbed run over them, and a folder for disturbed runs.

    Args:
        folder: for input and runs.
        rows: number of rows.
        ranker: the ranker of all runs.
    """

    def __init__(self, folder: Path, rows: int, ranker: str) -> None:
        self.folder, self.rows = folder, rows
        self._options = ("--ranker", ranker, "--k", str(K), "--part-rows", str(max(1, rows // PARTS)))
        _, interactions = open_dataset("online-retail", default_cache())
        self.users = random.Random(0).choices([str(user) for user in interactions.user_ids], k=rows)
        self.source = self._write("users.jsonl", self.users)
        began = time.monotonic()
        self.finish("whole", 1)
        self.seconds = time.monotonic() - began

    def start(self, name: str, workers: int = 1, source: Path | None = None) -> "subprocess.Popen[bytes]":
        """Start or continue a run."""
        command = ["run", str(source or self.source), str(self.folder / name), *self._options]
        return genrec_batch(*command, "--workers", str(workers))

    def finish(self, name: str, workers: int = 1) -> None:
        """Continue a run to its end."""
        run = self.start(name, workers)
        _, stderr = run.communicate()
        if run.returncode:
            raise RuntimeError(f"a run ended with exit code {run.returncode}: {stderr.decode()}")

    def compare(self, name: str, what: str, note: str = "") -> Outcome:
        """Compare a finished run with the undisturbed one."""
        parts, whole = self.folder / name / "parts", self.folder / "whole" / "parts"
        names = sorted(path.name for path in whole.glob("*.parquet"))
        equal = names == sorted(path.name for path in parts.glob("*.parquet"))
        found: Counter[int] = Counter()
        for path in sorted(parts.glob("*.parquet")):
            found.update(pq.read_table(path, columns=["row"])["row"].to_pylist())
            equal = equal and path.read_bytes() == (whole / path.name).read_bytes()
        lost = sum(found[row] == 0 for row in range(self.rows))
        return Outcome(what, lost, sum(count > K for count in found.values()), equal, note)

    def _write(self, name: str, users: Sequence[str]) -> Path:
        path = self.folder / name
        path.write_text("".join(f'{{"user_id": "{user}"}}\n' for user in users), encoding="utf-8")
        return path

    def kills(self, count: int) -> Iterator[Outcome]:
        """Kill runs with each signal at random moments, `count` times, and resume them to their end.

        A run is killed until it is finished; then another one is started.
        """
        moments = random.Random(1)
        for kind in SIGNALS:
            share = max(1, count if kind == signal.SIGKILL else count // 5)
            outcomes: list[Outcome] = []
            hits = show_progress(range(share), kind.name, share)
            for _ in hits:
                while not self._kill(f"{kind.name}-{len(outcomes)}", kind, moments):
                    outcomes.append(self.compare(f"{kind.name}-{len(outcomes)}", kind.name))
            self.finish(f"{kind.name}-{len(outcomes)}", moments.choice((1, 2)))
            outcomes.append(self.compare(f"{kind.name}-{len(outcomes)}", kind.name))
            worst = next((one for one in outcomes if not one.passed), outcomes[0])
            yield replace(worst, told=f"{share} times at random moments while it ran; {len(outcomes)} runs")

    def _kill(self, name: str, signal_number: signal.Signals, moments: random.Random) -> bool:
        """Continue a run and kill it at a random moment; returns False if it finished before."""
        run = self.start(name, moments.choice((1, 2)))
        try:
            run.wait(moments.random() * self.seconds)
        except subprocess.TimeoutExpired:
            run.send_signal(signal_number)
            run.communicate()
            return run.returncode != 0
        _, stderr = run.communicate()
        if run.returncode:
            raise RuntimeError(f"a run ended with exit code {run.returncode}: {stderr.decode()}")
        return False

    def kill_one_worker(self, workers: int) -> Outcome:
        """Kill one of several workers while it holds a part, and measure how long another one takes to finish it."""
        name = f"workers-{workers}"
        runs = [self.start(name) for _ in range(workers)]
        leases, done = self.folder / name / "leases", self.folder / name / "done"
        part = ""
        while not part:
            for path in leases.glob("[0-9]*") if len(list(done.glob("*.json"))) > 2 else ():
                try:
                    owner = int(path.read_text(encoding="utf-8").split(" ")[1])
                    os.kill(owner, signal.SIGSTOP)  # suspended, so that it keeps its lease
                except (OSError, IndexError):
                    continue
                if path.exists() and not (done / f"{path.name}.json").exists():
                    part = path.name
                    os.kill(owner, signal.SIGKILL)
                    break
                os.kill(owner, signal.SIGCONT)
            if all(run.poll() is not None for run in runs):
                raise RuntimeError("the run finished before a worker could be killed")
        killed = time.monotonic()
        while not (done / f"{part}.json").exists() and time.monotonic() - killed < _TAKEOVER_TIMEOUT:
            time.sleep(0.01)
        taken = time.monotonic() - killed
        for run in runs:
            run.communicate()
        return self.compare(name, f"{workers} workers, one killed", f"its part was finished {taken:.1f} s later")

    def damage_parts(self) -> Outcome:
        """Truncate one part of a finished run, alter a byte of another, remove a third, and resume the run."""
        name = "damaged"
        self.finish(name)
        parts = sorted((self.folder / name / "parts").glob("*.parquet"))
        cut, other, gone = parts[1], parts[5], parts[-1]
        cut.write_bytes(cut.read_bytes()[:-1])
        other.write_bytes(_flip_one_byte(other.read_bytes()))
        gone.unlink()
        self.finish(name)
        aside = sorted(path.name[-16:] for path in (self.folder / name / "quarantine").iterdir())
        return self.compare(name, "parts truncated, altered, removed", f"quarantined: {', '.join(aside)}")

    def bad_rows(self) -> Outcome:
        """Make one row in a hundred name an unknown user: the others are answered, and only these are retried."""
        users = [f"nobody-{row}" if row % 100 == 7 else user for row, user in enumerate(self.users)]
        source, name = self._write("some-bad.jsonl", users), "bad"
        run = self.start(name, source=source)
        run.communicate()
        first = run.returncode
        again = genrec_batch("retry-failed", str(self.folder / name), "--json")
        status = json.loads(again.communicate()[0])
        rows = pq.read_table(self.folder / name / "parts", columns=["row"])["row"].to_pylist()
        right = sorted({row for row in range(self.rows) if row % 100 != 7})
        equal = (first, again.returncode, status["failed"]) == (_EXIT_FAILED_ROWS, _EXIT_FAILED_ROWS, self.rows // 100)
        counted = Counter(rows)
        lost = sum(counted[row] == 0 for row in right)
        doubled = sum(count > K for count in counted.values())
        return Outcome("1 % bad rows", lost, doubled, equal, f"exit codes {first} and {again.returncode}")

    def full_and_read_only_disk(self, small: Path) -> Iterator[Outcome]:
        """Run on a full disk, free space and resume; then resume on a read-only disk, and on a writable one."""
        ballast, folder = small / "ballast", small / "run"
        folder.mkdir()
        (self.folder / "full").symlink_to(folder)
        room = os.statvfs(small)
        ballast.write_bytes(bytes(room.f_bavail * room.f_frsize - _FREE_BYTES))
        run = self.start("full")
        _, stderr = run.communicate()
        full = _write_error(run, stderr)
        ballast.unlink()
        self.finish("full")
        yield self.compare("full", "a full disk", full)
        for path in (folder / "done").glob("0000000*.json"):
            path.unlink()
        if subprocess.run(["mount", "-o", "remount,ro", str(small)], capture_output=True, check=False).returncode:
            print("a read-only disk: skipped, because this process may not mount", file=sys.stderr)
            return
        run = self.start("full")
        _, stderr = run.communicate()
        subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
        self.finish("full")
        yield self.compare("full", "a read-only disk", _write_error(run, stderr))


def genrec_batch(*arguments: str) -> "subprocess.Popen[bytes]":
    """Start `genrec batch` with some arguments."""
    command = [sys.executable, "-m", "genrec", "batch", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _flip_one_byte(held: bytes) -> bytes:
    middle = len(held) // 2
    return held[:middle] + bytes([held[middle] ^ 1]) + held[middle + 1 :]


def _write_error(run: "subprocess.Popen[bytes]", stderr: bytes) -> str:
    """The exit code and error of a run that could not write."""
    if not run.returncode:
        raise RuntimeError("the run succeeded although nothing could be written")
    last = stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return f"exit code {run.returncode}, {last!r}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all trials and print their outcomes; the exit code is 1 if any of them failed."""
    parser = argparse.ArgumentParser(prog="python -m eval.survive", description=__doc__)
    parser.add_argument(
        "--kills", type=int, default=50, metavar="N", help="number of SIGKILLs; a fifth as many of each other signal"
    )
    parser.add_argument("--rows", type=int, default=ROWS, metavar="N", help="rows of each run")
    parser.add_argument("--ranker", default="popularity", metavar="NAME", help="as for genrec batch run")
    parser.add_argument("--small", type=Path, metavar="DIR", help="an empty folder on a file system of a few megabytes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all outcomes to this file")
    options = parser.parse_args(arguments)
    # A background job of a shell ignores SIGINT, and child processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        trial = CrashTrial(Path(folder), options.rows, options.ranker)
        outcomes = []
        for outcome in _run_trials(trial, options.kills, options.small):
            print(
                f"{outcome.what}: {outcome.lost} lost, {outcome.doubled} doubled, "
                f"{'equal' if outcome.equal else 'DIFFERENT'}; {outcome.told}",
                flush=True,
            )
            outcomes.append(outcome)
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in outcomes], indent=2), encoding="utf-8")
    sys.exit(not all(one.passed for one in outcomes))


def _run_trials(trial: CrashTrial, kills: int, small: Path | None) -> Iterator[Outcome]:
    yield trial.damage_parts()
    yield trial.bad_rows()
    for workers in (2, 8):
        yield trial.kill_one_worker(workers)
    if small is not None:
        yield from trial.full_and_read_only_disk(small)
    yield from trial.kills(kills)


if __name__ == "__main__":
    main()
