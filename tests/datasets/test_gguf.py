"""GGUF files rank like the safetensors of the same weights, or are refused in one line with nothing written."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run
from tiny_models import save_byte_tokenizer, save_gguf, save_tiny_llama

from genrec import Catalog, History, Item, Settings, open_recommender
from genrec.datasets.model_directory import find_model_directory
from genrec.errors import ArtifactError, ModelMissingError
from genrec.loading import load_backend
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.types import Message, Span

TOLERANCES = {"F32": 1e-5, "BF16": 0.05, "F16": 0.01, "Q8_0": 0.05, "Q4_1": 0.5}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers."""
    home = tmp_path_factory.mktemp("gguf")
    sizes = {"vocab_size": 260, "hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 4096}
    return save_tiny_llama(home / "model", save_byte_tokenizer(home / "tokenizer"), num_hidden_layers=2, **sizes)


def packed(model: Path, folder: Path, **options: Any) -> Path:
    """A folder with a GGUF file of a model, and its tokenizer beside it."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(model / name, folder / name)
    return save_gguf(model, folder / "tiny.gguf", **options)


def log_probs(model: Path, cache: Path) -> Any:
    """Log-probabilities of all tokens behind a prompt and three tokens, in float32."""
    from genrec.backends.placement import Placement

    backend, tokenizer = load_backend(model, cache, placement=Placement("float32", "cpu"))
    assert tokenizer.vocab_size == 260
    tree = backend.open([np.arange(1, 20)])
    nodes = tree.grow(np.zeros(3, dtype=np.int64), np.array([5, 6, 7]))
    return tree.log_probs(nodes, np.tile(np.arange(260), 3), np.arange(4) * 260)


@pytest.mark.parametrize("number_type", TOLERANCES)
def test_scores_are_those_of_the_same_weights_as_safetensors(number_type: str, model: Path, tmp_path: Path) -> None:
    """Heads in another order, or a scale that is lost, rank at random and look well."""
    file = packed(model, tmp_path / "folder", number_type=number_type)
    expected = log_probs(model, tmp_path / "cache")
    for given in (file, file.parent):
        actual = log_probs(given, tmp_path / "cache")
        assert np.abs(actual - expected).max() <= TOLERANCES[number_type]
    assert len(list((tmp_path / "cache" / "gguf").rglob("model.safetensors"))) == 1  # unpacked once


def test_a_file_ranks_and_a_changed_file_is_unpacked_again(model: Path, tmp_path: Path) -> None:
    """A cache that keeps the old weights under the name of the new ones answers with the wrong model."""
    file = packed(model, tmp_path / "folder")
    catalog = Catalog.from_items([Item("a", "Alien"), Item("b", "Blade Runner"), Item("c", "Casablanca")])
    settings = Settings(model=file, encoder=None)
    recommender = open_recommender(catalog, None, cache=tmp_path / "cache", settings=settings, need_model=True)
    ranked = recommender.recommend(History(("a",)), k=2).items
    assert {item.source for item in ranked} == {"generative: language model"}
    first = find_model_directory(file, tmp_path / "cache")
    save_gguf(save_tiny_llama(tmp_path / "other", model, seed=1, vocab_size=260), file)
    assert find_model_directory(file, tmp_path / "cache") != first


def test_the_tokenizer_and_the_chat_template_are_in_the_file(smollm2: Path, tmp_path: Path) -> None:
    """Most files come alone; with another tokenizer every title would be scored as other words."""
    source = save_tiny_llama(tmp_path / "model", smollm2)
    (tmp_path / "alone").mkdir()
    file = save_gguf(source, tmp_path / "alone" / "tiny.gguf", with_tokenizer=True)
    found = HuggingFaceTokenizer.from_directory(find_model_directory(file, tmp_path / "cache"))
    expected = HuggingFaceTokenizer.from_directory(smollm2)
    prompt = [Message("user", (Span("Blade Runner <|im_end|>", trusted=False),))]
    assert found.encode_prompt(prompt).tolist() == expected.encode_prompt(prompt).tolist()
    for text in ("Alien", "the matrix", "\u00c9toile (untitled)", "\u6620\u753b"):
        assert found.encode_text(text).tolist() == expected.encode_text(text).tolist()
    assert found.answer_end.tolist() == expected.answer_end.tolist()


def test_what_cannot_be_read_is_refused_in_one_line_and_leaves_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of an unpacked model would be found at the next start; and random weights would rank."""
    file = packed(model, tmp_path / "folder", architecture="haiku")
    for content, said in (
        (None, "haiku"),
        (b"GGUF" + bytes(20), ""),
        (b"not a file of that kind", ""),
    ):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ModelMissingError) as raised:
            find_model_directory(file, tmp_path / "cache")
        assert f"cannot read {file}: " in str(raised.value)
        assert said in str(raised.value)
        assert raised.value.remedy.startswith("use the model's safetensors")
        assert len(str(raised.value).splitlines()) == 1
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    monkeypatch.setenv("GENREC_CACHE", str(tmp_path / "cache"))
    result = run("recommend", "15049", "--model", file, "--encoder", "none")
    assert (result.exit_code, f"cannot read {file}: " in result.err) == (5, True), result.err


