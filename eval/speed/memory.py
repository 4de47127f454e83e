"""Measure the memory of one build: python -m eval.speed.memory BUILDER ROWS.npy VOCABULARY (see `peak_memory`)."""

import gc
import importlib
import json
import resource
import sys
from pathlib import Path

import numpy as np

from eval.speed.catalog import Identifiers
from eval.speed.measurement import process_memory

BUILDERS = {"genrec": "eval.speed.subject", "STATIC": "eval.speed.static", "dictionary": "eval.speed.dictionary"}


def main() -> None:
    """Print {highest, imported, kept} in bytes."""
    name, path, vocab_size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    build = importlib.import_module(BUILDERS[name]).build
    few = np.arange(64 * 4, dtype=np.uint16).reshape(64, 4)
    build(Identifiers.from_rows("few", few, 256))  # compile and load everything before the measurement
    gc.collect()
    imported, before = _peak_bytes(), _resident_bytes()
    codes = Identifiers.from_rows(path.stem, np.load(path, allow_pickle=False), vocab_size)
    built = build(codes)
    highest, rows = _peak_bytes(), codes.tokens.nbytes + codes.lengths.nbytes
    gc.collect()
    kept = _resident_bytes() - before - rows
    print(json.dumps({"highest": highest, "imported": imported, "kept": kept}))
    del built


def _peak_bytes() -> int:
    """Peak memory of this process. On Linux, ru_maxrss would include the memory of the parent at the start."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _resident_bytes() -> int:
    return _status("VmRSS") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(field: str) -> int:
    """Bytes by the status of this process; 0 where the system has none."""
    try:
        return process_memory(field)
    except (OSError, IndexError):
        return 0


if __name__ == "__main__":
    main()
