"""Brute-force scores for tests: one token after the other, each behind a prompt of its own, without a trie."""

from collections.abc import Sequence

import numpy as np

from genrec.backends.base import Backend
from genrec.decoding.search_request import ScoreKind
from genrec.types import FloatArray, IntArray


def path_score(
    backend: Backend, prompt: IntArray, path: tuple[int, ...], paths: Sequence[tuple[int, ...]], kind: ScoreKind
) -> float:
    """The score of one path; with kind `catalog`, renormalised over the next tokens of all `paths` at each depth."""
    score = 0.0
    for depth, token in enumerate(path):
        tokens = [token]
        if kind == "catalog":
            tokens = sorted({other[depth] for other in paths if other[:depth] == path[:depth]})
        values = log_probs(backend, [*prompt, *path[:depth]], tokens)
        score += values[tokens.index(token)] - (np.logaddexp.reduce(values) if kind == "catalog" else 0.0)
    return float(score)


def log_probs(backend: Backend, prefix: Sequence[int], tokens: list[int]) -> FloatArray:
    """The log-probabilities of tokens after a prefix."""
    tree = backend.open([np.array(prefix)])
    return tree.log_probs(np.array([0]), np.array(tokens), np.array([0, len(tokens)]))
