"""A token tree that stops at a deadline, between two forward passes."""

from genrec.backends.base import TokenTree
from genrec.deadline import Deadline
from genrec.types import FloatArray, IntArray


class TimedTree:
    """Passes everything on to a tree, and raises `DeadlineExceededError` in its place once the time is up."""

    def __init__(self, tree: TokenTree, deadline: Deadline) -> None:
        self._tree, self._deadline = tree, deadline

    @property
    def size(self) -> int:
        """How many nodes there are, prompt ends included."""
        return self._tree.size

    def grow(self, parents: IntArray, tokens: IntArray) -> IntArray:
        """Add M nodes over all prompts in one forward pass."""
        self._deadline.check()
        return self._tree.grow(parents, tokens)

    def log_probs(self, nodes: IntArray, tokens: IntArray, offsets: IntArray) -> FloatArray:
        """Log-probabilities of chosen next tokens, normalised over the full vocabulary."""
        self._deadline.check()
        return self._tree.log_probs(nodes, tokens, offsets)

    def rewind(self, size: int) -> None:
        """Forget every node from number `size` on, and free what they held."""
        self._tree.rewind(size)
