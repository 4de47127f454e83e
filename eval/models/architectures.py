"""Tiny models of real architectures with random weights, each with a tokenizer.

The weights have the scale of real ones: a matrix changes the length of a vector about as much as in a model with an
initializer range of 0.02 and 4,096 dimensions. Heads have 32 dimensions, the least that vLLM runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from eval.models.tokenizers import Tokens

_HIDDEN = 64
_LOGIT_DEVIATION = 3.0  # as in trained models; the log-probabilities of flatter logits always agree


@dataclass(frozen=True)
class Architecture:
    """A tiny model.

    Attributes:
        model_class: the class in Transformers, without its ending `ForCausalLM` or `ForConditionalGeneration`.
        tokens: its tokenizer.
        options: of the configuration, or of that of the text part.
        multimodal: the other parts of a multimodal model's configuration; None for a text model.
        vocab_size: the number of embeddings; None for as many as the tokenizer needs.
        ranks: False if something that ranking needs is missing.
        exact_lora: False if rounding is known to exceed `LORA_BOUND` with a trained adapter.
        notes: what the row says about it.
    """

    model_class: str
    tokens: Tokens
    options: Mapping[str, Any] = field(default_factory=dict)
    multimodal: Mapping[str, Any] | None = None
    vocab_size: int | None = None
    ranks: bool = True
    exact_lora: bool = True
    notes: str = ""


def build_model(architecture: Architecture, vocab_size: int) -> Any:
    """A model with random weights in float32, whose logits have a standard deviation of 3."""
    import transformers

    torch.manual_seed(0)
    name = architecture.model_class
    options = {**architecture.options, "vocab_size": architecture.vocab_size or vocab_size}
    if architecture.multimodal is None:
        config = getattr(transformers, f"{name}TextConfig", None) or getattr(transformers, f"{name}Config")
        model = getattr(transformers, f"{name}ForCausalLM")(config(**options))
    else:
        config = getattr(transformers, f"{name}Config")
        model = getattr(transformers, f"{name}ForConditionalGeneration")(
            config(text_config=options, tie_word_embeddings=False, **architecture.multimodal)
        )
    return _spread_logits(model.float().eval())


def _spread_logits(model: Any) -> Any:
    """Scale the output layer, so that logits have the standard deviation of a trained model's."""
    torch.manual_seed(1)
    head = model.get_output_embeddings()
    token_ids = torch.randint(10, min(head.weight.shape[0], 30_000), (1, 48))
    with torch.inference_mode():
        head.weight.mul_(_LOGIT_DEVIATION / float(model(input_ids=token_ids).logits.std()))
    return model


_SIZES: dict[str, Any] = {
    "hidden_size": _HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "initializer_range": 0.02 * (4096 / _HIDDEN) ** 0.5,
    "tie_word_embeddings": False,  # so that the scale of the output layer is not that of the input
}
_HEADS = {**_SIZES, "head_dim": 32}
_WINDOW = {"sliding_window": 64}  # between the lengths of two prompts that are compared
_GEMMA = {**_HEADS, **_WINDOW, "num_hidden_layers": 6, "query_pre_attn_scalar": 32}
_GEMMA4 = {
    **_HEADS, **_WINDOW, "num_hidden_layers": 6, "global_head_dim": 64, "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
}  # fmt: skip
_LINEAR = {
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4
}  # fmt: skip
_TWO_OF_FOUR = {"num_experts_per_tok": 2}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LOCAL_EXPERTS = {"num_local_experts": 4, **_TWO_OF_FOUR}
_ROUTED = {
    "n_routed_experts": 4, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    **_TWO_OF_FOUR,
}  # fmt: skip
_LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_GRANITE = {"logits_scaling": 8.0}
_GRANITE_SCALES = {
    **_GRANITE, "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.03125
}  # fmt: skip
_CONVOLUTIONS = {"layer_types": ["conv", "conv", "full_attention", "conv"]}
_VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_IMAGES = {**_VISION, "image_size": 28, "patch_size": 14}
_QWEN_VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": _HIDDEN}

