"""Laws of the table of model families: what it says is measured, and each architecture scores as its own model."""

import shutil
from pathlib import Path

import pytest
import torch
from backend_support import needs_vllm
from tiny_models import save_tiny_llama

from eval.models import family_table
from eval.models.architectures import ARCHITECTURES
from eval.models.families import BOUND, FamilyRow, measure_family, measure_folder
from eval.models.family_table import format_row, read_table, update_table
from eval.models.vllm_families import VLLM_FAMILIES, measure_in_vllm
from genrec.backends.transformers import TransformersBackend
from genrec.errors import MismatchError
from genrec.evaluation import ModelCheck, SingleTokens, WholePaths
from genrec.prompting.tokenizer import HuggingFaceTokenizer

CI_FAMILIES = (
    "Llama 3.2",  # plain
    "Qwen3",  # reasoning that is switched off
    "Gemma 3 (text)",  # sliding windows, soft caps
    "gpt-oss",  # attention sinks, a channel before the answer
    "Qwen3-MoE",
    "Qwen3-Next",  # recurrent and attention layers
    "Mistral Small 3.2",  # multimodal
    "Llama without a chat template",
)
MEASURED_COLUMNS = ("renders", "tree", "writes", "notes")  # numbers differ between machines


def check_row(row: FamilyRow) -> None:
    """Check that a row is right, and that the page says the same."""
    assert row.is_right, row
    shown, measured = read_table()[row.name], format_row(row)
    assert {name: shown[name] for name in MEASURED_COLUMNS} == {name: measured[name] for name in MEASURED_COLUMNS}


@pytest.mark.parametrize("name", CI_FAMILIES)
def test_a_family_scores_trains_and_writes_as_its_own_model_does(name: str, cache: Path) -> None:
    """A layer that reads the tree of tokens wrongly makes other lists, without an error."""
    pytest.importorskip("peft")
    check_row(measure_family(name, cache))


@pytest.mark.models
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in CI_FAMILIES])
def test_every_family_scores_trains_and_writes_as_its_own_model_does(name: str, cache: Path) -> None:
    """The page promises these architectures."""
    check_row(measure_family(name, cache))


@needs_vllm
@pytest.mark.vllm
@pytest.mark.parametrize("name", VLLM_FAMILIES)
def test_a_family_scores_and_writes_in_vllm_as_in_transformers(name: str, cache: Path) -> None:
    """Otherwise an adapter that was tuned in Transformers ranks differently where it is served."""
    assert measure_in_vllm(name, cache, timeout=600.0) < 1e-3
    assert float(read_table()[name]["vLLM"]) < 1e-3


def test_the_page_shows_the_rows_of_the_command() -> None:
    """Users choose a model by this table."""
    table = read_table()
    assert tuple(table) == tuple(ARCHITECTURES)
    page = family_table.PAGE.read_text(encoding="utf-8")
    assert family_table.format_table(table) in page
    assert {name for name, row in table.items() if row["vLLM"] != family_table.NOT_TRIED} == set(VLLM_FAMILIES)
    scores = [float(row["scores exactly"]) for row in table.values() if row["scores exactly"] != "no"]
    assert len([score for score in scores if score <= BOUND]) >= 52


def test_an_update_replaces_measured_cells_only(tmp_path: Path) -> None:
    """A run of some rows, or of vLLM's column, must not lose what other runs have measured."""
    page = tmp_path / "models.md"
    shutil.copy(family_table.PAGE, page)
    before = read_table(page)
    update_table({"Qwen3": {"vLLM": "9.9e-9"}}, page)
    assert read_table(page) == {**before, "Qwen3": {**before["Qwen3"], "vLLM": "9.9e-9"}}
    refused = FamilyRow("Qwen3", "refused", None, "", None, False, "a | b")
    update_table({"Qwen3": format_row(refused)}, page)
    shown = read_table(page)["Qwen3"]
    assert (shown["scores exactly"], shown["LoRA"], shown["notes"], shown["vLLM"]) == ("no", "no", "a \\| b", "9.9e-9")


@pytest.fixture(scope="module")
def tiny(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"), smollm2, tie_word_embeddings=False, initializer_range=0.3)


def test_other_weights_are_told_from_the_model(tiny: Path, smollm2: Path, tmp_path: Path) -> None:
    """A comparison that cannot fail proves nothing."""
    backend = TransformersBackend(tiny, device="cpu", dtype=torch.float32)
    check = ModelCheck(backend, HuggingFaceTokenizer.from_directory(tiny))
    own = WholePaths(backend.model)
    other = save_tiny_llama(tmp_path, smollm2, seed=1, tie_word_embeddings=False, initializer_range=0.3)
    foreign = WholePaths(TransformersBackend(other, device="cpu", dtype=torch.float32).model)
    assert check.compare_scores(own).difference < BOUND
    assert check.compare_scores(foreign).difference > 0.1
    assert check.generate(own) == check.generate()
    with pytest.raises(MismatchError, match=r"token 1 of the text .* less probable than the best one"):
        check.generate(foreign)
    assert check.compare_scores(SingleTokens(backend)).difference < BOUND


def test_a_row_is_wrong_where_something_fails() -> None:
    """The command exits with 1, by which CI sees it."""
    right = FamilyRow("Qwen3", "equal", 1e-5, "masked", 1e-5, True, "")
    assert right.is_right
    for change in ({"difference": 1e-2}, {"lora": None}, {"lora": 1e-2}, {"writes": False}, {"renders": "different"}):
        assert not FamilyRow(**{**vars(right), **change}).is_right
    assert not FamilyRow(**{**vars(right), "name": "Llama with a context of 32 tokens"}).is_right


def test_a_context_shorter_than_a_prompt_is_refused_with_the_reason(smollm2: Path, tmp_path: Path) -> None:
    """The reason stands in the notes of the row."""
    folder = save_tiny_llama(tmp_path, smollm2, max_position_embeddings=32)
    row = measure_folder("Llama with a context of 32 tokens", folder)
    assert (row.renders, row.difference) == ("refused", None)
    assert "does not fit" in row.notes
