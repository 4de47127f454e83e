"""The backends that run in this process keep the contract, see backend_contract.py."""

import ast
import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_contract import BackendContract, read_log_probs
from contracts import defines, has_base, subjects

import genrec
from genrec.backends.base import Backend, GenerationRequest
from genrec.errors import EngineError, ModelMissingError
from genrec.testing import TableBackend

HOME = Path(genrec.__file__).parent


class TestTableBackend(BackendContract):
    subject = "TableBackend"

    @pytest.fixture
    def backend(self) -> Backend:
        return TableBackend(97, seed=5)

    def tree_bytes(self, tree: Any) -> int:
        return int(tree._states.nbytes + tree._lengths.nbytes)

    def test_it_fails_on_request(self) -> None:
        """Tests of the fallback chain need it."""
        with pytest.raises(EngineError, match="created with fails=True"):
            TableBackend(10, fails=True).open([np.array([1])])


@pytest.mark.model
class TestTransformersBackend(BackendContract):
    subject = "TransformersBackend"
    # In float64, where mistakes are larger than rounding; the norms and rotations of Llama stay in float32.
    atol = 5e-5

    @pytest.fixture
    def backend(self, smollm2_float64: Backend) -> Backend:
        return smollm2_float64

    def with_context(self, backend: Any, length: int) -> Any:
        return with_context(backend, length)

    def tree_bytes(self, tree: Any) -> int:
        tensors = [*tree._hidden, *(part for layer in tree._cache.layers for part in (layer.keys, layer.values))]
        return sum(part.nbytes for part in tensors)

    def test_cache_reserves_at_most_a_quarter_of_its_size(self, backend: Backend) -> None:
        """Without reserve every step copies the cache; with more, memory exceeds its estimate."""
        tree: Any = backend.open([np.arange(30), np.arange(30)])
        moves, address = 0, 0
        for step in range(1, 41):
            tree.grow(np.array([0, 1, 1]), np.array([5, 5, 6]))
            for layer in tree._cache.layers:
                for tensor, buffer in zip((layer.keys, layer.values), layer._buffers, strict=True):
                    assert tensor.shape[-2] == 30 + 2 * step <= buffer.shape[-2] <= 1.25 * tensor.shape[-2]
                    assert tensor.data_ptr() == buffer.data_ptr()
            moves += address != tensor.data_ptr()
            address = tensor.data_ptr()
        assert moves < 10

    def test_packed_attention_equals_the_attention_of_transformers(
        self, backend: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It replaces the library's own attention, with which the model was evaluated."""
        import torch

        answers = []
        for name in (backend.model.config._attn_implementation, "sdpa"):
            monkeypatch.setattr(backend.model.config, "_attn_implementation", name)
            monkeypatch.setattr(backend.masked, "_supports_packing", name != "sdpa")
            tree = backend.open([np.arange(30), np.arange(5)])
            tree.grow(np.array([0, 1, 2, 2]), np.array([5, 6, 7, 8]))
            plain = backend.model(input_ids=torch.arange(9)[None]).logits.detach().numpy()
            answers.append((read_log_probs(backend, tree), plain))
        assert backend.model.config._attn_implementation == "sdpa"
        for found, expected in zip(*answers, strict=True):
            self.assert_close(found, expected)

    def test_layers_compute_no_padding(self, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Histories differ in length: with padding, most of the work could be wasted."""
        assert backend.masked._supports_packing
        prompts, parents = [np.arange(50), np.arange(3), np.arange(9)], np.array([1, 1, 1, 1, 0, 5])
        widths, answers = [], []
        layer = backend.model.base_model.layers[0].mlp
        hook = layer.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[:2].numel()))
        try:
            for packs in (True, False):
                monkeypatch.setattr(backend.masked, "_supports_packing", packs)
                tree = backend.open(prompts)
                tree.grow(parents, np.arange(6))
                answers.append(read_log_probs(backend, tree))
        finally:
            hook.remove()
        assert widths == [62, 6, 3 * 50, 3 * 5]
        self.assert_close(*answers)

    def test_a_shared_prefix_is_computed_once(self, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Otherwise a batch computes the text of its template once for each user."""
        computed: list[int] = []
        hidden_states = backend.masked.hidden_states

        def counted(batch: Any, *rest: Any) -> Any:
            computed.append(len(batch.token_ids))
            return hidden_states(batch, *rest)

        monkeypatch.setattr(backend.masked, "hidden_states", counted)
        prefix = np.arange(40)
        for prompts, expected in [
            ([np.append(prefix, [u, u]) for u in range(8)], [40, 8 * 2]),
            ([prefix] * 3, [39, 3]),
            ([prefix, np.append(prefix, [5, 6])] * 2, [39, 2 * (1 + 3)]),
            ([prefix, prefix + 1], [2 * 40]),
            ([prefix], [40]),
        ]:
            computed.clear()
            backend.open(prompts)
            assert computed == expected

    def test_a_failed_pass_leaves_the_tree_unchanged(self, backend: Any) -> None:
        """Otherwise some layers have tokens that others lack, and all later results are wrong."""
        prompts = [np.arange(9), np.arange(4)]
        tree, whole = backend.open(prompts), backend.open(prompts)
        layer = backend.model.base_model.layers[5]

        def exhausted(*_: object) -> None:
            raise RuntimeError("out of memory")

        hook = layer.register_forward_pre_hook(exhausted)
        try:
            with pytest.raises(EngineError, match="failed on 3 tokens of 2 prompts: out of memory"):
                tree.grow(np.array([0, 0, 1]), np.array([5, 6, 7]))
        finally:
            hook.remove()
        assert tree.size == 2
        for one in (tree, whole):
            one.grow(np.array([1, 0]), np.array([8, 9]))
        self.assert_close(read_log_probs(backend, tree), read_log_probs(backend, whole))

    def test_damaged_weights_are_rejected_with_the_model_name(self, smollm2: Path, tmp_path: Path) -> None:
        """A user with an incomplete download needs a clear error, not the traceback of a library."""
        from genrec.backends.transformers import TransformersBackend

        for name in ("config.json", "model.safetensors"):
            (tmp_path / name).write_bytes((smollm2 / name).read_bytes()[:5000])
        with pytest.raises(ModelMissingError, match=f"cannot load the model '{tmp_path.name}'"):
            TransformersBackend(tmp_path, device="cpu")

    def test_failures_after_the_last_layer_raise_engine_errors(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The logits need the most memory; running out of it there must trigger the fallback."""
        assert_exhausted_logits_are_an_engine_error(backend, monkeypatch, "1 nodes")


def assert_exhausted_logits_are_an_engine_error(backend: Backend, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Let memory run out behind the last layer, and check the error, which says for what the logits were."""
    tree = backend.open([np.array([1, 2])])

    def exhausted(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("torch.Tensor.log_softmax", exhausted)
    with pytest.raises(EngineError, match=f"failed on the logits of {what}: out of memory"):
        tree.log_probs(np.array([0]), np.array([3]), np.array([0, 1]))


def tiny(config: Any, folder: Path) -> Any:
    """A backend in float32 for a model with random weights."""
    import torch
    from transformers import AutoModelForCausalLM

    from genrec.backends.transformers import TransformersBackend

    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return TransformersBackend(folder, device="cpu", dtype=torch.float32)


SMALL: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16,
}  # fmt: skip


def assert_paths_are_exact(backend: Any, prompts: list[np.ndarray], grown: list[tuple[int, int]]) -> None:
    """Compare the log-probabilities at all nodes of a tree with those of the model itself, run on each path alone."""
    import torch

    tree = backend.open(prompts)
    paths = list(prompts)
    for parent, token in grown:
        tree.grow(np.array([parent]), np.array([token]))
        paths.append(np.append(paths[parent], token))
    for path, own in zip(paths, read_log_probs(backend, tree, np.arange(backend.vocab_size)), strict=True):
        with torch.no_grad():
            expected = backend.model(torch.from_numpy(path)[None]).logits[0, -1].log_softmax(dim=-1).numpy()
        np.testing.assert_allclose(own, expected, atol=1e-4)


def with_context(backend: Any, length: int) -> Any:
    """A copy of a backend with another context."""
    short = copy.copy(backend)
    short.context_length = length
    for part in ("plain", "masked"):
        if getattr(short, part) is not None:
            setattr(short, part, copy.copy(getattr(short, part)))
            getattr(short, part).context_length = length
    return short


PROMPTS = [np.arange(9), np.arange(30, 33), np.arange(7)]
GROWN = [(0, 5), (1, 6), (1, 7), (4, 8), (3, 9)]


@pytest.mark.model
def test_a_path_may_be_longer_than_a_sliding_window(tmp_path: Path) -> None:
    """A token tree in one sequence cannot drop the tokens that leave the window; it must not be used there."""
    from transformers import MistralConfig

    for window, uses_mask in ((150, True), (12, False)):
        backend = tiny(MistralConfig(**SMALL, sliding_window=window), tmp_path / str(window))
        assert backend.masked.context_length == window
        assert backend.masked._supports_packing
        assert (type(backend.open(PROMPTS)).__name__ == "WindowedTree") == uses_mask
        assert_paths_are_exact(backend, PROMPTS, GROWN)
        assert_paths_are_exact(backend, [np.arange(40) % 30], GROWN[:1])


@pytest.mark.model
@pytest.mark.parametrize("step", [1, 50, 145])
def test_a_path_may_outgrow_a_sliding_window(step: int, tmp_path: Path) -> None:
    """One long title would fail every list of its catalog, although the model ranks it."""
    from transformers import MistralConfig

    window, length = 150, 145
    backend = tiny(MistralConfig(**SMALL, sliding_window=window), tmp_path)
    prompts = [np.arange(5, 17), np.arange(8)]
    title = np.arange(length) * 7 % 30
    tree = backend.open(prompts)
    tree.grow(np.array([0, 1, 2]), np.array([3, 4, 5]))  # another path, which is removed in part
    tree.rewind(4)
    last = np.array([1])
    for start in range(0, length, step):
        own = title[start : start + step]
        nodes = tree.grow(np.append(last, np.arange(tree.size, tree.size + len(own) - 1)), own)
        last = nodes[-1:]
    assert not tree.fits_window
    tokens = np.arange(backend.vocab_size)
    for node, path in ((1, prompts[1]), (3, [*prompts[1], 4]), (int(last[0]), [*prompts[1], *title])):
        expected = backend.plain.open([np.array(path)])
        offsets = np.array([0, len(tokens)])
        np.testing.assert_allclose(
            tree.log_probs(np.array([node]), tokens, offsets),
            expected.log_probs(np.array([0]), tokens, offsets),
            atol=1e-4,
        )


@pytest.mark.model
def test_attention_options_are_not_ignored(tmp_path: Path) -> None:
    """Ignoring attention sinks would silently change every score."""
    import torch
    from transformers import GptOssConfig

    from genrec.backends.attention import _packed_attention

    states = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="Linear uses the attention options s_aux"):
        _packed_attention(torch.nn.Linear(1, 1).eval(), states, states, states, None, s_aux=states)
    backend = tiny(GptOssConfig(**SMALL, num_local_experts=2, num_experts_per_tok=1), tmp_path)
    assert backend.tree == "masked"
    assert_paths_are_exact(backend, PROMPTS, GROWN)


@pytest.mark.model
def test_a_model_that_ignores_masks_keeps_its_own_attention() -> None:
    """The paths of a model without a masked tree would otherwise be computed with the slowest attention."""
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

    from genrec.backends.masked_model import MaskedModel
    from genrec.backends.plain_tree import PlainModel

    class BlindModel(LlamaModel):
        def forward(self, *arguments: Any, attention_mask: object = None, **options: Any) -> Any:
            return super().forward(*arguments, **options)

    model = LlamaForCausalLM(LlamaConfig(**SMALL)).eval()
    model.model = BlindModel(model.config).eval()
    own_attention = model.config._attn_implementation
    assert own_attention not in ("eager", "genrec_packed")
    with pytest.raises(EngineError, match="in a tree that differ"):
        MaskedModel(PlainModel(model, "blind"))
    assert model.config._attn_implementation == own_attention


@pytest.mark.model
def test_the_state_of_a_prompt_is_kept_whatever_the_rounding(smollm2_float32: Any, smollm2_float64: Any) -> None:
    """If a trial takes rounding for an error, every title costs a prompt: nine times the time, and nobody is told.

    SmolLM2 rounds most behind the first ids of its vocabulary, which are control tokens.
    """
    for backend in (smollm2_float32, smollm2_float64):
        assert backend.plain.copies_state
        assert not backend.plain._continues_stepwise


def recurrent(folder: Path) -> Any:
    from transformers import Lfm2Config

    return tiny(Lfm2Config(**SMALL, layer_types=["conv", "full_attention"], initializer_range=0.2), folder)


@pytest.fixture(scope="module")
def recurrent_backend(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return recurrent(tmp_path_factory.mktemp("recurrent"))


@pytest.mark.model
class TestPlainTree(BackendContract):
    """A recurrent state cannot branch within a sequence, so these models are computed path by path."""

    subject = "TransformersBackend"
    atol = 1e-4

    @pytest.fixture
    def backend(self, recurrent_backend: Backend) -> Backend:
        return recurrent_backend

    def with_context(self, backend: Any, length: int) -> Any:
        return with_context(backend, length)

    def tree_bytes(self, tree: Any) -> int:
        from genrec.backends.plain_tree import state_bytes

        arrays = tree._parent.nbytes + tree._token.nbytes + tree._prompt.nbytes + tree._length.nbytes
        return int(arrays) + sum(state_bytes(tree._paths._state(prompt)) for prompt in range(tree._num_prompts))

    def test_scores_equal_those_of_the_model(self, backend: Any) -> None:
        """The contract compares a tree with itself; this compares it with the model."""
        assert backend.tree == "paths"
        assert_paths_are_exact(backend, PROMPTS, GROWN)

    def test_a_prompt_is_computed_once(self, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a copied state every title would cost a prompt."""
        assert backend.plain.copies_state
        computed: list[tuple[int, int]] = []
        run = backend.plain.run

        def counted(token_ids: np.ndarray, state: object, **options: bool) -> object:
            computed.append(token_ids.shape)
            return run(token_ids, state, **options)

        monkeypatch.setattr(backend.plain, "run", counted)
        tree = backend.open([np.arange(20)])
        nodes = tree.grow(np.array([0, 0, 1, 2]), np.array([3, 4, 5, 6]))
        # Two chains of single queries: each is one row, whatever the number of nodes on it; a last token is only read.
        tree.log_probs(np.array([0, nodes[0], nodes[1]]), np.array([3, 5, 6]), np.arange(4))
        assert computed == [(1, 20), (2, 1)]
        # Two queries at the end of the prompt and at the first node: both are read from rows that are computed anyway.
        asked = np.array([0, nodes[0], nodes[2]])
        tree.log_probs(asked, np.array([3, 4, 5, 6, 7, 8]), np.array([0, 2, 4, 6]))
        assert computed[2:] == [(1, 2)]
        # Rows of one token and of sixty: padding to the longest would compute twenty times as many tokens.
        chain = 0
        for token in range(60):
            chain = int(tree.grow(np.array([chain]), np.array([token]))[0])
        short = tree.grow(np.zeros(30, dtype=np.int64), np.arange(30, 60))
        tree.log_probs(np.append(short, chain), np.tile([1, 2], 31), np.arange(32) * 2)
        assert computed[3:] == [(30, 1), (1, 60)]

    def test_a_failed_pass_is_not_continued(self, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A pass that fails has changed the state of some layers already; what continues it would be wrong."""
        tree, whole = backend.open([np.arange(20)]), backend.open([np.arange(20)])
        tree.logits(np.array([0]))
        run = backend.plain.run

        def exhausted(*args: object, **options: bool) -> None:
            run(*args, **options)
            raise EngineError("out of memory")

        for one in (tree, whole):
            one.grow(np.array([0]), np.array([3]))
        with monkeypatch.context() as patched:
            patched.setattr(backend.plain, "run", exhausted)
            with pytest.raises(EngineError):
                tree.logits(np.array([1]))
        np.testing.assert_allclose(tree.logits(np.array([1])), whole.logits(np.array([1])), atol=1e-4)

    def test_failures_after_the_last_layer_raise_engine_errors(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The logits need the most memory; running out of it there must trigger the fallback."""
        assert_exhausted_logits_are_an_engine_error(backend, monkeypatch, "1 paths")

    def test_tensors_are_made_on_the_device_of_the_model(self, backend: Backend) -> None:
        """On a GPU, a tensor of the default device would meet those of the model, and every list would fail."""
        import torch

        expected = read_log_probs(backend, backend.open(PROMPTS))
        with torch.device("meta"):  # stands for any device that is not the model's
            found = read_log_probs(backend, backend.open(PROMPTS))
        self.assert_close(found, expected)

    def test_a_text_continues_its_own_state(self, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Otherwise a text of n tokens costs n passes over the whole text."""
        widths: list[int] = []
        run = backend.plain.run

        def counted(token_ids: np.ndarray, state: object, **options: bool) -> object:
            widths.append(token_ids.shape[1])
            return run(token_ids, state, **options)

        monkeypatch.setattr(backend.plain, "run", counted)
        backend.generate([GenerationRequest(np.arange(20), (0,), 6)])
        assert widths == [20, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("seed", range(20))
def test_growing_cache_equals_the_cache_of_transformers(seed: int) -> None:
    """After any operation between two steps, the cache must not read tokens from a stale buffer."""
    import torch
    from transformers.cache_utils import DynamicLayer

    from genrec.backends.growing_cache import GrowingLayer

    random, torch_random = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    layers, batch = (GrowingLayer(), DynamicLayer()), 3
    for _ in range(40):
        new = torch.rand((batch, 2, int(random.integers(1, 4)), 4), generator=torch_random)
        (keys, values), expected = (layer.update(new, -new) for layer in layers)
        torch.testing.assert_close((keys, values), expected, rtol=0, atol=0)
        for change in random.permutation(["reorder", "select", "first", "crop", "reset", "nothing"])[:2]:
            order = torch.from_numpy(random.permutation(batch))
            batch = {"select": 3, "first": 1}.get(change, batch)
            for layer in layers:
                if change == "reorder":
                    layer.reorder_cache(order)
                elif change == "select":
                    layer.batch_select_indices(order[torch.arange(3) % len(order)])
                elif change == "first":
                    layer.batch_select_indices(slice(0, 1))
                elif change == "crop" and layer.get_seq_length() > 1:
                    layer.crop(-1)
                elif change == "reset":
                    layer.reset()
                if layer.get_seq_length() == 0:
                    layer.reset()


@pytest.mark.model
def test_log_probs_in_bfloat16_are_at_most_zero(smollm2: Path) -> None:
    """The search's proofs rely on scores that never rise along a path."""
    import torch

    from genrec.backends.transformers import TransformersBackend

    tree = TransformersBackend(smollm2, device="cpu", dtype=torch.bfloat16).open([np.arange(20, 60)])
    random = np.random.default_rng(0)
    nodes, likely = np.array([0]), np.arange(20, 2000)
    for _ in range(30):  # follow the most likely tokens, whose probabilities are near 1
        steps = tree.log_probs(nodes, likely, np.array([0, len(likely)]))
        assert (steps <= 0).all()
        nodes = tree.grow(nodes, likely[[int(np.argmax(steps + 1e-3 * random.random(len(steps))))]])


def test_every_backend_has_its_contract() -> None:
    """A backend without contract tests may break the contract in production."""
    backends = {
        node.name
        for path in (*(HOME / "backends").glob("*.py"), HOME / "testing.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and not has_base(node, "Protocol")
        and defines(node, "open")
        and defines(node, "generate")
    }
    assert backends == subjects("BackendContract")
