"""Examples through a model: several trees as one sequence, in which each token sees its own path only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.examples import Example


def pack(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Tensors of all trees side by side; letters as in `genrec.examples`, over all examples.

    Returns:
        input_ids, position_ids: int64 [1, T]; visible: bool [T, T]; rows: int64 [R], the tokens behind which something
        is read; row_of_step: int64 [S]; next_ids: int64 [S]; choices: int64 [S]; targets, items: int64 [C]; taken:
        int64 [J].
    """
    tokens = np.cumsum([0, *(len(one.token_ids) for one in examples)])
    choices = np.cumsum([0, *(len(one.items) for one in examples)])
    targets = np.cumsum([0, *(len(one.taken) for one in examples)])
    visible = np.zeros((tokens[-1], tokens[-1]), dtype=np.bool_)
    for start, one in zip(tokens, examples, strict=False):
        visible[start : start + len(one.token_ids), start : start + len(one.token_ids)] = one.visible()
    before = np.concatenate([start + one.parents[one.steps] for start, one in zip(tokens, examples, strict=False)])
    rows, row_of_step = np.unique(before, return_inverse=True)
    arrays = {
        "input_ids": np.concatenate([one.token_ids for one in examples])[None],
        "position_ids": np.concatenate([one.positions for one in examples])[None],
        "visible": visible,
        "rows": rows,
        "row_of_step": row_of_step,
        "next_ids": np.concatenate([one.token_ids[one.steps] for one in examples]),
        "choices": np.concatenate([start + one.choices for start, one in zip(choices, examples, strict=False)]),
        "targets": np.concatenate([start + one.targets for start, one in zip(targets, examples, strict=False)]),
        "items": np.concatenate([one.items for one in examples]),
        "taken": np.concatenate([start + one.taken for start, one in zip(choices, examples, strict=False)]),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def read(model: Any, packed: dict[str, Tensor]) -> Tensor:
    """The log-probability of each step, float32 [S]."""
    kind = next(model.parameters()).dtype
    mask = torch.zeros(packed["visible"].shape, dtype=kind, device=packed["visible"].device)
    mask.masked_fill_(~packed["visible"], torch.finfo(kind).min)
    logits = model(
        input_ids=packed["input_ids"],
        position_ids=packed["position_ids"],
        attention_mask=mask[None, None],
        logits_to_keep=packed["rows"],
        use_cache=False,
    ).logits[0]
    found: Tensor = logits.float().log_softmax(dim=-1)[packed["row_of_step"], packed["next_ids"]]
    return found


def sums(steps: Tensor, packed: dict[str, Tensor]) -> Tensor:
    """The log-probability of each choice, float32 [C]."""
    return torch.zeros(len(packed["items"]), device=steps.device).index_add(0, packed["choices"], steps)
