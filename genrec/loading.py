"""Loading: builds a recommender from a catalog, interactions and the models on this machine.

Results that are slow to compute (the index, item vectors, counts, priors) are cached under the fingerprints of their
inputs, so the next start only reads them.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from genrec.backends.base import Backend
from genrec.backends.engines import DEFAULT_ENGINE, ModelSource, open_server, open_vllm
from genrec.backends.openai_api import OpenAiBackend
from genrec.backends.provenance import Provenance
from genrec.cache import (
    Progress,
    cache_write_error,
    default_cache,
    ignore_progress,
    weights_cache_name,
)
from genrec.data.catalog import Catalog, read_catalog
from genrec.data.interactions import Interactions, read_interactions
from genrec.datasets.hub_id import HubId
from genrec.datasets.model_directory import find_model_directory as find_model_directory
from genrec.datasets.models import MODELS
from genrec.datasets.registry import dataset_paths, find_adapter
from genrec.errors import EngineError, InputError, ModelMissingError
from genrec.index.identifiers import Identifiers, TitleIdentifiers
from genrec.index.semantic_ids import SemanticIdentifiers
from genrec.notices import Notice
from genrec.pipeline import ListwiseStage, LlmStage, Pipeline
from genrec.precomputed import embed_titles as embed_titles
from genrec.precomputed import load_collaborative_model, require_torch
from genrec.precomputed import open_encoder as open_encoder
from genrec.precomputed import open_index as open_index  # recipes and measurements import these from here
from genrec.precomputed import select_prior_histories as select_prior_histories
from genrec.prompting.chat_template import ChatTemplateSettings
from genrec.prompting.template import read_template
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.rankers.generative import GenerativeRanker
from genrec.rankers.generative_checks import check_templates
from genrec.rankers.generative_settings import Strategy
from genrec.rankers.listwise import check_list_template
from genrec.rankers.prior_store import PriorSource
from genrec.recommender import Recommender
from genrec.settings import Settings

if TYPE_CHECKING:
    from genrec.backends.transformers import TransformersBackend

SEMANTIC_IDS_DIRECTORY = "codes"
"""The folder of semantic ids within the folder of an adapter that was trained on them instead of titles."""


class EngineOptions(TypedDict, total=False):
    """An LLM `backend` that does not run on Transformers in this process, such as a `VllmEngineBackend`; its tokenizer
    is in the folder `Settings.model`. `prior_backend` is the model without its adapter, see `GenerativeRanker`."""

    backend: Backend | None
    prior_backend: Backend | None


class OpenOptions(EngineOptions, total=False):
    """What `open_recommender` and `open_pipeline` take by name.

    Attributes:
        settings: models, templates and search settings; by default the bundled models.
        need_model: raise an error if the LLM cannot be used, instead of leaving out its stage with a notice.
        on_progress: called during slow work with a label, the number of finished steps, and the number of all steps.
    """

    settings: Settings | None
    need_model: bool
    on_progress: Progress | None


def open_recommender(
    catalog: Catalog,
    interactions: Interactions | None,
    *,
    cache: Path,
    **options: Unpack[OpenOptions],
) -> Recommender:
    """Open a recommender with the fallback chain LLM, smaller LLM search, ensemble, embedding, popularity.

    Stages whose models are not on this machine are skipped, with a notice in every recommendation list.

    Args:
        catalog: the items that can be recommended.
        interactions: histories of known users, from which the ensemble learns (see
            `genrec.rankers.collaborative_counts`); events of items that the catalog lacks are skipped. Leave out users
            who were forgotten, see `genrec.store.remaining_interactions`.
        cache: the folder of models, indexes, vectors and priors, see `genrec.datasets.models.cache_directory`.
        options: see `OpenOptions`.

    Raises:
        ArtifactError: a file of a model or of the cache (named in the message) was altered.
        EngineError: the LLM is needed and cannot be used.
    """
    return open_pipeline(catalog, interactions, cache=cache, **options).recommender()


def open_pipeline(
    catalog: Catalog,
    interactions: Interactions | None,
    *,
    cache: Path,
    settings: Settings | None = None,
    backend: Backend | None = None,
    prior_backend: Backend | None = None,
    need_model: bool = False,
    on_progress: Progress | None = None,
) -> Pipeline:
    """Open the pipeline of a recommender; `Pipeline.revised` changes its catalog at little cost.

    Arguments and errors are those of `open_recommender`.
    """
    settings, progress = settings or Settings(), on_progress or ignore_progress
    if settings.api is not None:  # before the slow work
        check_list_template(read_template(settings.list_template))
    elif settings.model is not None:
        check_templates([read_template(settings.template), read_template(settings.cold_template)], settings.generative)
        _check_chat_template(settings, cache)
    loading_notices: list[Notice] = []
    if reason := cache_write_error(cache):
        loading_notices.append(Notice("cache_not_writable", {"reason": reason}))
    if backend is None and settings.model is not None and settings.engine != DEFAULT_ENGINE:
        try:  # first, because vLLM starts its processes best where torch has not run yet
            backend, prior_backend = open_engine(settings, cache)
        except EngineError as error:
            if need_model:
                raise
            loading_notices.append(Notice("no_language_model", {"reason": str(error)}))
            settings = replace(settings, model=None)
    embedding = None
    try:
        embedding = embed_titles(catalog, settings, cache, on_progress=progress)
    except ModelMissingError as error:
        loading_notices.append(Notice("no_embedding_ranker", {"reason": str(error)}))
    collaborative = None
    if interactions is not None:
        encoder_name = "none"
        if embedding is not None and settings.encoder is not None:
            encoder_name = weights_cache_name(settings.encoder, find_model_directory(settings.encoder, cache))
        collaborative = load_collaborative_model(catalog, interactions, embedding, encoder_name, cache, progress)
    pipeline = Pipeline.from_rankers(catalog, interactions, embedding, collaborative)
    llm: LlmStage | ListwiseStage | None = None
    try:
        if settings.api is None:
            llm = _load_llm_stage(pipeline, settings, backend, prior_backend, cache, progress)
        else:
            llm = _load_listwise_stage(pipeline, settings, loading_notices)
    except EngineError as error:
        if need_model:
            raise
        loading_notices.append(Notice("no_language_model", {"reason": str(error)}))
    else:
        loading_notices += llm.tokenizer.notices if llm is not None else ()
    return replace(pipeline, llm=llm, loading_notices=tuple(loading_notices), cache=cache)


def open_default(
    *, strategy: Strategy | None = None, cache: Path | None = None, on_progress: Progress | None = None
) -> Recommender:
    """Open a recommender for the embedded shop, with the bundled models.

    Args:
        strategy: how the LLM searches, such as `"beam"` over the whole catalog; by default the best one measured.
            Strategies that search the whole catalog compute its prior first, which takes minutes the first time.
        cache: by default `default_cache()`.
        on_progress: as for `open_recommender`.

    Raises:
        ArtifactError: a file of a model or of the cache (named in the message) was altered.
    """
    cache, settings = cache or default_cache(), Settings()
    if strategy is not None:
        # Searching the whole catalog needs all its priors. Computed here, they are reported by on_progress.
        compute_priors = strategy != "candidates"
        generative = replace(settings.generative, strategy=strategy)
        settings = replace(settings, generative=generative, compute_priors=compute_priors)
    catalog, interactions = open_dataset("online-retail", cache)
    return open_recommender(catalog, interactions, cache=cache, settings=settings, on_progress=on_progress)


def open_dataset(name: str, cache: Path) -> tuple[Catalog, Interactions]:
    """The catalog and the interactions of a data set, such as the embedded `online-retail`.

    Raises:
        ArtifactError: the data set was not downloaded, or a file of it was altered.
        InputError: no data set has this name.
    """
    items, interactions = dataset_paths(name, cache)
    return read_catalog(items, name=name), read_interactions(interactions)


def load_backend(
    model: str | Path,
    cache: Path,
    *,
    adapter: str | Path | None = None,
    trust_remote_code: bool = False,
    chat_template: ChatTemplateSettings | None = None,
) -> "tuple[TransformersBackend, HuggingFaceTokenizer]":
    """Load a language model, optionally with an adapter, and its tokenizer.

    Raises:
        ModelMissingError: the weights, or the packages that run them, are not on this machine; or the model needs
            Python code of its own, and `trust_remote_code` is false.
        ArtifactError: the tokenizer cannot be used, or its chat template not with these settings.
    """
    folder = find_model_directory(model, cache)
    require_torch()
    tokenizer = HuggingFaceTokenizer.from_directory(folder, chat_template)  # before the weights, which are slow
    from genrec.backends.transformers import TransformersBackend

    adapter_folder = None if adapter is None else find_adapter(adapter)
    backend = TransformersBackend(
        folder,
        adapter=adapter_folder,
        name=weights_cache_name(model, folder),
        trust_remote_code=trust_remote_code,
    )
    return backend, tokenizer


def load_tokenizer(settings: Settings, cache: Path) -> HuggingFaceTokenizer:
    """The tokenizer of the settings' model, which makes prompts with their chat template settings.

    Raises:
        InputError: the settings name no model.
        ModelMissingError: the bundled model has not been downloaded.
        ArtifactError: the tokenizer cannot be used, or its chat template not with these settings.
    """
    if settings.model is None:
        raise InputError("no language model is set, and so no tokenizer; set model in the settings")
    return HuggingFaceTokenizer.from_directory(
        find_model_directory(settings.model, cache, weights=False), settings.chat_template
    )


def open_engine(settings: Settings, cache: Path) -> tuple[Backend, Backend | None]:
    """Open the LLM of the settings on its engine.

    Returns:
        The LLM with its adapter, and the LLM without it; None if it has no adapter, or if that is not on this machine.

    Raises:
        EngineError: the engine cannot run the model, or a server does not serve it.
        MismatchError: the adapter was trained for another model.
        InputError: the settings name no model, or the engine cannot run it without its adapter.
    """
    if settings.model is None:
        raise InputError("model is None, and an engine runs a model; set model")
    if settings.engine == DEFAULT_ENGINE:
        backend, _ = load_backend(
            settings.model,
            cache,
            adapter=settings.adapter,
            trust_remote_code=settings.trust_remote_code,
            chat_template=settings.chat_template,
        )
        return backend, _load_base_backend(backend, settings, cache) if settings.generative.prior else None
    folder = find_model_directory(settings.model, cache, weights=settings.engine != "server")
    source = ModelSource(
        folder,
        weights_cache_name(settings.model, folder),
        settings.server_model or _default_served_name(settings.model),
        None if settings.adapter is None else find_adapter(settings.adapter),
        settings.trust_remote_code,
    )
    if settings.engine == "vllm":
        return open_vllm(source)
    vocab_size = HuggingFaceTokenizer.from_directory(folder).vocab_size
    return open_server(source, settings.server_url or "", vocab_size=vocab_size)


def _default_served_name(model: str | Path) -> str:
    hub_id = HubId.parse(model)
    return str(model) if hub_id is None else hub_id.name


def find_provenance(settings: Settings) -> Provenance | None:
    """How the adapter of the settings, merged or not, was trained; None if that is not recorded.

    Raises:
        ArtifactError: the record is damaged.
    """
    if settings.local_model is None:
        return None
    folder = find_adapter(settings.adapter) if settings.adapter else Path(settings.local_model)
    return Provenance.find(folder)


def _load_llm_stage(
    pipeline: Pipeline,
    settings: Settings,
    backend: Backend | None,
    prior_backend: Backend | None,
    cache: Path,
    progress: Progress,
) -> LlmStage | None:
    if settings.model is None:
        return None
    if backend is None:
        backend, prior_backend = open_engine(settings, cache)
    tokenizer = load_tokenizer(settings, cache)
    identifiers = _load_identifiers(settings, cache)
    index = open_index(pipeline.catalog, tokenizer, cache, progress, identifiers)
    ranker = GenerativeRanker(
        index,
        backend,
        tokenizer,
        template=read_template(settings.template),
        cold_template=read_template(settings.cold_template),
        prior=PriorSource(
            select_prior_histories(pipeline.catalog, pipeline.interactions, settings), cache / "priors", prior_backend
        ),
        retriever=pipeline.retriever,
        settings=settings.generative,
    )
    if settings.compute_priors or settings.generative.strategy == "beam":
        ranker.compute_priors(lambda done, total: progress("Computing priors", done, total))
    return LlmStage(ranker, index, identifiers, tokenizer, settings.small_search_candidates, settings.background)


def _check_chat_template(settings: Settings, cache: Path) -> None:
    """Fail now if the model's chat template cannot be rendered with the settings, and not after the slow work.

    Raises:
        ArtifactError: see `load_tokenizer`.
    """
    if settings.chat_template != ChatTemplateSettings():
        with suppress(ModelMissingError):  # a notice tells it later
            load_tokenizer(settings, cache)


def _load_listwise_stage(pipeline: Pipeline, settings: Settings, notices: list[Notice]) -> ListwiseStage | None:
    """The stage of a model behind an API; with a notice if its server cannot be used now, because it may be later."""
    if settings.api is None or settings.model is None:
        return None
    backend, template = OpenAiBackend(str(settings.model), settings.api), read_template(settings.list_template)
    try:
        backend.check_model()
    except EngineError as error:
        if isinstance(error, ModelMissingError):
            raise
        notices.append(Notice("model_unreachable", {"reason": str(error)}))
    return ListwiseStage.from_backend(pipeline.catalog, backend, pipeline.retriever, template, settings.listwise)


def _load_base_backend(backend: Backend, settings: Settings, cache: Path) -> Backend | None:
    """The base model of an adapter, merged or not; None without an adapter, or if the base is not on this machine."""
    if settings.adapter is not None and settings.model is not None:
        return load_backend(settings.model, cache, trust_remote_code=settings.trust_remote_code)[0]
    if backend.provenance is not None and backend.provenance.base in MODELS:
        return load_backend(backend.provenance.base, cache)[0]
    return None


def _load_identifiers(settings: Settings, cache: Path) -> Identifiers:
    """The identifiers an adapter, merged or not, was trained on: semantic ids in its folder, otherwise titles."""
    folder = (
        find_adapter(settings.adapter) if settings.adapter else Path(settings.model or "")
    ) / SEMANTIC_IDS_DIRECTORY
    if not folder.is_dir():
        return TitleIdentifiers()
    if settings.encoder is None:
        raise ModelMissingError(
            f"{folder.parent} uses semantic ids, which need a sentence encoder; set encoder in the settings"
        )
    encoder = open_encoder(settings.encoder, cache, trust_remote_code=settings.trust_remote_code)
    return SemanticIdentifiers.load(folder, encoder)
