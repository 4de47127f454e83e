"""The language model of the settings: its backend on an engine, its tokenizer, and the errors of opening them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from genrec.backends.base import Backend
from genrec.backends.engines import DEFAULT_ENGINE, ModelSource, open_server, open_vllm
from genrec.backends.placement import Placement
from genrec.backends.provenance import Provenance
from genrec.cache import weights_cache_name
from genrec.datasets.hub_id import HubId
from genrec.datasets.model_directory import find_model_directory as find_model_directory
from genrec.datasets.models import MODELS
from genrec.datasets.registry import find_adapter
from genrec.errors import MODEL_ERRORS, InputError, ModelMissingError, explain_model_errors
from genrec.index.identifiers import Identifiers, TitleIdentifiers
from genrec.index.semantic_ids import SemanticIdentifiers
from genrec.notices import Notice
from genrec.precomputed import open_encoder, require_torch
from genrec.prompting.chat_template import ChatTemplateSettings
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.rankers.generative_checks import check_model_tokenizer, check_vocabulary
from genrec.settings import Settings

if TYPE_CHECKING:
    from genrec.backends.transformers import TransformersBackend

SEMANTIC_IDS_DIRECTORY = "codes"
"""The folder of semantic ids within the folder of an adapter that was trained on them instead of titles."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of a language model on this machine.

    Attributes:
        folder: the folder with its configuration, and its weights if they are needed.
        tokenizer: makes its prompts, with the chat template settings that were given.
    """

    folder: Path
    tokenizer: HuggingFaceTokenizer


@dataclass(frozen=True)
class LanguageModel:
    """An open language model.

    Attributes:
        backend: the model, with its adapter.
        prior_backend: the model without its adapter; None if it has none, or if that is not on this machine.
        tokenizer: makes its prompts.
        identifiers: how it names items.
        notices: what a user should know about its prompts.
    """

    backend: Backend
    prior_backend: Backend | None
    tokenizer: HuggingFaceTokenizer
    identifiers: Identifiers
    notices: tuple[Notice, ...]


def open_language_model(
    settings: Settings, cache: Path, backend: Backend | None = None, prior_backend: Backend | None = None
) -> LanguageModel | None:
    """Open the language model of the settings; None if they name none.

    Args:
        settings: name the model.
        cache: the cache folder.
        backend, prior_backend: the model, if it is open already.

    Raises:
        EngineError, ArtifactError, MismatchError: the model cannot be used; see `MODEL_ERRORS`.
        InputError: the engine cannot run the model as the settings say.
    """
    if settings.model is None:
        return None
    with explain_model_errors(settings.model):
        files = find_model_files(settings, cache, weights=backend is None and settings.engine != "server")
        if backend is None:
            backend, prior_backend = open_engine(settings, files, cache)
        check_model_tokenizer(backend, files.tokenizer)
        identifiers = _load_identifiers(settings, files.folder, cache)
        return LanguageModel(backend, prior_backend, files.tokenizer, identifiers, files.tokenizer.notices)


def load_backend(
    model: str | Path,
    cache: Path,
    *,
    adapter: str | Path | None = None,
    trust_remote_code: bool = False,
    chat_template: ChatTemplateSettings | None = None,
    placement: Placement | None = None,
) -> "tuple[TransformersBackend, HuggingFaceTokenizer]":
    """Load a language model, optionally with an adapter, and its tokenizer.

    Raises:
        ModelMissingError: the weights, or the packages that run them, are not on this machine; or the model needs
            Python code of its own, and `trust_remote_code` is false.
        EngineError: this machine does not have the device.
        ArtifactError: the tokenizer cannot be used, or its chat template not with these settings.
        MismatchError: the tokenizer or the adapter belongs to another model.
    """
    placement = placement or Placement()
    settings = Settings(
        model=model,
        adapter=adapter,
        dtype=placement.dtype,
        device=placement.device,
        device_map=placement.device_map,
        trust_remote_code=trust_remote_code,
        chat_template=chat_template or ChatTemplateSettings(),
    )
    _check_device(placement)
    files = find_model_files(settings, cache, weights=True)
    return _load_weights(settings, files), files.tokenizer


def load_tokenizer(settings: Settings, cache: Path) -> HuggingFaceTokenizer:
    """The tokenizer of the settings' model, which makes prompts with their chat template settings.

    Raises:
        InputError: the settings name no model.
        ModelMissingError: the model has not been downloaded.
        ArtifactError: the tokenizer cannot be used, or its chat template not with these settings.
    """
    return find_model_files(settings, cache, weights=False).tokenizer


def find_model_files(settings: Settings, cache: Path, *, weights: bool) -> ModelFiles:
    """The folder of the settings' model and its tokenizer.

    Args:
        settings: name the model.
        cache: the cache folder.
        weights: whether the weights are needed, too.

    Raises:
        InputError: the settings name no model.
        ModelMissingError: the model has not been downloaded, or a file is missing.
        ArtifactError: a file was altered; or the tokenizer cannot be used, or its chat template not with these
            settings.
    """
    if settings.model is None:
        raise InputError("no language model is set, so there is no tokenizer; set model in the settings")
    folder = find_model_directory(settings.model, cache, weights=weights)
    return ModelFiles(folder, HuggingFaceTokenizer.from_directory(folder, settings.chat_template))


def open_engine(settings: Settings, files: ModelFiles, cache: Path) -> tuple[Backend, Backend | None]:
    """Open the LLM of the settings on its engine.

    Args:
        settings: name the model, its adapter and its engine.
        files: see `find_model_files`; with the weights, unless the engine is a server.
        cache: the cache folder.

    Returns:
        The LLM with its adapter, and the LLM without it; None if it has no adapter, or if that is not on this machine.

    Raises:
        EngineError: the engine cannot run the model, or a server does not serve it.
        MismatchError: the adapter was trained for another model.
        InputError: the settings name no model, or the engine cannot run it without its adapter.
    """
    if settings.model is None:
        raise InputError("model is None, but an engine needs a model; set model")
    if settings.engine == DEFAULT_ENGINE:
        _check_device(settings.placement)
        backend = _load_weights(settings, files)
        return backend, _load_base_backend(backend, settings, files, cache) if settings.generative.prior else None
    source = ModelSource(
        files.folder,
        weights_cache_name(settings.model, files.folder),
        settings.server_model or _default_served_name(settings.model),
        None if settings.adapter is None else find_adapter(settings.adapter),
        settings.trust_remote_code,
        settings.dtype,
    )
    if settings.engine == "vllm":
        return open_vllm(source)
    return open_server(source, settings.server_url or "", vocab_size=files.tokenizer.vocab_size)


def _check_device(placement: Placement) -> None:
    """Check that this machine has the packages and the device of a model.

    Raises:
        ModelMissingError: torch or Transformers is not installed.
        EngineError: this machine does not have the device.
    """
    require_torch()
    from genrec.backends.precision import find_device

    find_device(placement.device)


def _load_weights(settings: Settings, files: ModelFiles) -> "TransformersBackend":
    """Load the weights of the settings' model, with the adapter merged into them."""
    import torch

    from genrec.backends.pretrained import vocabulary_size
    from genrec.backends.transformers import TransformersBackend

    if (size := vocabulary_size(files.folder)) is not None:
        check_vocabulary(str(files.folder), size, files.tokenizer)
    return TransformersBackend(
        files.folder,
        adapter=None if settings.adapter is None else find_adapter(settings.adapter),
        device=settings.device,
        dtype=None if settings.dtype is None else getattr(torch, settings.dtype),
        device_map=settings.device_map,
        name=weights_cache_name(settings.model or files.folder, files.folder),
        trust_remote_code=settings.trust_remote_code,
    )


