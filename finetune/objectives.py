"""Training objectives: how far the model's scores are from the items that users chose.

Letters: C choices of J targets, S steps, F forks; see `genrec.index.training_examples`.
Sources: listwise softmax: Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach", ICML 2007 (its
top-1 form); negatives sampled by a power of popularity: Mikolov et al., NeurIPS 2013, section 2.2. Over the
difference to the scores of a reference model it is softmax-DPO: Chen et al., "On Softmax Direct Preference
Optimization for Recommendation", NeurIPS 2024, section 3.3. Likelihood among the tokens that the catalog allows is the
training counterpart of constrained decoding, De Cao et al., "Autoregressive Entity Retrieval", ICLR 2021, section 3.
"""

import torch
from torch import Tensor

from finetune.config import TrainConfig
from finetune.forward import ExampleLogProbs, item_log_probs, log_sum_exp


def compute_loss(
    config: TrainConfig, log_probs: ExampleLogProbs, packed: dict[str, Tensor], reference_scores: Tensor
) -> Tensor:
    """The loss of a batch: the objective of ranked targets and the likelihood of the others, weighted by their shares.

    Args:
        config: names the objective.
        log_probs: the model's log-probabilities of the packed examples.
        packed: the examples, see `finetune.forward.pack_examples`.
        reference_scores: float32 [C], subtracted from the score of each choice.
    """
    ranked, loss = packed["ranked"], torch.zeros((), device=log_probs.item_tokens.device)
    if ranked.any():
        loss = loss + ranked.float().mean() * _ranking_loss(config, log_probs, packed, reference_scores)
    unranked = packed["taken"][~ranked]
    if len(unranked):
        loss = loss + (~ranked).float().mean() * likelihood_loss(log_probs.item_tokens, packed["choices"], unranked)
    return loss


def _ranking_loss(
    config: TrainConfig, log_probs: ExampleLogProbs, packed: dict[str, Tensor], reference_scores: Tensor
) -> Tensor:
    ranked = packed["ranked"]
    taken = packed["taken"][ranked]
    if config.objective == "likelihood":
        return likelihood_loss(log_probs.item_tokens, packed["choices"], taken)
    if config.objective == "constrained":
        chosen = torch.isin(packed["choices"][packed["forks"]], taken)
        return constrained_loss(
            log_probs.item_tokens, packed["forks"][chosen], log_probs.allowed_tokens[chosen], len(taken)
        )
    scores = item_log_probs(log_probs.item_tokens, packed) - reference_scores
    own = ranked[packed["targets"]]  # the choices of ranked targets; targets and choices are renumbered
    target, choice = torch.cumsum(ranked, 0) - 1, torch.cumsum(own, 0) - 1
    loss = listwise_loss(scores[own], target[packed["targets"][own]], choice[taken], config.temperature)
    if config.likelihood_weight:
        loss = loss + config.likelihood_weight * likelihood_loss(log_probs.item_tokens, packed["choices"], taken)
    return loss


def listwise_loss(scores: Tensor, targets: Tensor, positives: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy of the positive choice among all choices of its target.

    Args:
        scores: float32 [C].
        targets: int64 [C], the target of each choice, ascending from 0 to J - 1.
        positives: int64 [J], the positive choice of each target.
        temperature: of the softmax, in nats.
    """
    scaled = scores / temperature
    return (log_sum_exp(scaled, targets, len(positives)) - scaled[positives]).mean()


def likelihood_loss(log_probs: Tensor, token_items: Tensor, positives: Tensor) -> Tensor:
    """Mean cross-entropy of the tokens of the positive choices.

    Args:
        log_probs: float32 [S], of each step.
        token_items: int64 [S], the choice of each step.
        positives: int64 [J], the positive choice of each target.
    """
    return -log_probs[torch.isin(token_items, positives)].mean()


def constrained_loss(log_probs: Tensor, branch_points: Tensor, allowed: Tensor, num_targets: int) -> Tensor:
    """Cross-entropy of the positive choices among the tokens that the catalog allows, per target.

    Args:
        log_probs: float32 [S], of each step.
        branch_points: int64 [F], the steps with more than one allowed token.
        allowed: float32 [F], the log-probability of all allowed tokens together.
        num_targets: the number of targets.
    """
    return (allowed - log_probs[branch_points]).sum() / num_targets
