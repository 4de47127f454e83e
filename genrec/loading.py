"""Put a recommender together from a catalog, interactions, and whatever models this machine has.

What is slow to make (the index, item vectors, priors) is kept in a cache folder under the fingerprint of what it was
made from, so the next start only reads it.
"""

from dataclasses import replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from genrec import artifact
from genrec.backends.base import Backend
from genrec.cache import (
    Progress,
    cache_write_error,
    default_cache,
    from_cache,
    key_of_parts,
    make_room,
    name_of_weights,
    need_writable,
    say_nothing,
)
from genrec.data.catalog import Catalog, read_catalog
from genrec.data.interactions import Interactions, read_interactions
from genrec.datasets.models import MODELS, find_model
from genrec.datasets.registry import dataset_paths, find_adapter
from genrec.errors import ArtifactError, ModelMissingError
from genrec.index.catalog_index import INDEX_VERSION, CatalogIndex
from genrec.index.identifiers import Identifiers, TitleIdentifiers
from genrec.index.semantic_ids import SemanticIdentifiers
from genrec.notices import Notice
from genrec.pipeline import CollaborativeModel, LlmStage, Pipeline
from genrec.prompting.template import read_template
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.rankers.collaborative_counts import CollaborativeCounts, item_vectors, learn_weights
from genrec.rankers.embedding import EmbeddingRanker
from genrec.rankers.generative import GenerativeRanker, Strategy
from genrec.recommender import Recommender
from genrec.settings import Settings
from genrec.types import IntArray

if TYPE_CHECKING:
    from genrec.backends.encoder import SentenceEncoder
    from genrec.backends.transformers import TransformersBackend


SEMANTIC_IDS_DIRECTORY = "codes"
"""The folder within an adapter's that holds the codes of items it writes, where these are not titles."""

_SEED = 0  # of the people whose histories the prior is measured behind


def open_recommender(
    catalog: Catalog,
    interactions: Interactions | None,
    *,
    cache: Path,
    settings: Settings | None = None,
    backend: Backend | None = None,
    prior_backend: Backend | None = None,
    on_progress: Progress | None = None,
) -> Recommender:
    """Put the ladder together: LLM, smaller search, what people did, embedding, popularity.

    Models that are not on this machine are left out, and every answer says so.

    Args:
        catalog: what can be recommended.
        interactions: histories of known users, and what is counted of them (see `genrec.rankers.collaborative_counts`);
            events of items that the catalog lacks are skipped.
        cache: the folder of models, indexes, vectors and priors, see `genrec.datasets.models.cache_directory`.
        settings: what to use; by default the bundled models.
        backend: the LLM where it does not run on Transformers in this process, such as a `VllmEngineBackend`;
            `settings.model` then says whose tokenizer it has.
        prior_backend: the same model without its adapter, where `backend` has one; see `GenerativeRanker`.
        on_progress: shown while something slow is made.

    Raises:
        ArtifactError: a model or a cached file was altered (named).
    """
    parts = open_pipeline(
        catalog,
        interactions,
        cache=cache,
        settings=settings,
        backend=backend,
        prior_backend=prior_backend,
        on_progress=on_progress,
    )
    return parts.recommender()


def open_pipeline(
    catalog: Catalog,
    interactions: Interactions | None,
    *,
    cache: Path,
    settings: Settings | None = None,
    backend: Backend | None = None,
    prior_backend: Backend | None = None,
    on_progress: Progress | None = None,
) -> Pipeline:
    """What `open_recommender` puts together, before it does: `Pipeline.revised` changes its catalog at little cost.

    Arguments and errors are those of `open_recommender`.
    """
    settings, progress = settings or Settings(), on_progress or say_nothing
    notices: list[Notice] = []
    embedding = None
    try:
        embedding = embed_titles(catalog, settings, cache, on_progress=progress)
    except ModelMissingError as error:
        notices.append(Notice("no_embedding_ranker", {"reason": str(error)}))
    learned = (
        None
        if interactions is None
        else _load_collaborative_model(catalog, interactions, embedding, settings, cache, progress)
    )
    parts, generating = Pipeline.from_rankers(catalog, interactions, embedding, learned), None
    try:
        generating = _load_llm_stage(parts, settings, backend, prior_backend, cache, progress)
        notices += generating.ranker.notices if generating is not None else ()
    except ModelMissingError as error:
        notices.append(Notice("no_language_model", {"reason": str(error)}))
    return replace(parts, llm=generating, notices=tuple(notices))


