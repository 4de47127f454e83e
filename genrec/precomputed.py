"""Indexes, item vectors, and counts and weights of interactions: read from the cache, or computed and saved there."""

from collections.abc import Sequence
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from genrec import artifact
from genrec.cache import (
    Progress,
    cache_key,
    evict_old_counts,
    explain_cache_errors,
    ignore_progress,
    optional_cache_write,
    weights_cache_name,
)
from genrec.data.catalog import Catalog
from genrec.data.interactions import Interactions
from genrec.datasets.model_directory import find_model_directory
from genrec.errors import ArtifactError, EngineError, ModelMissingError, explain_model_errors
from genrec.index.catalog_index import INDEX_VERSION, CatalogIndex
from genrec.index.identifiers import Identifiers, TitleIdentifiers
from genrec.index.vector_grid import round_to_grid
from genrec.pipeline import CollaborativeModel
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.rankers.collaborative import MAX_CONTEXTS
from genrec.rankers.collaborative_counts import CollaborativeCounts, item_vectors, learn_weights
from genrec.rankers.embedding import EmbeddingRanker
from genrec.rankers.lexical import LexicalRanker
from genrec.rankers.prior_store import draw_histories
from genrec.settings import Settings
from genrec.types import IntArray

if TYPE_CHECKING:
    from genrec.backends.encoder import SentenceEncoder

LEXICAL_VERSION = "lexical 1"


def load_collaborative_model(
    catalog: Catalog,
    interactions: Interactions,
    embedding: EmbeddingRanker | None,
    text_name: str,
    cache: Path,
    progress: Progress,
    lexical: LexicalRanker | None = None,
) -> CollaborativeModel:
    """Count the interactions; item vectors and weights come from the cache or are learned.

    Args:
        catalog: the items that can be recommended.
        interactions: the log; events of items that the catalog lacks are skipped.
        embedding: the ranker by the meaning of texts, whose weight is learned too, or None.
        text_name: names what the text rankers are made of.
        cache: the cache folder.
        progress: see `genrec.cache.Progress`.
        lexical: the ranker by the letters of texts, or None.

    Raises:
        ArtifactError: the cached vectors or weights were altered.
    """
    offsets, items = interactions.to_indices(catalog, on_unknown="skip")
    events = sha256(offsets.tobytes() + items.tobytes() + interactions.timestamps.tobytes()).hexdigest()
    version = "counts 6" if interactions.order != "none" else "counts 6 without order"
    if len(catalog) > MAX_CONTEXTS:
        version += f" {MAX_CONTEXTS} contexts"
    folder = cache / "counts" / cache_key(version, catalog.fingerprint, events, text_name)
    if folder.is_dir():
        with explain_cache_errors(folder):
            weights = artifact.verify(folder, kind="counts", version=1)["weights"]
            vectors = load_file(folder / "vectors.safetensors")["vectors"]
    else:
        progress("Counting interactions", 0, 1)
        vectors = item_vectors(catalog, interactions)
        weights = learn_weights(catalog, interactions, embedding, lexical)
        with optional_cache_write(folder):
            evict_old_counts(cache / "counts")
            contains = "item vectors from co-occurrence, and weights of signals, learned from all interactions"
            users = len(interactions.user_ids)
            user_data = artifact.UserData("aggregate" if users else "none", contains, users)
            with artifact.artifact_writer(
                folder, kind="counts", version=1, user_data=user_data, metadata={"weights": weights}
            ) as temporary:
                save_file({"vectors": vectors}, temporary / "vectors.safetensors")
        progress("Counting interactions", 1, 1)

    def fit(others: Interactions) -> CollaborativeModel:
        return load_collaborative_model(catalog, others, embedding, text_name, cache, ignore_progress, lexical)

    counts = CollaborativeCounts.from_interactions(catalog, interactions, vectors)
    return CollaborativeModel(catalog, counts, weights, fit)


def load_item_vectors(
    texts: Sequence[str], encoder: "SentenceEncoder", cache: Path, progress: Progress
) -> NDArray[np.float32]:
    """The vectors of the texts of a catalog: float32 [N, D], on the grid of `genrec.index.vector_grid`.

    Raises:
        ArtifactError: the cached vectors were altered.
    """
    variant = ["unreadable 0"] if encoder.zero_unreadable else []
    folder = cache / "vectors" / cache_key("vectors 3", texts_digest(texts), encoder.name, *variant)
    if folder.is_dir():
        with explain_cache_errors(folder):
            artifact.verify(folder, kind="vectors", version=1)
            saved: NDArray[np.float32] = load_file(folder / "vectors.safetensors")["vectors"]
            return round_to_grid(saved)
    encoded = encoder.encode(texts, on_progress=lambda done, total: progress("Encoding texts", done, total))
    vectors = round_to_grid(encoded, max_norm=1.0)
    _save_arrays(folder, "vectors", "vectors of texts", {"vectors": vectors})
    return vectors


