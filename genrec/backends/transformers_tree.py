"""A token tree over one growing key-value cache, with an attention mask that shows each node its own path.

All nodes of a prompt are tokens of one sequence. A 4-D attention mask lets each see its prompt and its ancestors, and
position ids count along the path. The cache grows at its end only, so no beam is copied or reordered. The prefix that
all prompts of a batch share is computed once, and its keys and values are given to each prompt.
Source of the mask: Miao et al., "SpecInfer", ASPLOS 2024, section 4.2 (tree-based parallel decoding).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from genrec.backends.growing_cache import GrowingCache
from genrec.backends.tree_arrays import check_path_lengths, check_rewind, new_node_numbers, prompts_and_positions
from genrec.deadline import Deadline
from genrec.types import BoolArray, FloatArray, IntArray

_MIN_SHARED_PREFIX_TOKENS = 64  # a separate pass over a shared prefix pays off if it saves at least so many tokens


@dataclass(frozen=True)
class NewTokens:
    """The N tokens of U prompts that one forward pass adds to a cache of S slots.

    Attributes:
        token_ids: int64 [N].
        positions: int64 [N].
        flat_indices: int64 [N], the index of each token in the flattened table [U, Q].
        visible_mask: bool [U, Q, S], which tokens of its prompt, in the order of the cache, each token sees.
    """

    token_ids: IntArray
    positions: IntArray
    flat_indices: IntArray
    visible_mask: BoolArray


class HiddenStateModel(Protocol):
    """What `TransformersTree` needs of its model, see `genrec.backends.masked_model.MaskedModel`."""

    model: Any
    context_length: int

    def hidden_states(self, batch: NewTokens, cache: GrowingCache) -> torch.Tensor:
        """Compute the last hidden states of new tokens."""
        ...

    def log_probs(self, hidden: torch.Tensor, tokens: IntArray, offsets: IntArray) -> FloatArray:
        """Log-probabilities of chosen tokens at hidden states."""
        ...

    def logits(self, hidden: torch.Tensor) -> FloatArray:
        """Logits of all tokens at hidden states."""
        ...


class TransformersTree:
    """A token tree over U prompts and one key-value cache [U, S], which is padded per prompt.

    Args:
        backend: computes hidden states and reads log-probabilities from them.
        prompts: U arrays of token ids, int64.
        deadline: when the caller stops waiting.

    Raises:
        EngineError: the model failed.
    """

    def __init__(self, backend: HiddenStateModel, prompts: Sequence[IntArray], deadline: Deadline) -> None:
        self._backend, self._deadline = backend, deadline
        self._cache = GrowingCache(backend.model.config)
        count = self._num_prompts = len(prompts)
        lengths = self._prompt_lengths = np.array([len(prompt) for prompt in prompts])
        width = self._max_prompt_length = self._num_slots = int(lengths.max())
        inside = np.arange(width) < lengths[:, None]
        tokens = np.zeros((count, width), dtype=np.int64)
        tokens[inside] = np.concatenate(list(prompts))
        positions = np.tile(np.arange(width), (count, 1))
        causal = np.tri(width, dtype=bool)[None]
        prefix = _shared_prefix_length(tokens, int(lengths.min()))
        if prefix * (count - 1) < _MIN_SHARED_PREFIX_TOKENS:
            prefix = 0
        if prefix:
            shared = NewTokens(
                tokens[0, :prefix], positions[0, :prefix], np.arange(prefix), causal[:, :prefix, :prefix]
            )
            backend.hidden_states(shared, self._cache)
            self._cache.batch_repeat_interleave(count)
        visible = causal[:, prefix:] & inside[:, None, :]
        is_new = inside[:, prefix:]
        rest = NewTokens(tokens[:, prefix:][is_new], positions[:, prefix:][is_new], np.flatnonzero(is_new), visible)
        hidden = backend.hidden_states(rest, self._cache)
        # For each node: its prompt, parent, slot in the cache, position, and hidden state.
        self._prompt = np.arange(count)
        self._parent = np.full(count, -1)
        self._slot = np.full(count, -1)
        self._position = lengths - 1
        self._hidden = [hidden[torch.from_numpy(np.cumsum(lengths - prefix) - 1)]]

    @property
    def size(self) -> int:
        """The number of nodes, prompt ends included."""
        return len(self._prompt)

    def grow(self, parents: IntArray, tokens: IntArray) -> IntArray:
        """Add M nodes in one forward pass, see `TokenTree.grow`."""
        self._deadline.check()
        size, nodes = self.size, new_node_numbers(self.size, parents)
        if not len(nodes):
            return nodes
        parent = np.concatenate([self._parent, parents])
        prompt, position = prompts_and_positions(parent, size, self._prompt, self._position)
        check_path_lengths(position[size:] + 1, self._backend.context_length)
        column = _rank_within(prompt[size:])
        columns = int(column.max()) + 1
        slot = np.concatenate([self._slot, self._num_slots + column])
        mask = np.zeros((self._num_prompts, columns, self._num_slots + columns), dtype=bool)
        mask[:, :, : self._max_prompt_length] = np.arange(self._max_prompt_length) < self._prompt_lengths[:, None, None]
        ancestor, row = nodes, np.arange(len(nodes))
        while row.size:
            mask[prompt[size + row], column[row], slot[ancestor]] = True
            ancestor = parent[ancestor]
            row, ancestor = row[ancestor >= self._num_prompts], ancestor[ancestor >= self._num_prompts]
        flat_indices = prompt[size:] * columns + column
        hidden = self._backend.hidden_states(NewTokens(tokens, position[size:], flat_indices, mask), self._cache)
        # Updated only after the pass, so that a failed pass leaves the tree unchanged.
        self._hidden.append(hidden)
        self._parent, self._prompt, self._position, self._slot = parent, prompt, position, slot
        self._num_slots += columns
        return nodes

    def log_probs(self, nodes: IntArray, tokens: IntArray, offsets: IntArray) -> FloatArray:
        """Read log-probabilities of chosen next tokens, see `TokenTree.log_probs`."""
        self._deadline.check()
        return self._backend.log_probs(self._hidden_at(nodes), tokens, offsets)

    def logits(self, nodes: IntArray) -> FloatArray:
        """Logits of the next tokens at Q nodes: float64 [Q, V]."""
        self._deadline.check()
        return self._backend.logits(self._hidden_at(nodes))

    def _hidden_at(self, nodes: IntArray) -> torch.Tensor:
        if len(self._hidden) > 1:
            self._hidden = [torch.cat(self._hidden)]
        return self._hidden[0][torch.from_numpy(nodes)]

    def rewind(self, size: int) -> None:
        """Remove every node from number `size` on; their memory is kept for the next nodes."""
        check_rewind(size, self._num_prompts, self.size)
        self._hidden = [torch.cat(self._hidden)[:size]]
        self._prompt, self._parent = self._prompt[:size], self._parent[:size]
        self._slot, self._position = self._slot[:size], self._position[:size]
        slots = max(self._max_prompt_length, int(self._slot.max()) + 1)
        if slots < self._num_slots:
            self._cache.crop(
                slots - self._num_slots
            )  # newer versions accept only a negative length, which removes tokens
            self._num_slots = slots


def _shared_prefix_length(tokens: IntArray, min_length: int) -> int:
    """The length of the prefix that all prompts [U, P] share, without the last token of any: its state is needed."""
    same = (tokens[:, : min_length - 1] == tokens[0, : min_length - 1]).all(axis=0)
    return int(np.cumprod(same).sum())


def _rank_within(groups: IntArray) -> IntArray:
    """For each entry, the number of earlier entries in the same group."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(groups[order]) != 0))
    ranks = np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups))))
    result = np.empty(len(groups), dtype=np.int64)
    result[order] = ranks
    return result
