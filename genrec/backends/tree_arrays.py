"""Checks and arrays that the token trees of all backends share."""

from collections.abc import Sequence

import numpy as np

from genrec.errors import EngineError, InputError
from genrec.types import IntArray


def check_prompt_lengths(prompts: Sequence[IntArray], name: str, context_length: int) -> None:
    """Check that no prompt is empty, and that each leaves room for one more token.

    Args:
        prompts: arrays of token ids.
        name: the backend's name, for the error message.
        context_length: the backend's context, in tokens.

    Raises:
        EngineError: a prompt is too short or too long.
    """
    for number, prompt in enumerate(prompts):
        if not 0 < len(prompt) < context_length:
            raise EngineError(
                f"prompt {number} has {len(prompt)} tokens; {name} takes 1 to {context_length - 1}, so shorten it or "
                "use a longer context"
            )


def nan_error(name: str) -> EngineError:
    """The error of a backend whose model returned NaN."""
    return EngineError(f"{name} returned NaN; load it in float32 or check its weights")


def new_node_numbers(size: int, parents: IntArray) -> IntArray:
    """The numbers of M new nodes in a tree of `size` nodes: int64 [M].

    Raises:
        InputError: a parent does not come before its child.
    """
    nodes = np.arange(size, size + len(parents))
    if (parents >= nodes).any() or (parents < 0).any():
        raise InputError("a node's parent must come before it; grow parents first")
    return nodes


def check_path_lengths(lengths: IntArray, context_length: int) -> None:
    """Check that paths of these lengths, int64 [M], fit the context.

    Raises:
        EngineError: a path is too long.
    """
    if len(lengths) and int(lengths.max()) > context_length:
        raise EngineError(f"a path reaches {int(lengths.max())} tokens; the context has {context_length}")


def check_rewind(size: int, num_prompts: int, num_nodes: int) -> None:
    """Check that a tree can be cut back to `size` nodes.

    Raises:
        InputError: it would lose a prompt, or has fewer nodes.
    """
    if not num_prompts <= size <= num_nodes:
        raise InputError(
            f"cannot rewind to {size}: the tree has {num_prompts} prompts and {num_nodes} nodes; give a size between "
            "these"
        )


def prompts_and_positions(
    parent: IntArray, num_known: int, prompt: IntArray, position: IntArray
) -> tuple[IntArray, IntArray]:
    """Compute the prompt and the position of every node from its nearest known ancestor.

    Args:
        parent: int64 [N], the parent of every node.
        num_known: the first so many nodes are known.
        prompt: int64 [num_known], their prompts.
        position: int64 [num_known], their positions.

    Returns:
        Prompt and position of every node, int64 [N] each.
    """
    ancestor, steps = parent[num_known:].copy(), np.ones(len(parent) - num_known, dtype=np.int64)
    while (unknown := ancestor >= num_known).any():
        ancestor[unknown] = parent[ancestor[unknown]]
        steps[unknown] += 1
    return np.concatenate([prompt, prompt[ancestor]]), np.concatenate([position, position[ancestor] + steps])
