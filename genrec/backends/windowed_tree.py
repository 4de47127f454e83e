"""A token tree of a model with a sliding window: in one sequence while every path fits the window, else whole paths."""

from collections.abc import Sequence

import numpy as np

from genrec.backends.masked_model import MaskedModel
from genrec.backends.plain_tree import PlainModel, PlainTree
from genrec.backends.transformers_tree import TransformersTree
from genrec.backends.tree_arrays import new_node_numbers, prompts_and_positions
from genrec.deadline import Deadline
from genrec.types import FloatArray, IntArray


class WindowedTree:
    """A token tree that computes its nodes again as whole paths when a path outgrows the sliding window.

    Args:
        masked: computes trees in one sequence; its context is the sliding window.
        plain: the same model, which computes whole paths.
        prompts: U arrays of token ids, int64, each shorter than the window.
        deadline: when the caller stops waiting.

    Raises:
        EngineError: the model failed.
    """

    def __init__(self, masked: MaskedModel, plain: PlainModel, prompts: Sequence[IntArray], deadline: Deadline) -> None:
        self._tree: TransformersTree | PlainTree = masked.open(prompts, deadline=deadline)
        self._window, self._plain, self._prompts, self._deadline = masked.context_length, plain, prompts, deadline
        # For each node: its prompt, parent, token, and the length of its path.
        self._prompt = np.arange(len(prompts))
        self._parent = self._token = np.full(len(prompts), -1)
        self._length = np.array([len(prompt) for prompt in prompts], dtype=np.int64)

    @property
    def fits_window(self) -> bool:
        """Whether all paths so far fit the window, so that they are computed in one sequence."""
        return isinstance(self._tree, TransformersTree)

    @property
    def size(self) -> int:
        """The number of nodes, prompt ends included."""
        return len(self._prompt)

    def grow(self, parents: IntArray, tokens: IntArray) -> IntArray:
        """Add M nodes, see `TokenTree.grow`; in one sequence that is one forward pass."""
        size, nodes = self.size, new_node_numbers(self.size, parents)
        parent = np.concatenate([self._parent, parents])
        prompt, length = prompts_and_positions(parent, size, self._prompt, self._length)
        if self.fits_window and length[size:].max(initial=0) > self._window:
            tree = self._plain.open(self._prompts, deadline=self._deadline)
            grown = slice(len(self._prompts), size)
            tree.grow(self._parent[grown], self._token[grown])
            self._tree = tree
        self._tree.grow(parents, tokens)
        self._prompt, self._parent, self._length = prompt, parent, length
        self._token = np.concatenate([self._token, tokens])
        return nodes

    def log_probs(self, nodes: IntArray, tokens: IntArray, offsets: IntArray) -> FloatArray:
        """Read log-probabilities of chosen next tokens, see `TokenTree.log_probs`."""
        return self._tree.log_probs(nodes, tokens, offsets)

    def logits(self, nodes: IntArray) -> FloatArray:
        """Logits of the next tokens at Q nodes: float64 [Q, V]."""
        return self._tree.logits(nodes)

    def rewind(self, size: int) -> None:
        """Remove every node from number `size` on, see `TokenTree.rewind`."""
        self._tree.rewind(size)
        self._prompt, self._parent = self._prompt[:size], self._parent[:size]
        self._token, self._length = self._token[:size], self._length[:size]
