"""Models of the Hugging Face Hub: downloaded to the Hub's own cache, and verified file by file.

The Hub's cache (`HF_HOME`) is shared with Transformers and vLLM, so a model that one of them has downloaded is found
here. A record beside the bundled models holds the hash of each file, as the Hub states it; it is written before the
download, so that a download that was interrupted is never taken for a model. Without network access, and with
`HF_HUB_OFFLINE`, what was downloaded is used as it is. The token is the one of `huggingface_hub` (`HF_TOKEN`, or
`hf auth login`); it is neither logged nor stored.
"""

import re
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from genrec.datasets.hub_errors import explained_errors
from genrec.datasets.hub_id import HubId
from genrec.datasets.hub_record import WEIGHTS, HubFile, HubRecord, weight_names
from genrec.errors import ArtifactError, ModelMissingError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_CONFIG = "config.json"
_SMALL_FILES = re.compile(
    r"[^/]+\.(json|jinja|txt|tiktoken|py)|tokenizer\.model|LICENSE[^/]*|"
    r"(\d+_Pooling|additional_chat_templates|codes)/[^/]+"  # codes: the semantic ids of a model with a merged adapter
)
_NAMED_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")

Progress = Callable[[str, int, int], None]
"""Called with a label, the number of megabytes that are downloaded, and the number of all megabytes."""


def find_hub_model(hub_id: HubId, cache: Path, *, weights: bool = True) -> Path:
    """The folder of a model that was downloaded; no network is used.

    Each file is compared with its recorded hash when the file is new or has changed.

    Args:
        hub_id: the model.
        cache: see `genrec.datasets.models.cache_directory`.
        weights: whether weights are needed, and not the tokenizer and the configuration only.

    Raises:
        ModelMissingError: the model, or a file of it, is not on this machine, or huggingface_hub is not installed.
        ArtifactError: a file (named in the message) was altered.
    """
    remedy = f"download it with `genrec model get {hub_id}`"
    config = _hub().try_to_load_from_cache(hub_id.name, _CONFIG, revision=hub_id.revision)
    if not isinstance(config, str):
        raise ModelMissingError(f"the model {str(hub_id)!r} is not in {_hub_cache()}", remedy=remedy)
    folder = Path(config).parent
    record = HubRecord.read(cache, hub_id.name, folder.name) or HubRecord.from_snapshot(folder)
    missing = [name for name in record.expected(weights) if not (folder / name).is_file()]
    if weights and not missing:
        missing = [name for name in weight_names(folder) if not (folder / name).is_file()]
    if missing:
        raise ModelMissingError(f"{missing[0]} of the model {str(hub_id)!r} is not in {folder}", remedy=remedy)
    record.verify(folder, weights=weights, remedy=remedy)
    record.write(cache, hub_id.name, folder.name)
    return folder


def get_hub_model(hub_id: HubId, cache: Path, *, weights: bool = True, progress: Progress | None = None) -> Path:
    """Download a model at its newest commit, unless it is there; arguments are those of `find_hub_model`.

    Only safetensors, the tokenizer and the configuration are downloaded, one file after the other. Files of an
    interrupted download are used again.

    Raises:
        ModelMissingError: the model or the revision does not exist, is gated, or has no safetensors; or
            huggingface_hub is not installed.
        ArtifactError: the disk is full, or a file is not the one that the Hub states.
        EngineError: the Hub cannot be reached.
    """
    hub = _hub()
    if _COMMIT.fullmatch(hub_id.revision):
        try:
            return find_hub_model(hub_id, cache, weights=weights)
        except (ModelMissingError, ArtifactError):
            pass
    with explained_errors(hub_id):
        api = hub.HfApi(library_name="genrec")
        commit = str(api.model_info(hub_id.name, revision=hub_id.revision).sha)
        tree = api.list_repo_tree(hub_id.name, recursive=True, revision=commit)
        listed = {entry.path: HubFile(*_stated(entry)) for entry in tree if hasattr(entry, "blob_id")}
        names = _selected(hub_id, listed, weights)
        record = HubRecord({name: listed[name] for name in names})
        record.write(cache, hub_id.name, commit)
        _check_space(hub_id, record)
        folder = _download(hub_id, commit, record, progress or (lambda *_: None))
        if hub_id.revision != commit:
            _write_ref(folder, hub_id.revision, commit)
    for name, file in record.files.items():
        if not file.matches(folder / name):
            (folder / name).resolve().unlink(missing_ok=True)
            (folder / name).unlink(missing_ok=True)
            raise ArtifactError(
                f"{name} of {hub_id} was removed, because its hash differs from the one that the Hub states",
                remedy="download the model again, and check the proxy or mirror that HF_ENDPOINT names",
            )
    record.stamp(folder)
    record.write(cache, hub_id.name, commit)
    return folder


