"""Benchmark of the embedding ranker: the exact top 100 of a million vectors for one user (C16)."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from eval.speed.measurement import interleave
from eval.speed.report import BenchmarkJob, BenchmarkOptions, BenchmarkRow, Target, timed
from genrec import EmbeddingRanker, RankRequest
from genrec.data import Subset
from genrec.deadline import Deadline
from genrec.types import IntArray, Ranking

ITEMS, DIMENSIONS, K = 1_000_000, 256, 100
TARGET = Target(0.060, 0.030, judged="genrec")

Vectors = NDArray[np.float32]


def jobs(options: BenchmarkOptions) -> list[BenchmarkJob]:
    """The jobs of `python -m eval.speed embedding`."""
    return [BenchmarkJob("a million vectors", ("C16",), partial(rows, options))]


def rows(options: BenchmarkOptions) -> Iterator[BenchmarkRow]:
    """Time `EmbeddingRanker.rank`, including its filter; peers only multiply and select."""
    random = np.random.default_rng(1)
    vectors = random.standard_normal((ITEMS, DIMENSIONS), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ranker = EmbeddingRanker(vectors)
    ranker.enable_quantization()
    history = random.integers(0, ITEMS, 5)
    request = RankRequest(history, "", Subset.everything(ITEMS))
    weights = (0.9 ** np.arange(5)[::-1]).astype(np.float32)
    user_vector = weights @ vectors[history]
    tensor = torch.from_numpy(vectors)
    peers = {
        "numpy, matmul and argpartition": partial(_numpy, vectors, user_vector),
        "torch, matmul and topk": partial(_torch, tensor, torch.from_numpy(user_vector)),
    }
    ours = partial(_rank, ranker, request)
    for name, peer in peers.items():
        shared = len(np.intersect1d(ours().item_indices, peer()))
        if shared < K - 1:  # exact ties may be ordered differently
            raise ValueError(f"{name} shares {shared} of {K} items with genrec")
    found = interleave({"genrec": ours, **peers}, rounds=2 * options.rounds + 1, min_seconds=0.1)
    for name in peers:
        variant = f"top {K} of {ITEMS} x {DIMENSIONS}, float32"
        yield timed("C16", variant, found["genrec"], found[name], target=TARGET, peer_name=name, note="the same items")


def _rank(ranker: EmbeddingRanker, request: RankRequest) -> Ranking:
    return ranker.rank([request], K, deadline=Deadline.never())[0]


def _numpy(vectors: Vectors, user_vector: Vectors) -> IntArray:
    scores = vectors @ user_vector
    best = np.argpartition(-scores, K)[:K]
    return best[np.argsort(-scores[best])]


@torch.inference_mode()
def _torch(vectors: torch.Tensor, user_vector: torch.Tensor) -> IntArray:
    found: IntArray = (vectors @ user_vector).topk(K).indices.numpy()
    return found
