"""Benchmark genrec against other libraries, interleaved in one run.

`index` looks up, builds, loads and updates catalogs; `search` runs beam search on language models; `scoring` scores
candidates; `tree` ranks them with each kind of token tree; `embedding` ranks a million vectors; `batch` runs over a
million rows; `open` reads a log of a million events; `vllm` ranks inside vLLM, which must be installed; `gpu` measures
on one GPU. Rows have a floor and an aim; `--json` saves all rows, and `plot FILE... --out DIR` draws saved rows.
"""

import argparse
import importlib
import os
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

BENCHMARKS = ("index", "search", "scoring", "tree", "embedding", "batch", "open", "vllm", "gpu")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a benchmark and print its rows, or draw saved rows."""
    parser = argparse.ArgumentParser(prog="python -m eval.speed", description=__doc__)
    parser.add_argument("benchmark", choices=(*BENCHMARKS, "plot"))
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="files that --json wrote, for `plot` only")
    parser.add_argument(
        "--quick", action="store_true", help="smaller, with fewer rounds: under a minute, `vllm` under five"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all rows and facts of the machine to this file"
    )
    parser.add_argument("--rows", metavar="C1,C5", help="measure only these rows")
    parser.add_argument("--rounds", type=int, metavar="N", help="samples of each timing: 5, or 3 with --quick")
    parser.add_argument("--data", type=Path, metavar="DIR", help="directory of video games, for the row S2 of `search`")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of torch, numpy and numba")
    parser.add_argument("--out", type=Path, metavar="DIR", help="directory of the figures of `plot`")
    options = parser.parse_args(arguments)
    if options.benchmark == "plot":
        if not options.files or options.out is None:
            parser.error("`plot` needs files that --json wrote, and --out DIR")
        _plot(options.files, options.out)
        return
    if options.files or options.out:
        parser.error("files and --out belong to `plot`")
    if options.json and not os.access(options.json.parent, os.W_OK):
        parser.error(f"--json {options.json}: the directory is not writable; pass another file")
    if options.threads:
        for name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):  # read when the libraries load
            os.environ[f"{name}_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    begin = time.perf_counter()

    # Deprecated features are used because older releases lack the replacements.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch|transformers")
    import torch

    from eval.progress import show_progress
    from eval.speed import report
    from genrec.errors import InputError

    if options.threads:
        torch.set_num_threads(options.threads)
    wanted = frozenset(options.rows.split(",")) if options.rows is not None else frozenset()
    rounds = options.rounds or (3 if options.quick else 5)
    settings = report.BenchmarkOptions(options.quick, rounds, wanted, options.data)
    try:
        jobs: list[report.BenchmarkJob] = importlib.import_module(f"eval.speed.{options.benchmark}").jobs(settings)
    except InputError as error:
        parser.error(str(error))
    known = {row for job in jobs for row in job.rows}
    if unknown := sorted(wanted - known):
        parser.error(f"`{options.benchmark}` has no row {unknown[0]!r}; choose from {', '.join(sorted(known))}")
    chosen = [job for job in jobs if settings.wants(*job.rows)]
    rows: list[report.BenchmarkRow] = []
    for job in show_progress(chosen, options.benchmark, len(chosen)):
        found = [row for row in job.run() if settings.wants(row.id)]
        rows += found
        if not sys.stderr.isatty():
            for row in found:
                print(f"{job.name}: {row.id} {row.variant}: {row.verdict}", file=sys.stderr, flush=True)
    rows.sort(key=lambda row: (row.id[0], int(row.id[1:])))
    report.render_table(rows)
    if not find_spec("numba"):
        print(
            "numba is not installed, so the numpy kernels were measured; pip install -e '.[fast]' for the compiled ones"
        )
    seconds = time.perf_counter() - begin
    print(f"{len(rows)} rows in {seconds:.0f} s")
    if options.json:
        facts = {
            "benchmark": options.benchmark,
            "machine": {**report.machine(), "dtype": _dtype(options.benchmark)},
            "commit": report.commit(),
            "seconds": round(seconds, 1),
            "arguments": [str(one) for one in (arguments if arguments is not None else sys.argv[1:])],
        }
        report.write_json(options.json, rows, facts)


def _dtype(benchmark: str) -> str:
    """The dtype of the models: the native one of the hardware for `vllm` and `gpu`, else float32."""
    import torch

    from genrec.backends import default_device, native_dtype

    found = native_dtype(default_device()) if benchmark in ("vllm", "gpu") else torch.float32
    return str(found).removeprefix("torch.")


def _plot(files: Sequence[Path], out: Path) -> None:
    from eval.speed.plot import draw_runs

    written = draw_runs(files, out)
    if not written:
        sys.exit("error: no row of these files has a ratio or a floor; measure rows that have one")
    print("\n".join(map(str, written)))


if __name__ == "__main__":
    main()
