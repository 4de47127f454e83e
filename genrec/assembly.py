"""Put a recommender together from a catalog, interactions, and whatever models this machine has.

What is slow to make (the index, item vectors, priors) is kept in a cache folder under the fingerprint of what it was
made from, so the next start only reads it.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from genrec import artifact
from genrec.advisor import Advisor
from genrec.backends.base import Backend
from genrec.bundle import MODELS, cache_directory, find_model
from genrec.catalog import Catalog, read_catalog
from genrec.codes import SemanticIdentifiers
from genrec.constraint import Grammar, Marks
from genrec.counting import Counts, item_vectors, learn_weights
from genrec.critique import CritiqueReader
from genrec.dataset import dataset_paths, find_adapter
from genrec.errors import ArtifactError, InputError, MismatchError, ModelMissingError
from genrec.identifiers import Identifiers, TitleIdentifiers
from genrec.index import INDEX_VERSION, CatalogIndex
from genrec.interactions import Interactions, read_interactions
from genrec.json_constraint import JsonGrammar
from genrec.mention_constraint import MentionConstraint
from genrec.parts import Generating, Learned, Parts
from genrec.rankers.embedding import EmbeddingRanker
from genrec.rankers.generative import GenerativeRanker, GenerativeSettings, Strategy
from genrec.recommender import Recommender
from genrec.reply import ReplyWriter
from genrec.subset import Subset
from genrec.template import read_template
from genrec.tokenizer import HuggingFaceTokenizer
from genrec.types import IntArray, Recommendation
from genrec.wish_reader import ModelReader

if TYPE_CHECKING:
    from genrec.backends.encoder import SentenceEncoder
    from genrec.backends.transformers import TransformersBackend

LANGUAGE_MODEL = "SmolLM2-135M-Instruct"
ENCODER_MODEL = "all-MiniLM-L6-v2"

CODES = "codes"
"""The folder within an adapter's that holds the codes of items it writes, where these are not titles."""

_KEPT = 8  # states of interactions whose counts stay in the cache
_READERS, _REPLIES = ("rules", "model"), ("bound", "free")
_SEED = 0  # of the people whose histories the prior is measured behind

Progress = Callable[[str, int, int], None]
"""Called with what is being made, how many of its parts are done, and how many there are."""


