"""Many lists from vLLM under random filters: none may be invalid, short or repeat itself.

    python -m eval.soak MODEL --count 10000

writes one JSON object: how many lists were written at temperatures 0 and 2, what was wrong with them, and tokens per
second with the constraint and, for as many tokens of the same prompts, without it. vLLM has to be installed beside
genrec.
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
SHARED_PROMPTS = 10  # lists written behind each prompt, which the engine's prefix cache then computes once
QUERIES = (
    "a red lamp",
    "something for a child's birthday",
    "a Christmas gift",
    "storage for the kitchen",
    "vintage tea",
)


def random_constraints(index: CatalogIndex, random: np.random.Generator, *, catalog: str, k: int = K) -> dict[str, Any]:
    """A list of up to k items under a filter: all items, some of them, all but some, or some but for others."""
    wishes: dict[str, Any] = {"genrec_catalog": catalog, "genrec_k": int(random.integers(1, k + 1))}
    order, kind = random.permutation(len(index.catalog)), int(random.integers(4))
    some, others = order[: random.integers(2 * k, 8 * k)], order[: random.integers(1, k)]
    if kind in (1, 3):
        wishes["genrec_allow"] = [index.catalog.item_ids[int(item)] for item in some]
    if kind in (2, 3):
        wishes["genrec_deny"] = [index.catalog.item_ids[int(item)] for item in others]
    return wishes


class ListParser:
    """What a list says, read without the constraint that wrote it: pieces between line breaks, looked up whole.

    Args:
        index: the catalog.
        delimiters: those of the model's tokenizer.
    """

    def __init__(self, index: CatalogIndex, delimiters: DelimiterTokens) -> None:
        self._end, self._separator, self._item_ids = delimiters.end_id, delimiters.separator_id, index.catalog.item_ids
        rows = range(len(index.trie))
        self._item = {tuple(index.trie.tokens_of_row(row).tolist()): int(index.trie.items[row]) for row in rows}

    def items(self, token_ids: Sequence[int]) -> list[int]:
        """The item of each piece, -1 for a piece that is none, and for what stands behind the last one."""
        pieces: list[list[int]] = [[]]
        for token in token_ids:
            if token == self._separator:
                pieces.append([])
            else:
                pieces[-1].append(token)
        found = [self._item.get((*piece, self._end), -1) for piece in pieces[:-1]]
        return [*found, self._item.get(tuple(pieces[-1]), -1)]  # the last one brings the end token itself

    def faults(self, token_ids: Sequence[int], constraints: Mapping[str, Any]) -> list[str]:
        """What is wrong with a generated list."""
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
    """The folder that engines started meanwhile serve catalogs from."""
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
    """Write `count` lists, half of them at temperature 0 and half at 2, and count them and their faults.

    Args:
        engine: a `vllm.LLM` that was started with the catalog.
        index: the catalog.
        tokenizer: the model's.
        catalog: its name.
        count: how many.
    """
    from vllm import SamplingParams

    # No seeds of requests: on the CPU vLLM 0.32 stops where one of them is filled in by halves.
    random, grammar = np.random.default_rng(0), CatalogGrammar(index.trie, DelimiterTokens.from_tokenizer(tokenizer))
    reader = ListParser(index, grammar.delimiters)
    prompts, room, counts = _prompts(tokenizer, index, random), grammar.max_answer_tokens("list", k=K), Counter[str]()
    starts = range(0, count, BATCH)
    for start in show_progress(starts, f"batches of {BATCH} lists", len(starts)):
        size = min(BATCH, count - start)
        wishes = [random_constraints(index, random, catalog=catalog) for _ in range(size)]
        params = [
            SamplingParams(temperature=2.0 * (number % 2), max_tokens=room, extra_args=wish)
            for number, wish in enumerate(wishes)
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
        for answer, wish in zip(answers, wishes, strict=True):
            counts.update(["lists", *reader.faults(answer, wish)])
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
    """Build the embedded shop's index for a model, start vLLM, and soak it."""
    parser = argparse.ArgumentParser(prog="python -m eval.soak", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=100, help="how many vLLM runs at once")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        catalog, _ = open_dataset("online-retail", Path(folder) / "data")
        tokenizer = HuggingFaceTokenizer.from_directory(options.model)
        index = CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer)
        index.save(Path(folder) / "catalogs" / "retail")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # it writes where the result goes
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
