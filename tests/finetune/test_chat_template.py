"""Training renders the chat template as serving does, and records how."""

from pathlib import Path

import pytest
from thinking_model import write_thinking_model

from finetune.config import read_config
from finetune.model import open_model
from finetune.train import train
from genrec import ChatTemplateSettings, Settings, open_dataset, open_recommender
from genrec.backends.adapter import inspect_adapter
from genrec.backends.provenance import Provenance
from genrec.errors import MismatchError

pytestmark = pytest.mark.model
SHORT = [
    *("steps=1", "warmup=0", "trees=1", "targets=1", "others=1", "evaluate_users=1", "rank=2"),
    *("prior=0.0", "background=0", 'chat_template.arguments.style="short"', "chat_template.date=2026-12-02"),
]


def test_an_adapter_records_its_chat_template_and_serving_compares(smollm2: Path, tmp_path: Path, cache: Path) -> None:
    """An adapter that is served behind another prompt ranks worse, and its lists look like any other."""
    model = write_thinking_model(tmp_path / "model", smollm2)
    config = read_config("shop", [*SHORT, f'model="{model}"'])
    adapter = train(config, tmp_path / "run", data=None)
    record = Provenance.read(adapter)
    assert record.config["chat_template"] == {"arguments": {"style": "short"}, "date": "2026-12-02", "name": None}

    catalog, _ = open_dataset("online-retail", cache)

    def differences(chat_template: ChatTemplateSettings) -> list[object]:
        settings = Settings(model=model, adapter=adapter, encoder=None, chat_template=chat_template)
        notices = open_recommender(catalog, None, cache=tmp_path / "cache", settings=settings).notices
        return [notice.fields["name"] for notice in notices if notice.code == "adapter_differs"]

    assert differences(config.chat_template) == []
    assert differences(ChatTemplateSettings()) == ["chat_template"]
    other = read_config("shop", [*SHORT[:-2], f'model="{model}"', f'start="{adapter}"'])
    with pytest.raises(MismatchError, match="was trained with chat_template"):
        open_model(other, model)


def test_an_adapter_of_a_model_of_the_hub_names_it_as_others_do(smollm2: Path, tmp_path: Path, cache: Path) -> None:
    """The Hub's cache names the model's folder by its commit; under that name no engine would take the adapter."""
    snapshot = tmp_path / "models--Example--Tiny" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    model = write_thinking_model(snapshot, smollm2)
    adapter = train(read_config("shop", [*SHORT, f'model="{model}"']), tmp_path / "run", data=None)
    assert Provenance.read(adapter).base == "Example/Tiny"
    assert "base_model: Example/Tiny\n" in (adapter / "README.md").read_text(encoding="utf-8")
    for base in (model, "Example/Tiny"):
        assert inspect_adapter(adapter, base=base).provenance is not None
    settings = Settings(model=model, adapter=adapter, encoder=None)
    catalog, _ = open_dataset("online-retail", cache)
    open_recommender(catalog, None, cache=tmp_path / "cache", settings=settings, need_model=True)
    again = read_config("shop", [*SHORT, f'model="{model}"', f'start="{adapter}"'])
    assert train(again, tmp_path / "again", data=None).is_dir()


def test_an_override_of_one_argument_keeps_the_others() -> None:
    """Two values for --set would leave only the last one, and the run would train on other prompts."""
    changes = ["chat_template.arguments.a=1", "chat_template.arguments.b=2", "chat_template.date=2026-12-02"]
    chosen = read_config("shop", changes).chat_template
    assert (dict(chosen.arguments), str(chosen.date)) == ({"a": 1, "b": 2}, "2026-12-02")
