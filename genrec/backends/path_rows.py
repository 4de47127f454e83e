"""Rows of tokens that a `PlainTree` computes: what a request reads of one, and how rows of similar length share a pass.

Letters: L tokens of a row, C queried tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from genrec.backends.path_tree import PathScoreRequest
from genrec.types import FloatArray, IntArray

_PASS_COST = 64  # a pass costs about as much as so many tokens, which is how much padding one more pass may save


@dataclass(frozen=True)
class ReadTokens:
    """What a request reads, behind the K tokens that the state of its prompt holds.

    Attributes:
        row: the tokens of the path that are computed, behind the first K.
        at: int64 [C], at which token of the row each queried token is read; -1 for the end of the prompt.
        tokens: int64 [C], the queried tokens.
    """

    row: tuple[int, ...]
    at: IntArray
    tokens: IntArray

    @classmethod
    def from_request(cls, request: PathScoreRequest, num_kept: int) -> "ReadTokens":
        """What a request reads, behind the first `num_kept` tokens of its path."""
        path, count = request.token_ids, request.num_path_tokens
        if count:  # the last token is only queried
            at = np.arange(len(path) - count - 1, len(path) - 1) - num_kept
            return cls(tuple(path[num_kept:-1]), at, np.array(path[-count:]))
        tokens = np.array(request.next_token_ids)
        return cls(tuple(path[num_kept:]), np.full(len(tokens), len(path) - 1 - num_kept), tokens)

    def log_probs(self, logits: torch.Tensor, end: torch.Tensor | None) -> FloatArray:
        """Log-probabilities float64 [C], from the logits [L, V] of a row and those [V] at the end of its prompt."""
        distinct, owner = np.unique(self.at, return_inverse=True)
        behind = logits[torch.from_numpy(distinct[distinct >= 0])].float()
        if end is not None and distinct[0] < 0:
            behind = torch.cat([end.float()[None], behind])
        log_probs = behind.log_softmax(dim=-1)
        result: FloatArray = log_probs[torch.from_numpy(owner), torch.from_numpy(self.tokens)].double().cpu().numpy()
        return result


def longest_rows(rows: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """The rows that no other row continues, shortest first; and for each given row the one that begins with it."""
    longest: dict[tuple[int, ...], tuple[int, ...]] = {}
    last: tuple[int, ...] = ()
    for row in sorted(set(rows), reverse=True):  # in order, the rows that continue a row stand directly behind it
        if last[: len(row)] != row:
            last = row
        longest[row] = last
    chosen = sorted(set(longest.values()), key=lambda row: (len(row), row))
    numbers = {row: number for number, row in enumerate(chosen)}
    return chosen, [numbers[longest[row]] for row in rows]


def row_batches(lengths: Sequence[int], capacity: int) -> list[slice]:
    """Split rows of ascending lengths into batches that cost least, padding and passes together.

    Args:
        lengths: the tokens of each row.
        capacity: the tokens of a batch at most, with padding; a single row may be longer.
    """
    bounds = [0, *(at for at in range(1, len(lengths)) if lengths[at] > lengths[at - 1]), len(lengths)]
    cheapest: dict[int, tuple[float, list[slice]]] = {0: (0.0, [])}
    for place, stop in enumerate(bounds[1:], start=1):
        longest = max(1, lengths[stop - 1])
        size = max(1, capacity // longest)
        options = []
        for start in bounds[:place]:
            own = [slice(at, min(at + size, stop)) for at in range(start, stop, size)]
            cost, earlier = cheapest[start]
            options.append((cost + (stop - start) * longest + _PASS_COST * len(own), earlier, own))
        cost, earlier, own = min(options, key=lambda option: option[0])
        cheapest[stop] = (cost, earlier + own)
    return cheapest[len(lengths)][1]
