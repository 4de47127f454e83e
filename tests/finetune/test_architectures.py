"""Training of any architecture: no token reads another path, and what was trained is what is served.

The models are small and random, of the real classes; every kind of layer that a tree has to mind is among them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import save_byte_tokenizer
from transformers import PreTrainedModel

from finetune import model as training_model
from finetune.config import TrainConfig
from finetune.forward import TreeLayout, compute_log_probs, count_tokens, pack_examples
from finetune.model import check_checkpoint, find_layout, open_model
from finetune.train import build_renderers, train
from genrec import CatalogIndex, TitleIdentifiers
from genrec.backends.context_length import UNLIMITED_CONTEXT
from genrec.backends.transformers import TransformersBackend
from genrec.errors import InputError, MismatchError, ModelMissingError
from genrec.evaluation.model_check import example_catalog
from genrec.index.training_examples import TrainingExample
from genrec.prompting.tokenizer import HuggingFaceTokenizer

VOCABULARY = 300
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LINEAR = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
HEADS = {**SIZES, "head_dim": 8}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    # name: the layout that is expected, the architecture, the options of its configuration
    "dense": ("packed", "Llama", SIZES),
    "experts": ("packed", "Qwen3Moe", {**HEADS, **EXPERTS}),
    "dense and experts": (
        "packed",
        "Glm4Moe",
        {
            **HEADS,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
        },
    ),
    "soft caps and windows": ("padded", "Gemma2", {**HEADS, "sliding_window": 16, "query_pre_attn_scalar": 8}),
    "sinks": (
        "padded",
        "GptOss",
        {**HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16},
    ),
    "recurrent and attention": (
        "paths",
        "Qwen3Next",
        {**HEADS, **EXPERTS, **LINEAR, "shared_expert_intermediate_size": 16},
    ),
    "convolutions": ("paths", "Lfm2", {**SIZES, "layer_types": ["conv", "full_attention", "conv", "full_attention"]}),
    "recurrent": (
        "paths",
        "Mamba",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    ),
    "linear biases": ("paths", "Bloom", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
}


def tiny(name: str) -> PreTrainedModel:
    """A random model in float32, whose logits have a standard deviation of 3."""
    _, architecture, options = FAMILIES[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture}Config")(**options)
    return widen(getattr(transformers, f"{architecture}ForCausalLM")(config))


def tiny_multimodal() -> PreTrainedModel:
    torch.manual_seed(0)
    text = {**HEADS, "sliding_window": 16, "query_pre_attn_scalar": 8}
    config = transformers.Gemma3Config(text_config=text, vision_config=VISION)
    return widen(transformers.Gemma3ForConditionalGeneration(config))


def widen(model: Any) -> PreTrainedModel:
    """Give the logits a standard deviation of 3, because the log-probabilities of flat ones always agree."""
    model = model.float().eval()
    with torch.inference_mode():
        spread = model(input_ids=torch.arange(1, 40)[None]).logits.std()
        model.get_output_embeddings().weight.mul_(3 / spread)
    return model  # type: ignore[no-any-return]


def tree(prompt: list[int], items: list[list[int]]) -> TrainingExample:
    """A tree with one target; `items` share no first token, but tokens behind it."""
    tokens, parents, positions, item_tokens, token_items = [*prompt], [*range(-1, len(prompt) - 1)], [], [], []
    positions = list(range(len(prompt)))
    for number, item in enumerate(items):
        parent = len(prompt) - 1
        for depth, token in enumerate(item):
            item_tokens.append(len(tokens))
            token_items.append(number)
            parents.append(parent)
            positions.append(len(prompt) + depth)
            parent = len(tokens)
            tokens.append(token)
    none = np.empty(0, dtype=np.int64)
    return TrainingExample(
        token_ids=np.array(tokens),
        parents=np.array(parents),
        positions=np.array(positions),
        item_indices=np.arange(len(items)),
        item_targets=np.zeros(len(items), dtype=np.int64),
        item_tokens=np.array(item_tokens),
        token_items=np.array(token_items),
        branch_points=none,
        branch_offsets=np.zeros(1, dtype=np.int64),
        branch_tokens=none,
    )


PROMPTS = ([5, 6, 7], [*range(30, 43)])
ITEMS = [[8, 9, 10], [11], [12, 9, 10, 13]]
TREES = [tree(prompt, ITEMS) for prompt in PROMPTS]


def separate_log_probs(model: Any) -> torch.Tensor:
    """The log-probabilities of the items' tokens in `TREES`, by one pass for each prompt and item."""
    result = []
    for prompt in PROMPTS:
        for item in ITEMS:
            log_probs = model(input_ids=torch.tensor([[*prompt, *item]]), use_cache=False).logits[0].log_softmax(-1)
            result.append(log_probs[len(prompt) - 1 : -1].gather(1, torch.tensor(item)[:, None])[:, 0])
    return torch.cat(result)


