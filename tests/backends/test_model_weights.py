"""Every weight that a text passes through comes from the model's files; Transformers makes up the rest and only warns.

The models are small and random, of the real classes; every way in which files may lawfully lack a weight is among them.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertConfig, BertModel

from eval.models.architectures import ARCHITECTURES, build_model
from genrec.backends.pretrained import causal_model_class, load_pretrained
from genrec.errors import ModelMissingError

VOCABULARY = 512
FAMILIES = (
    "Llama 3.2",  # the output layer is the embedding
    "Llama 3.1",  # it is not
    "Gemma 3 (text)",
    "Gemma 4 (text)",  # learned buffers
    "gpt-oss",  # attention sinks
    "Qwen3-MoE",
    "Mixtral",
    "GLM-4-MoE",  # dense and expert layers, learned buffers
    "LFM2-MoE",  # convolutions, learned buffers
    "Nemotron-H",  # recurrent, attention and expert layers, learned buffers
    "Qwen3-Next",  # recurrent and attention layers
    "Granite 4 H",
    "Mamba",
    "Apertus",  # buffers of an activation function
    "BLOOM",
    "Gemma 3",  # multimodal
    "Qwen2.5-VL",
    "Mistral Small 3.2",
)


def save(name: str, folder: Path) -> Any:
    model = build_model(ARCHITECTURES[name], VOCABULARY)
    model.save_pretrained(folder)
    return model


def load(folder: Path) -> Any:
    return load_pretrained(causal_model_class(folder), folder, dtype=torch.float32).eval()


def rewrite(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = model(input_ids=torch.arange(20, 40)[None]).logits
    return result


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_text_does_not_need_may_be_missing_and_nothing_else(name: str, tmp_path: Path) -> None:
    """A refused vision part stops a model that works; a weight that is made up ranks with noise, without an error."""
    model = save(name, tmp_path)
    expected, whole = logits(model), load_file(tmp_path / "model.safetensors")
    text = {key: weight for key, weight in whole.items() if "vision" not in key and "visual" not in key}
    assert (len(text) < len(whole)) == (ARCHITECTURES[name].multimodal is not None)
    rewrite(tmp_path, text)
    torch.testing.assert_close(logits(load(tmp_path)), expected)
    needed = [key for key in text if "projector" not in key]
    kinds = {key.rpartition(".layers.")[2].lstrip("0123456789."): key for key in needed}  # one of each kind
    buffers = {key.rpartition(".")[2] for key, _ in model.named_buffers()}
    # Transformers makes up 0 or 1 for these.
    learned = [key for key in kinds.values() if key.rpartition(".")[2] in buffers]
    for key in [*learned, *list(kinds.values())[:: max(1, len(kinds) // 5)]]:
        rewrite(tmp_path, {other: weight for other, weight in text.items() if other != key})
        with pytest.raises(ModelMissingError, match=r" lack | another shape |cannot load") as raised:
            load(tmp_path)
        assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["Llama 3.2", "Llama 3.1"])
def test_an_output_layer_that_is_the_embedding_is_in_the_files_once_under_either_name(
    name: str, tmp_path: Path
) -> None:
    """Files of tied models have one of the two weights; without tying, both are needed."""
    model = save(name, tmp_path)
    tied = model.config.tie_word_embeddings
    weights = load_file(tmp_path / "model.safetensors")
    for own, other in (
        ("model.embed_tokens.weight", "lm_head.weight"),
        ("lm_head.weight", "model.embed_tokens.weight"),
    ):
        only = {key: weight for key, weight in weights.items() if key not in (own, other)}
        rewrite(tmp_path, {**only, own: model.state_dict()[own].clone()})
        if tied:
            torch.testing.assert_close(logits(load(tmp_path)), logits(model))
        else:
            with pytest.raises(ModelMissingError, match=rf"lack 1 of its .* weights, the first is {other}; "):
                load(tmp_path)


def test_an_encoder_needs_no_pooler_and_nothing_else_may_be_missing(tmp_path: Path) -> None:
    """Sentence encoders are published without a pooler, which is not read; a layer that is made up finds anything."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=VOCABULARY, **sizes)).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    rewrite(tmp_path, {key: weight for key, weight in weights.items() if "pooler" not in key})
    load_pretrained(AutoModel, tmp_path)
    rewrite(tmp_path, {key: weight for key, weight in weights.items() if "output.dense.bias" not in key})
    with pytest.raises(ModelMissingError, match=r"lack 2 of its 21 weights, the first is encoder\.layer\.0\.attention"):
        load_pretrained(AutoModel, tmp_path)


def test_nothing_is_written_about_weights_that_a_text_does_not_need(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A table of weights in the log of a server that works is read as a failure."""
    save("Gemma 3", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    rewrite(tmp_path, {**{key: own for key, own in weights.items() if "vision" not in key}, "spare": torch.zeros(1)})
    capfd.readouterr()
    load(tmp_path)
    assert capfd.readouterr() == ("", "")
