"""The provenance of an adapter: `genrec.json` beside its weights says how it was trained."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from genrec.artifact import sha256_of, write_json
from genrec.errors import ArtifactError
from genrec.notices import Notice

PROVENANCE_FILE = "genrec.json"
# Adapters of genrec 0.1 lack them.
_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"train": None, "earlier": (), "trained_at": None, "user_data": {}, "chat_template": None}
)


def file_hashes(folder: Path, pattern: str = "*.safetensors") -> dict[str, str]:
    """The SHA-256 of each file in a folder that matches a pattern of `Path.glob`, by its relative path."""
    files = sorted(file for file in folder.glob(pattern) if file.is_file())
    return {str(file.relative_to(folder)): sha256_of(file) for file in files}


@dataclass(frozen=True)
class TrainingSource:
    """Interactions that an adapter was trained on.

    Attributes:
        protocol: how test items were held out of them: the name of a protocol; None if unknown.
        data: the digest of that experiment; "" if nothing is known about the interactions.
        train: the fingerprint of the training interactions; None in adapters of genrec 0.1.
        first, last: the times of the first and the last training interaction, in ISO 8601; numbers if they are
            positions in a log.
    """

    protocol: str | None
    data: str
    train: str | None
    first: str | None
    last: str | None


@dataclass(frozen=True)
class Provenance:
    """How an adapter was trained. Hashes are SHA-256 in hexadecimal.

    Attributes:
        base: the name of the base model; its Hub id, without a revision, if it is from there.
        base_sha256: the hash of each file of its weights.
        tokenizer, template, catalog, index: the fingerprints of what made the prompts.
        data: the digest of the interactions.
        first, last: the times of the first and the last interaction, in ISO 8601.
        seed: the seed of all random draws.
        config: the training configuration.
        versions: the versions of the packages used.
        metrics: the validation metrics.
        train: the fingerprint of the training interactions; None in adapters of genrec 0.1.
        chat_template: the fingerprint of the chat template with its arguments; None if it is not recorded.
        earlier: the training interactions of the adapters that the training continued from.
        trained_at: seconds since 1970 when the first of all these interactions were read; None if that is not known, as
            for adapters of genrec 0.1.
        user_data: the fields of `genrec.artifact.UserData`; empty in adapters of genrec 0.1.
    """

    base: str
    base_sha256: dict[str, str]
    tokenizer: str
    template: str
    catalog: str
    index: str
    data: str
    first: str | None
    last: str | None
    seed: int
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    train: str | None = None
    earlier: tuple[TrainingSource, ...] = ()
    trained_at: float | None = None
    user_data: dict[str, Any] = field(default_factory=dict)
    chat_template: str | None = None

    @property
    def sources(self) -> tuple[TrainingSource, ...]:
        """All interactions that the adapter was trained on, its own first."""
        own = TrainingSource(self.config.get("protocol"), self.data, self.train, self.first, self.last)
        return (own, *self.earlier)

    def mismatches(self, **current: str) -> list[Notice]:
        """A notice for each recorded attribute whose current value is not the one of training."""
        return [
            Notice("adapter_differs", {"name": name, "trained": getattr(self, name), "served": value})
            for name, value in current.items()
            if getattr(self, name) not in (None, value)
        ]

    def setting_mismatches(self, **current: float) -> list[Notice]:
        """A notice for each setting whose current value is not the one of training."""
        return [
            Notice("adapter_setting_differs", {"name": name, "trained": self.config[name], "served": value})
            for name, value in current.items()
            if self.config.get(name, value) != value
        ]

    def write(self, folder: Path) -> None:
        """Write `genrec.json` into a folder, atomically."""
        write_json(folder / PROVENANCE_FILE, asdict(self))

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """Read `genrec.json` from a folder; None if it has none.

        Raises:
            ArtifactError: the file is damaged.
        """
        return cls.read(folder) if (folder / PROVENANCE_FILE).is_file() else None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read `genrec.json` from a folder.

        Raises:
            ArtifactError: the file is missing or damaged.
        """
        try:
            value = {**_DEFAULTS, **json.loads((folder / PROVENANCE_FILE).read_text(encoding="utf-8"))}
            value["earlier"] = tuple(TrainingSource(**source) for source in value["earlier"])
            return cls(**{attribute.name: value[attribute.name] for attribute in fields(cls)})
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ArtifactError(
                f"cannot read {folder / PROVENANCE_FILE}: {error}; copy the adapter again, or train it again"
            ) from error
