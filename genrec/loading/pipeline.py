"""Pipelines and recommenders over a catalog, with the models that are on this machine."""

from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack

from genrec.backends.api_settings import ApiSettings
from genrec.backends.base import Backend
from genrec.backends.openai_api import OpenAiBackend
from genrec.cache import Progress, cache_write_error, default_cache, ignore_progress, weights_cache_name
from genrec.data.catalog import Catalog, read_catalog
from genrec.data.interactions import Interactions, read_interactions
from genrec.data.item_texts import item_texts, text_columns
from genrec.datasets.model_directory import find_model_directory
from genrec.datasets.registry import dataset_paths
from genrec.errors import MODEL_ERRORS, EngineError, GenrecError, ModelMissingError
from genrec.loading.language_model import LanguageModel, open_language_model
from genrec.notices import Notice
from genrec.pipeline import ListwiseStage, LlmStage, Pipeline
from genrec.precomputed import LEXICAL_VERSION, load_collaborative_model, texts_digest
from genrec.precomputed import embed_texts as embed_texts
from genrec.precomputed import load_lexical_ranker as load_lexical_ranker
from genrec.precomputed import open_encoder as open_encoder
from genrec.precomputed import open_index as open_index  # recipes and measurements import these from here
from genrec.precomputed import select_prior_histories as select_prior_histories
from genrec.prompting.template import read_template
from genrec.rankers.generative import GenerativeRanker
from genrec.rankers.generative_checks import check_templates
from genrec.rankers.generative_settings import Strategy
from genrec.rankers.listwise import check_list_template
from genrec.rankers.prior_store import PriorSource
from genrec.recommender import Recommender
from genrec.settings import Settings

