"""The same tiny models in vLLM: scores compared with forward passes of Transformers."""

from pathlib import Path

import torch

from eval.models.families import tiny_model
from genrec.backends import VllmEngineBackend, causal_model_class, load_pretrained
from genrec.evaluation import ModelCheck, WholePaths
from genrec.prompting import HuggingFaceTokenizer

VLLM_FAMILIES = ("Llama 3.2", "Qwen3", "Gemma 3 (text)", "Qwen3-MoE")
_KV_CACHE_BYTES = 1 << 28


def measure_in_vllm(name: str, cache: Path, *, timeout: float) -> float:
    """The largest difference of a token's log-probability in vLLM from whole forward passes, in nats.

    Args:
        name: a key of `ARCHITECTURES`.
        cache: where downloaded tokenizers are kept.
        timeout: see `VllmEngineBackend`.

    Raises:
        GenrecError: vLLM cannot run the model.
    """
    with tiny_model(name, cache) as folder:
        engine = VllmEngineBackend(
            folder,
            context_length=256,
            kv_cache_memory_bytes=_KV_CACHE_BYTES,
            timeout=timeout,
            llm_kwargs={"dtype": "float32"},
        )
        try:
            check = ModelCheck(engine, HuggingFaceTokenizer.from_directory(folder))
            reference = load_pretrained(causal_model_class(folder), folder, dtype=torch.float32).eval()
            paths = WholePaths(reference)
            check.rank(4)
            check.generate(paths)
            return check.compare_scores(paths).difference
        finally:
            engine.close()
