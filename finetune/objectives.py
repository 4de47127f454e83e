"""What is made small: how far a model is from what people took.

Letters: C choices of J targets, S steps, F forks; see `genrec.examples`.
Sources: listwise softmax: Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach", ICML 2007 (its
top-1 form); sampled negatives by popularity to a power: Mikolov et al., NeurIPS 2013, section 2.2. Over what is added
to the scores of a reference model it is softmax-DPO: Chen et al., "On Softmax Direct Preference Optimization for
Recommendation", NeurIPS 2024, section 3.3. Likelihood among what the catalog allows: the training counterpart of
constrained decoding, De Cao et al., "Autoregressive Entity Retrieval", ICLR 2021, section 3.
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
    scaled = scores / temperature
    return (log_sum_exp(scaled, targets, len(taken)) - scaled[taken]).mean()


def likelihood(log_probs: Tensor, choices: Tensor, taken: Tensor) -> Tensor:
    """Mean cross-entropy of the tokens of what was taken: of log-probabilities float32 [S] of steps."""
    return -log_probs[torch.isin(choices, taken)].mean()


def constrained(log_probs: Tensor, forks: Tensor, allowed: Tensor, count: int) -> Tensor:
    """Mean cross-entropy of what was taken where only the catalog's tokens may follow.

    Args:
        log_probs: float32 [S] of steps.
        forks: int64 [F], steps; at all others nothing is to be chosen.
        allowed: float32 [F], the log-probability of everything that may follow.
        count: of targets.
    """
    return (allowed - log_probs[forks]).sum() / count


def log_sum_exp(values: Tensor, owners: Tensor, count: int) -> Tensor:
    """float32 [count], of the values of each owner, which has one at least: int64, below `count`."""
    lowest = torch.full((count,), -torch.inf, device=values.device)
    highest = lowest.scatter_reduce(0, owners, values.detach(), "amax")
    total = torch.zeros(count, device=values.device).index_add(0, owners, (values - highest[owners]).exp())
    return total.log() + highest
