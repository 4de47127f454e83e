"""Checks of a LoRA adapter's folder, before an engine loads it.

An engine that gets an adapter it does not support fails late, with an unclear message, or silently ignores parts of
the adapter and serves another model.
Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022; the files are PEFT's.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError, safe_open

from genrec.artifact import sha256_of
from genrec.backends.model_name import model_name
from genrec.backends.provenance import Provenance
from genrec.errors import MismatchError, ModelMissingError

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_LORA_SUFFIXES = (".lora_A.weight", ".lora_B.weight")


@dataclass(frozen=True)
class Adapter:
    """An adapter that passed the checks.

    Attributes:
        name: the folder's name and the start of the weights' hash, so that caches never confuse two adapters.
        folder: its absolute path.
        provenance: how it was trained; None without a `genrec.json`.
    """

    name: str
    folder: Path
    provenance: Provenance | None = None


def inspect_adapter(folder: str | Path, *, base: str | Path, max_rank: int | None = None) -> Adapter:
    """Check an adapter's configuration, and the names and shapes of its weights.

    Args:
        folder: the adapter, with `adapter_config.json` and `adapter_model.safetensors` as PEFT saves them.
        base: the model's folder or Hub id; for a folder the shapes are compared too.
        max_rank: the highest rank that the engine supports; None for no limit.

    Returns:
        The adapter's name, folder and provenance.

    Raises:
        ModelMissingError: a file is missing or damaged.
        MismatchError: the adapter was trained for another model, or uses what vLLM does not support (named).
        ArtifactError: `genrec.json` is damaged.
    """
    folder, base = Path(folder), Path(base)
    files = _AdapterFiles.read(folder)
    _check_config(folder, files, base, max_rank)
    _check_shapes(folder, files.shapes, base)
    provenance = Provenance.find(folder)
    if provenance is not None:
        _check_base_weights(folder, provenance, base)
    return Adapter(f"{folder.name}-{files.digest[:12]}", folder.resolve(), provenance)


@dataclass(frozen=True)
class _AdapterFiles:
    """What the files of an adapter contain."""

    base: str
    rank: int
    config: dict[str, Any]
    shapes: dict[str, list[int]]
    digest: str

    @classmethod
    def read(cls, folder: Path) -> Self:
        for name in (_CONFIG, _WEIGHTS):
            if not (folder / name).is_file():
                raise ModelMissingError(
                    f"cannot read the adapter {str(folder)!r}: it has no {name}; give the folder that training "
                    "wrote, DIR/adapter"
                )
        try:
            config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
            shapes = _shapes(folder / _WEIGHTS)
            digest = hashlib.sha256((folder / _WEIGHTS).read_bytes()).hexdigest()
            base = str(config["base_model_name_or_path"])
            rank = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
        except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
            raise ModelMissingError(
                f"cannot read the adapter {str(folder)!r}: {error}; save it with PEFT again"
            ) from error
        return cls(base, rank, config, shapes, digest)


def _check_config(folder: Path, files: _AdapterFiles, base: Path, max_rank: int | None) -> None:
    if model_name(files.base) != model_name(base):
        raise MismatchError(
            f"the adapter {str(folder)!r} was trained for {files.base!r}, not for the model {str(base)!r}; load that "
            f"model, or correct base_model_name_or_path in {_CONFIG} if it is the same one"
        )
    if max_rank is not None and files.rank > max_rank:
        raise MismatchError(
            f"the adapter {str(folder)!r} has rank {files.rank}, but the engine supports ranks up to {max_rank}; "
            f"start it with max_lora_rank={files.rank} or more"
        )
    for feature in ("modules_to_save", "trainable_token_indices", "use_dora", "lora_bias", "megatron_config"):
        if files.config.get(feature):
            raise MismatchError(
                f"the adapter {str(folder)!r} uses {feature}, which vLLM does not support; merge it into the model"
            )


def _check_base_weights(folder: Path, provenance: Provenance, base: Path) -> None:
    existing = [name for name in provenance.base_sha256 if (base / name).is_file()]
    if base.is_dir() and not existing:
        raise MismatchError(
            f"the adapter {str(folder)!r} was trained on {', '.join(provenance.base_sha256) or 'weights'} of "
            f"{provenance.base!r}, but {base} has no such file; load the model that it was trained on"
        )
    for name, trained in provenance.base_sha256.items():
        file = base / name
        if file.is_file() and (found := sha256_of(file)) != trained:
            raise MismatchError(
                f"the adapter {str(folder)!r} was trained on other weights: {name} of {str(base)!r} has SHA-256 "
                f"{found[:12]}, not {trained[:12]}; load the model that it was trained on, or train it again"
            )


def _check_shapes(folder: Path, shapes: dict[str, list[int]], base: Path) -> None:
    base_shapes: dict[str, list[int]] = {}
    for file in sorted(base.glob("*.safetensors")):
        base_shapes |= {_name_in_text_part(name): shape for name, shape in _shapes(file).items()}
    if not shapes:
        raise MismatchError(f"the adapter {str(folder)!r} has no weights; save it with PEFT again")
    for key, shape in shapes.items():
        suffix = next((suffix for suffix in _LORA_SUFFIXES if key.endswith(suffix)), None)
        if suffix is None:
            raise MismatchError(
                f"the adapter {str(folder)!r} contains {key}, which is not a LoRA weight; merge it into the model"
            )
        if base_shapes:
            module = key.removeprefix("base_model.model.").removesuffix(suffix) + ".weight"
            # For a weight [out, in], lora_A is [rank, in] and lora_B is [out, rank].
            axis, expected = 1 if suffix == _LORA_SUFFIXES[0] else 0, base_shapes.get(_name_in_text_part(module))
            if expected is None or shape[axis] != expected[axis]:
                raise MismatchError(
                    f"the adapter {str(folder)!r} has a LoRA weight of shape {shape} for {module}, whose shape in "
                    f"{str(base)!r} is {expected}; load the model that it was trained on"
                )


def _name_in_text_part(name: str) -> str:
    """A weight's name without the prefixes of the text part, which files of multimodal models order differently."""
    while name.startswith(("model.", "language_model.", "backbone.")):
        name = name.partition(".")[2]
    return name


def _shapes(file: Path) -> dict[str, list[int]]:
    with safe_open(file, framework="numpy") as tensors:
        return {key: list(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