def load_lexical_ranker(texts: Sequence[str], cache: Path, progress: Progress) -> LexicalRanker:
    """The ranker by the letters of the texts of a catalog, read from the cache or counted.

    Raises:
        ArtifactError: the cached counts were altered.
    """
    folder = cache / "lexical" / cache_key(LEXICAL_VERSION, texts_digest(texts))
    if folder.is_dir():
        with explain_cache_errors(folder):
            artifact.verify(folder, kind="lexical", version=1)
            return LexicalRanker.from_arrays(load_file(folder / "lexical.safetensors"))
    progress("Counting words", 0, 1)
    ranker = LexicalRanker.from_texts(texts)
    _save_arrays(folder, "lexical", "counts of the words of texts", ranker.arrays)
    progress("Counting words", 1, 1)
    return ranker


def texts_digest(texts: Sequence[str]) -> str:
    """SHA-256 of texts and their order, in hexadecimal."""
    digest = sha256()
    for text in texts:
        encoded = text.encode(errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def _save_arrays(folder: Path, kind: str, contains: str, arrays: dict[str, NDArray[np.generic]]) -> None:
    """Write arrays that were computed from the catalog to the cache, if it can be written."""
    user_data = artifact.UserData("none", contains, 0)
    with (
        optional_cache_write(folder),
        artifact.artifact_writer(folder, kind=kind, version=1, user_data=user_data, metadata={}) as temporary,
    ):
        save_file(arrays, temporary / f"{kind}.safetensors")


def open_index(
    catalog: Catalog,
    tokenizer: HuggingFaceTokenizer,
    cache: Path,
    progress: Progress,
    identifiers: Identifiers | None = None,
) -> CatalogIndex:
    """The index of a catalog, read from the cache or built.

    Args:
        catalog: the items of the index.
        tokenizer: the LLM's tokenizer.
        cache: the cache folder.
        progress: see `genrec.cache.Progress`.
        identifiers: how items are written in tokens; by default as titles.

    Raises:
        ArtifactError: the cached index was altered.
    """
    identifiers = identifiers or TitleIdentifiers()
    key = cache_key(str(INDEX_VERSION), catalog.fingerprint, tokenizer.fingerprint, identifiers.fingerprint)
    folder = cache / "indexes" / key
    if folder.is_dir():
        with explain_cache_errors(folder):
            index = CatalogIndex.load(folder, tokenizer=tokenizer)
            if index.catalog.fingerprint != catalog.fingerprint:
                raise ArtifactError(f"{folder} holds the index of another catalog")
            return index
    progress("Building the index", 0, 1)
    index = CatalogIndex.build(catalog, identifiers, tokenizer)
    with optional_cache_write(folder):
        index.save(folder)
    progress("Building the index", 1, 1)
    return index


def select_prior_histories(catalog: Catalog, interactions: Interactions | None, settings: Settings) -> list[IntArray]:
    """Choose the histories over which the prior is averaged, see `genrec.rankers.prior_store.draw_histories`.

    They are histories of users with at least as many events as a prompt shows, at most `settings.background` of them.
    """
    min_length = settings.generative.max_history
    return draw_histories(catalog, interactions, count=settings.background, min_length=min_length)


def embed_texts(
    texts: Sequence[str], settings: Settings, cache: Path, *, on_progress: Progress | None = None
) -> EmbeddingRanker | None:
    """The embedding ranker over the texts of a catalog, with vectors read from the cache or computed.

    Args:
        texts: the text of each item, see `genrec.data.item_texts`.
        settings: names the encoder. With `lexical`, the vector of a text that the encoder cannot read is 0, so the item
            is unknown to the ranker.
        cache: the cache folder.
        on_progress: as for `open_recommender`.

    Returns:
        The ranker, or None if the settings name no encoder.

    Raises:
        EngineError: the encoder cannot be used.
        ArtifactError: the cached vectors were altered.
    """
    if settings.encoder is None:
        return None
    try:
        with explain_model_errors(settings.encoder):
            encoder = open_encoder(
                settings.encoder,
                cache,
                trust_remote_code=settings.trust_remote_code,
                device=settings.device,
                zero_unreadable=settings.lexical,
            )
    except ArtifactError as error:  # a file of the encoder was altered
        raise EngineError(error.problem, remedy=error.remedy, code=error.code) from error
    return EmbeddingRanker(load_item_vectors(texts, encoder, cache, on_progress or ignore_progress), encoder=encoder)


def open_encoder(
    model: str | Path,
    cache: Path,
    *,
    trust_remote_code: bool = False,
    device: str | None = None,
    zero_unreadable: bool = False,
) -> "SentenceEncoder":
    """Load a sentence encoder by the name of a bundled model, a Hub id, or a folder; options as `SentenceEncoder`.

    Raises:
        ModelMissingError: the weights, or the packages that run them, are not on this machine; or the model needs
            Python code of its own, and `trust_remote_code` is false.
        EngineError: this machine does not have the device.
    """
    folder = find_model_directory(model, cache)
    require_torch()
    from genrec.backends.encoder import SentenceEncoder

    return SentenceEncoder(
        folder,
        device=device,
        name=weights_cache_name(model, folder),
        trust_remote_code=trust_remote_code,
        zero_unreadable=zero_unreadable,
    )


def require_torch() -> None:
    """Raise `ModelMissingError` if the packages that run models are not installed."""
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise ModelMissingError("torch and transformers are not installed; run: pip install 'genrec[local]'")