@pytest.mark.parametrize("number_type", ["F32", "Q4_1"])
def test_a_cut_file_is_named_as_such_with_its_size(number_type: str, model: Path, tmp_path: Path) -> None:
    """A download that broke off is the most frequent damage; a message about arrays does not say to repeat it."""
    file = packed(model, tmp_path / "folder", number_type=number_type)
    whole = file.read_bytes()
    header = whole.index(b"token_embd.weight") + len(b"token_embd.weight")
    for size in (0, 2, 4, 20, 30, header, len(whole) // 2, len(whole) - 40):
        file.write_bytes(whole[:size])
        with pytest.raises(ModelMissingError) as raised:
            find_model_directory(file, tmp_path / "cache")
        part = "it ends within its header" if size <= header else f"{len(whole):,} bytes are needed for its tensors"
        expected = f"{file} is cut: it has {size:,} bytes, and {part}; download or copy the file again"
        assert str(raised.value) == expected
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_weights_that_are_missing_are_not_made_up(model: Path, tmp_path: Path) -> None:
    """Transformers fills them with random numbers, and only warns."""
    file = packed(model, tmp_path / "folder", block_count=3)
    with pytest.raises(ModelMissingError, match=r"tiny\.gguf lacks the weights model\.layers\.2\..*; download or"):
        find_model_directory(file, tmp_path / "cache")


def test_checksums_are_compared_again_only_if_a_file_has_changed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading gigabytes at each start delays it by minutes; an altered file must still be refused."""
    file = packed(model, tmp_path / "folder")
    directory = find_model_directory(file, tmp_path / "cache")
    weights = directory / "model.safetensors"
    status = weights.stat()
    with monkeypatch.context() as reading:
        reading.setattr("genrec.artifact.sha256_of", lambda _: pytest.fail("the checksum was computed"))
        assert find_model_directory(file, tmp_path / "cache") == directory
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert find_model_directory(file, tmp_path / "cache") == directory  # it was read again, and is the same
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for _ in range(2):  # a refusal is not recorded as a comparison
        with pytest.raises(ArtifactError, match=r"model\.safetensors was altered .*; remove the folder .*made again"):
            find_model_directory(file, tmp_path / "cache")


def test_a_full_disk_leaves_nothing(model: Path, tmp_path: Path) -> None:
    """Half of a model must never answer."""
    from full_disk import full_disk

    file = packed(model, tmp_path / "folder")
    with full_disk(), pytest.raises(ArtifactError, match=r"cannot write gguf to .*; nothing was changed"):
        find_model_directory(file, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    find_model_directory(file, tmp_path / "cache")


def test_of_several_files_one_is_named(model: Path, tmp_path: Path) -> None:
    """Repositories have one file for each quantisation; the first by name would be the worst."""
    file = packed(model, tmp_path / "folder")
    shutil.copy(file, file.with_name("other.gguf"))
    with pytest.raises(ModelMissingError, match=r"several GGUF files \(other.gguf, tiny.gguf\); name one of them"):
        find_model_directory(file.parent, tmp_path / "cache")
