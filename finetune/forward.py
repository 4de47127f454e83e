"""The forward pass over training examples: batches of trees, where each token sees its own path only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from genrec.backends import TokenLayout
from genrec.index import TrainingExample
from genrec.types import IntArray


@dataclass(frozen=True)
class TreeLayout:
    """How training trees are laid out for a model; all layouts give the same log-probabilities.

    Attributes:
        kind: `packed` puts all tokens of all trees in one row, and `padded` each tree in a row of its own; both need
            attention that takes a mask. `paths` puts each path of a tree in a row of its own, which repeats the prompt
            for every item.
        max_path_length: trees with a longer path are laid out as paths, because attention with a sliding window would
            not see the whole path; None for no limit.
    """

    kind: Literal["packed", "padded", "paths"]
    max_path_length: int | None = None

    def kind_for(self, examples: Sequence[TrainingExample]) -> Literal["packed", "padded", "paths"]:
        """The kind for a batch of trees."""
        longest = 1 + max(int(one.positions.max()) for one in examples)
        return self.kind if self.max_path_length is None or longest <= self.max_path_length else "paths"


def pack_examples(examples: Sequence[TrainingExample], ranked: Sequence[bool], layout: TreeLayout) -> dict[str, Tensor]:
    """Pack B trees of at most W tokens, T tokens in all, into tensors.

    The other letters are as in `genrec.index.training_examples`, summed over all trees.

    Args:
        examples: the trees.
        ranked: for each tree, whether its choices are ranked; otherwise only the likelihood of its targets counts.
        layout: how the tokens are arranged.

    Returns:
        input_ids: int64 [1, T] if packed, [B, W] if padded, [P, L] for P paths of at most L tokens; cells: int64 [T],
        the index of each token in the flattened table [B, W] or [P, L] (there, on its first path); with a mask:
        position_ids, as input_ids, and visible: bool [B, W, W]; rows: int64 [R], the tokens whose next-token
        distribution is read; row_of_step: int64 [S]; next_ids: int64 [S]; choices: int64 [S]; targets, items: int64
        [C]; taken: int64 [J], the positive choices; ranked: bool [J]; forks: int64 [F], steps; fork_tokens,
        fork_of_token: int64, the tokens allowed at forks, and the fork of each.
    """
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
    kind = layout.kind_for(examples)
    arrays = {
        **(_path_arrays(examples) if kind == "paths" else _tree_arrays(examples, packed=kind == "packed")),
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


def count_tokens(packed: dict[str, Tensor]) -> int:
    """The number of tokens of packed trees; the same in every layout, whatever padding and repeats it computes."""
    return len(packed["cells"])


def _tree_arrays(examples: Sequence[TrainingExample], *, packed: bool) -> dict[str, np.ndarray[Any, Any]]:
    """The tokens of trees under a mask, packed in one row or one row a tree, see `pack_examples`."""
    width = max(len(one.token_ids) for one in examples)
    visible = np.zeros((len(examples), width, width), dtype=np.bool_)
    for table, one in zip(visible, examples, strict=True):
        table[np.arange(width), np.arange(width)] = True  # padding sees itself, because no row may be empty
        table[: len(one.token_ids), : len(one.token_ids)] = one.visible()
    cells = np.concatenate([row * width + np.arange(len(one.token_ids)) for row, one in enumerate(examples)])
    own = np.stack(
        [np.concatenate(values) for values in zip(*((e.token_ids, e.positions) for e in examples), strict=True)]
    )
    if packed:
        table = own[:, None]
    else:
        table = np.zeros((2, len(examples), width), dtype=np.int64)
        table.reshape(2, -1)[:, cells] = own
    return {"input_ids": table[0], "position_ids": table[1], "cells": cells, "visible": visible}


def _path_arrays(examples: Sequence[TrainingExample]) -> dict[str, np.ndarray[Any, Any]]:
    """The paths of trees, right-padded, see `pack_examples`; a causal model cannot see padding at the end of a row."""
    width = 1 + max(int(one.positions.max()) for one in examples)
    table: list[IntArray] = []
    cells: list[IntArray] = []
    for one in examples:
        cell = np.full(len(one.token_ids), -1, dtype=np.int64)
        for leaf in np.setdiff1d(np.arange(len(one.parents)), one.parents):
            path = [int(leaf)]
            while one.parents[path[-1]] >= 0:
                path.append(int(one.parents[path[-1]]))
            path.reverse()
            new = [node for node in path if cell[node] < 0]
            cell[new] = len(table) * width + one.positions[new]
            table.append(np.pad(one.token_ids[path], (0, width - len(path))))
        cells.append(cell)
    return {"input_ids": np.stack(table), "cells": np.concatenate(cells)}


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
    """Run a model over packed examples, whose layout the model supports, see `finetune.model.find_layout`."""
    input_ids, read = packed["input_ids"], packed["cells"][packed["rows"]]
    options: dict[str, Any] = {}
    if "visible" in packed:
        visible = packed["visible"]
        dtype = next(model.parameters()).dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        mask.masked_fill_(~visible, torch.finfo(dtype).min)
        options = {"position_ids": packed["position_ids"], "attention_mask": mask[:, None]}
        if input_ids.shape != visible.shape[:2]:  # several trees in one row
            read = packed["rows"]
            options["packing"] = TokenLayout(packed["cells"], (visible.shape[0], visible.shape[1]), keys_packed=True)
    width = input_ids.shape[1]
    columns, column = torch.unique(read % width, return_inverse=True)
    logits = model(input_ids=input_ids, logits_to_keep=columns, use_cache=False, **options).logits
    log_probs = logits[read // width, column].float().log_softmax(dim=-1)
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
