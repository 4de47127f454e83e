"""The tokenizer of a model's folder as the text of `tokenizer.json`, converted if it is in another format."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from genrec.errors import ModelMissingError, format_error

_FILE = "tokenizer.json"
_OTHER_FILES = ("tokenizer.model", "tiktoken.model")
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\s")
_REMEDY = "save the tokenizer as tokenizer.json where Transformers can read it"


def read_tokenizer_json(directory: Path) -> str:
    """The text of `tokenizer.json`; if there is only a `tokenizer.model`, Transformers converts it.

    Raises:
        ModelMissingError: the packages that convert it are not installed, or cannot do it.
        OSError, ValueError: there is no such file, or it cannot be read.
    """
    path = directory / _FILE
    other = next((directory / name for name in _OTHER_FILES if (directory / name).is_file()), None)
    return path.read_text(encoding="utf-8") if path.is_file() or other is None else _convert(other)


def _convert(path: Path) -> str:
    problem = f"the tokenizer in {path.parent} is {path.name}, not {_FILE}"
    missing = [name for name in _conversion_packages(path) if not _is_installed(name)]
    if missing:
        raise ModelMissingError(
            f"{problem}, and {', '.join(missing)} to convert it are not installed",
            remedy=f"run: pip install {' '.join(missing)}; or {_REMEDY}",
        )
    try:
        from transformers import AutoTokenizer

        auto: Any = AutoTokenizer
        tokenizer: Any = auto.from_pretrained(str(path.parent), trust_remote_code=False)
        return str(tokenizer.backend_tokenizer.to_str())
    except Exception as error:  # of Transformers, sentencepiece, protobuf or tiktoken
        raise ModelMissingError(f"{problem}, and cannot be converted: {format_error(error)}", remedy=_REMEDY) from error


def _conversion_packages(path: Path) -> tuple[str, ...]:
    """The packages that convert a file; Llama 3 has a tiktoken file of the name of a sentencepiece file."""
    with path.open("rb") as file:
        is_tiktoken = _TIKTOKEN_LINE.match(file.readline(1000)) is not None
    return ("transformers", "tiktoken") if is_tiktoken else ("transformers", "sentencepiece", "protobuf")


def _is_installed(package: str) -> bool:
    try:
        return find_spec({"protobuf": "google.protobuf"}.get(package, package)) is not None
    except ModuleNotFoundError:  # the package that holds it is missing, too
        return False
