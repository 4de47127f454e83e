"""Build one index and say what it took: python -m eval.speed.memory BUILDER ROWS.npy VOCABULARY (see `peak_memory`)."""

import gc
import importlib
import json
import resource
import sys
from pathlib import Path

import numpy as np

from eval.speed.catalog import Codes

BUILDERS = {"genrec": "eval.speed.subject", "STATIC": "eval.speed.static", "dictionary": "eval.speed.dictionary"}


def main() -> None:
    """Print {highest, imported, kept} in bytes."""
    name, path, vocab_size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    build = importlib.import_module(BUILDERS[name]).build
    few = np.arange(64 * 4, dtype=np.uint16).reshape(64, 4)
    build(Codes.of("few", few, 256))  # what is compiled or loaded late is not the build's
    gc.collect()
    imported, before = _highest(), _resident()
    codes = Codes.of(path.stem, np.load(path, allow_pickle=False), vocab_size)
    built = build(codes)
    highest, rows = _highest(), codes.tokens.nbytes + codes.lengths.nbytes
    gc.collect()
    kept = _resident() - before - rows
    print(json.dumps({"highest": highest, "imported": imported, "kept": kept}))
    del built


def _highest() -> int:
    """The most this program held. Linux' ru_maxrss would also count what the parent held when it started us."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _resident() -> int:
    return _status("VmRSS") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(field: str) -> int:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


if __name__ == "__main__":
    main()
