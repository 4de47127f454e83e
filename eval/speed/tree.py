"""Benchmarks of ranking 50 candidates with each token tree, against beams of Transformers on the same model (C19).

The masked tree computes all titles in one sequence, the paths tree one row for each title. The peer finds the best ten
of the same titles by `generate` with `prefix_allowed_tokens_fn`: as wide as the list, and as wide as needed so that no
title is pruned. Prompts and titles are those of the embedded shop.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM

from eval.shop import Shop, open_shop
from eval.speed import dictionary, huggingface, subject
from eval.speed.catalog import Identifiers
from eval.speed.measurement import call_and_store, interleave
from eval.speed.report import BenchmarkJob, BenchmarkOptions, BenchmarkRow, Target, timed
from genrec.backends import TransformersBackend, progress_bars_disabled
from genrec.cache import default_cache
from genrec.deadline import Deadline
from genrec.index import TokenTrie
from genrec.loading import find_model_directory
from genrec.settings import LANGUAGE_MODEL
from genrec.types import IntArray

K, CANDIDATES = 10, 50
TARGETS = {"masked": Target(8, 16, at="least"), "paths": Target(4, 8, at="least")}  # over the peer that prunes nothing
SEED = 20261202
# Two layers in three are convolutions, which have no attention mask; about the size of the bundled model's layers.
HYBRID: dict[str, Any] = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}


def jobs(options: BenchmarkOptions) -> list[BenchmarkJob]:
    """The jobs of `python -m eval.speed tree`."""
    return [
        BenchmarkJob("SmolLM2", ("C19",), partial(_real, options)),
        BenchmarkJob("hybrid", ("C19",), partial(_hybrid, options)),
    ]


def _real(options: BenchmarkOptions) -> Iterator[BenchmarkRow]:
    folder = find_model_directory(LANGUAGE_MODEL, default_cache())
    yield from rows(options, TransformersBackend(folder, device="cpu", dtype=torch.float32))


def _hybrid(options: BenchmarkOptions) -> Iterator[BenchmarkRow]:
    yield from rows(options, hybrid_backend(3 if options.quick else 12))


def hybrid_backend(layers: int, **sizes: Any) -> TransformersBackend:
    """A model of convolutions and attention with random weights, in float32; `sizes` replace those of `HYBRID`."""
    torch.manual_seed(1)
    kinds = ["full_attention" if layer % 3 == 2 else "conv" for layer in range(layers)]
    config = Lfm2Config(**{**HYBRID, **sizes}, num_hidden_layers=layers, layer_types=kinds)
    with TemporaryDirectory() as folder, progress_bars_disabled():
        Lfm2ForCausalLM(config).save_pretrained(folder)
        return TransformersBackend(folder, device="cpu", dtype=torch.float32, name=f"random hybrid of {layers} layers")


@dataclass(frozen=True)
class RankingCase:
    """A prompt of P tokens, and the titles behind it: as a trie, and as dictionaries; `steps` is the longest title."""

    prompt: IntArray
    trie: TokenTrie
    root: dictionary.Node
    steps: int


def rows(options: BenchmarkOptions, backend: TransformersBackend) -> Iterator[BenchmarkRow]:
    """The time of ten of 50 titles for one user after another, and the peer's on the same model."""
    shop = open_shop(1 if options.quick else 3, seed=SEED)
    cases, end = _cases(shop, backend), shop.tokenizer.eos_token_id
    models: dict[str, Any] = {"paths": backend.plain}
    if backend.masked is not None:
        models["masked"] = backend.masked
    works: dict[str, Callable[[], Any]] = {tree: partial(_rank, model, cases) for tree, model in models.items()}
    widths = {f"{huggingface.BEAMS}, width {width}": width for width in (K, CANDIDATES)}
    works |= {name: partial(_generate, backend, cases, end, width) for name, width in widths.items()}
    last: dict[str, Any] = {}
    timed_works = {name: partial(call_and_store, last, name, work) for name, work in works.items()}
    found = interleave(timed_works, rounds=options.rounds, warm_up=False)
    tokens, prompt_tokens = (
        np.mean([len(part) for part in parts])
        for parts in ([case.trie.tokens for case in cases], [case.prompt for case in cases])
    )
    variant = f"{backend.name}, {K} of {CANDIDATES} titles ({tokens:.0f} tokens) after {prompt_tokens:.0f}"
    for tree in models:
        for name, width in widths.items():
            same = sum(mine == theirs for mine, theirs in zip(last[tree], last[name], strict=True))
            yield timed(
                "C19",
                f"{variant}, {tree} tree",
                found[tree],
                found[name],
                target=TARGETS[tree] if width == CANDIDATES and not options.quick else Target(),
                peer_name=name,
                ratio_of="peer/genrec",
                note=f"{len(cases)} users one after another; the same list for {same} of them",
            )


def _cases(shop: Shop, backend: Any) -> list[RankingCase]:
    ranker = shop.ranker(backend)
    prompts = [ranker.render(request).token_ids for request in shop.requests]
    popular = shop.popularity.rank(shop.requests, CANDIDATES, deadline=Deadline.never())
    trie, cases = shop.index.trie, []
    for prompt, ranking in zip(prompts, popular, strict=True):
        sequences = [trie.tokens_of_row(int(row)) for row in trie.rows_of_items[ranking.item_indices]]
        codes = Identifiers.from_sequences("candidates", sequences, shop.tokenizer.vocab_size)
        cases.append(RankingCase(prompt, subject.build(codes), dictionary.build(codes), int(codes.lengths.max())))
    return cases


def _rank(model: Any, cases: list[RankingCase]) -> list[list[int]]:
    """The best candidates of each case, by a tree of their titles."""
    found = (subject.search_exhaustively(model, case.trie, [case.prompt], k=K) for case in cases)
    return [ranking.item_indices.tolist() for [ranking] in found]


def _generate(backend: TransformersBackend, cases: list[RankingCase], end: int, width: int) -> list[list[int | None]]:
    """The best candidates of each case, by beams of Transformers."""
    lists = []
    for case in cases:
        paths = huggingface.generate(backend.model, case.prompt, case.root, width=width, steps=case.steps, end=end)
        lists.append([huggingface.item_of(case.root, path) for path in paths[:K]])
    return lists
