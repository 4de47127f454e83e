"""The allowed rows of a batch of prompts, as arrays that the loops of the trie read.

Letters: U prompts, N rows of the trie, L listed rows over all prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.data.subset import Subset, concat_ragged
from genrec.errors import InputError
from genrec.types import BoolArray, IntArray


@dataclass(frozen=True)
class AllowedBatch:
    """The subsets of U prompts that share one mask, or have none. Made by `AllowedBatch.from_subsets`.

    Attributes:
        listed: int64 [L], the listed rows of each prompt in turn, ascending within a prompt.
        offsets: int64 [U + 1]; prompt u lists `listed[offsets[u]:offsets[u + 1]]`.
        is_allowlist: bool [U], whether only the listed rows are allowed, or all rows but these.
        prefix_counts: uint32 [N + 1], running count of the rows that pass the mask; empty where there is no mask.
    """

    listed: IntArray
    offsets: IntArray
    is_allowlist: BoolArray
    prefix_counts: NDArray[Any]

    @classmethod
    def from_subsets(cls, subsets: Sequence[Subset]) -> "AllowedBatch | None":
        """Join the subsets of U prompts; None if every row is allowed for every prompt.

        Raises:
            InputError: the subsets have different masks.
        """
        masks = {id(subset.mask): subset.mask for subset in subsets if not subset.is_allowlist}
        if len(masks) > 1:
            raise InputError(f"the batch has {len(masks)} different masks; search the prompts of each mask separately")
        mask = next(iter(masks.values()), None)
        if mask is None and not any(subset.is_allowlist or len(subset.listed) for subset in subsets):
            return None
        return cls(
            *concat_ragged([subset.listed for subset in subsets]),
            np.array([subset.is_allowlist for subset in subsets]),
            np.empty(0, dtype=np.uint32) if mask is None else mask.prefix_counts,
        )
