"""The forward pass over training examples: trees in one batch, where each token sees its own path only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.backends import TokenLayout
from genrec.index import TrainingExample


def pack_examples(examples: Sequence[TrainingExample], ranked: Sequence[bool]) -> dict[str, Tensor]:
    """Pack B trees of at most W tokens, T tokens in all, into tensors.

    The other letters are as in `genrec.index.training_examples`, summed over all trees.

    Args:
        examples: the trees.
        ranked: for each tree, whether its choices are ranked; otherwise only the likelihood of its targets counts.

    Returns:
        input_ids, position_ids: int64 [1, T]; cells: int64 [T], the index of each token in the flattened table [B, W];
        visible: bool [B, W, W]; rows: int64 [R], the tokens whose next-token distribution is read; row_of_step: int64
        [S]; next_ids: int64 [S]; choices: int64 [S]; targets, items: int64 [C]; taken: int64 [J], the positive choices;
        ranked: bool [J]; forks: int64 [F], steps; fork_tokens, fork_of_token: int64, the tokens allowed at forks, and
        the fork of each.
    """
    width = max(len(one.token_ids) for one in examples)
    visible = np.zeros((len(examples), width, width), dtype=np.bool_)
    for table, one in zip(visible, examples, strict=True):
        table[np.arange(width), np.arange(width)] = True  # padding sees itself, because no row may be empty
        table[: len(one.token_ids), : len(one.token_ids)] = one.visible()
    tokens, choices, targets, steps, forks = (
        np.cumsum([0, *map(len, own)])[:-1]
        for own in zip(
            *((e.token_ids, e.item_indices, e.positives, e.item_tokens, e.branch_points) for e in examples), strict=True
        )
    )

    def joined(own: Sequence[np.ndarray[Any, Any]], starts: Sequence[int] | np.ndarray[Any, Any]) -> Any:
        return np.concatenate([start + one for start, one in zip(starts, own, strict=True)])

    rows, row_of_step = np.unique(joined([e.parents[e.item_tokens] for e in examples], tokens), return_inverse=True)
    nothing = np.zeros(len(examples), dtype=np.int64)
    arrays = {
        "input_ids": joined([e.token_ids for e in examples], nothing)[None],
        "position_ids": joined([e.positions for e in examples], nothing)[None],
        "cells": joined([np.arange(len(e.token_ids)) for e in examples], width * np.arange(len(examples))),
        "visible": visible,
        "rows": rows,
        "row_of_step": row_of_step,
        "next_ids": joined([e.token_ids[e.item_tokens] for e in examples], nothing),
        "choices": joined([e.token_items for e in examples], choices),
        "targets": joined([e.item_targets for e in examples], targets),
        "items": joined([e.item_indices for e in examples], nothing),
        "taken": joined([e.positives for e in examples], choices),
        "ranked": np.repeat(np.array(ranked, dtype=np.bool_), [len(e.positives) for e in examples]),
        "forks": joined([e.branch_points for e in examples], steps),
        "fork_of_token": joined(
            [np.repeat(np.arange(len(e.branch_points)), np.diff(e.branch_offsets)) for e in examples], forks
        ),
        "fork_tokens": joined([e.branch_tokens for e in examples], nothing),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@dataclass(frozen=True)
class ExampleLogProbs:
    """A model's log-probabilities of packed examples.

    Attributes:
        item_tokens: float32 [S], of each step.
        allowed_tokens: float32 [F], of all tokens together that the catalog allows at each fork.
    """

    item_tokens: Tensor
    allowed_tokens: Tensor


def compute_log_probs(model: Any, packed: dict[str, Tensor]) -> ExampleLogProbs:
    """Run a model that was passed to `genrec.backends.attention.use_packed_attention` over packed examples."""
    dtype = next(model.parameters()).dtype
    mask = torch.zeros(packed["visible"].shape, dtype=dtype, device=packed["visible"].device)
    mask.masked_fill_(~packed["visible"], torch.finfo(dtype).min)
    logits = model(
        input_ids=packed["input_ids"],
        position_ids=packed["position_ids"],
        attention_mask=mask[:, None],
        packing=TokenLayout(packed["cells"], (mask.shape[0], mask.shape[1]), keys_packed=True),
        logits_to_keep=packed["rows"],
        use_cache=False,
    ).logits[0]
    log_probs = logits.float().log_softmax(dim=-1)
    steps = log_probs[packed["row_of_step"], packed["next_ids"]]
    owner = packed["fork_of_token"]
    allowed = log_probs[packed["row_of_step"][packed["forks"]][owner], packed["fork_tokens"]]
    return ExampleLogProbs(steps, log_sum_exp(allowed, owner, len(packed["forks"])))


def item_log_probs(token_log_probs: Tensor, packed: dict[str, Tensor]) -> Tensor:
    """The log-probability of each choice, float32 [C], from those of its steps."""
    return torch.zeros(len(packed["items"]), device=token_log_probs.device).index_add(
        0, packed["choices"], token_log_probs
    )


def log_sum_exp(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """The log of the sum of exponentials of each group, float32 [num_groups].

    Args:
        values: float32 [K].
        groups: int64 [K], the group of each value; every group has at least one.
        num_groups: the number of groups.
    """
    lowest = torch.full((num_groups,), -torch.inf, device=values.device)
    highest = lowest.scatter_reduce(0, groups, values.detach(), "amax")
    total = torch.zeros(num_groups, device=values.device).index_add(0, groups, (values - highest[groups]).exp())
    return total.log() + highest
