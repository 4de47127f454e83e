"""GGUF files: unpacked once to the cache, as a folder with safetensors, tokenizer and configuration.

Transformers, vLLM and the training read such a folder like any other. Quantised weights become 16-bit numbers, so the
folder takes two bytes for each weight.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from genrec.artifact import MANIFEST, UserData, artifact_writer, file_stamp, verify, write_json
from genrec.datasets.cut_weights import cut_gguf_error
from genrec.errors import ArtifactError, GenrecError, ModelMissingError, format_error, format_names, missing_packages
from genrec.prompting.tokenizer_file import copy_tokenizer, find_tokenizer_files

_KIND, _VERSION = "gguf", 1
_VERIFIED = "verified.json"  # beside an unpacked file: what its files were when their checksums were compared
_PACKAGES = ("torch", "transformers", "accelerate", "gguf")


def find_gguf(model: str | Path) -> Path | None:
    """The GGUF file that a path names: a file, or the only one in a folder without safetensors; None if there is none.

    Raises:
        ModelMissingError: the folder has several.
    """
    path = Path(model)
    if path.is_file() and path.suffix == ".gguf":
        return path
    found = sorted(path.glob("*.gguf")) if path.is_dir() and not any(path.glob("*.safetensors")) else []
    if len(found) > 1:
        names = format_names([file.name for file in found], 3)
        raise ModelMissingError(f"folder {str(model)!r} has several GGUF files ({names})", remedy="name one of them")
    return found[0] if found else None


def unpack_gguf(file: Path, cache: Path) -> Path:
    """The folder of an unpacked GGUF file; it is unpacked if the file is new or has changed.

    The tokenizer and the chat template are those of the folder of the file, if it has a `tokenizer.json`; else those
    in the file.

    Raises:
        ModelMissingError: the packages that unpack it are not installed, or the file is cut, or Transformers cannot
            read it.
        ArtifactError: the cache cannot be written, or an unpacked file was altered.
    """
    directory = cache / "gguf" / _key(file) / file.stem
    if (directory / MANIFEST).is_file():
        _verify_changed(directory)
        return directory
    require_unpacking_packages(file)
    user_data = UserData("none", "a model that was given as GGUF", 0)
    metadata = {"source": file.name}
    with (
        artifact_writer(directory, kind=_KIND, version=_VERSION, user_data=user_data, metadata=metadata) as temporary,
        _explained(file),
    ):
        unpack_weights(file, temporary, _number_type(file))
        _unpack_tokenizer(file, temporary)
    _record_verified(directory)
    return directory


def _verify_changed(directory: Path) -> None:
    """Compare the checksums of an unpacked file, unless sizes and times are those of the last comparison.

    Reading the weights takes longer than mapping them, and each start would pay it.

    Raises:
        ArtifactError: a file was altered.
    """
    with suppress(OSError, ValueError):
        if json.loads((directory.parent / _VERIFIED).read_text(encoding="utf-8")) == _stamps(directory):
            return
    try:
        verify(directory, kind=_KIND, version=_VERSION)
    except ArtifactError as error:
        raise ArtifactError(error.problem, remedy=f"remove the folder {directory}; it is made again") from error
    _record_verified(directory)


def _record_verified(directory: Path) -> None:
    with suppress(ArtifactError, OSError):  # a read-only cache is verified at every start
        write_json(directory.parent / _VERIFIED, _stamps(directory))


def _stamps(directory: Path) -> dict[str, list[int]]:
    """The stamp of each file, see `file_stamp`."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): file_stamp(path) for path in files}


def require_unpacking_packages(what: object) -> None:
    """Check that the packages that unpack GGUF files are installed.

    Raises:
        ModelMissingError: some are not; the message names them, and `what` they would unpack.
    """
    if missing := missing_packages(_PACKAGES):
        raise ModelMissingError(f"unpacking {what} needs {', '.join(missing)}; run: pip install 'genrec[local]'")


def unpack_weights(file: Path, directory: Path, dtype: str) -> None:
    """Write the weights and the configuration of a GGUF file as `save_pretrained` does, in a number type of torch."""
    import torch
    import transformers

    # Without dequantize=True the weights stay packed and can be neither saved nor trained. Releases without
    # GgufConfig, such as 5.16, always unpack.
    unpack = {}
    if hasattr(transformers, "GgufConfig"):
        unpack["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with redirect_stderr(StringIO()):  # progress bars
        auto: Any = transformers.AutoModelForCausalLM
        model, info = auto.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            output_loading_info=True,
            **unpack,
        )
        if info["missing_keys"]:  # they would be random numbers
            raise ModelMissingError(
                f"{file} lacks the weights {format_names(sorted(info['missing_keys']), 3)}",
                remedy="download or convert the file again",
            )
        model.save_pretrained(directory)


def _unpack_tokenizer(file: Path, directory: Path) -> None:
    if (file.parent / "tokenizer.json").is_file():
        copy_tokenizer(file.parent, directory)
        return
    from transformers import AutoTokenizer

    tokenizers: Any = AutoTokenizer
    with redirect_stderr(StringIO()):
        tokenizers.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False).save_pretrained(directory)


def _number_type(file: Path) -> str:
    """The number type that most weights have; float16 if they are quantised, by scales in float16."""
    from gguf import GGMLQuantizationType, GGUFReader

    counts: dict[Any, int] = {}
    for tensor in GGUFReader(file).tensors:
        counts[tensor.tensor_type] = counts.get(tensor.tensor_type, 0) + int(tensor.n_elements)
    names = {GGMLQuantizationType.F32: "float32", GGMLQuantizationType.BF16: "bfloat16"}
    return names.get(max(counts, key=lambda kind: counts[kind]), "float16")


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Turn errors of reading a GGUF file into ours; those of the disk are the artifact's.

    Raises:
        ModelMissingError: Transformers cannot read the file.
    """
    try:
        yield
    except (GenrecError, SafetensorError):  # safetensors are only written here
        raise
    except OSError as error:
        if error.errno is not None:  # Transformers raises OSError without a number, too
            raise
        raise _unreadable(file, error) from error
    except Exception as error:  # of gguf, Transformers and tokenizers
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> ModelMissingError:
    return cut_gguf_error(file) or ModelMissingError(
        f"cannot read {file}: {format_error(error)}",
        remedy="use the model's safetensors, or let llama.cpp serve the file and give its URL with --api-url",
    )


def _key(file: Path) -> str:
    """Identifies the file, and the tokenizer beside it, by path, size and time."""
    stamps = [str(file.resolve())]
    for path in (file, *find_tokenizer_files(file.parent)):
        status = path.stat()
        stamps.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(stamps).encode()).hexdigest()[:24]
