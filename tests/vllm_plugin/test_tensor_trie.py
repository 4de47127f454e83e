"""Laws of the trie on a device: it equals the trie on the host, and never synchronises with it."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from genrec.data.subset import Mask, Subset
from genrec.errors import InputError
from genrec.index.trie import TokenTrie
from genrec.vllm_plugin.tensor_trie import TensorAllowedBatch, TensorTrie


def random_case(seed: int) -> tuple[TokenTrie, list[tuple[int, ...]]]:
    random = np.random.default_rng(seed)
    vocab_size = int(random.integers(3, 20))
    bodies = {tuple(random.integers(1, vocab_size, random.integers(1, 6)).tolist()) for _ in range(25)}
    trie = TokenTrie.from_sequences([np.array([*body, 0]) for body in bodies])
    return trie, [tuple(trie.tokens_of_row(row).tolist()) for row in range(len(trie))]


def subsets_of(size: int, random: np.random.Generator) -> list[Subset]:
    mask = Mask.from_bool(random.random(size) < 0.5)
    listed = np.flatnonzero(random.random(size) < 0.3)
    return [Subset.from_indices(size, listed), Subset.from_mask(mask), Subset.from_mask(mask).without(listed)]


def test_children_are_those_with_an_allowed_row() -> None:
    """Decoding on a GPU must apply the same catalog and the same filter."""
    for seed in range(40):
        trie, rows = random_case(seed)
        tensor = TensorTrie(trie, "cpu")
        subsets = subsets_of(len(rows), np.random.default_rng(seed))
        positions = trie.path_positions(np.arange(len(trie)))
        prefixes = [row[:depth] for row in rows for depth in range(1, len(row) + 1)]
        named = {(): 0, **dict(zip(prefixes, (positions + 1).tolist(), strict=True))}
        states = torch.tensor(list(named.values()))
        for prompt, subset in [(0, None), *enumerate(subsets)]:
            if subset is None:
                found = tensor.children(states)
            else:
                owner = torch.full_like(states, prompt)
                found = tensor.children(states, prompt_indices=owner, allowed=TensorAllowedBatch(subsets, "cpu"))
            every = np.ones(len(rows), dtype=bool) if subset is None else subset.to_bool()
            kept = [row for row, allowed in zip(rows, every, strict=True) if allowed]
            for index, prefix in enumerate(named):
                below = {row[: len(prefix) + 1] for row in kept if row[: len(prefix)] == prefix and row != prefix}
                valid = found.valid[index]
                tokens, after = found.tokens[index][valid].tolist(), found.states[index][valid].tolist()
                assert tokens == sorted(one[-1] for one in below)
                assert after == [named[*prefix, token] for token in tokens]
                assert not found.states[index][~valid].any()


def test_a_row_ends_at_its_item_and_a_wrong_token_in_the_dead_state() -> None:
    """A state that continues after an unknown token would allow an item that does not exist."""
    for seed in range(40):
        trie, rows = random_case(seed)
        tensor, dead = TensorTrie(trie, "cpu"), len(trie.tokens) + 1
        for number, row in enumerate(rows):
            state = torch.zeros(1, dtype=torch.int64)
            for depth, token in enumerate(row):
                wrong = torch.tensor([token + 1])
                known = any(
                    other[:depth] == row[:depth] and other[depth] == token + 1 for other in rows if len(other) > depth
                )
                assert (tensor.advance(state, wrong).tolist() != [dead]) == known
                state = tensor.advance(state, torch.tensor([token]))
            assert tensor.item_indices(state).tolist() == [trie.items[number]]
            assert tensor.advance(state, torch.tensor([0])).tolist() == [dead]
        end = torch.tensor([dead])
        assert not tensor.children(end).valid.any()
        assert tensor.advance(end, torch.tensor([rows[0][0]])).tolist() == [dead]
        assert tensor.item_indices(end).tolist() == [-1]
        assert tensor.item_indices(torch.zeros(1, dtype=torch.int64)).tolist() == [-1]


def test_an_incomplete_filter_is_refused() -> None:
    """A filter that is silently ignored allows every item."""
    trie, rows = random_case(3)
    tensor, allowed = TensorTrie(trie, "cpu"), TensorAllowedBatch([Subset.from_indices(len(rows), [0])], "cpu")
    states = torch.zeros(1, dtype=torch.int64)
    for given in ({"allowed": allowed}, {"prompt_indices": states}):
        with pytest.raises(InputError, match="pass prompt_indices and allowed together"):
            tensor.children(states, **given)
    with pytest.raises(InputError, match="max_children is 0"):
        tensor.children(states, 0)
    with pytest.raises(InputError, match=r"subsets of \[\] rows"):
        TensorAllowedBatch([], "cpu")


def test_no_operation_synchronises_with_the_device() -> None:
    """Reading a value in Python stalls the GPU; fake tensors refuse such a read."""
    trie, rows = random_case(3)
    tensor, subsets = TensorTrie(trie, "cpu"), subsets_of(len(rows), np.random.default_rng(3))
    allowed = TensorAllowedBatch(subsets, "cpu")
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        states = fake.from_tensor(torch.zeros(6, dtype=torch.int64))
        owner = fake.from_tensor(torch.tensor([0, 1, 2, 0, 1, 2]))
        children = tensor.children(states, prompt_indices=owner, allowed=allowed)
        after = tensor.advance(states, children.tokens[:, 0])
        assert children.tokens.shape == (6, tensor.max_children)
        assert tensor.item_indices(after).shape == (6,)
