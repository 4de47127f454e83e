"""Every backend keeps the contract; see contracts.py."""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_contract import BackendContract, read_log_probs
from contracts import defines, has_base, subjects

import genrec
from genrec.backends.base import Backend
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

    def test_it_fails_when_it_is_told_to(self) -> None:
        """The ladder is tested with it."""
        with pytest.raises(EngineError, match="created with fails=True"):
            TableBackend(10, fails=True).open([np.array([1])])


@pytest.mark.model
class TestTransformersBackend(BackendContract):
    subject = "TransformersBackend"
    # In float64, where a mistake cannot pass for rounding; Llama's norms and rotations stay in float32.
    atol = 5e-5

    @pytest.fixture
    def backend(self, smollm2_float64: Backend) -> Backend:
        return smollm2_float64

    def tree_bytes(self, tree: Any) -> int:
        kept = [*tree._hidden, *(part for layer in tree._cache.layers for part in (layer.keys, layer.values))]
        return sum(part.nbytes for part in kept)

    def test_a_cache_has_a_quarter_of_room_to_spare_and_no_more(self, backend: Backend) -> None:
        """Room is what spares a step the copy of all before it; room without bound is memory that nobody counted."""
        tree: Any = backend.open([np.arange(30), np.arange(30)])
        moves, where = 0, 0
        for step in range(1, 41):
            tree.grow(np.array([0, 1, 1]), np.array([5, 5, 6]))
            for layer in tree._cache.layers:
                for held, room in zip((layer.keys, layer.values), layer._buffers, strict=True):
                    assert held.shape[-2] == 30 + 2 * step <= room.shape[-2] <= 1.25 * held.shape[-2]
                    assert held.data_ptr() == room.data_ptr()
            moves += where != held.data_ptr()
            where = held.data_ptr()
        assert moves < 10

    def test_attention_that_copies_nothing_says_what_the_copying_one_says(
        self, backend: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It stands in for the library's own, which every other check of the model has been made with."""
        import torch

        answers = []
        for name in (backend.model.config._attn_implementation, "sdpa"):
            monkeypatch.setattr(backend.model.config, "_attn_implementation", name)
            monkeypatch.setattr(backend, "_supports_packing", name != "sdpa")
            tree = backend.open([np.arange(30), np.arange(5)])
            tree.grow(np.array([0, 1, 2, 2]), np.array([5, 6, 7, 8]))
            plain = backend.model(input_ids=torch.arange(9)[None]).logits.detach().numpy()
            answers.append((read_log_probs(backend, tree), plain))
        assert backend.model.config._attn_implementation == "sdpa"
        for found, expected in zip(*answers, strict=True):
            self.assert_close(found, expected)

    def test_layers_compute_what_is_read_and_no_padding(self, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A batch is as uneven as its people: padded to the longest, most of the work can be for nobody."""
        assert backend._supports_packing
        prompts, parents = [np.arange(50), np.arange(3), np.arange(9)], np.array([1, 1, 1, 1, 0, 5])
        widths, answers = [], []
        layer = backend.model.base_model.layers[0].mlp
        hook = layer.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[:2].numel()))
        try:
            for packs in (True, False):
                monkeypatch.setattr(backend, "_supports_packing", packs)
                tree = backend.open(prompts)
                tree.grow(parents, np.arange(6))
                answers.append(read_log_probs(backend, tree))
        finally:
            hook.remove()
        assert widths == [62, 6, 3 * 50, 3 * 5]
        self.assert_close(*answers)

    def test_a_shared_head_is_computed_once(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        """A batch of people under one template would pay for its words as often as there are people."""
        computed: list[int] = []
        hidden_states = backend.hidden_states  # type: ignore[attr-defined]

        def counted(token_ids: Any, *rest: Any) -> Any:
            computed.append(len(token_ids))
            return hidden_states(token_ids, *rest)

        monkeypatch.setattr(backend, "hidden_states", counted)
        head = np.arange(40)
        for prompts, expected in [
            ([np.append(head, [u, u]) for u in range(8)], [40, 8 * 2]),
            ([head] * 3, [39, 3]),
            ([head, np.append(head, [5, 6])] * 2, [39, 2 * (1 + 3)]),
            ([head, head + 1], [2 * 40]),
            ([head], [40]),
        ]:
            computed.clear()
            backend.open(prompts)
            assert computed == expected

    def test_a_pass_that_fails_half_way_leaves_the_tree_as_it_was(self, backend: Any) -> None:
        """Half of the layers would hold tokens that the others do not know, and every later answer be wrong."""
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

    def test_damaged_weights_are_refused_by_name(self, smollm2: Path, tmp_path: Path) -> None:
        """Whoever copied half of a model must read that, and no traceback of the library that reads it."""
        from genrec.backends.transformers import TransformersBackend

        for name in ("config.json", "model.safetensors"):
            (tmp_path / name).write_bytes((smollm2 / name).read_bytes()[:5000])
        with pytest.raises(ModelMissingError, match=f"cannot load the model '{tmp_path.name}'"):
            TransformersBackend(tmp_path, device="cpu")

    def test_a_failure_behind_the_last_layer_is_one_the_ladder_knows(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The logits take the most memory of all; running out of it there must not end the request."""
        tree = backend.open([np.array([1, 2])])

        def exhausted(*_: object, **__: object) -> None:
            raise RuntimeError("out of memory")

        monkeypatch.setattr("torch.Tensor.log_softmax", exhausted)
        with pytest.raises(EngineError, match="failed on the logits of 1 nodes: out of memory"):
            tree.log_probs(np.array([0]), np.array([3]), np.array([0, 1]))


def tiny(config: Any, folder: Path) -> Any:
    """A model with random weights, as a backend in float32."""
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


@pytest.mark.model
def test_a_sliding_window_bounds_the_context(tmp_path: Path) -> None:
    """Beyond its window such a model forgets, which a tree of tokens cannot show: its answers would be another's."""
    import torch
    from transformers import MistralConfig

    backend = tiny(MistralConfig(**SMALL, sliding_window=12), tmp_path)
    assert backend.context_length == 12
    assert backend._supports_packing
    with pytest.raises(EngineError, match="prompt 0 has 12 tokens"):
        backend.open([np.arange(12)])
    prompts, grown = [np.arange(9), np.arange(30, 33), np.arange(7)], [(0, 5), (1, 6), (1, 7), (4, 8), (3, 9)]
    tree = backend.open(prompts)
    for parent, token in grown:
        tree.grow(np.array([parent]), np.array([token]))
    paths = list(prompts)
    for parent, token in grown:
        paths.append(np.append(paths[parent], token))
    for path, own in zip(paths, read_log_probs(backend, tree, np.arange(99)), strict=True):
        with torch.no_grad():
            expected = backend.model(torch.from_numpy(path)[None]).logits[0, -1].log_softmax(dim=-1).numpy()
        np.testing.assert_allclose(own, expected, atol=1e-4)


@pytest.mark.model
def test_attention_that_needs_more_than_a_mask_is_refused(tmp_path: Path) -> None:
    """Left out, attention sinks change every score, and nothing says so."""
    import torch
    from transformers import GptOssConfig

    from genrec.backends.attention import _packed_attention

    with pytest.raises(ModelMissingError, match="cannot load the model"):
        tiny(GptOssConfig(**SMALL, num_local_experts=2, num_experts_per_tok=1), tmp_path)
    states = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="Linear uses the attention options s_aux"):
        _packed_attention(torch.nn.Linear(1, 1).eval(), states, states, states, None, s_aux=states)


@pytest.mark.model
def test_a_model_that_remembers_by_a_state_is_refused(tmp_path: Path) -> None:
    """A state that every token changes cannot branch: each node would read its siblings."""
    from transformers import Qwen3NextConfig

    config = Qwen3NextConfig(**SMALL, layer_types=["linear_attention", "full_attention"], num_experts=2)
    with pytest.raises(EngineError, match=r"layer 0 keeps a .*use a model of attention layers only"):
        tiny(config, tmp_path)


@pytest.mark.parametrize("seed", range(20))
def test_a_growing_cache_holds_what_the_library_s_own_holds(seed: int) -> None:
    """Whatever is done to a cache between two steps: tokens written into a room it has left are read as another's."""
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
def test_in_bfloat16_no_log_probability_is_above_zero(smollm2: Path) -> None:
    """The search stops early because scores only fall along a path; one step upwards, and a proof is wrong."""
    import torch

    from genrec.backends.transformers import TransformersBackend

    tree = TransformersBackend(smollm2, device="cpu", dtype=torch.bfloat16).open([np.arange(20, 60)])
    random = np.random.default_rng(0)
    nodes, likely = np.array([0]), np.arange(20, 2000)
    for _ in range(30):  # follow what the model likes best: there the probabilities are near 1
        steps = tree.log_probs(nodes, likely, np.array([0, len(likely)]))
        assert (steps <= 0).all()
        nodes = tree.grow(nodes, likely[[int(np.argmax(steps + 1e-3 * random.random(len(steps))))]])


def test_every_backend_has_its_contract() -> None:
    """A backend that nobody held to the law will break it in production."""
    backends = {
        node.name
        for path in (*(HOME / "backends").glob("*.py"), HOME / "testing.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not has_base(node, "Protocol") and defines(node, "open")
    }
    assert backends == subjects("BackendContract")
