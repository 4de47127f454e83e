"""What `genrec doctor` says about a model: what works with it, and one line for what cannot work."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import Run, run
from tiny_models import save_tiny_llama

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
    assert check["name"] == "generation"
    assert "tiny" in check["found"]
    assert check["remedy"]
