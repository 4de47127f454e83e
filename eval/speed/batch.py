"""Benchmarks of batch runs: a million lists of the embedding ranker (B1 to B3), and the overhead of a run over direct
calls for lists (B4) and texts (B5) of the language model.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from eval.speed.measurement import ROOT, interleave, process_memory
from eval.speed.report import BenchmarkJob, BenchmarkOptions, BenchmarkRow, Target, timed
from genrec import History, Interactions, Recommender, open_dataset, open_recommender, read_template
from genrec.backends import GenerationRequest
from genrec.batch import GenerateTask, RecommendTask, SamplingParams, TemplatePromptBuilder, start_run
from genrec.cache import default_cache
from genrec.loading import load_backend
from genrec.rankers import PopularityRanker
from genrec.settings import LANGUAGE_MODEL, Settings

MANY, FEW = 1_000_000, 20_000
WORKERS, K = 2, 10
RATE = Target(MANY / 600, MANY / 300, judged="genrec", at="least")
MEMORY = Target(500, 250, judged="genrec")
RESUME = Target(10, 5, judged="genrec")
THROUGHPUT_SHARE = Target(0.95, 0.99, at="least")
_SAMPLE_INTERVAL = 0.25  # seconds between two samples of a worker's memory

PROMPT = """{#
name = "use"
version = 1
inputs = ["title"]
output = "text"
#}
{% block user %}Say in one sentence what this is for: {{ title }}{% endblock %}
"""


def jobs(options: BenchmarkOptions) -> list[BenchmarkJob]:
    """The jobs of `python -m eval.speed batch`."""
    return [
        BenchmarkJob("a million lists", ("B1", "B2", "B3"), partial(embedding_lists, options)),
        BenchmarkJob("lists of the language model", ("B4",), partial(model_lists, options)),
        BenchmarkJob("texts of the language model", ("B5",), partial(model_texts, options)),
    ]


def embedding_lists(options: BenchmarkOptions) -> Iterator[BenchmarkRow]:
    """Time the whole command with two workers, then resume the finished run."""
    count = FEW if options.quick else MANY
    _, interactions = open_dataset("online-retail", default_cache())
    with TemporaryDirectory() as folder:
        source, out = Path(folder) / "users.jsonl", Path(folder) / "out"
        users = np.random.default_rng(0).choice(np.array([str(user) for user in interactions.user_ids]), count)
        source.write_text("".join(f'{{"user_id": "{user}"}}\n' for user in users), encoding="utf-8")
        command = [sys.executable, "-m", "genrec", "batch"]
        options_ = ["--k", str(K), "--ranker", "embedding", "--workers", str(WORKERS), "--json"]
        began = time.perf_counter()
        run = subprocess.Popen([*command, "run", str(source), str(out), *options_], stdout=subprocess.PIPE, cwd=ROOT)
        growth = _memory_growth(run, out / "leases")
        seconds = time.perf_counter() - began
        summary = json.loads(run.communicate()[0])
        if run.returncode or summary["rows_done"] != count or summary["lines"] != K * count:
            raise ValueError(f"the run ended with exit code {run.returncode}, {summary}")
        if len(growth) != WORKERS:
            raise ValueError(f"{len(growth)} of {WORKERS} workers were observed; measure more rows")
        variant = f"{count} known users of Online Retail, {K} items each, {WORKERS} workers"
        yield BenchmarkRow("B1", variant, count / seconds, "rows/s", RATE, note=f"{seconds:.0f} s from start to end")
        note = "sum over workers of the peak above the memory at the first part"
        yield BenchmarkRow("B2", variant, sum(growth.values()) / 1e6, "MB", MEMORY, note=note)
        began = time.perf_counter()
        subprocess.run([*command, "resume", str(out), "--json"], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        yield BenchmarkRow(
            "B3", "resume of the finished run", time.perf_counter() - began, "s", RESUME, note="every part hashed"
        )


def _memory_growth(run: "subprocess.Popen[bytes]", leases: Path) -> dict[int, int]:
    """Wait for a run to end; for each worker, its peak memory in bytes above the memory at its first part."""
    first: dict[int, int] = {}
    grown: dict[int, int] = {}
    while run.poll() is None:
        time.sleep(_SAMPLE_INTERVAL)
        for path in leases.glob("[0-9]*"):
            with suppress(OSError, IndexError, ValueError):
                process = int(path.read_text(encoding="utf-8").split(" ")[1])
                first.setdefault(process, process_memory("VmRSS", process))
        for process, before in first.items():
            with suppress(OSError, IndexError):
                # What it holds now, unlike its peak, leaves out the loading of models.
                grown[process] = max(grown.get(process, 0), process_memory("VmRSS", process) - before)
    return grown


def model_lists(options: BenchmarkOptions) -> Iterator[BenchmarkRow]:
    """B4: histories of known users, ranked by the bundled model; priors are measured in advance."""
    catalog, interactions = open_dataset("online-retail", default_cache())
    settings = Settings(compute_priors=False)
    opened = open_recommender(catalog, interactions, cache=default_cache(), settings=settings)
    stages = [opened.stages[0], PopularityRanker(interactions.item_counts(catalog))]
    recommender = Recommender(catalog, stages, interactions=interactions)
    histories = _long_histories(interactions, 16 if options.quick else 64)
    rows = [{"history": list(own.item_ids)} for own in histories]
    recommender.recommend(histories, K)  # measures the priors of the candidates
    works: dict[str, Callable[[], object]] = {
        "genrec": partial(_run, rows, RecommendTask(recommender, K, {}), len(rows)),
        "direct": partial(recommender.recommend, histories, K),
    }
    yield from _throughput_row("B4", f"{len(rows)} histories, {K} items each", works, options, "Recommender.recommend")


def model_texts(options: BenchmarkOptions) -> Iterator[BenchmarkRow]:
    """B5: a sentence about each of several items."""
    catalog, _ = open_dataset("online-retail", default_cache())
    backend, tokenizer = load_backend(LANGUAGE_MODEL, default_cache())
    with TemporaryDirectory() as folder:
        path = Path(folder) / "use.j2"
        path.write_text(PROMPT, encoding="utf-8")
        template = read_template(path)
    titles = list(catalog.titles[: 16 if options.quick else 64])
    params, size = SamplingParams(max_tokens=40), 32
    answer = GenerateTask(backend, tokenizer, TemplatePromptBuilder(template), sampling_params=params, batch_size=size)
    requests = [
        GenerationRequest(
            tokenizer.encode_prompt(template.render(title=title)), tokenizer.control_token_ids, params.max_tokens
        )
        for title in titles
    ]

    def generate() -> object:
        return [backend.generate(requests[start : start + size]) for start in range(0, len(requests), size)]

    works: dict[str, Callable[[], object]] = {
        "genrec": partial(_run, [{"title": title} for title in titles], answer, len(titles)),
        "direct": generate,
    }
    variant = f"{len(titles)} texts of at most {params.max_tokens} tokens"
    yield from _throughput_row("B5", variant, works, options, "Backend.generate")


def _throughput_row(
    identifier: str, variant: str, works: Mapping[str, Callable[[], object]], options: BenchmarkOptions, peer: str
) -> Iterator[BenchmarkRow]:
    found = interleave(works, rounds=options.rounds, warm_up=False)
    yield timed(
        identifier,
        f"{variant}, {LANGUAGE_MODEL}",
        found["genrec"],
        found["direct"],
        target=THROUGHPUT_SHARE,
        peer_name=f"{peer}, called directly",
        ratio_of="peer/genrec",
        note="rate of the run as a share of the rate of direct calls",
    )


def _run(rows: Sequence[Mapping[str, Any]], answer: RecommendTask | GenerateTask, part_rows: int) -> None:
    """Execute a whole run, from reading the rows to the summary."""
    with TemporaryDirectory() as folder:
        source = Path(folder) / "rows.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        run = start_run(
            source, Path(folder) / "run", {}, answer.schema, part_rows=part_rows, key_columns=answer.key_columns
        )
        done = run.run(answer)
        if done.failed or not done.finished:
            raise ValueError(f"the run ended with {done}")


def _long_histories(interactions: Interactions, count: int) -> list[History]:
    """Histories of at least 12 items."""
    histories = (interactions.history_of(user) for user in interactions.user_ids)
    long = (History(own.item_ids) for own in histories if len(own.item_ids) >= 12)
    return [own for own, _ in zip(long, range(count), strict=False)]
