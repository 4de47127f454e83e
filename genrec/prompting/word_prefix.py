"""Spaces that some tokenizers write before the first word of a text, which SentencePiece calls the dummy prefix."""

import json
import re
from collections.abc import Mapping
from typing import Any

import tokenizers

from genrec.prompting.tokenizer_file import parse_tokenizer


def continuing_tokenizer(document: Mapping[str, Any]) -> tokenizers.Tokenizer | None:
    """The tokenizer for text that continues other text, if it differs: one that writes no space before the text."""
    normalizer, pre_tokenizer = document["normalizer"], json.dumps(document["pre_tokenizer"])
    never = re.sub('"prepend_scheme": "(first|always)"', '"prepend_scheme": "never"', pre_tokenizer)
    kept = [step for step in (normalizer or {}).get("normalizers", [normalizer]) if step and step["type"] != "Prepend"]
    continuing = {
        **document,
        "normalizer": {"type": "Sequence", "normalizers": kept},
        "pre_tokenizer": json.loads(never),
    }
    if never == pre_tokenizer and not _prepends_space(document):
        return None
    return tokenizers.Tokenizer.from_str(json.dumps(continuing))


def prefixes_first_word_only(document: Mapping[str, Any]) -> bool:
    """Whether only the first text of a document gets the space, not those behind control tokens."""
    return '"prepend_scheme": "first"' in json.dumps(document["pre_tokenizer"])


def with_first_word_prefix_only(tokenizer_json: str) -> str:
    """The file as Transformers reads it if `legacy` is false: only the first text of a document gets a space.

    Raises:
        ArtifactError: it is not that of a tokenizer.
    """
    document = parse_tokenizer(tokenizer_json)
    if not _prepends_space(document):
        return tokenizer_json
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    return json.dumps({**document, "normalizer": None, "pre_tokenizer": metaspace})


def _prepends_space(document: Mapping[str, Any]) -> bool:
    """Whether a normalizer writes a space before every text, as files of older versions of Transformers do."""
    return any(step["type"] == "Prepend" for step in _normalizers(document))


def _normalizers(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    normalizer = document["normalizer"]
    if normalizer is None:
        return []
    steps: list[dict[str, Any]] = normalizer.get("normalizers", [normalizer])
    return steps
