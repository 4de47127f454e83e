"""What the nodes of a token tree have from those before them."""

import numpy as np

from genrec.types import IntArray


def inherit(parent: IntArray, size: int, prompt: IntArray, position: IntArray) -> tuple[IntArray, IntArray]:
    """Prompt and position of every node, the first `size` known, by walking up to a known ancestor."""
    ancestor, steps = parent[size:].copy(), np.ones(len(parent) - size, dtype=np.int64)
    while (unknown := ancestor >= size).any():
        ancestor[unknown] = parent[ancestor[unknown]]
        steps[unknown] += 1
    return np.concatenate([prompt, prompt[ancestor]]), np.concatenate([position, position[ancestor] + steps])
