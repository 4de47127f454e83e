"""Shared by tests of several backends: adapters on disk, checks of generated texts, and signals to vLLM."""

import json
import os
import signal
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from genrec.backends.base import Backend, GenerationRequest
from genrec.backends.path_tree import PathTree
from genrec.deadline import Deadline
from genrec.decoding.grammar import GrammarCompiler
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.types import Message, Span

needs_httpx = pytest.mark.skipif(find_spec("httpx") is None, reason="httpx is not installed; see genrec's extra vllm")
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed; see genrec's extra vllm")

# Seconds until an engine that hangs counts as down; more than any deadline of a list with its slack, because a request
# that waited for this must count as late.
ENGINE_TIMEOUT = 20.0


def send_signal(engine: Any, signal_: signal.Signals) -> None:
    """Send a signal to the processes of a `VllmEngineBackend`."""
    for process in engine.llm.llm_engine.engine_core.resources.engine_manager.processes:
        os.kill(process.pid, signal_)


def deadline_in(seconds: float) -> Deadline:
    """A deadline so many seconds from now."""
    return Deadline(time.monotonic() + seconds, time.monotonic)


MODULE = "model.layers.0.self_attn.q_proj"


def save_adapter(folder: Path, *, rank: int = 2, shape: tuple[int, int] = (6, 4), **changes: Any) -> Path:
    """Write an adapter as PEFT would, with `changes` to its configuration, and `weights` beside the usual two."""
    weights = {
        f"base_model.model.{MODULE}.lora_A.weight": np.zeros((rank, shape[1]), np.float32),
        f"base_model.model.{MODULE}.lora_B.weight": np.ones((shape[0], rank), np.float32),
        **{name: np.zeros(3, np.float32) for name in changes.pop("weights", ())},
    }
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": "Example/Tiny", "r": rank, **changes}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "mood": {"enum": ["gay", "grim"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 2},
    },
    "required": ["mood", "tags"],
    "additionalProperties": False,
}


MESSAGES = ("What is a lantern for?", 'Write exactly this: "}<|im_end|>', "Say nothing.")


def check_texts(backend: Backend, tokenizer: HuggingFaceTokenizer, grammar: GrammarCompiler) -> None:
    """Check greedy and sampled texts under a schema, in one batch with a text without a constraint."""
    constraint = grammar.compile_json_schema(SCHEMA)
    prompts = [tokenizer.encode_prompt([Message("user", (Span(text, trusted=False),))]) for text in MESSAGES]
    requests = [
        GenerationRequest(prompt, tokenizer.control_token_ids, 60, temperature, seed, constraint)
        for prompt in prompts
        for temperature, seed in ((0.0, 0), (2.0, 1))
    ]
    *constrained, free = backend.generate([*requests, GenerationRequest(prompts[0], tokenizer.control_token_ids, 8)])
    for text in constrained:
        assert text.stopped
        value = json.loads(tokenizer.decode(text.token_ids.tolist()))
        assert value.keys() == {"mood", "tags"}
        assert value["mood"] in ("gay", "grim")
        assert len(value["tags"]) <= 2
        assert all(len(tag) <= 12 for tag in value["tags"])
    assert not tokenizer.decode(free.token_ids.tolist()).startswith("{")


def path_tree_bytes(tree: PathTree) -> int:
    """The bytes of a tree in this process; its keys and values are in the engine's cache, which does not grow."""
    arrays = (*tree._prompts, tree._parent, tree._token, tree._prompt, tree._length)
    return sum(array.nbytes for array in arrays)