def open_default(
    *, strategy: Strategy | None = None, cache: Path | None = None, on_progress: Progress | None = None
) -> Recommender:
    """The embedded shop with the bundled models.

    Args:
        strategy: how the LLM searches, such as `"beam"` over the whole catalog; by default what measured best. What
            searches the whole catalog measures its prior now, which takes minutes the first time.
        cache: by default `default_cache()`.
        on_progress: shown while something slow is made.
    """
    cache, settings = cache or default_cache(), Settings()
    if strategy is not None:
        # What searches the whole catalog needs its whole prior: measured here, where progress is told, or while asking.
        whole = strategy != "candidates"
        settings = replace(settings, generative=replace(settings.generative, strategy=strategy), compute_priors=whole)
    catalog, interactions = open_dataset("online-retail", cache)
    return open_recommender(catalog, interactions, cache=cache, settings=settings, on_progress=on_progress)


def open_dataset(name: str, cache: Path) -> tuple[Catalog, Interactions]:
    """The catalog and the interactions of a named data set, such as the embedded `online-retail`."""
    items, interactions = dataset_paths(name, cache)
    return read_catalog(items, name=name), read_interactions(interactions)


def find_model_directory(model: str | Path, cache: Path) -> Path:
    """The folder of a bundled model, checked against its checksums, or the path as it was given.

    Raises:
        ModelMissingError: the bundled model has not been fetched.
        ArtifactError: it was altered.
    """
    return find_model(str(model), cache) if str(model) in MODELS else Path(model)


def load_backend(
    model: str | Path, cache: Path, *, adapter: str | Path | None = None
) -> "tuple[TransformersBackend, HuggingFaceTokenizer]":
    """A language model, perhaps under an adapter, and its tokenizer.

    Raises:
        ModelMissingError: the weights, or the packages that run them, are not on this machine.
    """
    folder = find_model_directory(model, cache)
    _require_torch()
    from genrec.backends.transformers import TransformersBackend

    found = None if adapter is None else find_adapter(adapter)
    backend = TransformersBackend(folder, adapter=found, name=name_of_weights(model, folder))
    return backend, HuggingFaceTokenizer.from_directory(folder)


def open_index(
    catalog: Catalog,
    tokenizer: HuggingFaceTokenizer,
    cache: Path,
    progress: Progress,
    identifiers: Identifiers | None = None,
) -> CatalogIndex:
    """The index of a catalog, built or read from the cache; without identifiers of titles."""
    identifiers = identifiers or TitleIdentifiers()
    key = key_of_parts(str(INDEX_VERSION), catalog.fingerprint, tokenizer.fingerprint, identifiers.fingerprint)
    folder = cache / "indexes" / key
    if folder.is_dir():
        with from_cache(folder):
            index = CatalogIndex.load(folder, tokenizer=tokenizer)
            if index.catalog.fingerprint != catalog.fingerprint:
                raise ArtifactError(f"{folder} holds the index of another catalog")
            return index
    need_writable(cache)
    progress("index", 0, 1)
    index = CatalogIndex.build(catalog, identifiers, tokenizer)
    index.save(folder)
    progress("index", 1, 1)
    return index


def select_prior_histories(catalog: Catalog, interactions: Interactions | None, settings: Settings) -> list[IntArray]:
    """What the prior is measured behind: histories of people who have as much of one as a prompt shows.

    They are the same ones every time: int64 [H], item indices, oldest first.
    """
    if interactions is None:
        return []
    offsets, items = interactions.to_indices(catalog, on_unknown="skip")
    long = np.flatnonzero(np.diff(offsets) >= settings.generative.max_history)
    chosen = np.random.default_rng(_SEED).permutation(long)[: settings.background]
    return [items[offsets[user] : offsets[user + 1]] for user in chosen]


def _load_collaborative_model(
    catalog: Catalog,
    interactions: Interactions,
    embedding: EmbeddingRanker | None,
    settings: Settings,
    cache: Path,
    progress: Progress,
) -> CollaborativeModel:
    """What people did, with item vectors and weights from the cache where they are kept."""
    offsets, items = interactions.to_indices(catalog, on_unknown="skip")
    events = sha256(offsets.tobytes() + items.tobytes() + interactions.timestamps.tobytes()).hexdigest()
    named = "none"
    if embedding is not None and settings.encoder is not None:
        named = name_of_weights(settings.encoder, find_model_directory(settings.encoder, cache))
    folder = cache / "counts" / key_of_parts("counts 6", catalog.fingerprint, events, named)
    if folder.is_dir():
        with from_cache(folder):
            weights = artifact.verify(folder, kind="counts", version=1)["weights"]
            vectors = load_file(folder / "vectors.safetensors")["vectors"]
    else:
        progress("what people did", 0, 1)
        vectors = item_vectors(catalog, interactions)
        weights = learn_weights(catalog, interactions, embedding)
        if cache_write_error(cache) is None:  # else it is made again next time
            make_room(cache / "counts")
            with artifact.artifact_writer(folder, kind="counts", version=1, metadata={"weights": weights}) as aside:
                save_file({"vectors": vectors}, aside / "vectors.safetensors")
        progress("what people did", 1, 1)
    return CollaborativeModel(catalog, CollaborativeCounts.from_interactions(catalog, interactions, vectors), weights)