_QWEN2_5, _QWEN3 = Tokens("qwen2_5", own=True), Tokens("qwen3", own=True)
_QWEN3_2507 = Tokens("qwen3", "trl/qwen3_instruct_2507", own=True)
_QWEN3_5 = Tokens("qwen3", "llama.cpp/Qwen3.5-4B")
_LLAMA3 = Tokens("llama3_2", own=True)
_LLAMA3_1 = Tokens("llama3_2", "llama.cpp/meta-llama-Llama-3.1-8B-Instruct", own=True)
_GEMMA3 = Tokens("gemma3", own=True)
_GEMMA4_TOKENS = Tokens("gemma3", "llama.cpp/google-gemma-4-31B-it")
_NEMO = Tokens("mistral_nemo", own=True)
_OTHER_QWEN, _OTHER_LLAMA = Tokens("qwen2_5"), Tokens("llama3_2")
_GRANITE4 = Tokens("llama3_2", "llama.cpp/ibm-granite-granite-4.0")
_GLM = Tokens("llama3_2", "llama.cpp/GLM-4.6")
_PHI3 = Tokens("llama2", "trl/phi3_5")
_MISTRAL_OLD = Tokens("llama2", "llama.cpp/mistralai-Mistral-Nemo-Instruct-2407")

_TEXT: dict[str, Architecture] = {
    "Llama 3.2": Architecture("Llama", _LLAMA3, {**_SIZES, "rope_parameters": _LLAMA3_ROPE}),
    "Llama 3.1": Architecture("Llama", _LLAMA3_1, {**_SIZES, "rope_parameters": _LLAMA3_ROPE}),
    "Llama 2": Architecture("Llama", Tokens("llama2", _MISTRAL_OLD.template, own=True), _SIZES),
    "Llama 4 (text)": Architecture(
        "Llama4", _LLAMA3_1, {**_HEADS, "num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size_mlp": 128}
    ),
    "Qwen2.5": Architecture("Qwen2", _QWEN2_5, _SIZES),
    "Qwen2.5, sliding window": Architecture(
        "Qwen2", _QWEN2_5, {**_SIZES, **_WINDOW, "use_sliding_window": True, "max_window_layers": 2}
    ),
    "Qwen3": Architecture("Qwen3", _QWEN3, _HEADS),
    "Qwen3-MoE": Architecture("Qwen3Moe", _QWEN3_2507, {**_HEADS, **_EXPERTS}),
    "Qwen3-Next": Architecture(
        "Qwen3Next", _QWEN3_2507, {**_HEADS, **_EXPERTS, **_LINEAR, "shared_expert_intermediate_size": 32}
    ),
    "Qwen3.5 (text)": Architecture("Qwen3_5", _QWEN3_5, {**_HEADS, **_LINEAR}),
    "Gemma 2": Architecture("Gemma2", Tokens("gemma3", "llama.cpp/google-gemma-2-2b-it"), _GEMMA),
    "Gemma 3 (text)": Architecture("Gemma3", _GEMMA3, _GEMMA),
    "Gemma 3 1B": Architecture(
        "Gemma3", _GEMMA3, _GEMMA, vocab_size=262_144, notes="one image token has no embedding, and is not used"
    ),
    "Gemma 4 (text)": Architecture("Gemma4", _GEMMA4_TOKENS, _GEMMA4),
    "Gemma 4, soft cap": Architecture("Gemma4", _GEMMA4_TOKENS, {**_GEMMA4, "final_logit_softcapping": 30.0}),
    "Gemma 4 E2B (text)": Architecture(
        "Gemma4",
        _GEMMA4_TOKENS,
        {**_GEMMA4, "num_hidden_layers": 12, "hidden_size_per_layer_input": 16, "num_kv_shared_layers": 6},
        exact_lora=False,
        notes="the adapter is exact in float64",
    ),
    "Mistral Nemo": Architecture("Mistral", _NEMO, {**_HEADS, "sliding_window": None}),
    "Mistral 7B, sliding window": Architecture("Mistral", _MISTRAL_OLD, {**_HEADS, **_WINDOW}),
    "Mixtral": Architecture("Mixtral", _MISTRAL_OLD, {**_SIZES, **_LOCAL_EXPERTS}),
    "Ministral 3": Architecture(
        "Ministral3", Tokens("mistral_nemo", "llama.cpp/mistralai-Ministral-3-14B-Reasoning-2512"), _HEADS
    ),
    "Phi-3": Architecture(
        "Phi3", _PHI3, {**_SIZES, **_WINDOW, "pad_token_id": 0, "original_max_position_embeddings": 4096}
    ),
    "Phi-4 mini": Architecture(
        "Phi3", _OTHER_QWEN, {**_SIZES, "sliding_window": None, "partial_rotary_factor": 0.75, "pad_token_id": 1}
    ),
    "gpt-oss": Architecture(
        "GptOss", Tokens("gptoss", "llama.cpp/openai-gpt-oss-120b", own=True), {**_HEADS, **_WINDOW, **_LOCAL_EXPERTS}
    ),
    "DeepSeek V3": Architecture(
        "DeepseekV3",
        Tokens("deepseek_v3", own=True),
        {
            **_SIZES, **_ROUTED, "num_key_value_heads": 2, "n_shared_experts": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
            "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16,
        },
    ),
    "GLM-4": Architecture("Glm4", _GLM, {**_HEADS, "pad_token_id": 1}),
    "GLM-4-MoE": Architecture("Glm4Moe", _GLM, {**_HEADS, **_ROUTED}),
    "MiniMax M2": Architecture(
        "MiniMaxM2", Tokens("qwen3", "llama.cpp/MiniMax-M2"), {**_HEADS, **_LOCAL_EXPERTS}
    ),
    "Hunyuan": Architecture("HunYuanDenseV1", _OTHER_QWEN, _HEADS),
    "ERNIE 4.5": Architecture("Ernie4_5", _OTHER_QWEN, _HEADS),
    "Seed-OSS": Architecture("SeedOss", Tokens("qwen2_5", "llama.cpp/ByteDance-Seed-OSS"), _HEADS),
    "EXAONE 4": Architecture("Exaone4", _OTHER_QWEN, {**_SIZES, **_WINDOW, "sliding_window_pattern": 4}),
    "Apertus": Architecture("Apertus", Tokens("mistral_nemo", "llama.cpp/Apertus-8B-Instruct"), _SIZES),
    "SmolLM3": Architecture(
        "SmolLM3",
        Tokens("llama3_2", "llama.cpp/HuggingFaceTB-SmolLM3-3B"),
        {**_SIZES, "pad_token_id": 1, "no_rope_layer_interval": 4},
    ),
    "OLMo 2": Architecture("Olmo2", _OTHER_LLAMA, {**_SIZES, "pad_token_id": 1}),
    "OLMo 3": Architecture("Olmo3", _OTHER_LLAMA, {**_SIZES, **_WINDOW, "pad_token_id": 1}),
    "OLMoE": Architecture(
        "Olmoe", _OTHER_LLAMA, {**_SIZES, "num_experts": 4, "num_experts_per_tok": 2, "pad_token_id": 1}
    ),
    "Granite 3": Architecture(
        "Granite", Tokens("llama3_2", "llama.cpp/ibm-granite-granite-3.3-2B-Instruct"), {**_SIZES, **_GRANITE_SCALES}
    ),
    "Granite MoE": Architecture("GraniteMoe", _GRANITE4, {**_SIZES, **_LOCAL_EXPERTS, "logits_scaling": 1.0}),
    "Granite 4 Micro": Architecture(
        "GraniteMoeHybrid",
        _GRANITE4,
        {
            **_SIZES, **_GRANITE_SCALES, "layer_types": ["attention"] * 4, "num_local_experts": 0,
            "shared_intermediate_size": 128, "mamba_n_heads": 8, "mamba_d_head": 16, "position_embedding_type": "rope",
        },
    ),
    "Granite 4 H": Architecture(
        "GraniteMoeHybrid",
        _GRANITE4,
        {
            **_SIZES, **_GRANITE, "layer_types": ["mamba", "mamba", "attention", "mamba"], "num_local_experts": 0,
            "shared_intermediate_size": 128, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16,
            "mamba_n_groups": 1,
        },
    ),
    "LFM2": Architecture("Lfm2", Tokens("llama3_2", "trl/lfm2"), {**_SIZES, **_CONVOLUTIONS}),
    "LFM2-MoE": Architecture(
        "Lfm2Moe",
        Tokens("llama3_2", "llama.cpp/LFM2-8B-A1B"),
        {**_SIZES, **_CONVOLUTIONS, **_EXPERTS, "num_dense_layers": 1},
    ),
    "Command R7B": Architecture(
        "Cohere2", Tokens("llama3_2", "trl/cohere2"), {**_HEADS, **_WINDOW, "logit_scale": 0.25}
    ),
    "Falcon-H1": Architecture(
        "FalconH1",
        _OTHER_QWEN,
        {**_SIZES, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16},
    ),
    "Nemotron-H": Architecture(
        "NemotronH",
        Tokens("mistral_nemo"),
        {
            **_HEADS, "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 1,
            "initializer_range": 0.3,
        },
    ),
    "Mamba": Architecture(
        "Mamba",
        _OTHER_QWEN,
        {"hidden_size": _HIDDEN, "num_hidden_layers": 2, "state_size": 16, "initializer_range": 0.3},
    ),
    "nanochat": Architecture("NanoChat", _OTHER_QWEN, _SIZES),
    "GPT-NeoX": Architecture(
        "GPTNeoX", _OTHER_LLAMA, {name: _SIZES[name] for name in _SIZES if name != "num_key_value_heads"}
    ),
    "Falcon": Architecture(
        "Falcon",
        _OTHER_LLAMA,
        {
            "hidden_size": _HIDDEN, "num_hidden_layers": 3, "num_attention_heads": 2, "alibi": True,
            "initializer_range": _SIZES["initializer_range"],
        },
    ),
    "BLOOM": Architecture(
        "Bloom",
        _OTHER_LLAMA,
        {"hidden_size": _HIDDEN, "n_layer": 3, "n_head": 2, "initializer_range": _SIZES["initializer_range"]},
    ),
    "MPT": Architecture(
        "Mpt",
        _OTHER_LLAMA,
        {"d_model": _HIDDEN, "n_layers": 3, "n_heads": 2, "max_seq_len": 2048, "initializer_range": 0.16},
    ),
}  # fmt: skip
_MULTIMODAL: dict[str, Architecture] = {
    "Qwen3.5": Architecture(
        "Qwen3_5",
        _QWEN3_5,
        {**_HEADS, **_LINEAR},
        {
            "vision_config": _QWEN_VISION, "image_token_id": 1, "video_token_id": 2, "vision_start_token_id": 3,
            "vision_end_token_id": 4,
        },
    ),
    "Qwen2.5-VL": Architecture(
        "Qwen2_5_VL",
        Tokens("qwen2_5", "trl/qwen2_5_vl", own=True),
        {
            **_SIZES,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
        },
        {"vision_config": _QWEN_VISION},
    ),
    "Gemma 3": Architecture("Gemma3", _GEMMA3, _GEMMA, {"vision_config": _IMAGES}),
    "Gemma 4": Architecture("Gemma4", _GEMMA4_TOKENS, _GEMMA4, {"vision_config": None, "audio_config": None}),
    "Mistral Small 3.2": Architecture(
        "Mistral3",
        Tokens("mistral_nemo", "llama.cpp/Mistral-Small-3.2-24B-Instruct-2506"),
        {**_HEADS, "model_type": "mistral", "sliding_window": None},
        {"vision_config": {**_IMAGES, "model_type": "pixtral"}},
    ),
}  # fmt: skip
# Models of which something is missing.
_INCOMPLETE: dict[str, Architecture] = {
    "Llama without a chat template": Architecture("Llama", Tokens("llama3_2", "", own=True), _SIZES),
    "Llama with a context of 32 tokens": Architecture(
        "Llama", _LLAMA3, {**_SIZES, "max_position_embeddings": 32}, ranks=False
    ),
}
ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({**_TEXT, **_MULTIMODAL, **_INCOMPLETE})
