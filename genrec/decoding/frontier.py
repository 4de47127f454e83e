"""The open nodes of a beam search, as parallel arrays.

Letters: F nodes, over all prompts.
"""

from dataclasses import dataclass

import numpy as np

from genrec.types import BoolArray, FloatArray, IntArray


@dataclass
class Frontier:
    """F nodes that may be opened next.

    Attributes:
        prompt: int64 [F], the prompt of each node.
        low, high: int64 [F], the rows `low <= row < high` of each node.
        parent_node: int64 [F], the last token-tree node of the parent's path.
        parent_depth: int64 [F], the number of tokens on the parent's path.
        path_score: float64 [F], the score of the path, the first token of the node's edge included.
        priority: float64 [F], the order in which the beam opens nodes.
        bound: float64 [F], an upper bound of the score of every row below the node.
    """

    prompt: IntArray
    low: IntArray
    high: IntArray
    parent_node: IntArray
    parent_depth: IntArray
    path_score: FloatArray
    priority: FloatArray
    bound: FloatArray

    def select(self, chosen: IntArray | BoolArray) -> "Frontier":
        """The chosen nodes, by index or mask."""
        return Frontier(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def concat(self, other: "Frontier") -> "Frontier":
        """These nodes, then those of another frontier."""
        if not len(self.prompt):
            return other
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        return Frontier(*(np.concatenate(pair) for pair in pairs))
