"""Soak test of vLLM lists under random filters: no list may be invalid, short or contain repeats.

    python -m eval.soak MODEL --count 10000

writes one JSON object: the number of lists generated at temperatures 0 and 2, their faults, and tokens per second with
the constraint and, for as many tokens of the same prompts, without it. vLLM must be installed in the environment.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from eval.progress import show_progress
from genrec import CatalogIndex, TitleIdentifiers, open_dataset
from genrec.backends import default_device, native_dtype
from genrec.decoding import CatalogGrammar, DelimiterTokens
from genrec.prompting import HuggingFaceTokenizer
from genrec.types import Message, Span
from genrec.vllm_plugin import CATALOGS_ENV

K = 10
BATCH = 200
SHARED_PROMPTS = 10  # lists per prompt; the prefix cache computes the prompt once
QUERIES = (
    "a red lamp",
    "something for a child's birthday",
    "a Christmas gift",
    "storage for the kitchen",
    "vintage tea",
)


def random_constraints(index: CatalogIndex, random: np.random.Generator, *, catalog: str, k: int = K) -> dict[str, Any]:
    """Random arguments of the plugin: up to k items, with an allow-list, a deny-list, both or neither."""
    constraints: dict[str, Any] = {"genrec_catalog": catalog, "genrec_k": int(random.integers(1, k + 1))}
    order, kind = random.permutation(len(index.catalog)), int(random.integers(4))
    some, others = order[: random.integers(2 * k, 8 * k)], order[: random.integers(1, k)]
    if kind in (1, 3):
        constraints["genrec_allow"] = [index.catalog.item_ids[int(item)] for item in some]
    if kind in (2, 3):
        constraints["genrec_deny"] = [index.catalog.item_ids[int(item)] for item in others]
    return constraints


class ListParser:
    """Parses generated lists independently of the constraint: splits at separators and looks up whole titles.

    Args:
        index: the catalog.
        delimiters: delimiter tokens of the model's tokenizer.
    """

    def __init__(self, index: CatalogIndex, delimiters: DelimiterTokens) -> None:
        self._end, self._separator, self._item_ids = delimiters.end_id, delimiters.separator_id, index.catalog.item_ids
        rows = range(len(index.trie))
        self._item = {tuple(index.trie.tokens_of_row(row).tolist()): int(index.trie.items[row]) for row in rows}

    def items(self, token_ids: Sequence[int]) -> list[int]:
        """The item of each line; -1 for a line that is not an item."""
        pieces: list[list[int]] = [[]]
        for token in token_ids:
            if token == self._separator:
                pieces.append([])
            else:
                pieces[-1].append(token)
        found = [self._item.get((*piece, self._end), -1) for piece in pieces[:-1]]
        return [*found, self._item.get(tuple(pieces[-1]), -1)]  # the last line already contains the end token

    def faults(self, token_ids: Sequence[int], constraints: Mapping[str, Any]) -> list[str]:
        """The faults of a generated list."""
        items, count = self.items(token_ids), len(self._item_ids)
        allowed = set(range(count))
        if "genrec_allow" in constraints:
            allowed &= set(self._item_ids.positions(constraints["genrec_allow"]).tolist())
        if "genrec_deny" in constraints:
            allowed -= set(self._item_ids.positions(constraints["genrec_deny"]).tolist())
        checks = {
            "invalid": not set(items) <= allowed,
            "repeated": len(set(items)) < len(items),
            "short": len(items) < constraints["genrec_k"],
        }
        return [name for name, wrong in checks.items() if wrong]


@contextmanager
def serving_catalogs(catalogs: Path) -> Iterator[None]:
    """Set the directory from which engines that start in this context serve catalogs."""
    before = os.environ.get(CATALOGS_ENV)
    os.environ[CATALOGS_ENV] = str(catalogs)
    try:
        yield
    finally:
        os.environ.pop(CATALOGS_ENV)
        if before is not None:
            os.environ[CATALOGS_ENV] = before


def soak(
    engine: Any, index: CatalogIndex, tokenizer: HuggingFaceTokenizer, *, catalog: str, count: int
) -> Counter[str]:
    """Generate `count` lists, half at temperature 0 and half at 2, and count lists and faults.

    Args:
        engine: a `vllm.LLM` that serves the catalog.
        index: the index of the catalog.
        tokenizer: the model's tokenizer.
        catalog: the name under which the engine serves the catalog.
        count: number of lists.
    """
    from vllm import SamplingParams

    # Requests have no seeds: with them, vLLM 0.32 on the CPU fails on partly computed prompts.
    random, grammar = np.random.default_rng(0), CatalogGrammar(index.trie, DelimiterTokens.from_tokenizer(tokenizer))
    parser = ListParser(index, grammar.delimiters)
    prompts, room, counts = _prompts(tokenizer, index, random), grammar.max_answer_tokens("list", k=K), Counter[str]()
    starts = range(0, count, BATCH)
    for start in show_progress(starts, f"batches of {BATCH} lists", len(starts)):
        size = min(BATCH, count - start)
        constraints = [random_constraints(index, random, catalog=catalog) for _ in range(size)]
        params = [
            SamplingParams(temperature=2.0 * (number % 2), max_tokens=room, extra_args=own)
            for number, own in enumerate(constraints)
        ]
        batch = [next(prompts) for _ in range(size)]
        begin = time.perf_counter()
        answers = [answer.outputs[0].token_ids for answer in engine.generate(batch, params, use_tqdm=False)]
        counts["milliseconds"] += int(1000 * (time.perf_counter() - begin))
        if start == 0:
            engine.reset_prefix_cache()
            plain = [
                SamplingParams(temperature=one.temperature, max_tokens=len(answer), ignore_eos=True)
                for one, answer in zip(params, answers, strict=True)
            ]
            begin = time.perf_counter()
            engine.generate(batch, plain, use_tqdm=False)
            counts["plain_milliseconds"] = int(1000 * (time.perf_counter() - begin))
            counts["plain_tokens"] = sum(map(len, answers))
            counts["first_milliseconds"] = counts["milliseconds"]
        for answer, own in zip(answers, constraints, strict=True):
            counts.update(["lists", *parser.faults(answer, own)])
            counts["tokens"] += len(answer)
    return counts


def _prompts(
    tokenizer: HuggingFaceTokenizer, index: CatalogIndex, random: np.random.Generator
) -> Iterator[dict[str, list[int]]]:
    while True:
        bought = [index.catalog.titles[int(item)] for item in random.integers(0, len(index.catalog), 3)]
        asked = f"I bought {', '.join(bought)} and look for {random.choice(QUERIES)}. Name products, one a line."
        token_ids = tokenizer.encode_prompt([Message("user", (Span(asked, False),))]).tolist()
        yield from [{"prompt_token_ids": token_ids}] * SHARED_PROMPTS


def main() -> None:
    """Build the index of the embedded shop for a model, start vLLM, and run the soak test."""
    parser = argparse.ArgumentParser(prog="python -m eval.soak", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=100, help="number of requests that vLLM runs concurrently")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        catalog, _ = open_dataset("online-retail", Path(folder) / "data")
        tokenizer = HuggingFaceTokenizer.from_directory(options.model)
        index = CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer)
        index.save(Path(folder) / "catalogs" / "retail")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # it logs to stdout
        from vllm import LLM

        with serving_catalogs(Path(folder) / "catalogs"):
            engine = LLM(
                str(options.model),
                dtype=native_dtype(default_device()),
                enforce_eager=True,
                max_model_len=1024,
                max_num_seqs=options.requests,
                block_size=32,
            )
            counts = soak(engine, index, tokenizer, catalog="retail", count=options.count)
    rates = {
        "tokens_per_second": counts["tokens"] / (counts["milliseconds"] / 1000),
        "first_batch_per_second": counts["plain_tokens"] / (counts["first_milliseconds"] / 1000),
        "unconstrained_per_second": counts["plain_tokens"] / (counts["plain_milliseconds"] / 1000),
    }
    zero = {fault: counts[fault] for fault in ("invalid", "repeated", "short")}
    print(json.dumps({"lists": counts["lists"], **zero, **{name: round(rate, 1) for name, rate in rates.items()}}))


if __name__ == "__main__":
    main()