def gradients(model: Any, log_probs: torch.Tensor) -> torch.Tensor:
    """The gradient of a loss in which every token has another weight."""
    model.zero_grad()
    (log_probs * torch.arange(1, len(log_probs) + 1)).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_and_gradients_in_training_are_those_of_each_path_alone(name: str) -> None:
    """A layer that ignores the mask of a tree trains every title on the titles beside it, without an error."""
    model = tiny(name)
    layout = find_layout(model)
    assert layout.kind == FAMILIES[name][0]
    log_probs = compute_log_probs(model, pack_examples(TREES, [True, True], layout)).item_tokens
    expected = separate_log_probs(model)
    np.testing.assert_allclose(log_probs.detach().numpy(), expected.detach().numpy(), atol=1e-4)
    expected_gradients = gradients(model, expected)
    difference = (gradients(model, log_probs) - expected_gradients).abs().max()
    assert float(difference) < 1e-4 * float(expected_gradients.abs().max())


@pytest.mark.parametrize("build", [lambda: tiny("soft caps and windows"), tiny_multimodal], ids=["text", "multimodal"])
def test_a_path_longer_than_the_sliding_window_is_trained_as_the_model_computes_it(
    build: Callable[[], PreTrainedModel],
) -> None:
    """Under the mask of a tree, a layer would see further back than it does when the model is served."""
    model = build()
    layout = find_layout(model)
    assert layout.max_path_length == 16
    prompt = [*range(50, 70)]
    for trees in ([tree(prompt, ITEMS)], [TREES[0], tree(prompt, ITEMS)]):
        packed = pack_examples(trees, [True] * len(trees), layout)
        assert "visible" not in packed
        found = compute_log_probs(model, packed).item_tokens[-sum(map(len, ITEMS)) :]
        expected = []
        for item in ITEMS:
            log_probs = model(input_ids=torch.tensor([[*prompt, *item]])).logits[0].log_softmax(-1)
            expected.append(log_probs[len(prompt) - 1 : -1].gather(1, torch.tensor(item)[:, None])[:, 0])
        np.testing.assert_allclose(found.detach().numpy(), torch.cat(expected).detach().numpy(), atol=1e-4)


def test_training_counts_the_tokens_of_its_trees_in_every_layout() -> None:
    """The model card states them; a count of padding, or of one row only, compares runs by another measure."""
    layouts: tuple[TreeLayout, ...] = (TreeLayout("packed"), TreeLayout("padded"), TreeLayout("paths"))
    expected = sum(len(one.token_ids) for one in TREES)
    assert [count_tokens(pack_examples(TREES, [True, True], layout)) for layout in layouts] == [expected] * 3


@pytest.mark.parametrize(("name", "context"), [("dense", 512), ("recurrent", UNLIMITED_CONTEXT)])
def test_prompts_fit_the_context_that_the_model_states(name: str, context: int, tmp_path: Path) -> None:
    """Architectures name their context otherwise, and recurrent ones have none; neither may end the training."""
    tokenizer = HuggingFaceTokenizer.from_directory(save_byte_tokenizer(tmp_path / "tokenizer"))
    index = CatalogIndex.build(example_catalog(), TitleIdentifiers(), tokenizer)
    renderers = build_renderers(config(tmp_path), tokenizer, index, tiny(name))
    assert {one.max_prompt_tokens for one in renderers.values()} == {context - index.trie.max_length}


def test_a_model_without_a_mask_never_gets_one() -> None:
    """A tree in one sequence gives a recurrent model the tokens of other paths, which must not pass the comparison."""
    model = tiny("recurrent and attention")
    with torch.inference_mode():
        leaked = compute_log_probs(model, pack_examples(TREES, [True, True], TreeLayout("padded"))).item_tokens
        assert float((leaked - separate_log_probs(model)).abs().max()) > 0.1


