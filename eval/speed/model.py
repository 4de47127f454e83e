"""Models for benchmarks: random weights of a known shape, and a table lookup without cost."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from genrec.backends import (
    Completion,
    GenerationRequest,
    OnTokens,
    Provenance,
    TransformersBackend,
    native_dtype,
    progress_bars_disabled,
)
from genrec.deadline import Deadline
from genrec.prompting import HuggingFaceTokenizer, copy_tokenizer
from genrec.types import FloatArray, IntArray

SHAPES: dict[str, dict[str, Any]] = {
    # The shape of Qwen3-0.6B.
    "0.6B": {
        "vocab_size": 151_936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    # The shape of Qwen3-1.7B.
    "1.7B": {
        "vocab_size": 151_936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    # For quick runs.
    "12M": {
        "vocab_size": 32_000,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
    },
    "tiny": {
        "vocab_size": 500,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    },
}


def write_model(
    shape: str, folder: Path, *, seed: int = 1, device: torch.device | str = "cpu", tokenizer: Path | None = None
) -> Path:
    """Write a model of one of `SHAPES` with random weights, in the native dtype of its device; returns `folder`.

    Args:
        shape: one of `SHAPES`.
        folder: the directory to write to.
        seed: seed of the weights.
        device: device on which the weights are drawn.
        tokenizer: a directory whose tokenizer is copied; the vocabulary is enlarged to fit it.
    """
    torch.manual_seed(seed)
    settings = dict(SHAPES[shape])
    if tokenizer is not None:
        own = HuggingFaceTokenizer.from_directory(tokenizer)
        settings["vocab_size"] = max(settings["vocab_size"], own.vocab_size)
    config = Qwen3Config(**settings, tie_word_embeddings=True, max_position_embeddings=8192)
    with progress_bars_disabled(), torch.device(device):
        model: Any = Qwen3ForCausalLM(config)
        model.to(native_dtype(torch.device(device))).save_pretrained(folder)
    if tokenizer is not None:
        copy_tokenizer(tokenizer, folder)
    return folder


def random_backend(shape: str, *, seed: int = 1) -> TransformersBackend:
    """A model of one of `SHAPES` in float32; peers in Transformers use its `model`."""
    with TemporaryDirectory() as folder:
        write_model(shape, Path(folder), seed=seed)
        backend = TransformersBackend(folder, device="cpu", dtype=torch.float32, name=f"random {shape}")
    settings = backend.model.generation_config
    if settings is not None:
        settings.eos_token_id = settings.bos_token_id = None  # items have a fixed length
        settings.pad_token_id = 0
    return backend


class TableLookupBackend:
    """Returns the same log-probabilities at every node from a table, so that only the search is timed.

    Attributes:
        steps: number of passes since the last `open`.
    """

    def __init__(self, vocab_size: int) -> None:
        self.name, self.vocab_size, self.context_length, self.token_bytes = "free", vocab_size, 1 << 20, 8
        self.batch_size = 8
        self.provenance: Provenance | None = None
        logits = 2 * np.random.default_rng(1).standard_normal(vocab_size)
        self.table: FloatArray = logits - np.logaddexp.reduce(logits)
        self.steps = 0

    def open(self, prompts: Sequence[IntArray], *, deadline: Deadline | None = None) -> "CountingTree":
        """A tree for U prompts; the deadline is ignored because nothing takes time."""
        self.steps = 0
        return CountingTree(self, len(prompts))

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        deadline: Deadline | None = None,
        on_tokens: OnTokens | None = None,
    ) -> list[Completion]:
        """Return an empty completion for each request."""
        return [Completion(np.empty(0, dtype=np.int64), stopped=True) for _ in requests]


class CountingTree:
    """A token tree that only counts its nodes."""

    def __init__(self, backend: TableLookupBackend, prompts: int) -> None:
        self._backend = backend
        self.size = prompts

    def grow(self, parents: IntArray, tokens: IntArray) -> IntArray:
        """Count M nodes and one step."""
        begin = self.size
        self.size += len(parents)
        self._backend.steps += 1
        return np.arange(begin, self.size)

    def log_probs(self, nodes: IntArray, tokens: IntArray, offsets: IntArray) -> FloatArray:
        """Look up the log-probabilities of tokens."""
        found: FloatArray = self._backend.table[tokens]
        return found

    def rewind(self, size: int) -> None:
        """Drop the nodes after the first `size`."""
        self.size = size
