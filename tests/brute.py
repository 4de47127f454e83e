"""Scores the slow way: one token after the other, each behind a prompt of its own, and no trie anywhere."""

from collections.abc import Sequence

import numpy as np

from genrec.backends.base import Backend
from genrec.decoding.search import ScoreKind
from genrec.types import FloatArray, IntArray


def path_score(
    backend: Backend, prompt: IntArray, path: tuple[int, ...], paths: Sequence[tuple[int, ...]], kind: ScoreKind
) -> float:
    """The score of one path, token by token; under `catalog` over the next tokens that any of `paths` has there."""
    score = 0.0
    for depth, token in enumerate(path):
        tokens = [token]
        if kind == "catalog":
            tokens = sorted({other[depth] for other in paths if other[:depth] == path[:depth]})
        steps = log_probs(backend, [*prompt, *path[:depth]], tokens)
        score += steps[tokens.index(token)] - (np.logaddexp.reduce(steps) if kind == "catalog" else 0.0)
    return float(score)


def log_probs(backend: Backend, prefix: Sequence[int], tokens: list[int]) -> FloatArray:
    tree = backend.open([np.array(prefix)])
    return tree.log_probs(np.array([0]), np.array(tokens), np.array([0, len(tokens)]))
