"""Tiny language models with random weights and a real tokenizer, as `save_pretrained` writes them."""

import shutil
from pathlib import Path
from typing import Any

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
