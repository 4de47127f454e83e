"""The prior penalty: what a score subtracts for an item that is likely for any user.

`genrec.decoding.beam` and `genrec.decoding.search` subtract it.

Letters: T tokens of a trie.
"""

from functools import cached_property

import numpy as np

from genrec.decoding.bounds import LogProbArray, ScoreBound, renormalization_error, renormalize_over_children
from genrec.errors import EngineError, InputError
from genrec.index.trie import TokenTrie
from genrec.types import FloatArray, IntArray


class PriorPenalty:
    """The log-probabilities of a prior over the tokens of a trie, and the weight with which a score subtracts them.

    Args:
        trie: the trie.
        log_probs: float32 or float64 [T], the prior log-probability of each token given its path.
        weight: the factor of the prior in a score, at least 0.

    Raises:
        InputError: `log_probs` has another shape, or the weight is negative or not finite.
    """

    def __init__(self, trie: TokenTrie, log_probs: LogProbArray, weight: float) -> None:
        if log_probs.shape != trie.tokens.shape:
            raise InputError(
                f"the prior has shape {log_probs.shape}, but the trie has {len(trie.tokens)} tokens; "
                "compute the prior for this trie"
            )
        if not np.isfinite(weight) or weight < 0:
            raise InputError(f"the weight of the prior is {weight}; it must be a finite number of at least 0")
        self.trie, self.log_probs, self.weight = trie, log_probs, weight

    def log_probs_at(self, positions: IntArray) -> FloatArray:
        """float64, the prior log-probabilities of the tokens at the given positions."""
        return self.log_probs[positions].astype(np.float64)

    def score_bound(self, score_kind: str) -> "ScoreBound":
        """The bound for a kind of score, "model" or "catalog"; computed once for each.

        Raises:
            InputError: some tokens have no prior yet, or the kind is unknown.
            EngineError: the prior of some tokens is infinite.
        """
        if score_kind not in ("model", "catalog"):
            raise InputError(f"score_kind is {score_kind!r}; choose model or catalog")
        return self._catalog_bound if score_kind == "catalog" else self._model_bound

    def check_finite(self, log_probs: LogProbArray) -> None:
        """Check that every log-probability of a prior is known.

        Raises:
            InputError: some are NaN, so they were not measured.
            EngineError: some are infinite, so the model gives their tokens no probability at all.
        """
        if missing := int(np.isnan(log_probs).sum()):
            raise InputError(f"{missing:,} tokens have no prior; call Prior.fill for their rows first")
        if infinite := int(np.isinf(log_probs).sum()):
            raise EngineError(
                f"the model gives {infinite:,} tokens of the catalog a prior log-probability of minus infinity, which "
                "no score can subtract; check its weights, or set prior to 0"
            )

    @cached_property
    def _model_bound(self) -> "ScoreBound":
        self.check_finite(self.log_probs)
        return ScoreBound(self.trie, self.log_probs.astype(np.float64) * -self.weight)

    @cached_property
    def _catalog_bound(self) -> "ScoreBound":
        self.check_finite(self.log_probs)
        log_probs = renormalize_over_children(self.trie, self.log_probs.astype(np.float64))
        # A search renormalises over the allowed children only.
        error = self.weight * renormalization_error(self.trie)
        return ScoreBound(self.trie, log_probs * -self.weight, gain_error=error)
