"""What people took, step by step, as trees of tokens: what an adapter learns from.

Every prompt comes from the `Renderer` that serves and every item from the index, so that a path of the tree, from its
first token to the end of an item, is token by token what the model reads and writes in production. Prompts of one
person begin alike, and so do titles; what begins alike stands in the tree once. So each position of a history is a
target for little more than the tokens of its item.

Letters: T tokens of a tree, J targets, C choices (the items compared for all targets), S steps (tokens of items, one
for each choice that passes them), F forks (steps of what was taken at which the catalog allows more than one token).
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
    """One moment of a history.

    Attributes:
        event_index: of the item that was taken, in the history.
        negatives: int64, items that it is set against; empty where only its own likelihood counts.
        words: what the person says then.
        candidates: int64, what the prompt shows to choose from.
        num_known: how many items were known when it was taken, at most `event_index`: of a basket, those before the basket. By
            default all that stand before it.
    """

    event_index: int
    negatives: IntArray
    words: str = ""
    candidates: IntArray = field(default_factory=lambda: _EMPTY)
    num_known: int | None = None


@dataclass(frozen=True)
class TrainingExample:
    """A tree of tokens with what was taken in it.

    Attributes:
        token_ids: int64 [T].
        parents: int64 [T], the place of each token's predecessor, before its own; -1 for a first one.
        positions: int64 [T], how many tokens stand before each on its path.
        item_indices: int64 [C], item indices; of each target the taken one first.
        item_targets: int64 [C], the target that each choice belongs to.
        item_tokens: int64 [S], places in the tree.
        token_items: int64 [S], the choice whose item each step writes.
        branch_points: int64 [F], steps.
        branch_offsets: int64 [F + 1].
        branch_tokens: int64, the tokens that the catalog allows at each fork, from one offset to the next.
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
        """int64 [J], the choice that was taken of each target."""
        return np.flatnonzero(np.diff(self.item_targets, prepend=-1))

    def visible(self) -> BoolArray:
        """bool [T, T], what each token sees: itself and what stands before it on its path."""
        seen = np.eye(len(self.parents), dtype=np.bool_)
        for place, parent in enumerate(self.parents):
            if parent >= 0:
                seen[place] |= seen[parent]
        return seen


def build_example(
    renderer: Renderer, index: CatalogIndex, history: IntArray, targets: Sequence[Target]
) -> TrainingExample:
    """One person's tree.

    Args:
        renderer: as a ranker has it.
        index: spells the items.
        history: int64 [H], item indices, oldest first.
        targets: J moments of it.

    Raises:
        InputError: there is no target, one lies outside of the history, or is set against the item itself.
    """
    if not targets:
        raise InputError("an example needs at least one target")
    tree = _TreeBuilder()
    items: list[int] = []
    owners: list[int] = []
    steps: list[int] = []
    choices: list[int] = []
    forks: list[int] = []
    allowed: list[IntArray] = []
    for number, target in enumerate(targets):
        if not 0 <= target.event_index < len(history):
            raise InputError(f"a target stands at place {target.event_index} of a history of {len(history)} items")
        taken = int(history[target.event_index])
        if taken in target.negatives:
            raise InputError(
                f"item {taken} at place {target.event_index} is set against itself; leave it out of the others"
            )
        known = target.event_index if target.num_known is None else target.num_known
        if not 0 <= known <= target.event_index:
            raise InputError(
                f"{known} items are known before the target at place {target.event_index}; it must be 0 to that"
            )
        prompt = renderer.render(history[:known], target.words, target.candidates)
        end = tree.add(-1, prompt.token_ids)[-1]
        for depth, tokens in index.trie.branching_points(int(index.trie.rows_of_items[taken])):
            forks.append(len(steps) + depth)
            allowed.append(tokens.astype(np.int64))
        for item in (taken, *target.negatives.tolist()):
            path = tree.add(end, index.trie.tokens_of_row(int(index.trie.rows_of_items[item])))
            steps += path
            choices += [len(items)] * len(path)
            items.append(item)
            owners.append(number)
    token_ids, parents = np.array(tree.token_ids), np.array(tree.parents)
    positions = np.zeros(len(parents), dtype=np.int64)
    for place, parent in enumerate(parents):
        positions[place] = 0 if parent < 0 else positions[parent] + 1
    offsets = np.cumsum([0, *map(len, allowed)])
    lists = (items, owners, steps, choices, forks, offsets, np.concatenate([_EMPTY, *allowed]))
    return TrainingExample(token_ids, parents, positions, *(np.array(one, dtype=np.int64) for one in lists))


class _TreeBuilder:
    """Tokens that are added path by path; what is there already is not added again."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.parents: list[int] = []
        self._node_of: dict[tuple[int, int], int] = {}

    def add(self, parent: int, token_ids: IntArray) -> list[int]:
        """The places of a path behind `parent`."""
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
