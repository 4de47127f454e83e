"""Hashes and versions that a batch run records: everything besides its options that decides the answers."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec.cli import loading

if TYPE_CHECKING:
    from genrec.recommender import Recommender
    from genrec.settings import Settings


def recommend_provenance(recommender: "Recommender", settings: "Settings", cache: Path) -> dict[str, Any]:
    """Provenance of recommendation lists."""
    from genrec.datasets.model_directory import find_model_directory
    from genrec.prompting.template import read_template

    provenance = data_provenance(recommender)
    if recommender.interactions is not None and recommender.interactions.order == "none":
        settings = settings.without_order()
    if settings.encoder is not None:
        provenance["encoder hash"] = _file_hashes(find_model_directory(settings.encoder, cache))
    if settings.api is not None:
        provenance |= model_provenance(settings, cache)
        provenance["list_template hash"] = read_template(settings.list_template).fingerprint
        provenance["listwise settings"] = asdict(settings.listwise)
    for ranker in loading.generative_rankers(recommender):
        provenance |= model_provenance(settings, cache)
        ranking_settings = asdict(ranker.settings)
        ranking_settings["evidence"] = ranking_settings.pop("fusion_weight")  # the key in manifests of format 2
        provenance["settings"] = ranking_settings
        for name in ("template", "cold_template"):
            provenance[f"{name} hash"] = read_template(getattr(settings, name)).fingerprint
    return provenance


def model_provenance(settings: "Settings", cache: Path) -> dict[str, Any]:
    """Provenance of the language model; of one behind an API, its name and server are all that is known."""
    if settings.api is not None:
        return {"model": str(settings.model), "api_url": settings.api.url, **_package_version()}
    from genrec.datasets.model_directory import find_model_directory
    from genrec.datasets.registry import find_adapter

    folder = find_model_directory(settings.model or "", cache, weights=settings.engine != "server")
    provenance: dict[str, Any] = {"model hash": _file_hashes(folder)}
    if settings.adapter is not None:
        provenance["adapter hash"] = _file_hashes(find_adapter(settings.adapter))
    return {**provenance, "precision": _numeric_precision(settings), **_package_version()}


def data_provenance(recommender: "Recommender") -> dict[str, Any]:
    """Provenance of the catalog and the interactions."""
    provenance: dict[str, Any] = {**_package_version(), "catalog hash": recommender.catalog.fingerprint}
    if recommender.interactions is not None:
        provenance["interactions hash"] = recommender.interactions.fingerprint
    return provenance


def _file_hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file in a model's folder, including tokenizer and configuration."""
    from genrec.backends.provenance import file_hashes

    return file_hashes(folder, "**/[!.]*")


def _package_version() -> dict[str, Any]:
    from importlib.metadata import version

    return {"genrec": version("genrec")}


def _numeric_precision(settings: "Settings") -> str:
    """Number type, device and library versions; with other ones, scores may differ slightly."""
    from importlib.metadata import packages_distributions, version

    from genrec.backends.precision import find_device, native_dtype

    packages = sorted(name for one in {settings.engine, "torch"} for name in set(packages_distributions().get(one, ())))
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    device = find_device(settings.device)
    dtype = native_dtype(device) if settings.dtype is None else f"torch.{settings.dtype}"
    return f"{dtype} on {device.type}, {versions}"
