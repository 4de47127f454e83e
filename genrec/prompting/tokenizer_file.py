"""The files of a tokenizer in a model's folder; `tokenizer.json` is converted if it is in another format."""

import re
import shutil
from pathlib import Path
from typing import Any

from genrec.errors import ModelMissingError, format_error, missing_packages

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json"),
    *("additional_chat_templates/*.jinja", "tokenizer.model", "tiktoken.model"),
    *("added_tokens.json", "special_tokens_map.json"),  # Transformers reads them when it converts
)
"""Patterns of the files from which a tokenizer with its chat templates is read."""

_FILE = "tokenizer.json"
_OTHER_FILES = ("tokenizer.model", "tiktoken.model")
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\s")
_REMEDY = "save the tokenizer as tokenizer.json where Transformers can read it"


def find_tokenizer_files(directory: Path) -> list[Path]:
    """The files of the tokenizer and of its chat templates in a folder, in the order of `TOKENIZER_FILES`."""
    return [path for pattern in TOKENIZER_FILES for path in sorted(directory.glob(pattern)) if path.is_file()]


def copy_tokenizer(source: Path, destination: Path) -> None:
    """Copy the tokenizer and the chat templates of a folder to another folder, which exists."""
    for path in find_tokenizer_files(source):
        target = destination / path.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)


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
    missing = missing_packages(_conversion_packages(path), {"protobuf": "google.protobuf"})
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
