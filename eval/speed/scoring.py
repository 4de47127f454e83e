"""Benchmarks of scoring candidates after one prompt, against two methods in Transformers (C12)."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from eval.speed import huggingface, subject
from eval.speed.catalog import Identifiers
from eval.speed.measurement import call_and_store, interleave
from eval.speed.model import random_backend
from eval.speed.report import BenchmarkJob, BenchmarkOptions, BenchmarkRow, Target, timed
from genrec.backends import TransformersBackend
from genrec.cache import default_cache
from genrec.loading import load_backend
from genrec.settings import LANGUAGE_MODEL

CANDIDATES, LENGTH, PROMPT = 64, 4, 256
TARGETS = {
    huggingface.ALONE: Target(20, 30, at="least"),
    huggingface.REPEATED: Target(1.5, 2, at="least"),
}


def jobs(options: BenchmarkOptions) -> list[BenchmarkJob]:
    """The jobs of `python -m eval.speed scoring`."""
    if options.quick:
        return [BenchmarkJob("random weights", ("C12",), partial(_random, options, "12M"))]
    return [
        BenchmarkJob("SmolLM2", ("C12",), partial(_real, options)),
        BenchmarkJob("random weights", ("C12",), partial(_random, options, "0.6B")),
    ]


def _real(options: BenchmarkOptions) -> Iterator[BenchmarkRow]:
    backend, _ = load_backend(LANGUAGE_MODEL, default_cache())
    yield from rows(options, backend)


def _random(options: BenchmarkOptions, shape: str) -> Iterator[BenchmarkRow]:
    yield from rows(options, random_backend(shape))


def rows(options: BenchmarkOptions, backend: TransformersBackend) -> Iterator[BenchmarkRow]:
    """Candidates of random tokens, which share few prefixes: the worst case for a tree."""
    random = np.random.default_rng(1)
    prompt = random.integers(0, backend.vocab_size, PROMPT)
    chosen = random.integers(0, min(backend.vocab_size, 1 << 16), (CANDIDATES, LENGTH))
    codes = Identifiers.from_rows("candidates", chosen.astype(np.uint16), backend.vocab_size)
    trie = subject.build(codes)
    ours: Callable[[], Any] = partial(subject.search_exhaustively, backend, trie, [prompt], k=CANDIDATES)
    peers: dict[str, Callable[[], Any]] = {
        huggingface.ALONE: partial(huggingface.score_alone, backend.model, prompt, chosen),
        huggingface.REPEATED: partial(huggingface.score_repeated, backend.model, prompt, chosen),
    }
    last: dict[str, Any] = {}
    works = {name: partial(call_and_store, last, name, work) for name, work in {"genrec": ours, **peers}.items()}
    found = interleave(works, rounds=options.rounds, warm_up=False)
    [ranking] = last["genrec"]
    mine = np.empty(CANDIDATES)
    mine[ranking.item_indices] = ranking.scores
    tolerance = 2e-3 if "float32" in backend.name else 0.2
    for name in peers:
        np.testing.assert_allclose(last[name], mine, atol=tolerance, err_msg=name)
    for name in peers:
        yield timed(
            "C12",
            f"{backend.name}, {CANDIDATES} candidates x {LENGTH} tokens after {PROMPT}",
            found["genrec"],
            found[name],
            target=Target() if options.quick else TARGETS[name],
            peer_name=name,
            ratio_of="peer/genrec",
            note="the same scores" + ("; quick: small random weights, no floor" if options.quick else ""),
        )
