"""Tokenizer folders for tiny models: real vocabularies, with the chat templates and control tokens of a family."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.models.downloads import fetch
from eval.models.templates import find_markup

_UNUSED = re.compile(r"<\|?(?:reserved|unused|SPECIAL)_?[a-z_]*[0-9]+\|?>")
_PADDING = 64  # embeddings have a multiple of so many rows
TOKENIZER_NAMES = {
    "deepseek_v3": "DeepSeek V3",
    "gemma3": "Gemma 3",
    "gptoss": "gpt-oss",
    "llama2": "Llama 2",
    "llama3_2": "Llama 3",
    "mistral_nemo": "Mistral Nemo",
    "qwen2_5": "Qwen2.5",
    "qwen3": "Qwen3",
}


@dataclass(frozen=True)
class Tokens:
    """A tokenizer with a chat template.

    Attributes:
        package: a key of `TOKENIZER_PACKAGES`.
        template: a package of templates and the name of one; None for the tokenizer's own; "" for none at all.
        own: whether this is the family's own vocabulary, with all of its control tokens.
    """

    package: str
    template: str | None = None
    own: bool = False


def write_tokenizer(tokens: Tokens, folder: Path, cache: Path) -> int:
    """Write the files of a tokenizer, and return the number of embeddings that it needs.

    Control tokens that the chat template writes and the vocabulary lacks replace unused ones, or follow the last token.
    """
    source = fetch(tokens.package, cache)
    document = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    config = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = False
    if tokens.template is not None:
        config.pop("chat_template", None)
    if tokens.template:
        package, _, name = tokens.template.partition("/")
        template = (fetch(package, cache) / f"{name}.jinja").read_text(encoding="utf-8")
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        added = _add_control_tokens(document, find_markup([template]))
    if added:
        config.pop("added_tokens_decoder", None)
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        (folder / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    else:
        shutil.copy(source / "tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
    return -(-_vocab_size(document) // _PADDING) * _PADDING


def _add_control_tokens(document: dict[str, Any], markup: set[str]) -> bool:
    """Add control tokens; returns whether any was missing."""
    added, vocabulary = document["added_tokens"], document["model"]["vocab"]
    missing = sorted(markup - {token["content"] for token in added})
    unused = [token for token in added if _UNUSED.match(token["content"]) and token["content"] not in markup]
    for name in missing:
        if unused:
            token = unused.pop(0)
            if token["content"] in vocabulary:
                vocabulary[name] = vocabulary.pop(token["content"])
            token.update(content=name, special=True, normalized=False)
        else:
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            added.append({"id": _vocab_size(document), "content": name, "special": True, **flags})
    return bool(missing)


def _vocab_size(document: dict[str, Any]) -> int:
    size: int = 1 + max(*document["model"]["vocab"].values(), *(token["id"] for token in document["added_tokens"]))
    return size


def describe_tokens(tokens: Tokens) -> str:
    """What a row says about a tokenizer; "" if it is the family's own."""
    return "" if tokens.own else f"tokenizer of {TOKENIZER_NAMES[tokens.package]}"
