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
    """Give a fixture `backend`, and `tree_bytes`; `atol` is the numeric noise its dtype may show."""

    subject: ClassVar[str]
    atol: ClassVar[float] = 1e-9

    @pytest.fixture
    def prompts(self, backend: Backend) -> list[IntArray]:
        """Three prompts, one of a single token, one much longer than the others."""
        random = np.random.default_rng(0)
        return [random.integers(0, backend.vocab_size, size) for size in (5, 1, 40)]

    def test_name_vocabulary_and_context_are_declared(self, backend: Backend) -> None:
        """Caches are keyed by the name, masks are sized by the vocabulary, prompts are cut to the context."""
        assert backend.name
        assert backend.vocab_size > 0
        assert backend.context_length > 1

    def test_path_log_probs_equal_sequential_decoding(self, backend: Backend, prompts: list[IntArray]) -> None:
        """The law of the seam: a node sees its prompt and its ancestors, and nothing else."""
        tree = backend.open(prompts)
        parents, tokens, paths = random_tree(backend, prompts)
        nodes = tree.grow(np.array(parents), np.array(tokens))
        assert nodes.tolist() == list(range(len(prompts), len(prompts) + len(parents)))
        assert tree.size == len(prompts) + len(parents)
        self.assert_close(read_log_probs(backend, tree), read_log_probs(backend, backend.open(paths)))

    def test_tree_does_not_depend_on_grow_batch_size(self, backend: Backend, prompts: list[IntArray]) -> None:
        """A search grows layer by layer, a scorer in one go; both must read the same model."""
        parents, tokens, _ = random_tree(backend, prompts)
        whole, stepwise = backend.open(prompts), backend.open(prompts)
        whole.grow(np.array(parents), np.array(tokens))
        for start, stop in ((0, 1), (1, 4), (4, 4), (4, len(parents))):
            stepwise.grow(np.array(parents[start:stop], dtype=np.int64), np.array(tokens[start:stop], dtype=np.int64))
        self.assert_close(read_log_probs(backend, whole), read_log_probs(backend, stepwise))

    def test_log_probs_do_not_depend_on_node_order(self, backend: Backend, prompts: list[IntArray]) -> None:
        """Rows are sorted for speed; nobody's score may depend on who stood before them."""
        random = np.random.default_rng(1)
        parents = np.repeat(np.arange(len(prompts)), 4)
        tokens = random.integers(0, backend.vocab_size, len(parents))
        order = random.permutation(len(parents))
        one, other = backend.open(prompts), backend.open(prompts)
        first, second = one.grow(parents, tokens), other.grow(parents[order], tokens[order])
        self.assert_close(read_log_probs(backend, one)[first[order]], read_log_probs(backend, other)[second])

    def test_prompt_log_probs_do_not_depend_on_the_batch(self, backend: Backend, prompts: list[IntArray]) -> None:
        """Padding that leaks would make one customer's list depend on another's."""
        together, turned = backend.open(prompts), backend.open(prompts[::-1])
        for tree in (together, turned):
            tree.grow(np.arange(len(prompts)), np.full(len(prompts), 3))
        for number, prompt in enumerate(prompts):
            alone = backend.open([prompt])
            alone.grow(np.array([0]), np.array([3]))
            expected = read_log_probs(backend, alone)
            for tree, root in ((together, number), (turned, len(prompts) - 1 - number)):
                self.assert_close(read_log_probs(backend, tree)[[root, len(prompts) + root]], expected)

    @pytest.mark.parametrize(
        ("head", "tails"),
        [(40, (1, 7, 12)), (40, (0, 0, 0)), (40, (5, 0, 60)), (3, (4, 9)), (0, (50, 40, 1)), (1, (0, 0))],
        ids=["own ends", "all equal", "one heads another", "a short head", "nothing shared", "one token each"],
    )
    def test_shared_prefix_does_not_change_log_probs(self, backend: Backend, head: int, tails: tuple[int, ...]) -> None:
        """What is computed once for all must be what each would have computed, wherever their ways part."""
        random = np.random.default_rng(4)
        shared = random.integers(0, backend.vocab_size, head)
        prompts = [np.append(shared, random.integers(0, backend.vocab_size, tail)) for tail in tails]
        parents, tokens, paths = random_tree(backend, prompts)
        together = backend.open(prompts)
        together.grow(np.array(parents), np.array(tokens))
        found = read_log_probs(backend, together)
        for path, own in zip(paths, found, strict=True):
            self.assert_close(own, read_log_probs(backend, backend.open([path]))[0])

    def test_token_bytes_bounds_memory_per_token(self, backend: Backend) -> None:
        """A budget of memory is kept by this figure: too low and it is overrun, far too high and work is refused."""
        random = np.random.default_rng(5)
        tree = backend.open(list(random.integers(0, backend.vocab_size, (3, 30))))
        for count in (4, 1, 20):
            tree.grow(np.repeat(np.arange(3), count), random.integers(0, backend.vocab_size, 3 * count))
        said = backend.token_bytes * 3 * (30 + 25)
        assert said // 3 <= self.tree_bytes(tree) <= said

    def tree_bytes(self, tree: Any) -> int:
        """The bytes a tree holds."""
        raise NotImplementedError

    def test_duplicate_nodes_have_equal_log_probs(self, backend: Backend, prompts: list[IntArray]) -> None:
        """Two rows may begin alike and be grown apart."""
        tree = backend.open(prompts)
        left, right = tree.grow(np.array([0, 0]), np.array([2, 2]))
        assert left != right
        found = read_log_probs(backend, tree)
        self.assert_close(found[left], found[right])

    def test_the_same_call_gives_the_same_numbers(self, backend: Backend, prompts: list[IntArray]) -> None:
        """Otherwise no figure can be repeated."""
        parents, tokens, _ = random_tree(backend, prompts)
        answers = []
        for _ in range(2):
            tree = backend.open(prompts)
            tree.grow(np.array(parents), np.array(tokens))
            answers.append(read_log_probs(backend, tree))
        assert answers[0].tolist() == answers[1].tolist()

    def test_probabilities_of_the_whole_vocabulary_add_up_to_one(
        self, backend: Backend, prompts: list[IntArray]
    ) -> None:
        """A score normalised over the children only would make every lone child look certain."""
        tree = backend.open(prompts)
        tree.grow(np.array([1]), np.array([1]))
        found = read_log_probs(backend, tree, np.arange(backend.vocab_size))
        assert found.dtype == np.float64
        assert np.isfinite(found).all()
        np.testing.assert_allclose(np.exp(found).sum(axis=1), 1.0, atol=max(1e-6, self.atol))

    def test_ragged_queries_are_answered_per_node(self, backend: Backend, prompts: list[IntArray]) -> None:
        """The answer is ragged: none of one node, many of another, in any order of nodes."""
        tree = backend.open(prompts)
        nodes, tokens, offsets = np.array([2, 0, 2, 1]), np.array([1, 4, 4, 0, 2]), np.array([0, 3, 3, 4, 5])
        found = tree.log_probs(nodes, tokens, offsets)
        whole = read_log_probs(backend, tree, np.arange(5))
        self.assert_close(found, whole[[2, 2, 2, 2, 1], tokens])
        nothing = np.empty(0, dtype=np.int64)
        assert tree.log_probs(nothing, nothing, np.array([0])).shape == (0,)
        assert tree.log_probs(np.array([0]), nothing, np.array([0, 0])).shape == (0,)

    def test_growing_nothing_changes_nothing(self, backend: Backend, prompts: list[IntArray]) -> None:
        """A search whose last open nodes are leaves grows none."""
        tree, nothing = backend.open(prompts), np.empty(0, dtype=np.int64)
        assert tree.grow(nothing, nothing).tolist() == []
        assert tree.size == len(prompts)

    def test_rewinding_restores(self, backend: Backend, prompts: list[IntArray]) -> None:
        """Scoring a catalog in passes grows, reads and forgets; what was forgotten must leave no trace."""
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
        """A prior may be scored while a request is under way."""
        first = backend.open(prompts)
        before = read_log_probs(backend, first)
        second = backend.open(prompts[:1])
        second.grow(np.array([0]), np.array([1]))
        first.grow(np.array([0]), np.array([1]))
        after = read_log_probs(backend, first)
        self.assert_close(after[: len(prompts)], before)
        self.assert_close(after[[0, -1]], read_log_probs(backend, second))

    def test_tree_raises_after_its_deadline_only(self, backend: Backend, prompts: list[IntArray]) -> None:
        """The ladder steps down on the error; who has more time must not notice that somebody else had less."""
        now = [0.0]
        deadline = Deadline(1.0, lambda: now[0])
        hurried, other = backend.open(prompts, deadline=deadline), backend.open(prompts)
        for tree in (hurried, other):
            tree.grow(np.array([0]), np.array([3]))
        expected = read_log_probs(backend, other)
        self.assert_close(read_log_probs(backend, hurried), expected)
        now[0] = 2.0
        with pytest.raises(DeadlineExceededError):
            hurried.grow(np.array([0]), np.array([3]))
        with pytest.raises(DeadlineExceededError):
            read_log_probs(backend, hurried)
        with pytest.raises(DeadlineExceededError):
            backend.open(prompts, deadline=deadline)
        assert hurried.size == other.size
        self.assert_close(read_log_probs(backend, other), expected)
        hurried.rewind(len(prompts))

    def test_greedy_generation_follows_the_tree(self, backend: Backend, prompts: list[IntArray]) -> None:
        """Otherwise what is written and what is ranked come from two models."""
        text = self.generate_five(backend, prompts[:1])[0]
        assert text.token_ids.dtype == np.int64
        for place in (0, 3):
            tree = backend.open([np.append(prompts[0], text.token_ids[:place])])
            steps = read_log_probs(backend, tree, np.arange(backend.vocab_size))[0]
            assert steps[text.token_ids[place]] >= steps.max() - max(self.atol, 1e-6) * 10

    def test_generation_does_not_depend_on_the_batch(self, backend: Backend, prompts: list[IntArray]) -> None:
        """What one customer reads must not depend on another; nor what is drawn, which hangs on its seed alone."""
        for temperature in (0.0, 1.5):
            together = self.generate_five(backend, prompts, temperature=temperature)
            assert {len(text.token_ids) for text in together if not text.stopped} == {5}
            for number in (2, 0):
                alone = self.generate_five(backend, [prompts[number]], temperature=temperature)[0]
                assert alone.token_ids.tolist() == together[number].token_ids.tolist()
        other = self.generate_five(backend, prompts, temperature=1.5, seed=1)
        assert [text.token_ids.tolist() for text in other] != [text.token_ids.tolist() for text in together]

    def test_generation_ends_at_stop_token_or_max_tokens(self, backend: Backend, prompts: list[IntArray]) -> None:
        """A reader must know whether a sentence is whole; and no text holds the token that ended it."""
        whole = [text.token_ids.tolist() for text in self.generate_five(backend, prompts)]
        for stops in ((0, whole[1][3]), (0, whole[1][3], whole[0][0])):
            for text, before in zip(self.generate_five(backend, prompts, stop_token_ids=stops), whole, strict=True):
                place = min((before.index(stop) for stop in stops if stop in before), default=None)
                assert text.token_ids.tolist() == before[:place]
                assert text.stopped == (place is not None or len(before) < 5)

    def test_generation_without_context_or_time_raises(self, backend: Backend, prompts: list[IntArray]) -> None:
        """Half of an answer, or one that runs beyond the context, looks like an answer."""
        most = backend.context_length - len(prompts[0])
        for wrong in (0, most + 1):
            with pytest.raises(EngineError, match=f"prompt 0 has 5 tokens, max_tokens is {wrong}, and"):
                backend.generate([GenerationRequest(prompts[0], (0,), wrong)])
        late = Deadline(1.0, lambda: 2.0)
        with pytest.raises(DeadlineExceededError):
            backend.generate([GenerationRequest(prompts[0], (0,), 5)], deadline=late)
        assert backend.generate([]) == []

    def test_streamed_tokens_equal_the_text(self, backend: Backend, prompts: list[IntArray]) -> None:
        """A reader who follows must have read what stands there in the end, and no token that ended it."""
        stop = int(self.generate_five(backend, prompts)[1].token_ids[3])
        requests = [GenerationRequest(own, (0, stop), 5) for own in prompts]
        told: dict[int, list[list[int]]] = {}
        texts = backend.generate(requests, on_tokens=lambda number, new: told.setdefault(number, []).append(list(new)))
        for number, text in enumerate(texts):
            pieces = told.get(number, [])
            assert [token for piece in pieces for token in piece] == text.token_ids.tolist()
            assert len(pieces) > len(text.token_ids) / 2  # as they come, not in the end

        def refuse(number: int, new: Sequence[int]) -> None:
            raise KeyError(number)

        with pytest.raises((KeyError, EngineError)):
            backend.generate(requests[:1], on_tokens=refuse)
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
        """Five tokens behind each prompt, unless something stops them."""
        return backend.generate([GenerationRequest(own, stop_token_ids, 5, temperature, seed) for own in prompts])

    def test_arguments_are_not_modified(self, backend: Backend, prompts: list[IntArray]) -> None:
        """Prompts are kept and opened again."""
        parents, tokens, _ = random_tree(backend, prompts)
        arrays = [*prompts, np.array(parents), np.array(tokens)]
        copies = [array.copy() for array in arrays]
        backend.open(prompts).grow(arrays[-2], arrays[-1])
        assert all((array == was).all() for array, was in zip(arrays, copies, strict=True))

    def test_parent_must_exist_before_its_child(self, backend: Backend, prompts: list[IntArray]) -> None:
        """A node that is its own ancestor, or nobody's, has no meaning."""
        tree = backend.open(prompts)
        for parents in ([3], [0, 9], [-1], [4, 0]):
            with pytest.raises(InputError, match="parent"):
                tree.grow(np.array(parents), np.zeros(len(parents), dtype=np.int64))
        assert tree.size == len(prompts)

    def test_context_overflow_raises(self, backend: Backend) -> None:
        """Beyond it a model answers nonsense without a word; the ladder needs an EngineError to step down."""
        short: Any = copy.copy(backend)
        short.context_length = 6
        for size in (0, 6, 7):
            with pytest.raises(EngineError, match=f"prompt 1 has {size} tokens.* takes 1 to 5"):
                short.open([np.array([1]), np.ones(size, dtype=np.int64)])
        # No run of a model's first tokens, which are control tokens: behind six of SmolLM2's float32 is 1e-3 off.
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

    def assert_close(self, found: FloatArray, expected: FloatArray) -> None:
        np.testing.assert_allclose(found, expected, atol=self.atol, rtol=0)


def random_tree(backend: Backend, prompts: list[IntArray]) -> tuple[list[int], list[int], list[IntArray]]:
    """A bushy tree over the prompts: parents and tokens in one call's order, and every node's whole path."""
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
    """What every node says of some tokens, or of the given ones: [size, tokens]."""
    asked = np.linspace(0, backend.vocab_size - 1, 25).astype(np.int64) if tokens is None else tokens
    offsets = np.arange(tree.size + 1) * len(asked)
    return tree.log_probs(np.arange(tree.size), np.tile(asked, tree.size), offsets).reshape(tree.size, len(asked))
