"""Benchmark of selecting the next beams among allowed children, against selection over the whole vocabulary (C3)."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from eval.speed import dictionary, subject
from eval.speed.catalog import Identifiers, uniform
from eval.speed.measurement import interleave
from eval.speed.report import BenchmarkOptions, BenchmarkRow, Target, timed

VOCABULARY = 151_936
TARGET = Target(0.5, 0.3)


def rows(options: BenchmarkOptions, count: int) -> Iterator[BenchmarkRow]:
    """Two widths, at nodes with hundreds of children and at nodes with few."""
    plain_codes = uniform(count, 4, 2048)
    used = np.sort(np.random.default_rng(1).permutation(60_000)[:2048]).astype(np.uint16)
    codes = Identifiers.from_rows(plain_codes.name, used[plain_codes.rows], VOCABULARY)
    trie = subject.build(codes)
    for width in (20, 128):
        logits = torch.randn((width, VOCABULARY), generator=torch.Generator().manual_seed(1))
        scores = torch.linspace(-1, -9, width)
        for depth in (1, 2):
            prefixes = codes.prefixes(depth, width, seed=1)
            places, sent = subject.locate(trie, prefixes), torch.from_numpy(prefixes)
            mask = dictionary.mask(dictionary.below(codes, prefixes), width)
            mine, _ = subject.select(trie, places, logits, scores, width)
            peer = masked_top_k(mask, sent, logits, scores, width)[0].numpy()
            np.testing.assert_allclose(mine, peer[peer > -np.inf], rtol=1e-4, atol=1e-4)
            found = interleave(
                {
                    "genrec": partial(subject.select, trie, places, logits, scores, width),
                    "plain": partial(top_k, logits, scores, width),
                    "masked": partial(masked_top_k, mask, sent, logits, scores, width),
                },
                rounds=options.rounds,
            )
            share = found["masked"].seconds / found["plain"].seconds
            yield timed(
                "C3",
                f"{width} rows V{VOCABULARY} depth {depth}",
                found["genrec"],
                found["plain"],
                target=TARGET,
                peer_name="torch, unconstrained log_softmax and topk",
                note=f"with Hugging Face's mask in between, {share:.2f} of unconstrained; genrec selects the same",
            )


def top_k(logits: torch.Tensor, scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and flat indices [k] of the best next tokens of all beams."""
    values, places = (logits.log_softmax(dim=1) + scores[:, None]).view(1, -1).topk(k)
    return values[0], places[0]


def masked_top_k(
    mask: Any, sent: torch.Tensor, logits: torch.Tensor, scores: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same among the tokens that a mask allows."""
    values, places = (mask(sent, logits.log_softmax(dim=1)) + scores[:, None]).view(1, -1).topk(k)
    return values[0], places[0]
