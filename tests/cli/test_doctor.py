"""What `genrec doctor` says about a model: what works with it, and one line for what cannot work."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Run, run
from tiny_models import save_tiny_llama
from transformers import AutoModelForCausalLM

OURS = ("--encoder", "none", "--json")
NOTHING_LISTENS = "http://127.0.0.1:9"


@pytest.fixture
def tiny(smollm2: Path, tmp_path: Path) -> Path:
    return save_tiny_llama(tmp_path / "tiny", smollm2, tie_word_embeddings=False, initializer_range=0.3)


def broken(result: Run) -> list[dict[str, str]]:
    assert result.exit_code == 5
    assert result.json["usable"] is False
    return [check for check in result.json["checks"] if check["state"] == "broken"]


def test_the_row_of_a_model_is_measured_with_it(tiny: Path) -> None:
    """Whoever chooses a model sees here, and not in production, what it can do."""
    facts = run("doctor", "--model", tiny, *OURS).json
    assert facts["usable"] is True
    checks = {check["name"]: check for check in facts["checks"]}
    names = ["arithmetic", "chat template", "scores", "tree", "adapters", "texts", "generation"]
    assert [name for name in checks if name in names] == names
    assert {checks[name]["state"] for name in names[1:]} == {"ok"}
    assert checks["chat template"]["found"] == "rendered as in Transformers"
    assert float(checks["scores"]["found"].split()[-2]) < 0.2  # in bfloat16, where the processor has it
    assert checks["tree"]["found"].startswith("masked: ")
    assert checks["adapters"]["found"] == "LoRA can train 7 linear layers"
    assert len(checks["generation"]["found"].removeprefix("ranking after Tea Cup: ").split(", ")) == 3


def test_a_model_without_a_chat_template_is_refused_in_one_line(tiny: Path) -> None:
    """A base model follows no instructions, and its lists look plausible."""
    (tiny / "chat_template.jinja").unlink()
    path = tiny / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("chat_template", None)
    path.write_text(json.dumps(config), encoding="utf-8")
    (check,) = broken(run("doctor", "--model", tiny, *OURS))
    assert check["name"] == "chat template"
    assert str(tiny) in check["found"]
    assert "base model" in check["found"]
    assert "instruction-tuned" in check["remedy"]


def test_a_context_that_no_prompt_fits_is_refused_in_one_line(smollm2: Path, tmp_path: Path) -> None:
    """Otherwise the first list fails, with the name of a template as the reason."""
    folder = save_tiny_llama(tmp_path / "short", smollm2, max_position_embeddings=32)
    (check,) = broken(run("doctor", "--model", folder, *OURS))
    assert check["name"] == "context"
    assert check["found"].startswith("32 tokens are fewer than a prompt needs")
    assert "at least 512 tokens" in check["remedy"]


def test_a_missing_folder_and_a_server_that_is_not_there_are_named(tiny: Path) -> None:
    """The name and the place are what a user can correct."""
    result = run("doctor", "--model", tiny.parent / "nowhere", *OURS)
    assert result.exit_code == 5
    assert "nowhere" in result.err
    assert len(result.err.strip().splitlines()) == 1
    server = ("--engine", "server", "--server-url", NOTHING_LISTENS)
    api = ("--api-url", f"{NOTHING_LISTENS}/v1")
    for engine in (server, api):
        (check,) = broken(run("doctor", "--model", tiny, *engine, *OURS))
        assert check["name"] == "generation"
        assert "127.0.0.1:9" in check["found"]


def test_damaged_weights_are_refused_in_one_line(tiny: Path) -> None:
    """A download that broke off is the most frequent reason why a model does not load."""
    weights = tiny / "model.safetensors"
    shutil.copy(weights, tiny.parent / "copy")
    weights.write_bytes(weights.read_bytes()[:1000])
    (check,) = broken(run("doctor", "--model", tiny, *OURS))
    assert check["name"] == f"model {tiny}"
    assert f"{weights} is cut: it has 1,000 bytes" in check["found"]
    assert check["remedy"] == "download or copy the file again"
    weights.write_bytes(b"not weights" * 100)
    (check,) = broken(run("doctor", "--model", tiny, *OURS))
    assert check["name"] == "generation"
    assert "tiny" in check["found"]
    assert check["remedy"]


def save_adapter(folder: Path, base: Path, *, std: float = 0.3, **changes: Any) -> Path:
    """Write an adapter of a model as PEFT does."""
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(r=2, **changes))
    for name, parameter in model.named_parameters():
        if "lora_B" in name and std:
            torch.nn.init.normal_(parameter, std=std)
    model.save_pretrained(str(folder))
    return folder


def test_the_row_of_an_adapter_is_measured_with_it(tiny: Path, tmp_path: Path) -> None:
    """An adapter that has no effect, or belongs to another model, is seen here and not by a lower revenue."""
    adapter = save_adapter(tmp_path / "tuned", tiny)
    with_it, without = (run("doctor", "--model", tiny, *own, *OURS).json for own in (("--adapter", adapter), ()))
    assert with_it["usable"] is True
    rows, others = ({check["name"]: check for check in facts["checks"]} for facts in (with_it, without))
    assert rows.keys() - others.keys() == {f"adapter {adapter}"}
    row = rows[f"adapter {adapter}"]
    assert row["state"] == "ok"
    assert row["found"].startswith(f"fits {tiny}; changes log-probabilities by up to ")
    assert float(row["found"].split()[-2]) > 0.01
    assert rows["texts"] != others["texts"] or rows["generation"] != others["generation"]
    assert len(rows["generation"]["found"].removeprefix("ranking after Tea Cup: ").split(", ")) == 3
    unchanged = save_adapter(tmp_path / "unchanged", tiny, std=0)
    checks = run("doctor", "--model", tiny, "--adapter", unchanged, *OURS).json["checks"]
    (row,) = (check for check in checks if check["name"] == f"adapter {unchanged}")
    assert (row["state"], row["found"]) == ("degraded", "changes no log-probability of the model")


def test_an_adapter_that_does_not_fit_is_refused_in_one_line(tiny: Path, smollm2: Path, tmp_path: Path) -> None:
    """The message names both models, or the file to copy again."""
    other = save_tiny_llama(tmp_path / "other", smollm2)
    adapter = save_adapter(tmp_path / "tuned", other)
    (check,) = broken(run("doctor", "--model", tiny, "--adapter", adapter, *OURS))
    assert f"the adapter '{adapter}' was trained for" in check["found"]
    assert f"'{tiny}'" in check["found"]
    fitting = save_adapter(tmp_path / "cut", tiny)
    file = fitting / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    (check,) = broken(run("doctor", "--model", tiny, "--adapter", fitting, *OURS))
    assert f"cannot read the adapter '{fitting}'" in check["found"]
