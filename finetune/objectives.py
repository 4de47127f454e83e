"""What is made small: how far a model is from what people took.

Letters: C choices of J targets, S steps, F forks; see `genrec.index.training_examples`.
Sources: listwise softmax: Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach", ICML 2007 (its
top-1 form); sampled negatives by popularity to a power: Mikolov et al., NeurIPS 2013, section 2.2. Over what is added
to the scores of a reference model it is softmax-DPO: Chen et al., "On Softmax Direct Preference Optimization for
Recommendation", NeurIPS 2024, section 3.3. Likelihood among what the catalog allows: the training counterpart of
constrained decoding, De Cao et al., "Autoregressive Entity Retrieval", ICLR 2021, section 3.
"""

import torch
from torch import Tensor

from finetune.config import TrainConfig
from finetune.forward import Reading, log_sum_exp, sums


def loss_of(config: TrainConfig, reading: Reading, packed: dict[str, Tensor], reference: Tensor) -> Tensor:
    """What a step makes smaller: the objective of ranked targets, and the likelihood of the others, by their shares.

    Args:
        config: names the objective.
        reading: what the model says of packed examples.
        packed: these, see `finetune.forward.pack`.
        reference: float32 [C], what is taken from the score of each choice.
    """
    ranked, loss = packed["ranked"], torch.zeros((), device=reading.steps.device)
    if ranked.any():
        loss = loss + ranked.float().mean() * _ranking(config, reading, packed, reference)
    beside = packed["taken"][~ranked]
    if len(beside):
        loss = loss + (~ranked).float().mean() * likelihood(reading.steps, packed["choices"], beside)
    return loss


def _ranking(config: TrainConfig, reading: Reading, packed: dict[str, Tensor], reference: Tensor) -> Tensor:
    ranked = packed["ranked"]
    taken = packed["taken"][ranked]
    if config.objective == "likelihood":
        return likelihood(reading.steps, packed["choices"], taken)
    if config.objective == "constrained":
        chosen = torch.isin(packed["choices"][packed["forks"]], taken)
        return constrained(reading.steps, packed["forks"][chosen], reading.allowed[chosen], len(taken))
    scores = sums(reading.steps, packed) - reference
    own = ranked[packed["targets"]]  # choices of ranked targets; these and those are counted anew
    target, choice = torch.cumsum(ranked, 0) - 1, torch.cumsum(own, 0) - 1
    loss = listwise(scores[own], target[packed["targets"][own]], choice[taken], config.temperature)
    if config.likelihood_weight:
        loss = loss + config.likelihood_weight * likelihood(reading.steps, packed["choices"], taken)
    return loss


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
