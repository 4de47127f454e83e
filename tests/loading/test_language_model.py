"""What is opened for the settings' model: the same files and chat template for the model, its adapter and its base."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import save_byte_tokenizer, save_tiny_llama

from genrec import Catalog, ChatTemplateSettings, History, Item, Settings, open_recommender
from genrec.backends.model_name import model_name, published_name
from genrec.backends.provenance import Provenance
from genrec.errors import ModelMissingError
from genrec.loading import find_provenance
from genrec.loading.language_model import open_language_model

CATALOG = Catalog.from_items([Item("a", "Alien"), Item("b", "Blade Runner"), Item("c", "Casablanca")])
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def save_model(folder: Path) -> Path:
    """Write a Llama of one layer with a tokenizer of bytes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = save_byte_tokenizer(folder.parent / f"{folder.name}-tokenizer")
    return save_tiny_llama(folder, tokenizer, vocab_size=260, max_position_embeddings=4096)


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the model Example/Tuned in the Hub's cache, as another program has downloaded it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    home = tmp_path / "hub" / "models--Example--Tuned"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    return save_model(home / "snapshots" / COMMIT)


def test_the_name_of_a_model_does_not_depend_on_where_it_is_kept(snapshot: Path, tmp_path: Path) -> None:
    """The Hub's cache names a folder by its commit; an adapter that records that name fits no model."""
    assert (published_name(snapshot), published_name(tmp_path / "Tuned")) == ("Example/Tuned", "Tuned")
    assert {model_name(one) for one in (snapshot, "Example/Tuned", tmp_path / "Tuned")} == {"Tuned"}


def test_an_adapter_and_its_base_are_prompted_with_the_chat_template_of_the_settings(tmp_path: Path) -> None:
    """A model whose templates have names has none without one, so its adapter could not be used."""
    model = save_model(tmp_path / "model")
    template = (model / "chat_template.jinja").read_text(encoding="utf-8")
    (model / "chat_template.jinja").unlink()
    config = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    named = [{"name": name, "template": template} for name in ("advice", "tools")]
    (model / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": named}), encoding="utf-8")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    lora = {"base_model_name_or_path": "model", "r": 2, "peft_type": "LORA", "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps({**lora, "target_modules": ["q_proj"]}), encoding="utf-8")
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    weights = {f"{prefix}.lora_A.weight": torch.ones(2, 16), f"{prefix}.lora_B.weight": torch.ones(16, 2)}
    save_file(weights, adapter / "adapter_model.safetensors")
    settings = Settings(model=model, adapter=adapter, encoder=None, chat_template=ChatTemplateSettings(name="advice"))
    opened = open_language_model(settings, tmp_path / "cache")
    assert opened is not None
    assert opened.prior_backend is not None
    assert opened.prior_backend.name != opened.backend.name
    recommender = open_recommender(CATALOG, None, cache=tmp_path / "cache", settings=settings, need_model=True)
    assert {item.source for item in recommender.recommend(History(("a",)), k=2).items} == {"generative: language model"}


def test_what_a_tuned_model_of_the_hub_was_trained_on_is_found(snapshot: Path, tmp_path: Path) -> None:
    """Otherwise an evaluation does not see that the model has learned the items that it is asked for."""
    settings = Settings(model="Example/Tuned", encoder=None)
    assert find_provenance(settings, tmp_path) is None
    record = Provenance("Tiny", {}, "a", "b", "c", "d", "e", "2011-01-01", "2011-12-09", 1)
    record.write(snapshot)
    assert find_provenance(settings, tmp_path) == record
    assert find_provenance(Settings(model="Example/Missing", encoder=None), tmp_path) is None


def test_a_tuned_model_of_the_hub_names_items_as_it_was_trained_to(snapshot: Path, tmp_path: Path) -> None:
    """A model that was trained on semantic ids and is asked for titles ranks at random, without an error."""
    settings = Settings(model="Example/Tuned", encoder=None)
    (snapshot / "codes").mkdir()
    with pytest.raises(ModelMissingError, match="uses semantic ids, which need a sentence encoder"):
        open_language_model(settings, tmp_path)
