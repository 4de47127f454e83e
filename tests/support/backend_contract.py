"""The laws that every backend must keep. Subclass `BackendContract`, set `subject`, and give the fixtures."""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from genrec.backends.base import Backend, Completion, GenerationRequest, TokenTree
from genrec.deadline import Deadline
from genrec.errors import DeadlineExceededError, EngineError, InputError
from genrec.types import FloatArray, IntArray


class BackendContract:
    """Give a fixture `backend` and the method `tree_bytes`; `atol` is the tolerance of its number type."""

    subject: ClassVar[str]
    atol: ClassVar[float] = 1e-9

    @pytest.fixture
    def prompts(self, backend: Backend) -> list[IntArray]:
        """Three prompts: one of a single token, and one much longer than the others."""
        random = np.random.default_rng(0)
        return [random.integers(0, backend.vocab_size, size) for size in (5, 1, 40)]

    def test_name_vocabulary_and_context_are_declared(self, backend: Backend) -> None:
        """Caches are keyed by the name, masks are sized by the vocabulary, prompts are cut to the context."""
        assert backend.name
        assert backend.vocab_size > 0
        assert backend.context_length > 1
        assert backend.batch_size >= 1

    def test_path_log_probs_equal_sequential_decoding(self, backend: Backend, prompts: list[IntArray]) -> None:
        """A node must see its prompt and its ancestors, and nothing else."""
        tree = backend.open(prompts)
        parents, tokens, paths = random_tree(backend, prompts)
        nodes = tree.grow(np.array(parents), np.array(tokens))
        assert nodes.tolist() == list(range(len(prompts), len(prompts) + len(parents)))
        assert tree.size == len(prompts) + len(parents)
        self.assert_close(read_log_probs(backend, tree), read_log_probs(backend, backend.open(paths)))

    def test_tree_does_not_depend_on_grow_batch_size(self, backend: Backend, prompts: list[IntArray]) -> None:
        """A search grows a tree layer by layer, a scorer in one call; both must read the same model."""
        parents, tokens, _ = random_tree(backend, prompts)
        whole, stepwise = backend.open(prompts), backend.open(prompts)
        whole.grow(np.array(parents), np.array(tokens))
        for start, stop in ((0, 1), (1, 4), (4, 4), (4, len(parents))):
            stepwise.grow(np.array(parents[start:stop], dtype=np.int64), np.array(tokens[start:stop], dtype=np.int64))
        self.assert_close(read_log_probs(backend, whole), read_log_probs(backend, stepwise))

    def test_log_probs_do_not_depend_on_node_order(self, backend: Backend, prompts: list[IntArray]) -> None:
        """Rows are sorted for speed; no score may depend on the order."""
        random = np.random.default_rng(1)
        parents = np.repeat(np.arange(len(prompts)), 4)
        tokens = random.integers(0, backend.vocab_size, len(parents))
        order = random.permutation(len(parents))
        one, other = backend.open(prompts), backend.open(prompts)
        first, second = one.grow(parents, tokens), other.grow(parents[order], tokens[order])
        self.assert_close(read_log_probs(backend, one)[first[order]], read_log_probs(backend, other)[second])

    def test_prompt_log_probs_do_not_depend_on_the_batch(self, backend: Backend, prompts: list[IntArray]) -> None:
        """If padding leaks, one user's list depends on another user."""
        together, reversed_ = backend.open(prompts), backend.open(prompts[::-1])
        for tree in (together, reversed_):
            tree.grow(np.arange(len(prompts)), np.full(len(prompts), 3))
        for number, prompt in enumerate(prompts):
            alone = backend.open([prompt])
            alone.grow(np.array([0]), np.array([3]))
            expected = read_log_probs(backend, alone)
            for tree, root in ((together, number), (reversed_, len(prompts) - 1 - number)):
                self.assert_close(read_log_probs(backend, tree)[[root, len(prompts) + root]], expected)

    @pytest.mark.parametrize(
        ("prefix_length", "tail_lengths"),
        [(40, (1, 7, 12)), (40, (0, 0, 0)), (40, (5, 0, 60)), (3, (4, 9)), (0, (50, 40, 1)), (1, (0, 0))],
        ids=["different ends", "all equal", "prefix of another", "short prefix", "nothing shared", "one token each"],
    )
    def test_shared_prefix_does_not_change_log_probs(
        self, backend: Backend, prefix_length: int, tail_lengths: tuple[int, ...]
    ) -> None:
        """A shared prefix is computed once; the result must be the same as for each prompt alone."""
        random = np.random.default_rng(4)
        shared = random.integers(0, backend.vocab_size, prefix_length)
        prompts = [np.append(shared, random.integers(0, backend.vocab_size, tail)) for tail in tail_lengths]
        parents, tokens, paths = random_tree(backend, prompts)
        together = backend.open(prompts)
        together.grow(np.array(parents), np.array(tokens))
        found = read_log_probs(backend, together)
        for path, own in zip(paths, found, strict=True):
            self.assert_close(own, read_log_probs(backend, backend.open([path]))[0])

    def test_token_bytes_bounds_memory_per_token(self, backend: Backend) -> None:
        """Memory budgets rely on this figure: too low exhausts memory, and far too high rejects work."""
        random = np.random.default_rng(5)
        tree = backend.open(list(random.integers(0, backend.vocab_size, (3, 30))))
        for count in (4, 1, 20):
            tree.grow(np.repeat(np.arange(3), count), random.integers(0, backend.vocab_size, 3 * count))
        bound = backend.token_bytes * 3 * (30 + 25)
        assert bound // 3 <= self.tree_bytes(tree) <= bound

    def tree_bytes(self, tree: Any) -> int:
        """The memory of a tree, in bytes."""
        raise NotImplementedError

    def test_duplicate_nodes_have_equal_log_probs(self, backend: Backend, prompts: list[IntArray]) -> None:
        """Two identifiers may share a prefix and be grown as separate nodes."""
        tree = backend.open(prompts)
        left, right = tree.grow(np.array([0, 0]), np.array([2, 2]))
        assert left != right
        found = read_log_probs(backend, tree)
        self.assert_close(found[left], found[right])

    def test_repeated_calls_give_the_same_log_probs(self, backend: Backend, prompts: list[IntArray]) -> None:
        """Otherwise no result can be reproduced."""
        parents, tokens, _ = random_tree(backend, prompts)
        answers = []
        for _ in range(2):
            tree = backend.open(prompts)
            tree.grow(np.array(parents), np.array(tokens))
            answers.append(read_log_probs(backend, tree))
        assert answers[0].tolist() == answers[1].tolist()

    def test_probabilities_of_the_vocabulary_sum_to_one(self, backend: Backend, prompts: list[IntArray]) -> None:
        """If scores are normalised over the children only, a single child always looks certain."""
        tree = backend.open(prompts)
        tree.grow(np.array([1]), np.array([1]))
        found = read_log_probs(backend, tree, np.arange(backend.vocab_size))
        assert found.dtype == np.float64
        assert np.isfinite(found).all()
        np.testing.assert_allclose(np.exp(found).sum(axis=1), 1.0, atol=max(1e-6, self.atol))

    def test_ragged_queries_are_answered_per_node(self, backend: Backend, prompts: list[IntArray]) -> None:
        """Queries are ragged: no token at one node, many at another, in any order of nodes."""
        tree = backend.open(prompts)
        nodes, tokens, offsets = np.array([2, 0, 2, 1]), np.array([1, 4, 4, 0, 2]), np.array([0, 3, 3, 4, 5])
        found = tree.log_probs(nodes, tokens, offsets)
        whole = read_log_probs(backend, tree, np.arange(5))
        self.assert_close(found, whole[[2, 2, 2, 2, 1], tokens])
        nothing = np.empty(0, dtype=np.int64)
        assert tree.log_probs(nothing, nothing, np.array([0])).shape == (0,)
        assert tree.log_probs(np.array([0]), nothing, np.array([0, 0])).shape == (0,)

    def test_growing_nothing_changes_nothing(self, backend: Backend, prompts: list[IntArray]) -> None:
        """A search whose last open nodes are leaves grows no nodes."""
        tree, nothing = backend.open(prompts), np.empty(0, dtype=np.int64)
        assert tree.grow(nothing, nothing).tolist() == []
        assert tree.size == len(prompts)

    def test_rewinding_restores_the_tree(self, backend: Backend, prompts: list[IntArray]) -> None:
        """Scoring a catalog in passes grows, reads and removes nodes; removed nodes must have no effect."""
        parents, tokens, _ = random_tree(backend, prompts)
        fresh, tree = backend.open(prompts), backend.open(prompts)
        half = len(parents) // 2
        for one in (fresh, tree):
            one.grow(np.array(parents[:half]), np.array(tokens[:half]))
        size = tree.size
        for _ in range(2):
            tree.grow(np.array([0, size - 1, size]), np.array([7, 5, 3]))
            tree.rewind(size)
        assert tree.size == size
        for one in (fresh, tree):
            one.grow(np.array(parents[half:]), np.array(tokens[half:]))
        expected = read_log_probs(backend, fresh)
        self.assert_close(read_log_probs(backend, tree), expected)
        tree.rewind(len(prompts))
        assert tree.size == len(prompts)
        self.assert_close(read_log_probs(backend, tree), expected[: len(prompts)])
        for wrong in (len(prompts) - 1, tree.size + 1):
            with pytest.raises(InputError, match=f"cannot rewind to {wrong}"):
                tree.rewind(wrong)

    def test_trees_are_independent(self, backend: Backend, prompts: list[IntArray]) -> None:
        """A prior may be scored while another request runs."""
        first = backend.open(prompts)
        before = read_log_probs(backend, first)
        second = backend.open(prompts[:1])
        second.grow(np.array([0]), np.array([1]))
        first.grow(np.array([0]), np.array([1]))
        after = read_log_probs(backend, first)
        self.assert_close(after[: len(prompts)], before)
        self.assert_close(after[[0, -1]], read_log_probs(backend, second))

    def test_tree_raises_after_its_deadline_only(self, backend: Backend, prompts: list[IntArray]) -> None:
        """The error triggers the fallback; it must not affect requests with a later deadline."""
        now = [0.0]
        deadline = Deadline(1.0, lambda: now[0])
        limited, other = backend.open(prompts, deadline=deadline), backend.open(prompts)
        for tree in (limited, other):
            tree.grow(np.array([0]), np.array([3]))
        expected = read_log_probs(backend, other)
        self.assert_close(read_log_probs(backend, limited), expected)
        now[0] = 2.0
        with pytest.raises(DeadlineExceededError):
            limited.grow(np.array([0]), np.array([3]))
        with pytest.raises(DeadlineExceededError):
            read_log_probs(backend, limited)
        with pytest.raises(DeadlineExceededError):
            backend.open(prompts, deadline=deadline)
        assert limited.size == other.size
        self.assert_close(read_log_probs(backend, other), expected)
        limited.rewind(len(prompts))

    def test_greedy_generation_follows_the_tree(self, backend: Backend, prompts: list[IntArray]) -> None:
        """Otherwise generation and ranking use different models."""
        text = self.generate_five(backend, prompts[:1])[0]
        assert text.token_ids.dtype == np.int64
        for length in (0, 3):
            tree = backend.open([np.append(prompts[0], text.token_ids[:length])])
            steps = read_log_probs(backend, tree, np.arange(backend.vocab_size))[0]
            assert steps[text.token_ids[length]] >= steps.max() - max(self.atol, 1e-6) * 10

    def test_generation_does_not_depend_on_the_batch(self, backend: Backend, prompts: list[IntArray]) -> None:
        """One user's text must not depend on another's request; sampling depends on the seed only."""
        for temperature in (0.0, 1.5):
            together = self.generate_five(backend, prompts, temperature=temperature)
            assert {len(text.token_ids) for text in together if not text.stopped} == {5}
            for number in (2, 0):
                alone = self.generate_five(backend, [prompts[number]], temperature=temperature)[0]
                assert alone.token_ids.tolist() == together[number].token_ids.tolist()
        other = self.generate_five(backend, prompts, temperature=1.5, seed=1)
        assert [text.token_ids.tolist() for text in other] != [text.token_ids.tolist() for text in together]

    def test_generation_ends_at_stop_token_or_max_tokens(self, backend: Backend, prompts: list[IntArray]) -> None:
        """A caller must know whether a text is complete, and no text contains its stop token."""
        whole = [text.token_ids.tolist() for text in self.generate_five(backend, prompts)]
        for stops in ((0, whole[1][3]), (0, whole[1][3], whole[0][0])):
            for text, before in zip(self.generate_five(backend, prompts, stop_token_ids=stops), whole, strict=True):
                end = min((before.index(stop) for stop in stops if stop in before), default=None)
                assert text.token_ids.tolist() == before[:end]
                assert text.stopped == (end is not None or len(before) < 5)

    def test_generation_without_context_or_time_raises(self, backend: Backend, prompts: list[IntArray]) -> None:
        """A truncated answer, or one beyond the context, looks like a complete one."""
        longest = backend.context_length - len(prompts[0])
        for wrong in (0, longest + 1):
            with pytest.raises(EngineError, match=f"prompt 0 has 5 tokens, max_tokens is {wrong}, and"):
                backend.generate([GenerationRequest(prompts[0], (0,), wrong)])
        late = Deadline(1.0, lambda: 2.0)
        with pytest.raises(DeadlineExceededError):
            backend.generate([GenerationRequest(prompts[0], (0,), 5)], deadline=late)
        assert backend.generate([]) == []

    def test_streamed_tokens_equal_the_text(self, backend: Backend, prompts: list[IntArray]) -> None:
        """A client that reads the stream must see exactly the final text, without its stop token."""
        stop = int(self.generate_five(backend, prompts)[1].token_ids[3])
        requests = [GenerationRequest(own, (0, stop), 5) for own in prompts]
        streamed: dict[int, list[list[int]]] = {number: [] for number in range(len(prompts))}
        texts = backend.generate(
            requests, on_tokens=lambda number, new: streamed.setdefault(number, []).append(list(new))
        )
        for number, text in enumerate(texts):
            pieces = streamed[number]
            assert [token for piece in pieces for token in piece] == text.token_ids.tolist()
            assert len(pieces) > len(text.token_ids) / 2  # while they are generated, not at the end

        def fail(number: int, new: Sequence[int]) -> None:
            raise KeyError(number)

        with pytest.raises((KeyError, EngineError)):
            backend.generate(requests[:1], on_tokens=fail)
        again = self.generate_five(backend, prompts[:1], stop_token_ids=(0, stop))[0]
        assert again.token_ids.tolist() == texts[0].token_ids.tolist()

    def generate_five(
        self,
        backend: Backend,
        prompts: list[IntArray],
        *,
        stop_token_ids: tuple[int, ...] = (0,),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Completion]:
        """Generate five tokens after each prompt, or fewer if a stop token comes first."""
        return backend.generate([GenerationRequest(own, stop_token_ids, 5, temperature, seed) for own in prompts])

    def test_arguments_are_not_modified(self, backend: Backend, prompts: list[IntArray]) -> None:
        """Callers keep prompts and open them again."""
        parents, tokens, _ = random_tree(backend, prompts)
        arrays = [*prompts, np.array(parents), np.array(tokens)]
        copies = [array.copy() for array in arrays]
        backend.open(prompts).grow(arrays[-2], arrays[-1])
        assert all((array == was).all() for array, was in zip(arrays, copies, strict=True))

    def test_parent_must_exist_before_its_child(self, backend: Backend, prompts: list[IntArray]) -> None:
        """A node without a valid parent has no path."""
        tree = backend.open(prompts)
        for parents in ([3], [0, 9], [-1], [4, 0]):
            with pytest.raises(InputError, match="parent"):
                tree.grow(np.array(parents), np.zeros(len(parents), dtype=np.int64))
        assert tree.size == len(prompts)

    def test_context_overflow_raises(self, backend: Backend) -> None:
        """Beyond its context a model silently gives wrong results; the fallback needs an EngineError."""
        short = self.with_context(backend, 6)
        for size in (0, 6, 7):
            with pytest.raises(EngineError, match=f"prompt 1 has {size} tokens.* takes 1 to 5"):
                short.open([np.array([1]), np.ones(size, dtype=np.int64)])
        # Random tokens, because the first ids are control tokens: after six of them SmolLM2 in float32 is off by 1e-3.
        one, four, two = np.split(np.random.default_rng(7).integers(0, backend.vocab_size, 7), [1, 5])
        tree = short.open([one, four])
        nodes = tree.grow(np.array([1, 2]), two)
        before = read_log_probs(backend, tree)
        with pytest.raises(EngineError, match="a path reaches 7 tokens"):
            tree.grow(np.array([0, int(nodes[-1])]), np.array([7, 7]))
        assert tree.size == 4
        self.assert_close(read_log_probs(backend, tree), before)
        tree.rewind(2)
        tree.grow(np.array([0, 2, 3, 4, 5]), np.arange(5))
        with pytest.raises(EngineError, match="a path reaches 7 tokens"):
            tree.grow(np.array([6]), np.array([1]))

    def with_context(self, backend: Any, length: int) -> Any:
        """The same backend with a shorter context."""
        short = copy.copy(backend)
        short.context_length = length
        return short

    def assert_close(self, found: FloatArray, expected: FloatArray) -> None:
        np.testing.assert_allclose(found, expected, atol=self.atol, rtol=0)


def random_tree(backend: Backend, prompts: list[IntArray]) -> tuple[list[int], list[int], list[IntArray]]:
    """A random tree over the prompts: parents and tokens in the order of one call, and the path of every node."""
    random = np.random.default_rng(2)
    parents: list[int] = []
    tokens: list[int] = []
    paths = list(prompts)
    for _ in range(12):
        parents.append(int(random.integers(0, len(paths))))
        tokens.append(int(random.integers(0, backend.vocab_size)))
        paths.append(np.append(paths[parents[-1]], tokens[-1]))
    return parents, tokens, paths


def read_log_probs(backend: Backend, tree: TokenTree, tokens: IntArray | None = None) -> FloatArray:
    """Log-probabilities of the given tokens, by default 25 of the vocabulary, at every node: [size, tokens]."""
    queried = np.linspace(0, backend.vocab_size - 1, 25).astype(np.int64) if tokens is None else tokens
    offsets = np.arange(tree.size + 1) * len(queried)
    return tree.log_probs(np.arange(tree.size), np.tile(queried, tree.size), offsets).reshape(tree.size, len(queried))
