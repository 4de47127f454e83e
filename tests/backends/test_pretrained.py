"""Weights are loaded as safetensors, and a model's own code is run only if a setting says so."""

import ast
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from untrusted_model import UntrustedModel

from genrec.backends.encoder import SentenceEncoder
from genrec.backends.transformers import TransformersBackend
from genrec.errors import ModelMissingError
from genrec.loading import load_backend, open_encoder

ROOT = Path(__file__).parents[2]
LOADERS: list[Callable[..., Any]] = [
    TransformersBackend,
    SentenceEncoder,
    lambda model, **options: load_backend(model, Path(), **options),
    lambda model, **options: open_encoder(model, Path(), **options),
]


@pytest.fixture
def untrusted(tmp_path: Path) -> UntrustedModel:
    """A model with code."""
    return UntrustedModel(tmp_path / "untrusted")


@pytest.mark.parametrize("load", LOADERS)
def test_code_of_a_model_is_not_run_and_nobody_is_asked(
    load: Callable[..., Any], untrusted: UntrustedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A downloaded folder would take over the machine of everybody whose standard input begins with y."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 10))
    with pytest.raises(ModelMissingError, match="read that code, and set trust_remote_code") as raised:
        load(untrusted.folder)
    assert raised.value.code == "untrusted_code"
    assert not untrusted.has_run
    assert sys.stdin.read() == "y\n" * 10


@pytest.mark.parametrize("load", LOADERS)
def test_code_of_a_trusted_model_is_run(load: Callable[..., Any], untrusted: UntrustedModel) -> None:
    """Otherwise new architectures could not be served; the test model has no weights, so it fails after its code."""
    with pytest.raises(ModelMissingError):
        load(untrusted.folder, trust_remote_code=True)
    assert untrusted.has_run


def test_every_model_is_loaded_in_one_place() -> None:
    """Elsewhere weights may come as a pickle, or bring code that Transformers asks about on standard input."""
    for path in sorted(path for name in ("genrec", "eval", "finetune") for path in (ROOT / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr != "from_pretrained" or ast.unparse(node.func.value) == "PeftConfig":  # reads JSON
                continue
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if path.name == "pretrained.py":
                assert keywords["use_safetensors"] == "True"
                assert keywords["trust_remote_code"] == "trust_remote_code"
            elif path.name in ("tokenizer_file.py", "chat_template_check.py"):  # tokenizers only
                assert keywords["trust_remote_code"] == "False"
            else:  # a file that genrec downloads by its hash and converts
                assert (path.name, keywords["trust_remote_code"]) == ("gguf.py", "False"), path
                assert "gguf_file" in keywords
