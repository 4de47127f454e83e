"""The file `tokenizer.json` of byte-level BPE, as the package tokenizers reads it.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (GPT-2), 2019, section 2.2.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_CONTROL_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
_NUM_BYTES = 256


def byte_level_step(*, use_regex: bool, add_prefix_space: bool = False) -> dict[str, Any]:
    """The step that writes bytes as characters; with `use_regex` it also splits words as GPT-2 does."""
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def byte_level_document(
    vocabulary: Mapping[str, int],
    merges: Sequence[str],
    control_tokens: Mapping[str, int],
    *,
    pre_tokenizer: Mapping[str, Any],
    decoder: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of `tokenizer.json`.

    Args:
        vocabulary: the id of each token, in the characters of `byte_characters`.
        merges: pairs of tokens, the first merged first.
        control_tokens: the id of each control token.
        pre_tokenizer, decoder: steps, see `byte_level_step`.
    """
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token, "content": name, **_CONTROL_FLAGS} for name, token in control_tokens.items()],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def byte_characters() -> list[str]:
    """The printable character that byte-level BPE writes for each byte, 256 in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(_NUM_BYTES, 2 * _NUM_BYTES))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(_NUM_BYTES)]