def _default_served_name(model: str | Path) -> str:
    hub_id = HubId.parse(model)
    return str(model) if hub_id is None else hub_id.name


def find_provenance(settings: Settings, cache: Path) -> Provenance | None:
    """How the adapter of the settings, merged or not, was trained; None if that is not recorded.

    A model that is not on this machine has none: opening it says so.

    Raises:
        ArtifactError: the record is damaged.
    """
    if settings.local_model is None:
        return None
    if settings.adapter is not None:
        return Provenance.find(find_adapter(settings.adapter))
    try:
        folder = find_model_directory(settings.local_model, cache, weights=False)
    except MODEL_ERRORS:
        return None
    return Provenance.find(folder)


def _load_base_backend(backend: Backend, settings: Settings, files: ModelFiles, cache: Path) -> Backend | None:
    """The base model of an adapter, merged or not; None without an adapter, or if the base is not on this machine."""
    if settings.adapter is not None:
        return _load_weights(replace(settings, adapter=None), files)
    if backend.provenance is None or backend.provenance.base not in MODELS:
        return None
    base = backend.provenance.base
    folder = find_model_directory(base, cache)
    return _load_weights(replace(settings, model=base), ModelFiles(folder, files.tokenizer))


def _load_identifiers(settings: Settings, model: Path, cache: Path) -> Identifiers:
    """The identifiers an adapter, merged or not, was trained on: semantic ids in its folder, otherwise titles."""
    tuned = model if settings.adapter is None else find_adapter(settings.adapter)
    folder = tuned / SEMANTIC_IDS_DIRECTORY
    if not folder.is_dir():
        return TitleIdentifiers()
    if settings.encoder is None:
        raise ModelMissingError(
            f"{tuned} uses semantic ids, which need a sentence encoder; set encoder in the settings"
        )
    encoder = open_encoder(
        settings.encoder, cache, trust_remote_code=settings.trust_remote_code, device=settings.device
    )
    return SemanticIdentifiers.load(folder, encoder)
