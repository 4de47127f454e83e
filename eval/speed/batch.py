"""The rows of batch runs: a million lists by the embedding ranker (B1 to B3), and what a run costs beside asking the
language model for the same lists (B4) and texts (B5) without one.
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

from eval.speed.measurement import ROOT, interleave
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
_SAMPLE_INTERVAL = 0.25  # seconds between two looks at what a worker holds

PROMPT = """{#
name = "use"
version = 1
inputs = ["title"]
output = "text"
#}
{% block user %}Say in one sentence what this is for: {{ title }}{% endblock %}
"""


def jobs(options: BenchmarkOptions) -> list[BenchmarkJob]:
    """What `python -m eval.speed batch` measures."""
    return [
        BenchmarkJob("a million lists", ("B1", "B2", "B3"), partial(embedding_lists, options)),
        BenchmarkJob("lists of the language model", ("B4",), partial(model_lists, options)),
        BenchmarkJob("texts of the language model", ("B5",), partial(model_texts, options)),
    ]


def embedding_lists(options: BenchmarkOptions) -> Iterator[BenchmarkRow]:
    """The command itself, from its start to its end, with two workers; then the same command again."""
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
        grown = _memory_growth(run, out / "leases")
        seconds = time.perf_counter() - began
        told = json.loads(run.communicate()[0])
        if run.returncode or told["rows_done"] != count or told["lines"] != K * count:
            raise ValueError(f"the run ended with exit code {run.returncode}, {told}")
        if len(grown) != WORKERS:
            raise ValueError(f"{len(grown)} of {WORKERS} workers were seen at work; measure more rows")
        variant = f"{count} known users of Online Retail, {K} items each, {WORKERS} workers"
        yield BenchmarkRow("B1", variant, count / seconds, "rows/s", RATE, note=f"{seconds:.0f} s from start to end")
        note = "each worker's most above what it held at its first part, added up"
        yield BenchmarkRow("B2", variant, sum(grown.values()) / 1e6, "MB", MEMORY, note=note)
        began = time.perf_counter()
        subprocess.run([*command, "resume", str(out), "--json"], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        yield BenchmarkRow(
            "B3", "resume of the finished run", time.perf_counter() - began, "s", RESUME, note="every part hashed"
        )


def _memory_growth(run: "subprocess.Popen[bytes]", leases: Path) -> dict[int, int]:
    """Until a run ends: of each of its workers, the bytes that it held at the most more than at its first part."""
    first: dict[int, int] = {}
    grown: dict[int, int] = {}
    while run.poll() is None:
        time.sleep(_SAMPLE_INTERVAL)
        for path in leases.glob("[0-9]*"):
            with suppress(OSError, IndexError, ValueError):
                process = int(path.read_text(encoding="utf-8").split(" ")[1])
                first.setdefault(process, _resident_bytes(process))
        for process, before in first.items():
            with suppress(OSError, IndexError):
                grown[process] = max(grown.get(process, 0), _resident_bytes(process) - before)
    return grown


def _resident_bytes(process: int) -> int:
    """The bytes that a process holds now; what it held while it loaded the models is over."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def model_lists(options: BenchmarkOptions) -> Iterator[BenchmarkRow]:
    """Histories of known users, ranked by the bundled model; priors are measured before."""
    catalog, interactions = open_dataset("online-retail", default_cache())
    settings = Settings(compute_priors=False)
    opened = open_recommender(catalog, interactions, cache=default_cache(), settings=settings)
    steps = [opened.stages[0], PopularityRanker(interactions.item_counts(catalog))]
    recommender = Recommender(catalog, steps, interactions=interactions)
    histories = _long_histories(interactions, 16 if options.quick else 64)
    rows = [{"history": list(own.item_ids)} for own in histories]
    recommender.recommend(histories, K)  # of what comes up here the prior is measured now
    works: dict[str, Callable[[], object]] = {
        "genrec": partial(_run, rows, RecommendTask(recommender, K, {}), len(rows)),
        "asked": partial(recommender.recommend, histories, K),
    }
    yield from _throughput_row("B4", f"{len(rows)} histories, {K} items each", works, options, "Recommender.recommend")


def model_texts(options: BenchmarkOptions) -> Iterator[BenchmarkRow]:
    """A sentence about each of some items."""
    catalog, _ = open_dataset("online-retail", default_cache())
    backend, tokenizer = load_backend(LANGUAGE_MODEL, default_cache())
    with TemporaryDirectory() as folder:
        path = Path(folder) / "use.j2"
        path.write_text(PROMPT, encoding="utf-8")
        template = read_template(path)
    titles = list(catalog.titles[: 16 if options.quick else 64])
    style, size = SamplingParams(max_tokens=40), 32
    answer = GenerateTask(backend, tokenizer, TemplatePromptBuilder(template), sampling_params=style, batch_size=size)
    requests = [
        GenerationRequest(
            tokenizer.encode_prompt(template.render(title=title)), tokenizer.control_token_ids, style.max_tokens
        )
        for title in titles
    ]

    def write() -> object:
        return [backend.generate(requests[start : start + size]) for start in range(0, len(requests), size)]

    works: dict[str, Callable[[], object]] = {
        "genrec": partial(_run, [{"title": title} for title in titles], answer, len(titles)),
        "asked": write,
    }
    variant = f"{len(titles)} texts of at most {style.max_tokens} tokens"
    yield from _throughput_row("B5", variant, works, options, "Backend.write")


def _throughput_row(
    identifier: str, variant: str, works: Mapping[str, Callable[[], object]], options: BenchmarkOptions, peer: str
) -> Iterator[BenchmarkRow]:
    found = interleave(works, rounds=options.rounds, warm_up=False)
    yield timed(
        identifier,
        f"{variant}, {LANGUAGE_MODEL}",
        found["genrec"],
        found["asked"],
        target=THROUGHPUT_SHARE,
        peer_name=f"{peer}, no run around it",
        ratio_of="peer/genrec",
        note="rate of the run as a share of the rate without one",
    )


def _run(rows: Sequence[Mapping[str, Any]], answer: RecommendTask | GenerateTask, part_rows: int) -> None:
    """A whole run: rows read, answered, written and summed up."""
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
    """Histories of a dozen items or more."""
    histories = (interactions.history_of(user) for user in interactions.user_ids)
    long = (History(own.item_ids) for own in histories if len(own.item_ids) >= 12)
    return [own for own, _ in zip(long, range(count), strict=False)]
