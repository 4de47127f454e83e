"""Examples through a model in one pass: every tree by itself, each of its tokens seeing its own path only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.backends.token_layout import Packing
from genrec.index.training_examples import Example


def pack(examples: Sequence[Example], ranked: Sequence[bool]) -> dict[str, Tensor]:
    """Tensors of B trees of at most W tokens, T tokens in all; other letters, over all trees, as in
    `genrec.index.training_examples`.

    Args:
        examples: the trees.
        ranked: of each tree, whether its choices are to be ranked; else only what was taken is to be likely.

    Returns:
        input_ids, position_ids: int64 [1, T]; cells: int64 [T], the place of each token in the table [B, W]; visible:
        bool [B, W, W]; rows: int64 [R], the tokens behind which something is read; row_of_step: int64 [S]; next_ids:
        int64 [S]; choices: int64 [S]; targets, items: int64 [C]; taken: int64 [J]; ranked: bool [J]; forks: int64 [F];
        fork_of_token, fork_tokens: int64, each token that is allowed at a fork and which fork.
    """
    width = max(len(one.token_ids) for one in examples)
    visible = np.zeros((len(examples), width, width), dtype=np.bool_)
    for table, one in zip(visible, examples, strict=True):
        table[np.arange(width), np.arange(width)] = True  # padding sees itself, so that no row sees nothing
        table[: len(one.token_ids), : len(one.token_ids)] = one.visible()
    tokens, choices, targets, steps, forks = (
        np.cumsum([0, *map(len, own)])[:-1]
        for own in zip(*((e.token_ids, e.items, e.taken, e.steps, e.forks) for e in examples), strict=True)
    )

    def joined(own: Sequence[np.ndarray[Any, Any]], starts: Sequence[int] | np.ndarray[Any, Any]) -> Any:
        return np.concatenate([start + one for start, one in zip(starts, own, strict=True)])

    rows, row_of_step = np.unique(joined([e.parents[e.steps] for e in examples], tokens), return_inverse=True)
    nothing = np.zeros(len(examples), dtype=np.int64)
    arrays = {
        "input_ids": joined([e.token_ids for e in examples], nothing)[None],
        "position_ids": joined([e.positions for e in examples], nothing)[None],
        "cells": joined([np.arange(len(e.token_ids)) for e in examples], width * np.arange(len(examples))),
        "visible": visible,
        "rows": rows,
        "row_of_step": row_of_step,
        "next_ids": joined([e.token_ids[e.steps] for e in examples], nothing),
        "choices": joined([e.choices for e in examples], choices),
        "targets": joined([e.targets for e in examples], targets),
        "items": joined([e.items for e in examples], nothing),
        "taken": joined([e.taken for e in examples], choices),
        "ranked": np.repeat(np.array(ranked, dtype=np.bool_), [len(e.taken) for e in examples]),
        "forks": joined([e.forks for e in examples], steps),
        "fork_of_token": joined([np.repeat(np.arange(len(e.forks)), np.diff(e.fork_offsets)) for e in examples], forks),
        "fork_tokens": joined([e.fork_tokens for e in examples], nothing),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@dataclass(frozen=True)
class Reading:
    """What a model says of packed examples.

    Attributes:
        steps: float32 [S], the log-probability of each step.
        allowed: float32 [F], that of all the tokens which the catalog allows at each fork, together.
    """

    steps: Tensor
    allowed: Tensor


def read(model: Any, packed: dict[str, Tensor]) -> Reading:
    """Of a model under `genrec.backends.attention.use_packed_attention`."""
    kind = next(model.parameters()).dtype
    mask = torch.zeros(packed["visible"].shape, dtype=kind, device=packed["visible"].device)
    mask.masked_fill_(~packed["visible"], torch.finfo(kind).min)
    logits = model(
        input_ids=packed["input_ids"],
        position_ids=packed["position_ids"],
        attention_mask=mask[:, None],
        packing=Packing(packed["cells"], (mask.shape[0], mask.shape[1]), keys=True),
        logits_to_keep=packed["rows"],
        use_cache=False,
    ).logits[0]
    log_probs = logits.float().log_softmax(dim=-1)
    steps = log_probs[packed["row_of_step"], packed["next_ids"]]
    owner = packed["fork_of_token"]
    ways = log_probs[packed["row_of_step"][packed["forks"]][owner], packed["fork_tokens"]]
    return Reading(steps, log_sum_exp(ways, owner, len(packed["forks"])))


def sums(steps: Tensor, packed: dict[str, Tensor]) -> Tensor:
    """The log-probability of each choice, float32 [C]."""
    return torch.zeros(len(packed["items"]), device=steps.device).index_add(0, packed["choices"], steps)


def log_sum_exp(values: Tensor, owners: Tensor, count: int) -> Tensor:
    """float32 [count], of the values of each owner, which has one at least: int64, below `count`."""
    lowest = torch.full((count,), -torch.inf, device=values.device)
    highest = lowest.scatter_reduce(0, owners, values.detach(), "amax")
    total = torch.zeros(count, device=values.device).index_add(0, owners, (values - highest[owners]).exp())
    return total.log() + highest