@dataclass(frozen=True)
class Settings:
    """What a recommender is made of. The defaults are what measured best; see eval/RESULTS.md.

    Attributes:
        model: a bundled model's name, or a folder with its tokenizer; None for no LLM.
        adapter: a LoRA adapter's folder for it, or the name of an embedded data set for the one that ships with it.
        encoder: the same for the sentence encoder.
        template, cold_template: names or paths of templates.
        generative: how the LLM ranks.
        fewer_candidates: candidates of the second, smaller search on the ladder.
        background: how many people's histories the prior is measured behind.
        fill_priors: measure the prior of the whole catalog now; otherwise of each item when it first comes up. A
            search of the whole catalog does it in any case.
    """

    model: str | Path | None = LANGUAGE_MODEL
    adapter: str | Path | None = None
    encoder: str | Path | None = ENCODER_MODEL
    template: str | Path = "next-item"
    cold_template: str | Path = "cold-start"
    generative: GenerativeSettings = field(default_factory=lambda: GenerativeSettings(evidence=50.0))
    fewer_candidates: int = 10
    background: int = 3
    fill_priors: bool = False


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
        interactions: histories of known users, and what is counted of them (see `genrec.counting`); events of items
            that the catalog lacks are skipped.
        cache: the folder of models, indexes, vectors and priors, see `genrec.bundle.cache_directory`.
        settings: what to use; by default the bundled models.
        backend: the LLM where it does not run on Transformers in this process, such as a `VllmEngineBackend`;
            `settings.model` then says whose tokenizer it has.
        prior_backend: the same model without its adapter, where `backend` has one; see `GenerativeRanker`.
        on_progress: shown while something slow is made.

    Raises:
        ArtifactError: a model or a cached file was altered (named).
    """
    parts = open_parts(
        catalog,
        interactions,
        cache=cache,
        settings=settings,
        backend=backend,
        prior_backend=prior_backend,
        on_progress=on_progress,
    )
    return parts.recommender()


def open_parts(
    catalog: Catalog,
    interactions: Interactions | None,
    *,
    cache: Path,
    settings: Settings | None = None,
    backend: Backend | None = None,
    prior_backend: Backend | None = None,
    on_progress: Progress | None = None,
) -> Parts:
    """What `open_recommender` puts together, before it does: `Parts.revised` changes its catalog at little cost.

    Arguments and errors are those of `open_recommender`.
    """
    settings, progress = settings or Settings(), on_progress or _say_nothing
    notices: list[str] = []
    embedding = None
    try:
        embedding = embed_titles(catalog, settings, cache, on_progress=progress)
    except ModelMissingError as error:
        notices.append(f"no embedding ranker: {error}")
    learned = None if interactions is None else _learn(catalog, interactions, embedding, settings, cache, progress)
    parts, generating = Parts.of(catalog, interactions, embedding, learned), None
    try:
        generating = _generate(parts, settings, backend, prior_backend, cache, progress)
        notices += generating.ranker.notices if generating is not None else ()
    except ModelMissingError as error:
        notices.append(f"no LLM: {error}")
    return replace(parts, generating=generating, notices=tuple(notices))


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
        settings = replace(settings, generative=replace(settings.generative, strategy=strategy), fill_priors=whole)
    catalog, interactions = open_dataset("online-retail", cache)
    return open_recommender(catalog, interactions, cache=cache, settings=settings, on_progress=on_progress)


def advising(
    recommender: Recommender, *, reader: str = "rules", replies: str = "bound", patience: float = 1.5
) -> Callable[[Recommender, int], Advisor]:
    """What makes advisors over a recommender, or over what becomes of it, for lists of k.

    Its language model puts turns into words, where it has one.

    Args:
        recommender: has the model in its ladder.
        reader: what reads wishes: "rules", or the "model" where the rules know no way. The bundled model reads no
            better than the rules alone (`python -m eval.wishes`), larger ones may.
        replies: "bound" to clauses that are looked up, or "free" but for the items that they mention: for models that
            can be trusted to say what is so, and run in this process; see `genrec.reply`.
        patience: seconds that ranking may take in a turn, see `Advisor`; as it is, first words come within two seconds.

    Raises:
        InputError: the reader or the replies are none of these, the patience is no time, or the tokenizer cannot hold
            mentions apart.
        ModelMissingError: the model is to read, and there is none.
    """
    for name, value, known in (("reader", reader, _READERS), ("replies", replies, _REPLIES)):
        if value not in known:
            raise InputError(f"{name} is {value!r}; choose one of {', '.join(known)}")
    if not patience > 0:
        raise InputError(f"patience is {patience!r}; give seconds above 0")
    ranker = next((step for step in recommender.ladder if isinstance(step, GenerativeRanker)), None)
    if ranker is None or not isinstance(ranker.tokenizer, HuggingFaceTokenizer) or find_spec("llguidance") is None:
        if reader == "model":
            raise ModelMissingError("there is no language model to read wishes; name one, or let the rules read")
        return lambda own, k: Advisor(own, k=k, patience=patience)
    backend, tokenizer, grammars = ranker.writer, ranker.tokenizer, JsonGrammar(ranker.tokenizer)
    marks = Marks.of(tokenizer) if replies == "free" else None

    def advise(own: Recommender, k: int) -> Advisor:
        rules = CritiqueReader(own.catalog)
        read = rules if reader == "rules" else ModelReader(backend, tokenizer, grammars, rules)
        mentions = None if marks is None else _mentioning(own, marks)
        write = ReplyWriter(backend, tokenizer, grammars, own.catalog, mentions=mentions)
        return Advisor(own, k=k, read=read, write=write, patience=patience)

    return advise


def _mentioning(recommender: Recommender, marks: Marks) -> Callable[[Sequence[Recommendation]], MentionConstraint]:
    """What holds the mentions of a text to items that were recommended."""
    (index, *_) = (step.index for step in recommender.ladder if isinstance(step, GenerativeRanker))
    grammar = Grammar(index.trie, marks)

    def hold(items: Sequence[Recommendation]) -> MentionConstraint:
        places = index.catalog.indices_of([item.item_id for item in items])
        return MentionConstraint(grammar, index.rows(Subset.of(len(index.catalog), places)), once=True)

    return hold


def open_dataset(name: str, cache: Path) -> tuple[Catalog, Interactions]:
    """The catalog and the interactions of a named data set, such as the embedded `online-retail`."""
    items, interactions = dataset_paths(name, cache)
    return read_catalog(items, name=name), read_interactions(interactions)


def _called(model: str | Path, folder: Path) -> str:
    """A name for caches: two folders called alike, or weights that changed in place, must not share what is kept."""
    if str(model) in MODELS:
        return str(model)
    facts = [str(folder.resolve())]
    for file in sorted(folder.glob("*.safetensors")):
        facts += [file.name, str(file.stat().st_size), str(file.stat().st_mtime_ns)]
    return f"{folder.name}-{_key(*facts)[:12]}"


def find_weights(model: str | Path, cache: Path) -> Path:
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
    folder = find_weights(model, cache)
    _need_torch()
    from genrec.backends.transformers import TransformersBackend

    found = None if adapter is None else find_adapter(adapter)
    backend = TransformersBackend(folder, adapter=found, name=_called(model, folder))
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
    key = _key(str(INDEX_VERSION), catalog.fingerprint, tokenizer.fingerprint, identifiers.fingerprint)
    folder = cache / "indexes" / key
    if folder.is_dir():
        with _from_cache(folder):
            index = CatalogIndex.load(folder, tokenizer=tokenizer)
            if index.catalog.fingerprint != catalog.fingerprint:
                raise ArtifactError(f"{folder} holds the index of another catalog")
            return index
    _need_writable(cache)
    progress("index", 0, 1)
    index = CatalogIndex.build(catalog, identifiers, tokenizer)
    index.save(folder)
    progress("index", 1, 1)
    return index


def background_histories(catalog: Catalog, interactions: Interactions | None, settings: Settings) -> list[IntArray]:
    """What the prior is measured behind: histories of people who have as much of one as a prompt shows.

    They are the same ones every time: int64 [H], item indices, oldest first.
    """
    if interactions is None:
        return []
    offsets, items = interactions.as_indices(catalog, on_unknown="skip")
    long = np.flatnonzero(np.diff(offsets) >= settings.generative.max_history)
    chosen = np.random.default_rng(_SEED).permutation(long)[: settings.background]
    return [items[offsets[user] : offsets[user + 1]] for user in chosen]


def _learn(
    catalog: Catalog,
    interactions: Interactions,
    embedding: EmbeddingRanker | None,
    settings: Settings,
    cache: Path,
    progress: Progress,
) -> Learned:
    """What people did, with item vectors and weights from the cache where they are kept."""
    offsets, items = interactions.as_indices(catalog, on_unknown="skip")
    events = sha256(offsets.tobytes() + items.tobytes() + interactions.timestamps.tobytes()).hexdigest()
    named = "none"
    if embedding is not None and settings.encoder is not None:
        named = _called(settings.encoder, find_weights(settings.encoder, cache))
    folder = cache / "counts" / _key("counts 6", catalog.fingerprint, events, named)
    if folder.is_dir():
        with _from_cache(folder):
            weights = artifact.verify(folder, kind="counts", version=1)["weights"]
            vectors = load_file(folder / "vectors.safetensors")["vectors"]
    else:
        progress("what people did", 0, 1)
        vectors = item_vectors(catalog, interactions)
        weights = learn_weights(catalog, interactions, embedding)
        if why_unwritable(cache) is None:  # else it is made again next time
            _forget(cache / "counts")
            with artifact.writing(folder, kind="counts", version=1, facts={"weights": weights}) as aside:
                save_file({"vectors": vectors}, aside / "vectors.safetensors")
        progress("what people did", 1, 1)
    return Learned(catalog, Counts.of(catalog, interactions, vectors), weights)


def _forget(folder: Path) -> None:
    """Make room for one more: what people did changes daily, and each state of it is used for a day."""
    kept = sorted(folder.glob("*"), key=lambda path: path.stat().st_mtime)
    for path in kept[: max(0, len(kept) - _KEPT)]:
        shutil.rmtree(path, ignore_errors=True)


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
    return EmbeddingRanker(_vectors(catalog, encoder, cache, on_progress or _say_nothing), encoder=encoder)


def open_encoder(model: str | Path, cache: Path) -> "SentenceEncoder":
    """A sentence encoder by its bundled name, or from a folder.

    Raises:
        ModelMissingError: the weights, or the packages that run them, are not on this machine.
    """
    folder = find_weights(model, cache)
    _need_torch()
    from genrec.backends.encoder import SentenceEncoder

    return SentenceEncoder(folder, name=_called(model, folder))


def _vectors(catalog: Catalog, encoder: "SentenceEncoder", cache: Path, progress: Progress) -> NDArray[np.float32]:
    folder = cache / "vectors" / _key("vectors 2", catalog.fingerprint, encoder.name)
    facts = {"catalog": catalog.fingerprint, "encoder": encoder.name}
    if folder.is_dir():
        with _from_cache(folder):
            manifest = artifact.verify(folder, kind="vectors", version=1)
            if {name: manifest.get(name) for name in facts} != facts:
                raise ArtifactError(f"{folder} holds the vectors of another catalog or encoder")
            return load_file(folder / "vectors.safetensors")["vectors"]
    _need_writable(cache)
    vectors = encoder.encode(catalog.titles, on_progress=lambda done, total: progress("item vectors", done, total))
    with artifact.writing(folder, kind="vectors", version=1, facts=facts) as aside:
        save_file({"vectors": vectors}, aside / "vectors.safetensors")
    return vectors


def _generate(
    parts: Parts,
    settings: Settings,
    backend: Backend | None,
    prior_backend: Backend | None,
    cache: Path,
    progress: Progress,
) -> Generating | None:
    if settings.model is None:
        return None
    if backend is None:
        backend, tokenizer = load_backend(settings.model, cache, adapter=settings.adapter)
        if settings.generative.prior:
            prior_backend = _untrained(backend, settings, cache)
    else:
        tokenizer = HuggingFaceTokenizer.from_directory(find_weights(settings.model, cache))
    identifiers = _identifiers(settings, cache)
    index = open_index(parts.catalog, tokenizer, cache, progress, identifiers)
    ranker = GenerativeRanker(
        index,
        backend,
        tokenizer,
        template=read_template(settings.template),
        cold_template=read_template(settings.cold_template),
        background=background_histories(parts.catalog, parts.interactions, settings),
        proposer=parts.proposer,
        settings=settings.generative,
        prior_cache=cache / "priors",
        prior_backend=prior_backend,
    )
    if settings.fill_priors or settings.generative.strategy == "beam":
        ranker.fill_priors(lambda done, total: progress("prior", done, total))
    return Generating(ranker, index, identifiers, tokenizer, settings.fewer_candidates)


def _untrained(backend: Backend, settings: Settings, cache: Path) -> Backend | None:
    """What an adapter, merged or not, was trained on top of; None where there is none, or it is not at hand."""
    if settings.adapter is not None and settings.model is not None:
        return load_backend(settings.model, cache)[0]
    if backend.provenance is not None and backend.provenance.base in MODELS:
        return load_backend(backend.provenance.base, cache)[0]
    return None


def _identifiers(settings: Settings, cache: Path) -> Identifiers:
    """What an adapter, merged or not, learned to write: the codes in its folder, else titles."""
    folder = (find_adapter(settings.adapter) if settings.adapter else Path(settings.model or "")) / CODES
    if not folder.is_dir():
        return TitleIdentifiers()
    if settings.encoder is None:
        raise ModelMissingError(f"{folder.parent} writes codes, which need the sentence encoder; name one")
    return SemanticIdentifiers.load(folder, open_encoder(settings.encoder, cache))


def default_cache() -> Path:
    """The cache folder of this user: GENREC_CACHE, else genrec under the platform's cache folder."""
    return cache_directory(os.environ)


@contextmanager
def _from_cache(folder: Path) -> Iterator[None]:
    """What is kept under `folder` can be made again, so the remedy is to remove it."""
    try:
        yield
    except (ArtifactError, MismatchError, SafetensorError) as error:
        reason = str(error).rpartition(";")[0] or str(error)
        raise ArtifactError(f"{reason}; remove the folder {folder}, what it held is made again") from error


def why_unwritable(cache: Path) -> str | None:
    """Why nothing can be kept in a cache folder; None where something can."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _need_writable(cache: Path) -> None:
    """Refuse before something slow is made that could not be kept."""
    if reason := why_unwritable(cache):
        raise ArtifactError(
            f"the cache {cache} cannot be written: {reason}; make it writable, or name another folder "
            "(the environment variable GENREC_CACHE on the command line)"
        )


def _need_torch() -> None:
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise ModelMissingError("torch and transformers are not installed; run: pip install 'genrec[local]'")


def _key(*parts: str) -> str:
    return sha256("\n".join(parts).encode()).hexdigest()[:24]


def _say_nothing(what: str, done: int, total: int) -> None: ...
