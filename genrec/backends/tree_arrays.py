"""What the nodes of a token tree have from those before them."""

import numpy as np

from genrec.types import IntArray


def prompts_and_positions(
    parent: IntArray, num_known: int, prompt: IntArray, position: IntArray
) -> tuple[IntArray, IntArray]:
    """Prompt and position of every node, the first `num_known` known, by walking up to a known ancestor."""
    ancestor, steps = parent[num_known:].copy(), np.ones(len(parent) - num_known, dtype=np.int64)
    while (unknown := ancestor >= num_known).any():
        ancestor[unknown] = parent[ancestor[unknown]]
        steps[unknown] += 1
    return np.concatenate([prompt, prompt[ancestor]]), np.concatenate([position, position[ancestor] + steps])
