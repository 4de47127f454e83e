"""What is made small: how far a model is from what people took.

Letters: C choices of J targets, S steps; see `genrec.examples`.
Sources: listwise softmax: Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach", ICML 2007 (its
top-1 form); sampled negatives by popularity to a power: Mikolov et al., NeurIPS 2013, section 2.2.
"""

import torch
from torch import Tensor


def listwise(scores: Tensor, targets: Tensor, taken: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy of what was taken among all choices of its target.

    Args:
        scores: float32 [C].
        targets: int64 [C], rising from 0 to J - 1.
        taken: int64 [J], a choice each.
        temperature: nats that one step of the softmax is worth.
    """
    scaled, count = scores / temperature, len(taken)
    highest = torch.full((count,), -torch.inf).scatter_reduce(0, targets, scaled.detach(), "amax")
    total = torch.zeros(count).index_add(0, targets, (scaled - highest[targets]).exp())
    return (total.log() + highest - scaled[taken]).mean()


def likelihood(log_probs: Tensor, choices: Tensor, taken: Tensor) -> Tensor:
    """Mean cross-entropy of the tokens of what was taken: of log-probabilities float32 [S] of steps."""
    return -log_probs[torch.isin(choices, taken)].mean()
