"""The files of a tokenizer in a model's folder; `tokenizer.json` is converted if it is in another format."""

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

from genrec.errors import ArtifactError, ModelMissingError, format_error, format_value, missing_packages

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json"),
    *("additional_chat_templates/*.jinja", "tokenizer.model", "tiktoken.model"),
    *("added_tokens.json", "special_tokens_map.json"),  # Transformers reads them when it converts
)
"""Patterns of the files from which a tokenizer with its chat templates is read."""

_FILE = "tokenizer.json"
_OTHER_FILES = ("tokenizer.model", "tiktoken.model")
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\s")
_CONFIG_FILE = "tokenizer_config.json"
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
FETCH_AGAIN = "fetch the model again"
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
        ArtifactError: there is no such file, or it cannot be read.
    """
    path = directory / _FILE
    other = next((directory / name for name in _OTHER_FILES if (directory / name).is_file()), None)
    return read_text(path) if path.is_file() or other is None else _convert(other)


def read_tokenizer_config(directory: Path) -> dict[str, Any]:
    """The content of `tokenizer_config.json`.

    Raises:
        ArtifactError: there is no such file, or it cannot be read.
    """
    return parse_object(read_text(directory / _CONFIG_FILE), _CONFIG_FILE)


def special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """The texts of the special tokens in `tokenizer_config.json` by their names, such as `bos_token`.

    Raises:
        ArtifactError: one is neither text nor an object with its text.
    """
    found = {}
    for name in _SPECIAL_TOKENS:
        token = config.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            found[name] = text
        elif token is not None:
            raise ArtifactError(
                f"{name} in {_CONFIG_FILE} is {format_value(token)}, neither text nor an object with content",
                remedy=FETCH_AGAIN,
            )
    return found


def parse_tokenizer(text: str) -> dict[str, Any]:
    """The content of a `tokenizer.json`, in which genrec's own fields have been checked.

    Raises:
        ArtifactError: it is not that of a tokenizer.
    """
    document: dict[str, Any] = {"normalizer": None, "pre_tokenizer": None, **parse_object(text, _FILE)}
    if not isinstance(document.get("added_tokens"), list):
        raise ArtifactError(f"{_FILE} has no list added_tokens", remedy=FETCH_AGAIN)
    for token in document["added_tokens"]:
        is_token = isinstance(token, dict) and isinstance(token.get("content"), str)
        if not is_token or type(token.get("id")) is not int or token["id"] < 0:
            raise ArtifactError(
                f"added_tokens in {_FILE} contains {format_value(token)}, which is no token with an id and content",
                remedy=FETCH_AGAIN,
            )
    return document


def read_text(path: Path) -> str:
    """The text of a file of a tokenizer.

    Raises:
        ArtifactError: there is no such file, or it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ArtifactError(f"there is no {path.name}", remedy=FETCH_AGAIN) from error
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path.name} is not UTF-8 at byte {error.start:,}", remedy=FETCH_AGAIN) from error
    except OSError as error:
        problem = f"{path.name} cannot be read ({error.strerror or format_error(error)})"
        raise ArtifactError(problem, remedy="check its permissions, or fetch the model again") from error


def parse_object(text: str, name: str) -> dict[str, Any]:
    """The JSON object in the text of a file of a tokenizer.

    Args:
        text: the text.
        name: of the file, for messages.

    Raises:
        ArtifactError: it is not a JSON object.
    """
    if not text.strip():
        raise ArtifactError(f"{name} is empty", remedy=FETCH_AGAIN)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"at line {error.lineno:,}, column {error.colno:,} of {len(text):,} characters"
        raise ArtifactError(f"{name} is not JSON {where}; it may be cut", remedy=FETCH_AGAIN) from error
    except RecursionError as error:
        raise ArtifactError(f"{name} is nested too deeply", remedy=FETCH_AGAIN) from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{name} is {format_value(content)}, not a JSON object", remedy=FETCH_AGAIN)
    return content


def _convert(path: Path) -> str:
    problem = f"the tokenizer in {path.parent} is {path.name}, not {_FILE}"
    missing = missing_packages(_conversion_packages(path), {"protobuf": "google.protobuf"})
    if missing:
        raise ModelMissingError(
            f"{problem}, and {', '.join(missing)} to convert it are not installed",
            remedy=f"run: pip install {' '.join(missing)}; or {_REMEDY}",
        )
    _check_readable(path)
    try:
        from transformers import AutoTokenizer

        auto: Any = AutoTokenizer
        tokenizer: Any = auto.from_pretrained(str(path.parent), trust_remote_code=False)
        return str(tokenizer.backend_tokenizer.to_str())
    except Exception as error:  # of Transformers, sentencepiece, protobuf or tiktoken
        raise ModelMissingError(f"{problem}, and cannot be converted: {format_error(error)}", remedy=_REMEDY) from error


def _check_readable(path: Path) -> None:
    """Check that a file is what its first line says; Transformers tries other formats then, and asks for packages.

    Raises:
        ArtifactError: it is damaged.
    """
    try:
        if _is_tiktoken(path):
            for line in path.read_bytes().splitlines():
                token, _, rank = line.partition(b" ")
                base64.b64decode(token, validate=True)
                int(rank)
        else:
            import sentencepiece

            sentencepiece.SentencePieceProcessor(model_file=str(path))
    except Exception as error:  # sentencepiece raises bare exceptions of its C++ code
        kind = "tiktoken file" if _is_tiktoken(path) else "SentencePiece model"
        problem = f"{path.name} ({path.stat().st_size:,} bytes) is damaged or cut: it cannot be read as a {kind}"
        raise ArtifactError(problem, remedy=FETCH_AGAIN) from error


def _conversion_packages(path: Path) -> tuple[str, ...]:
    """The packages that convert a file; Llama 3 has a tiktoken file of the name of a sentencepiece file."""
    return ("transformers", "tiktoken") if _is_tiktoken(path) else ("transformers", "sentencepiece", "protobuf")


def _is_tiktoken(path: Path) -> bool:
    with path.open("rb") as file:
        return _TIKTOKEN_LINE.match(file.readline(1000)) is not None