def config(folder: Path, **options: Any) -> TrainConfig:
    return TrainConfig(data="games", protocol="candidates", steps=1, model=str(folder), rank=4, **options)


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in float32, where differences are not hidden by rounding."""
    monkeypatch.setattr(training_model, "native_dtype", lambda _: torch.float32)


@pytest.mark.usefixtures("in_float32")
@pytest.mark.parametrize("name", [*FAMILIES, "multimodal"])
def test_a_trained_adapter_is_the_served_model(name: str, tmp_path: Path) -> None:
    """If LoRA sits on a layer that training does not call, or that files name otherwise, another model is served."""
    base = tmp_path / "base"
    (tiny_multimodal() if name == "multimodal" else tiny(name)).save_pretrained(base)
    model, _ = open_model(config(base), base)
    untrained = separate_log_probs(model.eval()).detach()
    torch.manual_seed(1)
    for parameter in (own for key, own in model.named_parameters() if "lora_B" in key):
        torch.nn.init.normal_(parameter, std=0.1)
    trained = separate_log_probs(model).detach()
    assert float((trained - untrained).abs().max()) > 0.1
    assert not [key for key, _ in model.named_parameters() if "lora" in key and "vision" in key]
    model.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    served = TransformersBackend(base, adapter=tmp_path / "adapter", device="cpu", dtype=torch.float32)
    np.testing.assert_allclose(separate_log_probs(served.model).numpy(), trained.numpy(), atol=1e-4)


@pytest.mark.usefixtures("in_float32")
def test_layers_that_cannot_be_trained_are_refused_before_the_first_step(tmp_path: Path) -> None:
    """Otherwise hours of training end in an adapter that has no effect, or that no engine loads."""
    for name, modules, message in (
        (
            "dense",
            ("nothing",),
            r"target_modules is \['nothing'\], which PEFT cannot change in .*set target_modules to",
        ),
        ("experts", ("gate_proj", "up_proj", "down_proj"), r"not supported on .*experts"),
        ("recurrent", ("dt_proj",), r"not supported on .*dt_proj"),
        ("dense", ("lm_head",), r"not supported on lm_head"),
    ):
        base = tmp_path / name
        tiny(name).save_pretrained(base)
        with pytest.raises(InputError, match=message):
            open_model(config(base, target_modules=modules), base)
    model, _ = open_model(config(tmp_path / "dense", target_modules=("q_proj", "v_proj")), tmp_path / "dense")
    assert {key.rpartition(".")[2] for key in model.targeted_module_names} == {"q_proj", "v_proj"}
    pattern = config(tmp_path / "dense", target_modules=r".*layers\.[01]\.mlp\.up_proj")
    model, _ = open_model(pattern, tmp_path / "dense")
    assert len(model.targeted_module_names) == 2


def test_a_run_that_is_refused_measures_no_prior_and_leaves_its_folder_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prior takes hours; and with the mistake mended, a folder that holds the refused run would be refused, too."""
    monkeypatch.setenv("GENREC_CACHE", str(tmp_path / "cache"))
    base = save_byte_tokenizer(tmp_path / "base")
    tiny("dense").save_pretrained(base)
    wrong = TrainConfig(
        data="online-retail", protocol="next-basket", steps=1, model=str(base), target_modules=("nothing",)
    )
    with pytest.raises(InputError, match="target_modules is"):
        train(wrong, tmp_path / "run", data=None)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache" / "priors").exists()


@pytest.mark.usefixtures("in_float32")
def test_a_checkpoint_that_lacks_weights_is_refused_before_the_first_step(tmp_path: Path) -> None:
    """The trainer only warns, and goes on with random numbers in their place."""
    base, checkpoint = tmp_path / "base", tmp_path / "checkpoint-4"
    tiny("dense").save_pretrained(base)
    model, _ = open_model(config(base), base)
    model.save_pretrained(str(checkpoint))
    check_checkpoint(model, checkpoint)
    file = checkpoint / "adapter_model.safetensors"
    whole = load_file(file)
    first, *others = sorted(whole)
    lacks_first = rf"lacks 1 of {len(whole)} LoRA weights, .* the first is {first}; remove "
    for weights, message in (
        (
            {name: whole[name] for name in others},
            lacks_first,
        ),
        (
            {**whole, first: whole[first][:2]},
            lacks_first,
        ),
        (
            {name.replace("layers", "blocks"): whole[name] for name in whole},
            rf"lacks {len(whole)} of {len(whole)} .*; remove ",
        ),
        (
            {**whole, "base_model.model.spare.weight": torch.zeros(1)},
            r"has 1 weights of layers .*spare\.weight; remove ",
        ),
    ):
        save_file(weights, file)
        with pytest.raises(MismatchError, match=rf"{message}{checkpoint}, and resume from an earlier"):
            check_checkpoint(model, checkpoint)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelMissingError, match=rf"cannot read {file}: .*; remove {checkpoint}"):
        check_checkpoint(model, checkpoint)
