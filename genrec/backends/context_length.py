"""The context of a language model, by its configuration."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

UNLIMITED_CONTEXT = 1 << 20
"""The context, in tokens, of a model whose configuration states no limit, such as a recurrent one."""

_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len")


def context_length(config: Mapping[str, Any]) -> int:
    """The context that a configuration states, in tokens.

    Args:
        config: the configuration of a language model, or of the text part of a multimodal one.
    """
    stated = (config.get(key) for key in _KEYS)
    return next((value for value in stated if isinstance(value, int) and value > 0), UNLIMITED_CONTEXT)


def read_context_length(folder: Path) -> int:
    """The context that the `config.json` of a folder states, in tokens, without loading Transformers.

    Raises:
        OSError, ValueError: the file cannot be read, or is not a JSON object.
    """
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    text = content.get("text_config")
    return context_length({**content, **text} if isinstance(text, dict) else content)