def _download(hub_id: HubId, commit: str, record: HubRecord, progress: Progress) -> Path:
    """Download the files that are missing, the configuration last, so that only a whole model is found."""
    done, total = 0, sum(file.size for file in record.files.values())

    def report(before: int, count: int = 0) -> None:
        progress(f"Downloading {hub_id} (MB)", (before + count) >> 20, total >> 20)

    folder = _hub_cache() / f"models--{hub_id.name.replace('/', '--')}" / "snapshots" / commit
    for name in sorted(record.files, key=lambda name: (name == _CONFIG, name)):
        report(done)
        _hub().hf_hub_download(
            hub_id.name,
            name,
            revision=commit,
            force_download=(folder / name).exists() and not record.files[name].matches(folder / name),
            tqdm_class=_byte_counter(partial(report, done)),
        )
        done += record.files[name].size
    return folder


def _byte_counter(report: Callable[[int], None]) -> Any:
    """A progress bar of tqdm that shows nothing, and reports the number of bytes so far."""
    base: Any = _hub().utils.tqdm

    class ByteCounter(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True})
            self.count = int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            self.count += int(n or 0)
            report(self.count)

    return ByteCounter


def _selected(hub_id: HubId, listed: Mapping[str, HubFile], weights: bool) -> list[str]:
    """The names of the files that are needed.

    Raises:
        ModelMissingError: the repository has no weights, or no weights in safetensors.
    """
    named = [name for name in listed if _NAMED_WEIGHTS.fullmatch(name)]
    all_weights = named or [name for name in listed if WEIGHTS.fullmatch(name)]
    if _CONFIG not in listed or not all_weights:
        others = [name for name in listed if re.search(r"\.(bin|pth?|gguf|onnx|h5|msgpack)$", name)]
        raise ModelMissingError(
            f"the model {str(hub_id)!r} has no {'safetensors' if _CONFIG in listed else _CONFIG}"
            + (f", only {', '.join(sorted(others)[:3])}" if others else ""),
            remedy="choose a repository with config.json and safetensors, or download a GGUF file and give its path",
        )
    return [name for name in listed if _SMALL_FILES.fullmatch(name)] + (all_weights if weights else [])


def _check_space(hub_id: HubId, record: HubRecord) -> None:
    """Check the free space of the disk before a download.

    Raises:
        ArtifactError: it is less than what has to be downloaded.
    """
    cache = _hub_cache()
    blobs = cache / f"models--{hub_id.name.replace('/', '--')}" / "blobs"  # files are named by their hashes
    needed = sum(file.size for file in record.files.values() if not (blobs / file.digest.partition(":")[2]).exists())
    existing = next(parent for parent in (cache, *cache.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise ArtifactError(
            f"{hub_id} needs {needed / 1e9:.1f} GB in {cache}, and {free / 1e9:.1f} GB are free",
            remedy="free some space, or set HF_HOME to a folder on another disk",
        )


def _write_ref(folder: Path, revision: str, commit: str) -> None:
    """Let a branch or tag name the commit, as the Hub's cache does; `hf_hub_download` does so for names only."""
    path = folder.parents[1] / "refs" / revision
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(commit, encoding="utf-8")


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ModelMissingError("huggingface_hub is not installed; run: pip install 'genrec[local]'") from error
    return huggingface_hub


def _hub_cache() -> Path:
    _hub()
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _stated(entry: Any) -> tuple[int, str]:
    """Size and digest of a file of the Hub."""
    return entry.size, f"sha256:{entry.lfs.sha256}" if entry.lfs is not None else f"git:{entry.blob_id}"
