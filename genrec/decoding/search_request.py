"""The request of a search: allowed rows, list length, score, prior and boosts.

Letters: U prompts, N rows of the trie.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from genrec.backends.base import TokenTree
from genrec.data.subset import Boost, Subset
from genrec.decoding.prior_penalty import PriorPenalty
from genrec.errors import InputError, check_count
from genrec.index.trie import TokenTrie
from genrec.notices import Notice
from genrec.types import FloatArray, IntArray, Ranking

ScoreKind = Literal["model", "catalog"]


@dataclass(frozen=True)
class SearchRequest:
    """A search request for U prompts over N rows.

    The score of a row is the log-probability of its path, minus the weighted prior log-probability of the same path,
    plus the boost of the row.

    Attributes:
        allowed: U subsets of the N rows that may be recommended; all with the same mask, or all without one.
        k: list length, at least 1.
        score_kind: `model`, the path's log-probability over the full vocabulary; `catalog`, renormalised at each node
            over its allowed children, which is the distribution that sampling under the constraint draws from, so
            forced tokens score 0. The prior uses the same kind.
        prior_penalty: the prior to subtract, or None.
        boosts: U boosts of rows, each a `Boost` or None.
    """

    allowed: Sequence[Subset]
    k: int
    score_kind: ScoreKind = "model"
    prior_penalty: PriorPenalty | None = field(default=None, repr=False)
    boosts: Sequence[Boost | None] | None = field(default=None, repr=False)

    def validate(self, tree: TokenTree, trie: TokenTrie) -> None:
        """Check that the request fits the trie and the prompts of a tree that was just opened.

        Raises:
            InputError: it does not; the value is named.
        """
        if tree.size != len(self.allowed):
            raise InputError(
                f"the request has {len(self.allowed)} subsets, but the tree has {tree.size} nodes; "
                "pass one subset for each prompt of a newly opened tree"
            )
        check_count("k", self.k)
        if self.score_kind not in get_args(ScoreKind):
            raise InputError(f"score_kind is {self.score_kind!r}; choose one of {', '.join(get_args(ScoreKind))}")
        for subset in self.allowed:
            if subset.universe != len(trie):
                raise InputError(
                    f"allowed contains a subset of {subset.universe:,} rows, but the trie has {len(trie):,}; "
                    "make it for this trie"
                )
        if self.prior_penalty is not None and self.prior_penalty.trie is not trie:
            raise InputError("prior_penalty was made for another trie; make one for this trie")
        if self.boosts is not None and len(self.boosts) != len(self.allowed):
            raise InputError(f"there are {len(self.boosts)} boosts for {len(self.allowed)} prompts; pass one for each")
        for boost in self.boosts or ():
            if boost is not None and len(boost) and boost.indices[-1] >= len(trie):
                raise InputError(
                    f"row {boost.indices[-1]} is boosted, but the trie has {len(trie):,} rows; "
                    "make the boosts for this trie"
                )

    def boost_of(self, prompt: int) -> Boost:
        """The boost of one prompt, empty if it has none."""
        boost = None if self.boosts is None else self.boosts[prompt]
        return Boost(np.empty(0, dtype=np.int64), np.empty(0)) if boost is None else boost

    def rank(
        self,
        item_indices: IntArray,
        scores: FloatArray,
        *,
        proven: bool,
        generated_tokens: int = 0,
        forward_passes: int = 0,
    ) -> Ranking:
        """The ranking of the k items of highest score, best first, ties in item order."""
        item_indices = item_indices.astype(np.int64)
        best = np.lexsort((item_indices, -scores))[: self.k]
        notices = () if len(item_indices) else (Notice("nothing_allowed"),)
        return Ranking(
            item_indices[best], scores[best], proven, len(item_indices), notices, generated_tokens, forward_passes
        )
