"""Training examples of an adapter: a user's history as a tree of tokens.

Prompts come from the same `Renderer` as in serving and items from the index, so a path of the tree, from its first
token to the end of an item, is token by token what the model reads and generates in production. The prompts of one
user share a prefix, and so do titles; a shared prefix is in the tree once. So each further target of a history costs
little more than the tokens of its item.

Letters: T tokens of a tree, H items of a history, J targets, C choices (the items compared, over all targets), S item
tokens (the tokens of all choices), F branch points (item tokens of a positive where the catalog allows several tokens).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from genrec.errors import InputError
from genrec.index.catalog_index import CatalogIndex
from genrec.prompting.renderer import Renderer
from genrec.types import BoolArray, IntArray

_EMPTY: IntArray = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Target:
    """A position of a history whose item the model is trained to predict.

    Attributes:
        event_index: the index in the history of the positive item.
        negatives: int64, items to compare it with; empty if only its own likelihood counts.
        words: the user's query at this position.
        candidates: int64, the candidates that the prompt lists.
        num_known: the number of history items in the prompt, at most `event_index`; for an item of a basket, the items
            before the basket. By default all items before `event_index`.
    """

    event_index: int
    negatives: IntArray
    words: str = ""
    candidates: IntArray = field(default_factory=lambda: _EMPTY)
    num_known: int | None = None


@dataclass(frozen=True)
class TrainingExample:
    """A tree of tokens with its targets.

    Attributes:
        token_ids: int64 [T].
        parents: int64 [T], the index in the tree of each token's predecessor, below its own; -1 for a first token.
        positions: int64 [T], the number of tokens before each token on its path.
        item_indices: int64 [C], the item of each choice; the positive of each target comes first.
        item_targets: int64 [C], the target of each choice.
        item_tokens: int64 [S], the index in the tree of each item token.
        token_items: int64 [S], the choice of each item token.
        branch_points: int64 [F], indices in `item_tokens`.
        branch_offsets: int64 [F + 1].
        branch_tokens: int64, the tokens that the catalog allows at each branch point, from one offset to the next.
    """

    token_ids: IntArray
    parents: IntArray
    positions: IntArray
    item_indices: IntArray
    item_targets: IntArray
    item_tokens: IntArray
    token_items: IntArray
    branch_points: IntArray
    branch_offsets: IntArray
    branch_tokens: IntArray

    @property
    def positives(self) -> IntArray:
        """int64 [J], the positive choice of each target."""
        return np.flatnonzero(np.diff(self.item_targets, prepend=-1))

    def visible(self) -> BoolArray:
        """bool [T, T], the attention mask: a token sees itself and the tokens before it on its path."""
        mask = np.eye(len(self.parents), dtype=np.bool_)
        for index, parent in enumerate(self.parents):
            if parent >= 0:
                mask[index] |= mask[parent]
        return mask


def build_example(
    renderer: Renderer, index: CatalogIndex, history: IntArray, targets: Sequence[Target]
) -> TrainingExample:
    """The training example of one user.

    Args:
        renderer: the renderer that the ranker uses.
        index: the identifiers of the items.
        history: int64 [H], item indices, oldest first.
        targets: J positions of the history.

    Raises:
        InputError: there is no target, one is outside of the history, its item is among its negatives, or `num_known`
            is out of range.
    """
    if not targets:
        raise InputError("targets is empty; pass at least one target")
    tree = _TreeBuilder()
    items: list[int] = []
    item_targets: list[int] = []
    item_tokens: list[int] = []
    token_items: list[int] = []
    branch_points: list[int] = []
    allowed: list[IntArray] = []
    for number, target in enumerate(targets):
        known = _num_known(target, history)
        positive = int(history[target.event_index])
        prompt = renderer.render(history[:known], target.words, target.candidates)
        end = tree.add(-1, prompt.token_ids)[-1]
        for depth, tokens in index.trie.branching_points(int(index.trie.rows_of_items[positive])):
            branch_points.append(len(item_tokens) + depth)
            allowed.append(tokens.astype(np.int64))
        for item in (positive, *target.negatives.tolist()):
            path = tree.add(end, index.trie.tokens_of_row(int(index.trie.rows_of_items[item])))
            item_tokens += path
            token_items += [len(items)] * len(path)
            items.append(item)
            item_targets.append(number)
    token_ids, parents = np.array(tree.token_ids), np.array(tree.parents)
    positions = np.zeros(len(parents), dtype=np.int64)
    for node, parent in enumerate(parents):
        positions[node] = 0 if parent < 0 else positions[parent] + 1
    offsets = np.cumsum([0, *map(len, allowed)])
    branch_tokens = np.concatenate([_EMPTY, *allowed])
    lists = (items, item_targets, item_tokens, token_items, branch_points, offsets, branch_tokens)
    return TrainingExample(token_ids, parents, positions, *(np.array(one, dtype=np.int64) for one in lists))


def _num_known(target: Target, history: IntArray) -> int:
    """The number of history items in the prompt of a target, which is validated."""
    position = target.event_index
    if not 0 <= position < len(history):
        raise InputError(
            f"event_index is {position}, but the history has {len(history)} items; set it from 0 to {len(history) - 1}"
        )
    positive = int(history[position])
    if positive in target.negatives:
        raise InputError(f"item {positive} at event_index {position} is among its own negatives; remove it from them")
    known = position if target.num_known is None else target.num_known
    if not 0 <= known <= position:
        raise InputError(f"num_known is {known} for event_index {position}; set it from 0 to {position}")
    return known


class _TreeBuilder:
    """A tree of tokens that grows path by path; shared prefixes are stored once."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.parents: list[int] = []
        self._node_of: dict[tuple[int, int], int] = {}

    def add(self, parent: int, token_ids: IntArray) -> list[int]:
        """Add a path below `parent`; returns the index in the tree of each of its tokens."""
        path = []
        for token_id in token_ids.tolist():
            key = (parent, token_id)
            if key not in self._node_of:
                self._node_of[key] = len(self.token_ids)
                self.token_ids.append(token_id)
                self.parents.append(parent)
            parent = self._node_of[key]
            path.append(parent)
        return path
