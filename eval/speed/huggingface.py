"""Peers in Transformers: constrained beam search, scoring of candidates, and prompts alone.

Letters: P tokens in a prompt, C candidates of L tokens each.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from eval.speed.dictionary import Node, allowed_tokens
from genrec.types import FloatArray, IntArray

BEAMS = "Hugging Face generate with prefix_allowed_tokens_fn"
ALONE = "Transformers, a sequence a candidate"
REPEATED = "Transformers, prompt cache repeated"
PROMPTS = "Transformers, the prompts alone"


def generate(
    model: Any, prompt: IntArray, root: Node, *, width: int, steps: int, end: int | None = None
) -> list[tuple[int, ...]]:
    """The `width` most likely paths of a trie after one prompt, best first, by beam search of that width.

    Args:
        model: a causal language model of Transformers.
        prompt: int64 [P].
        root: see `eval.speed.dictionary`.
        width: number of beams and of returned paths; invalid paths, which fill missing beams, are dropped.
        steps: length of the longest path.
        end: end token of every path; None if all have `steps` tokens.
    """
    token_ids = torch.from_numpy(prompt)[None]
    with torch.inference_mode():
        found = model.generate(
            token_ids,
            attention_mask=torch.ones_like(token_ids),
            do_sample=False,
            num_beams=width,
            num_return_sequences=width,
            max_new_tokens=steps,
            length_penalty=0.0,
            eos_token_id=end,
            pad_token_id=0 if end is None else end,
            prefix_allowed_tokens_fn=allowed_tokens(root, len(prompt), otherwise=0 if end is None else end),
        )
    paths = [tuple(path) for path in found[:, len(prompt) :].tolist()]
    if end is not None:
        paths = [path[: path.index(end) + 1] for path in paths if end in path]
    return [path for path in paths if item_of(root, path) is not None]


def item_of(root: Node, path: Sequence[int]) -> int | None:
    """The item of a path; None if the path is invalid."""
    node: Any = root
    for token in path:
        node = node.get(token) if isinstance(node, dict) else None
    return node if isinstance(node, int) else None


@torch.inference_mode()
def score_alone(model: Any, prompt: IntArray, candidates: IntArray, *, batch: int = 8) -> FloatArray:
    """float64 [C], log-probabilities of candidates [C, L]; the prompt is recomputed for each, in batches."""
    length = candidates.shape[1]
    scores = np.empty(len(candidates))
    for start in range(0, len(candidates), batch):
        own = torch.from_numpy(candidates[start : start + batch])
        token_ids = torch.cat([torch.from_numpy(prompt).expand(len(own), -1), own], dim=1)
        logits = model(token_ids, use_cache=False, logits_to_keep=length + 1).logits[:, :-1]
        scores[start : start + batch] = _path_log_probs(logits, own)
    return scores


@torch.inference_mode()
def score_repeated(model: Any, prompt: IntArray, candidates: IntArray) -> FloatArray:
    """Like `score_alone`, with the prompt computed once and its cache repeated for every candidate."""
    first = model(torch.from_numpy(prompt)[None], use_cache=True, logits_to_keep=1)
    own = torch.from_numpy(candidates)
    cache = first.past_key_values
    cache.batch_repeat_interleave(len(own))
    behind = model(own[:, :-1], past_key_values=cache, use_cache=True).logits
    begin = first.logits[0, -1].log_softmax(dim=-1)[own[:, 0]]
    scores: FloatArray = begin.double().numpy() + _path_log_probs(behind, own[:, 1:])
    return scores


@torch.inference_mode()
def read_prompts(model: Any, prompts: Sequence[IntArray], batch: int) -> None:
    """Compute prompts in batches, with final logits and a cache, as every search must."""
    for start in range(0, len(prompts), batch):
        own = prompts[start : start + batch]
        width = max(map(len, own))
        token_ids = torch.zeros((len(own), width), dtype=torch.int64)
        mask = torch.zeros_like(token_ids)
        for row, prompt in enumerate(own):
            token_ids[row, width - len(prompt) :] = torch.from_numpy(prompt)
            mask[row, width - len(prompt) :] = 1
        model(token_ids, attention_mask=mask, use_cache=True, logits_to_keep=1)


def _path_log_probs(logits: torch.Tensor, tokens: torch.Tensor) -> FloatArray:
    steps = logits.log_softmax(dim=-1).gather(2, tokens[..., None])[..., 0]
    sums: FloatArray = steps.double().sum(dim=1).numpy()
    return sums
