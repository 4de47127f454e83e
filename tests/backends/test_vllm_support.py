"""What vLLM cannot run in this environment is refused with the true cause, not with the last line of a dead process."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from backend_support import needs_vllm
from safetensors.torch import save_file

from eval.models.architectures import ARCHITECTURES, build_model
from genrec.backends.vllm_support import check_adapter_support, explain_missing_torchvision, has_experts
from genrec.errors import EngineError, ModelMissingError

DENSE = ("Llama 3.2", "Qwen3", "Gemma 3", "Granite 4 Micro", "Qwen2.5-VL", "Mamba")
EXPERTS = ("Qwen3-MoE", "Mixtral", "gpt-oss", "DeepSeek V3", "GLM-4-MoE", "OLMoE", "LFM2-MoE", "Qwen3-Next")
IMAGES = ("Gemma 3", "Qwen2.5-VL", "Mistral Small 3.2")


def save(name: str, folder: Path) -> Any:
    model = build_model(ARCHITECTURES[name], 512)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", [*DENSE, *EXPERTS])
def test_adapters_of_experts_need_triton_and_others_do_not(name: str, tmp_path: Path) -> None:
    """vLLM starts, and its worker dies in the first request; a dense model must not be refused with it."""
    model = save(name, tmp_path)
    assert any(".experts" in module for module, _ in model.named_modules()) == (name in EXPERTS)
    assert has_experts(tmp_path) == (name in EXPERTS)
    check_adapter_support(tmp_path, has_triton=True)
    if name in DENSE:
        check_adapter_support(tmp_path, has_triton=False)
        return
    with pytest.raises(EngineError, match=r"adapters of '.*' here, because the model is a mixture .*; use the engine"):
        check_adapter_support(tmp_path, has_triton=False)


def test_a_multimodal_model_names_torchvision_only_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM says that an architecture failed to be inspected; with another cause, torchvision would be a wrong lead."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for name in IMAGES:
        save(name, tmp_path / name)
        assert "torchvision, which is not installed" in str(explain_missing_torchvision(tmp_path / name))
    save("Llama 3.2", tmp_path / "text")
    assert explain_missing_torchvision(tmp_path / "text") is None
    assert explain_missing_torchvision(tmp_path / "missing") is None
    (tmp_path / "torchvision.py").touch()
    monkeypatch.delitem(sys.modules, "torchvision")
    monkeypatch.syspath_prepend(tmp_path)
    assert explain_missing_torchvision(tmp_path / IMAGES[0]) is None


@pytest.mark.vllm
@needs_vllm
def test_the_real_engine_refuses_what_it_cannot_run_in_one_line(tmp_path: Path) -> None:
    """Before, a worker died in a kernel without a name, and a page of errors named no cause."""
    from vllm.triton_utils import HAS_TRITON

    from genrec.backends.vllm_engine import VllmEngineBackend

    if not HAS_TRITON:
        save("Qwen3-MoE", tmp_path / "experts")
        with pytest.raises(
            EngineError, match=r"adapters of .*experts. here, because the model is a mixture of experts"
        ):
            VllmEngineBackend(tmp_path / "experts", context_length=64, max_adapters=1)
    save("Llama 3.2", tmp_path / "text")
    save_file({"spare": torch.zeros(1)}, tmp_path / "text" / "model.safetensors", {"format": "pt"})
    with pytest.raises((ModelMissingError, EngineError), match=r"vLLM .* the model 'text': ") as raised:
        VllmEngineBackend(tmp_path / "text", context_length=64, kv_cache_memory_bytes=1 << 27)
    assert len(str(raised.value).splitlines()) == 1
    if find_spec("torchvision") is None:
        save("Gemma 3", tmp_path / "images")
        with pytest.raises(
            ModelMissingError, match=r"images': it is multimodal, .* torchvision, which is not installed"
        ):
            VllmEngineBackend(tmp_path / "images", context_length=64, kv_cache_memory_bytes=1 << 27)