_MIN_UNREAD = 0.01  # share of items whose texts the encoder cannot read from which a notice says so


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
    """Open a recommender with the fallback chain LLM, smaller LLM search, ensemble, embedding, lexical, popularity.

    Stages whose models are not on this machine are skipped, with a notice in every recommendation list.

    Args:
        catalog: the items that can be recommended.
        interactions: histories of known users, from which the ensemble learns (see
            `genrec.rankers.collaborative_counts`); events of items that the catalog lacks are skipped. Leave out users
            who were forgotten, see `genrec.store.remaining_interactions`.
        cache: the folder of models, indexes, vectors and priors, see `genrec.datasets.models.cache_directory`.
        options: see `OpenOptions`.

    Raises:
        ArtifactError: a file of the cache (named in the message) was altered.
        EngineError, ArtifactError, MismatchError: the LLM is needed and cannot be used. If it is not needed, a notice
            tells the reason.
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
    text_columns(catalog, settings.text)  # before the slow work
    if interactions is not None and interactions.order == "none":
        settings = settings.without_order()
    if settings.api is not None:  # before the slow work
        check_list_template(read_template(settings.list_template))
    elif settings.model is not None:
        check_templates([read_template(settings.template), read_template(settings.cold_template)], settings.generative)
    notices: list[Notice] = []
    if reason := cache_write_error(cache):
        notices.append(Notice("cache_not_writable", {"reason": reason}))

    def leave_out(error: GenrecError) -> None:
        """Go on without the language model, and say why; but fail if it is needed."""
        if need_model:
            raise error
        notices.append(Notice("no_language_model", {"reason": str(error)}))

    model: LanguageModel | None = None
    api_model: OpenAiBackend | None = None
    try:  # first, to fail early, and because vLLM starts its processes best where torch has not run yet
        if settings.api is None:
            model = open_language_model(settings, cache, backend, prior_backend)
        elif settings.model is not None:
            api_model = _open_api_model(str(settings.model), settings.api, need_model, notices)
    except MODEL_ERRORS as error:
        leave_out(error)
    pipeline = _open_rankers(catalog, interactions, settings, cache, notices, progress)
    llm: LlmStage | ListwiseStage | None = None
    try:
        if api_model is not None:
            template = read_template(settings.list_template)
            llm = ListwiseStage.from_backend(catalog, api_model, pipeline.retriever, template, settings.listwise)
        elif model is not None:
            llm = _load_llm_stage(pipeline, settings, model, cache, progress)
            notices += model.notices
    except EngineError as error:
        leave_out(error)
    return replace(pipeline, llm=llm, loading_notices=tuple(notices), cache=cache)


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
        ArtifactError: a file of the cache (named in the message) was altered.
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


def _open_rankers(
    catalog: Catalog,
    interactions: Interactions | None,
    settings: Settings,
    cache: Path,
    notices: list[Notice],
    progress: Progress,
) -> Pipeline:
    """The pipeline without a language model; with a notice if there is no encoder, or if it cannot read the texts."""
    columns = text_columns(catalog, settings.text)
    texts = item_texts(catalog, columns)
    lexical = load_lexical_ranker(texts, cache, progress) if settings.lexical else None
    embedding = None
    try:
        embedding = embed_texts(texts, settings, cache, on_progress=progress)
    except EngineError as error:
        notices.append(Notice("no_embedding_ranker", {"reason": str(error)}))
    if embedding is not None and interactions is not None and interactions.order == "none":
        embedding = embedding.with_decay(1.0)
    unread = 0 if embedding is None else int((~embedding.vectors.any(axis=1)).sum())
    if unread and unread >= _MIN_UNREAD * len(catalog):
        fields = {"encoder": str(settings.encoder), "count": unread, "total": len(catalog)}
        notices.append(Notice("texts_unreadable", fields))
    collaborative = None
    if interactions is not None:
        encoder_name = "none"
        if embedding is not None and settings.encoder is not None:
            encoder_name = weights_cache_name(settings.encoder, find_model_directory(settings.encoder, cache))
        columns_name = "" if columns == ("title",) else f" {texts_digest(texts)}"
        text_name = encoder_name + columns_name + (f" {LEXICAL_VERSION}" if lexical else "")
        collaborative = load_collaborative_model(catalog, interactions, embedding, text_name, cache, progress, lexical)
    pipeline = Pipeline.from_rankers(catalog, interactions, embedding, collaborative, lexical)
    return replace(pipeline, text_columns=columns)


def _load_llm_stage(
    pipeline: Pipeline, settings: Settings, model: LanguageModel, cache: Path, progress: Progress
) -> LlmStage:
    tokenizer, identifiers = model.tokenizer, model.identifiers
    index = open_index(pipeline.catalog, tokenizer, cache, progress, identifiers)
    ranker = GenerativeRanker(
        index,
        model.backend,
        tokenizer,
        template=read_template(settings.template),
        cold_template=read_template(settings.cold_template),
        prior=PriorSource(
            select_prior_histories(pipeline.catalog, pipeline.interactions, settings),
            cache / "priors",
            model.prior_backend,
        ),
        retriever=pipeline.retriever,
        settings=settings.generative,
    )
    if settings.compute_priors or settings.generative.strategy == "beam":
        ranker.compute_priors(lambda done, total: progress("Computing priors", done, total))
    return LlmStage(ranker, index, identifiers, tokenizer, settings.small_search_candidates, settings.background)


def _open_api_model(name: str, api: ApiSettings, need_model: bool, notices: list[Notice]) -> OpenAiBackend:
    """A model behind an API; with a notice if its server cannot be reached now, because it may be later.

    Raises:
        ModelMissingError: the server serves other models, or httpx is not installed.
        EngineError: the model is needed, and its server cannot be reached, or refuses a short text as it would refuse
            every other.
    """
    backend = OpenAiBackend(name, api)
    try:
        backend.check_model(ask=need_model)
    except EngineError as error:
        if need_model or isinstance(error, ModelMissingError):
            backend.close()
            raise
        notices.append(Notice("model_unreachable", {"reason": str(error)}))
    return backend
