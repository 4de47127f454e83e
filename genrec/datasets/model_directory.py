"""The folder of a model, by whichever name it was given, and whether it has the files of one."""

import json
import shlex
from collections.abc import Iterable
from pathlib import Path

from genrec.datasets.cut_weights import cut_safetensors_error
from genrec.datasets.gguf import find_gguf, unpack_gguf
from genrec.datasets.hub import find_hub_model
from genrec.datasets.hub_id import HubId
from genrec.datasets.hub_record import weight_names
from genrec.datasets.models import MODELS, find_model
from genrec.errors import ArtifactError, ModelMissingError, format_error, format_names, format_value

_CONFIG = "config.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_REMEDY = "name the folder that save_pretrained wrote"
_DAMAGED = "copy or download the model again"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_LFS_POINTER = b"version https://git-lfs"


def find_model_directory(model: str | Path, cache: Path, *, weights: bool = True) -> Path:
    """The folder of a model. Bundled models and those from the Hub are verified by their checksums.

    Args:
        model: the name of a bundled model, a Hub id (`ORGANISATION/NAME`, or with `@REVISION`), a folder, or a GGUF
            file or folder, which is unpacked to the cache.
        cache: the cache folder.
        weights: whether the weights are needed, beside the tokenizer and the configuration.

    Raises:
        ModelMissingError: the model has not been downloaded, the folder lacks files, or a GGUF file cannot be read.
        ArtifactError: the model was altered.
    """
    if str(model) in MODELS:
        return find_model(str(model), cache)
    hub_id = HubId.parse(model)
    if hub_id is not None:
        return find_hub_model(hub_id, cache, weights=weights)
    if (file := find_gguf(model)) is not None:
        return unpack_gguf(file, cache)
    check_model_folder(model, weights=weights)
    return Path(model)


def check_model_folder(model: str | Path, *, weights: bool) -> None:
    """Check that a folder has the files of a model in the formats that genrec loads.

    Raises:
        ModelMissingError: it does not exist, or a file of the model is missing, cut or in another format.
        ArtifactError: the configuration or the index of the weights is damaged.
    """
    folder = Path(model)
    if find_gguf(folder) is not None:
        return
    if not folder.is_dir():
        raise ModelMissingError(
            f"model {str(model)!r} is not a folder, not one of {', '.join(MODELS)}, and not the id of a model on "
            "the Hub (ORGANISATION/NAME)",
            remedy="check the name or the path",
        )
    if not (folder / _CONFIG).is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelMissingError(
                f"folder {str(model)!r} is an adapter, not a model",
                remedy="name it as the adapter, and the model that it was trained for as the model",
            )
        raise ModelMissingError(
            f"folder {str(model)!r} contains no model, because it has no {_CONFIG}",
            remedy=_REMEDY,
        )
    _check_config(folder / _CONFIG)
    names = weight_names(folder) if weights else []
    _check_lfs_pointers(folder, [*_TOKENIZERS, *names])
    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
        for name in names:
            if (error := cut_safetensors_error(folder / name)) is not None:
                raise error
        return
    if any(folder.glob("*.safetensors")):
        raise ModelMissingError(
            f"folder {str(model)!r} lacks {format_names(missing, 3)}, which its index of weights names",
            remedy="copy or download the model again",
        )
    if pickles := sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern)):
        raise ModelMissingError(
            f"folder {str(model)!r} has its weights in {format_names(pickles, 3)}, not as safetensors; such a file can "
            "run code when it is loaded, so genrec does not load it",
            remedy=f"if you trust its author, convert it with: {_conversion_command(folder)}",
            code="unsafe_weights",
        )
    raise ModelMissingError(f"folder {str(model)!r} has no weights (*.safetensors)", remedy=_REMEDY)


def _check_config(path: Path) -> None:
    """Check that the configuration of a model is an object, as is what it says of quantisation."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"cannot read {path}: {format_error(error)}", remedy=_DAMAGED) from error
    if not isinstance(config, dict):
        raise ArtifactError(f"{path} is {format_value(config)}, not a JSON object", remedy=_DAMAGED)
    quantization = config.get("quantization_config")
    if not (quantization is None or isinstance(quantization, dict)):
        raise ArtifactError(
            f"quantization_config in {path} is {format_value(quantization)}, not a JSON object", remedy=_DAMAGED
        )


def _check_lfs_pointers(folder: Path, names: Iterable[str]) -> None:
    """Check that files are not the pointers that `git clone` leaves without Git LFS."""
    pointers = [name for name in names if (folder / name).is_file() and _is_lfs_pointer(folder / name)]
    if pointers:
        raise ModelMissingError(
            f"folder {str(folder)!r} has only Git LFS pointers instead of {format_names(pointers, 3)}",
            remedy="install Git LFS and run `git lfs pull` in the folder, or let genrec model get download the model",
        )


def _is_lfs_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER


def _conversion_command(folder: Path) -> str:
    """A shell command that writes the weights of a folder as safetensors beside those that it has."""
    name = "AutoModelForCausalLM"
    try:
        architecture = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))["architectures"][0]
        if isinstance(architecture, str) and architecture.isidentifier():  # it becomes code
            name = architecture
    except (OSError, ValueError, LookupError, TypeError):
        pass
    path = repr(str(folder))
    code = f"from transformers import {name} as M; M.from_pretrained({path}).save_pretrained({path})"
    return f"python -c {shlex.quote(code)}"
