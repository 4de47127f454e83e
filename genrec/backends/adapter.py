"""A LoRA adapter's folder, read and judged before an engine sees it.

An engine that is given an adapter it cannot serve fails late, with words of its own, or drops what it does not know and
serves something else.
Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022; the files are PEFT's.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from genrec.artifact import sha256_of
from genrec.backends.provenance import FILENAME as PROVENANCE
from genrec.backends.provenance import Provenance
from genrec.errors import MismatchError, ModelMissingError

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_LORA_SUFFIXES = (".lora_A.weight", ".lora_B.weight")


@dataclass(frozen=True)
class Adapter:
    """An adapter that fits.

    Attributes:
        name: the folder's name and the beginning of its weights' hash, so that caches never confuse two.
        folder: where it lies.
        provenance: what it was made of, where `genrec.json` says so.
    """

    name: str
    folder: Path
    provenance: Provenance | None = None


def inspect_adapter(folder: str | Path, *, base: str | Path, max_rank: int | None = None) -> Adapter:
    """Check an adapter by its configuration and by the names and shapes of its weights.

    Args:
        folder: `adapter_config.json` and `adapter_model.safetensors`, as PEFT saves them.
        base: the model's folder or Hub id; of a folder the shapes are compared too.
        max_rank: the highest rank the engine was started for; None where any is served.

    Raises:
        ModelMissingError: a file is missing or damaged.
        MismatchError: it was made for another model, or holds what vLLM does not serve (named).
        ArtifactError: `genrec.json` is damaged.
    """
    folder = Path(folder)
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise ModelMissingError(
                f"cannot read the adapter {folder.name!r}: {folder} holds no {name}; name the folder that training "
                "wrote, DIR/adapter"
            )
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        shapes = _shapes(folder / _WEIGHTS)
        digest = hashlib.sha256((folder / _WEIGHTS).read_bytes()).hexdigest()
        own = str(config["base_model_name_or_path"])
        rank = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise ModelMissingError(f"cannot read the adapter {folder.name!r}: {error}; save it with PEFT again") from error
    if Path(own).name != Path(base).name:
        raise MismatchError(
            f"the adapter {folder.name!r} was made for {own!r}, not for {Path(base).name!r}; load that model, or "
            f"correct base_model_name_or_path in {_CONFIG} if it is the same"
        )
    if max_rank is not None and rank > max_rank:
        raise MismatchError(
            f"the adapter {folder.name!r} has rank {rank}, the engine takes up to {max_rank}; "
            f"start it with max_rank={rank} or more"
        )
    for feature in ("modules_to_save", "trainable_token_indices", "use_dora", "lora_bias"):
        if config.get(feature):
            raise MismatchError(f"the adapter {folder.name!r} uses {feature}, which vLLM cannot add; merge it instead")
    _check_shapes(folder, shapes, Path(base))
    provenance = Provenance.read(folder) if (folder / PROVENANCE).is_file() else None
    if provenance is not None:
        _check_base_weights(folder, provenance, Path(base))
    return Adapter(f"{folder.name}-{digest[:12]}", folder.resolve(), provenance)


def _check_base_weights(folder: Path, provenance: Provenance, base: Path) -> None:
    there = [name for name in provenance.base_sha256 if (base / name).is_file()]
    if base.is_dir() and not there:
        raise MismatchError(
            f"the adapter {folder.name!r} was trained on {', '.join(provenance.base_sha256) or 'weights'} of "
            f"{provenance.base!r}, and {base} has no such file; load the model that it was trained on"
        )
    for name, trained in provenance.base_sha256.items():
        file = base / name
        if file.is_file() and (found := sha256_of(file)) != trained:
            raise MismatchError(
                f"the adapter {folder.name!r} was trained on other weights: {name} of {base.name!r} has SHA-256 "
                f"{found[:12]}, not {trained[:12]}; load the model that it was trained on, or train it again"
            )


def _check_shapes(folder: Path, shapes: dict[str, list[int]], base: Path) -> None:
    known: dict[str, list[int]] = {}
    for file in sorted(base.glob("*.safetensors")):
        known |= _shapes(file)
    if not shapes:
        raise MismatchError(f"the adapter {folder.name!r} holds no weights; save it with PEFT again")
    for key, shape in shapes.items():
        part = next((part for part in _LORA_SUFFIXES if key.endswith(part)), None)
        if part is None:
            raise MismatchError(f"the adapter {folder.name!r} holds {key}, which is no LoRA weight; merge it instead")
        if known:
            module = key.removeprefix("base_model.model.").removesuffix(part) + ".weight"
            # lora_A is [rank, in] and lora_B [out, rank], of a weight [out, in].
            place, expected = (1, known.get(module)) if part == _LORA_SUFFIXES[0] else (0, known.get(module))
            if expected is None or shape[place] != expected[place]:
                raise MismatchError(
                    f"the adapter {folder.name!r} changes {module} by {shape}, where {base.name!r} has {expected}; "
                    "it was made for another model"
                )


def _shapes(file: Path) -> dict[str, list[int]]:
    with safe_open(file, framework="numpy") as tensors:
        return {key: list(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