def embed_titles(
    catalog: Catalog, settings: Settings, cache: Path, *, on_progress: Progress | None = None
) -> EmbeddingRanker | None:
    """The ranker by texts, its vectors from the cache where they are kept; None where the settings name no encoder.

    Raises:
        ModelMissingError: the encoder is not on this machine.
        ArtifactError: the cached vectors were altered, or cannot be kept.
    """
    if settings.encoder is None:
        return None
    encoder = open_encoder(settings.encoder, cache)
    return EmbeddingRanker(_load_item_vectors(catalog, encoder, cache, on_progress or say_nothing), encoder=encoder)


def open_encoder(model: str | Path, cache: Path) -> "SentenceEncoder":
    """A sentence encoder by its bundled name, or from a folder.

    Raises:
        ModelMissingError: the weights, or the packages that run them, are not on this machine.
    """
    folder = find_model_directory(model, cache)
    _require_torch()
    from genrec.backends.encoder import SentenceEncoder

    return SentenceEncoder(folder, name=name_of_weights(model, folder))


def _load_item_vectors(
    catalog: Catalog, encoder: "SentenceEncoder", cache: Path, progress: Progress
) -> NDArray[np.float32]:
    folder = cache / "vectors" / key_of_parts("vectors 2", catalog.fingerprint, encoder.name)
    facts = {"catalog": catalog.fingerprint, "encoder": encoder.name}
    if folder.is_dir():
        with from_cache(folder):
            manifest = artifact.verify(folder, kind="vectors", version=1)
            if {name: manifest.get(name) for name in facts} != facts:
                raise ArtifactError(f"{folder} holds the vectors of another catalog or encoder")
            return load_file(folder / "vectors.safetensors")["vectors"]
    need_writable(cache)
    vectors = encoder.encode(catalog.titles, on_progress=lambda done, total: progress("item vectors", done, total))
    with artifact.artifact_writer(folder, kind="vectors", version=1, metadata=facts) as aside:
        save_file({"vectors": vectors}, aside / "vectors.safetensors")
    return vectors


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
        backend, tokenizer = load_backend(settings.model, cache, adapter=settings.adapter)
        if settings.generative.prior:
            prior_backend = _load_base_backend(backend, settings, cache)
    else:
        tokenizer = HuggingFaceTokenizer.from_directory(find_model_directory(settings.model, cache))
    identifiers = _load_identifiers(settings, cache)
    index = open_index(pipeline.catalog, tokenizer, cache, progress, identifiers)
    ranker = GenerativeRanker(
        index,
        backend,
        tokenizer,
        template=read_template(settings.template),
        cold_template=read_template(settings.cold_template),
        prior_histories=select_prior_histories(pipeline.catalog, pipeline.interactions, settings),
        retriever=pipeline.retriever,
        settings=settings.generative,
        prior_cache=cache / "priors",
        prior_backend=prior_backend,
    )
    if settings.compute_priors or settings.generative.strategy == "beam":
        ranker.compute_priors(lambda done, total: progress("prior", done, total))
    return LlmStage(ranker, index, identifiers, tokenizer, settings.small_search_candidates)


def _load_base_backend(backend: Backend, settings: Settings, cache: Path) -> Backend | None:
    """What an adapter, merged or not, was trained on top of; None where there is none, or it is not at hand."""
    if settings.adapter is not None and settings.model is not None:
        return load_backend(settings.model, cache)[0]
    if backend.provenance is not None and backend.provenance.base in MODELS:
        return load_backend(backend.provenance.base, cache)[0]
    return None


def _load_identifiers(settings: Settings, cache: Path) -> Identifiers:
    """What an adapter, merged or not, learned to write: the codes in its folder, else titles."""
    folder = (
        find_adapter(settings.adapter) if settings.adapter else Path(settings.model or "")
    ) / SEMANTIC_IDS_DIRECTORY
    if not folder.is_dir():
        return TitleIdentifiers()
    if settings.encoder is None:
        raise ModelMissingError(f"{folder.parent} writes codes, which need the sentence encoder; name one")
    return SemanticIdentifiers.load(folder, open_encoder(settings.encoder, cache))


def _require_torch() -> None:
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise ModelMissingError("torch and transformers are not installed; run: pip install 'genrec[local]'")
