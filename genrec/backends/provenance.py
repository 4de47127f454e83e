"""What an adapter was made of: `genrec.json` beside its weights."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from genrec.artifact import sha256_of, write_json
from genrec.errors import ArtifactError
from genrec.notices import Notice

FILENAME = "genrec.json"


def file_hashes(folder: Path, pattern: str = "*.safetensors") -> dict[str, str]:
    """The SHA-256 of each file of weights in a folder, or of those that another pattern of `Path.glob` finds."""
    files = sorted(file for file in folder.glob(pattern) if file.is_file())
    return {str(file.relative_to(folder)): sha256_of(file) for file in files}


@dataclass(frozen=True)
class Provenance:
    """Hashes are SHA-256, in hexadecimal.

    Attributes:
        base: the model's name.
        base_sha256: of its weights, file by file.
        tokenizer, template, catalog, index: fingerprints of what showed people to it, and of what it was shown.
        data: digest of the interactions, and `first` and `last` the times of their events, in ISO 8601.
        seed: of everything that was drawn.
        config: how it was trained.
        versions: of the packages that trained it.
        metrics: its validation ranking.
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

    def mismatches(self, **current: str) -> list[Notice]:
        """A notice for each attribute whose current value is not the one of training."""
        return [
            Notice("adapter_differs", {"name": name, "trained": getattr(self, name), "served": value})
            for name, value in current.items()
            if getattr(self, name) != value
        ]

    def setting_mismatches(self, **current: float) -> list[Notice]:
        """A notice for each setting whose current value is not the one of training."""
        return [
            Notice("adapter_setting_differs", {"name": name, "trained": self.config[name], "served": value})
            for name, value in current.items()
            if self.config.get(name, value) != value
        ]

    def write(self, folder: Path) -> None:
        """Write the file, whole or not at all."""
        write_json(folder / FILENAME, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read it.

        Raises:
            ArtifactError: it is damaged.
        """
        try:
            found = json.loads((folder / FILENAME).read_text(encoding="utf-8"))
            return cls(**{one.name: found[one.name] for one in fields(cls)})
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ArtifactError(
                f"cannot read {folder / FILENAME}: {error}; train the adapter again, or copy it again"
            ) from error
