"""Tiny language models with random weights and a real tokenizer, as `save_pretrained` writes them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from genrec.prompting.message_tokenizer import MessageTokenizer

_BYTE_TEMPLATE = (
    "{% for message in messages %}<|genrec {{ message.role }}|>{{ message.content }}<|genrec end|>{% endfor %}"
    "{% if add_generation_prompt %}<|genrec assistant|>{% endif %}"
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def save_tiny_llama(
    folder: Path, tokenizer: Path, *, seed: int = 0, max_shard_size: str = "5GB", **config: Any
) -> Path:
    """Write a Llama of one layer, with the tokenizer of another folder; `config` changes its configuration."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {
        "vocab_size": 49152,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
    }
    LlamaForCausalLM(LlamaConfig(**{**sizes, **config})).save_pretrained(folder, max_shard_size=max_shard_size)
    for name in _TOKENIZER_FILES:
        shutil.copy(tokenizer / name, folder / name)
    return folder


def save_byte_tokenizer(folder: Path) -> Path:
    """Write a tokenizer of bytes with 260 tokens, and a chat template; it is read much faster than a real one."""
    folder.mkdir()
    (folder / "tokenizer.json").write_text(MessageTokenizer().tokenizer_json, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|genrec end|>"}', encoding="utf-8")
    (folder / "chat_template.jinja").write_text(_BYTE_TEMPLATE, encoding="utf-8")
    return folder


def save_gguf(
    model: Path,
    file: Path,
    *,
    number_type: str = "F32",
    architecture: str = "llama",
    block_count: int = 0,
    with_tokenizer: bool = False,
) -> Path:
    """Write a Llama as a GGUF file, as llama.cpp's converter lays it out.

    Args:
        model: the folder of the model.
        file: the file to write.
        number_type: of the matrices; vectors are always float32.
        architecture: the name of the architecture in the file.
        block_count: the number of layers that the file claims to have; by default those of the model.
        with_tokenizer: whether the byte-level BPE tokenizer and the chat template of the folder are in the file.
    """
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(block_count or config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, weight in load_file(model / "model.safetensors").items():
        for part, count in (("q_proj", heads), ("k_proj", kv_heads)):
            if part in name:  # llama.cpp rotates neighbours, Transformers halves
                rows = weight.reshape(count, 2, weight.shape[0] // count // 2, -1)
                weight = np.ascontiguousarray(rows.swapaxes(1, 2).reshape(weight.shape))
        kind = gguf.GGMLQuantizationType[number_type if weight.ndim > 1 else "F32"]
        packed = gguf.quants.quantize(weight.astype(np.float32), kind)
        writer.add_tensor(str(names.get_name(name, try_suffixes=(".weight",))), packed, raw_dtype=kind)
    if with_tokenizer:
        _add_tokenizer(writer, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_tokenizer(writer: Any, model: Path) -> None:
    document = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    config = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    control = {token["content"]: token["id"] for token in document["added_tokens"]}
    ids = {**document["model"]["vocab"], **control}
    tokens = sorted(ids, key=lambda token: ids[token])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in control else 1 for token in tokens])
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in document["model"]["merges"]])
    writer.add_bos_token_id(ids[config["bos_token"]])
    writer.add_eos_token_id(ids[config["eos_token"]])
    writer.add_chat_template((model / "chat_template.jinja").read_text(encoding="utf-8"))
