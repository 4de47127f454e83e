"""Quantised models: loaded as their configuration says, or refused with the name of the missing package."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import save_byte_tokenizer, save_tiny_llama

from genrec import Catalog, History, Item, Settings, open_recommender
from genrec.backends.transformers import TransformersBackend
from genrec.errors import MismatchError, ModelMissingError

CONFIGS: dict[str, tuple[dict[str, Any], str, str]] = {
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", "bitsandbytes"),
    "bitsandbytes, before methods had names": ({"load_in_8bit": True}, "bitsandbytes", "bitsandbytes"),
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptqmodel", "gptqmodel"),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}, "gptqmodel", "gptqmodel"),
    "compressed-tensors": (
        {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}},
        "compressed_tensors",
        "compressed-tensors",
    ),
    "torchao": ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, "torchao", "torchao"),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "accelerate", "accelerate"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose layers are wide enough to be quantised."""
    home = tmp_path_factory.mktemp("quantised")
    sizes = {"vocab_size": 260, "hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 4096}
    return save_tiny_llama(home / "model", save_byte_tokenizer(home / "tokenizer"), **sizes)


def quantised(model: Path, folder: Path, settings: dict[str, Any]) -> Path:
    """A copy whose configuration says that it is quantised."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_missing_package_is_named_before_the_weights_are_read(
    kind: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformers says so after minutes for some methods, and for others with an error of its own code."""
    settings, module, package = CONFIGS[kind]
    folder = quantised(model, tmp_path / "model", settings)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("genrec.backends.transformers.load_pretrained", lambda *_, **__: pytest.fail("weights"))
    catalog = Catalog.from_items([Item("a", "Alien"), Item("b", "Blade Runner")])
    chosen = Settings(model=folder, encoder=None)
    with pytest.raises(ModelMissingError) as raised:
        open_recommender(catalog, None, cache=tmp_path / "cache", settings=chosen, need_model=True)
    assert f"the model 'model' in {folder} is quantised (" in str(raised.value)
    assert raised.value.remedy.startswith("run: pip install ")
    assert package in raised.value.remedy.split()
    recommender = open_recommender(catalog, None, cache=tmp_path / "cache", settings=chosen)
    assert len(recommender.recommend(History(("a",)), k=1).items) == 1
    assert any(package in str(notice) for notice in recommender.notices)


def test_a_method_that_cannot_run_here_is_named(model: Path, tmp_path: Path) -> None:
    """The files are good, so fetching them again does not help."""
    folder = quantised(model, tmp_path / "model", {"quant_method": "haiku"})
    with pytest.raises(
        ModelMissingError, match=r"quantised \(haiku\), which Transformers .* does not support; install a version"
    ):
        TransformersBackend(folder, device="cpu")


def test_an_adapter_is_not_merged_into_quantised_weights(model: Path, tmp_path: Path) -> None:
    """The merged weights would be rounded again, or the adapter silently ignored."""
    from backend_support import save_adapter

    folder = quantised(model, tmp_path / "model", {"quant_method": "torchao", "quant_type": "int8_weight_only"})
    adapter = save_adapter(tmp_path / "tuned", shape=(64, 64), base_model_name_or_path="model")
    with pytest.raises(MismatchError, match=r"/model' is quantised \(torchao\), .*tuned' cannot be merged.*; name the"):
        TransformersBackend(folder, adapter=adapter, device="cpu")


def test_a_quantised_model_is_loaded_and_gives_its_own_log_probabilities(model: Path, tmp_path: Path) -> None:
    """A model that was loaded without its scales, or with its first weights, would rank at random."""
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import AutoModelForCausalLM, TorchAoConfig

    folder = tmp_path / "model"
    loaded = AutoModelForCausalLM.from_pretrained(
        model, quantization_config=TorchAoConfig(Int8WeightOnlyConfig()), dtype=torch.float32
    )
    loaded.save_pretrained(folder)
    backend = TransformersBackend(folder, device="cpu", dtype=torch.float32)
    layer: Any = backend.model.model.layers[0].mlp.up_proj.weight
    assert type(layer).__name__ == "Int8Tensor"
    prompt, answer = np.arange(1, 30), np.array([5, 6, 7])
    with torch.inference_mode():
        logits = loaded(torch.from_numpy(np.concatenate([prompt, answer[:-1]]))[None]).logits[0, -3:]
        expected = logits.log_softmax(-1).numpy()
        original = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        plain = original(torch.from_numpy(np.concatenate([prompt, answer[:-1]]))[None]).logits[0, -3:]
    tree = backend.open([prompt])
    nodes = [0]
    for token in answer[:-1]:
        nodes += tree.grow(np.array(nodes[-1:]), np.array([token])).tolist()
    actual = tree.log_probs(np.array(nodes), np.tile(np.arange(260), 3), np.arange(4) * 260).reshape(3, 260)
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    assert np.abs(plain.log_softmax(-1).numpy() - expected).max() > 1e-4  # the quantised weights were used
