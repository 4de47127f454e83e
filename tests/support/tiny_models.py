"""Tiny language models with random weights and a real tokenizer, as `save_pretrained` writes them."""

import shutil
from pathlib import Path
from typing import Any

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
