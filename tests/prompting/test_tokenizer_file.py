"""Tokenizers that are not a tokenizer.json: converted where the packages are installed, else the remedy is named."""

import json
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_models import save_byte_tokenizer

from genrec.errors import ArtifactError, ModelMissingError
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.prompting.tokenizer_file import TOKENIZER_FILES, copy_tokenizer

TEXTS = ["Blade Runner", "the matrix 1999", "Amélie", "映画 film", "Alien 3"]


def _in_json(folder: Path, template: str) -> None:
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")


def _in_jinja(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _beside_others(folder: Path, template: str) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "default.jinja").write_text(template, encoding="utf-8")


@pytest.mark.parametrize("write", [_in_json, _in_jinja, _beside_others])
def test_a_copy_of_a_tokenizer_renders_the_same_prompts(write: Callable[[Path, str], None], tmp_path: Path) -> None:
    """A merged or unpacked model without its template is prompted in plain paragraphs, without an error."""
    folder, copy = save_byte_tokenizer(tmp_path / "tokenizer"), tmp_path / "copy"
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    write(folder, template)
    copy.mkdir()
    copy_tokenizer(folder, copy)
    one, other = (HuggingFaceTokenizer.from_directory(path) for path in (folder, copy))
    assert one.chat_template_fingerprint
    assert (one.fingerprint, one.chat_template_fingerprint) == (other.fingerprint, other.chat_template_fingerprint)
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert all(any(fnmatch(file, pattern) for pattern in TOKENIZER_FILES) for file in files)  # how the Hub selects


@pytest.mark.parametrize(("content", "package"), [(b"\n\x0e\n\x05<unk>", "sentencepiece"), (b"IQ== 0\n", "tiktoken")])
def test_without_the_packages_the_remedy_is_named(
    content: bytes, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformers falls back to another format then, and fails with a message about that."""
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "tokenizer.model").write_bytes(content)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}', encoding="utf-8")
    with pytest.raises(ModelMissingError) as raised:
        HuggingFaceTokenizer.from_directory(tmp_path)
    assert f"the tokenizer in {tmp_path} is tokenizer.model, not tokenizer.json" in str(raised.value)
    assert f"; run: pip install {package}; or save the tokenizer as tokenizer.json" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_sentencepiece_model_is_converted_and_a_damaged_one_named(tmp_path: Path) -> None:
    """Models of two years ago have no other tokenizer; its token ids must be those of sentencepiece itself.

    Of a damaged one Transformers says that tiktoken is missing.
    """
    sentencepiece = pytest.importorskip("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="bpe",
        vocab_size=320,
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = HuggingFaceTokenizer.from_directory(tmp_path)
    file = tmp_path / "tokenizer.model"
    whole, tiktoken = file.read_bytes(), [b"IQ== 0\nIg"] if find_spec("tiktoken") else []
    for damage in (b"", b"not a model", whole[: len(whole) // 2 + 1], *tiktoken):
        file.write_bytes(damage)
        with pytest.raises(ArtifactError) as raised:
            HuggingFaceTokenizer.from_directory(tmp_path)
        message = str(raised.value)
        assert f"in {tmp_path}: tokenizer.model ({len(damage):,} bytes) is damaged or cut: it cannot be read" in message
        assert message.endswith("; fetch the model again")
    file.write_bytes(whole)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert [tokenizer.encode_text(text).tolist() for text in TEXTS] == [processor.encode(text) for text in TEXTS]
    assert tokenizer.eos_token_id == processor.eos_id()
