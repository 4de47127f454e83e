"""The catalog as the search sees it: items, how they are written in tokens, and the trie over that."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from genrec import artifact
from genrec.catalog import Catalog
from genrec.errors import ArtifactError, MismatchError, TokenizerMismatchError
from genrec.identifiers import Identifiers
from genrec.tokenizer import Tokenizer
from genrec.trie import TokenTrie

_KIND = "index"
_VERSION = 1


@dataclass(frozen=True)
class CatalogIndex:
    """A catalog, its trie, and the tokenizer and identifiers they were written with (as fingerprints).

    Made by `CatalogIndex.build` or `CatalogIndex.load`.
    """

    catalog: Catalog
    trie: TokenTrie
    tokenizer_fingerprint: str
    identifiers_fingerprint: str

    @classmethod
    def build(cls, catalog: Catalog, identifiers: Identifiers, tokenizer: Tokenizer) -> "CatalogIndex":
        """Write every item in tokens and sort the result."""
        trie = TokenTrie.from_sequences(identifiers.encode(catalog, tokenizer))
        return cls(catalog, trie, tokenizer.fingerprint, identifiers.fingerprint)

    @property
    def fingerprint(self) -> str:
        """Which index this is; priors and results carry it."""
        return f"{self.catalog.fingerprint[:16]}-{self.identifiers_fingerprint[:8]}-{self.tokenizer_fingerprint[:8]}"

    def save(self, directory: str | Path) -> None:
        """Write a folder, whole or not at all: catalog.parquet, trie.safetensors, manifest.json.

        Raises:
            ArtifactError: the place cannot be written, or holds something else.
        """
        facts = {
            "catalog": self.catalog.fingerprint,
            "items": len(self.catalog),
            "tokenizer": self.tokenizer_fingerprint,
            "identifiers": self.identifiers_fingerprint,
        }
        with artifact.writing(Path(directory), kind=_KIND, version=_VERSION, facts=facts) as folder:
            self.catalog.write(folder / "catalog.parquet")
            arrays: dict[str, NDArray[Any]] = {
                "tokens": self.trie.tokens,
                "offsets": self.trie.offsets,
                "items": self.trie.items,
            }
            save_file(arrays, folder / "trie.safetensors")

    @classmethod
    def load(cls, directory: str | Path, *, tokenizer: Tokenizer | None = None) -> "CatalogIndex":
        """Read a saved index after checking every file's SHA-256.

        Args:
            directory: where `save` wrote it.
            tokenizer: the tokenizer it will be used with, if it is to be checked.

        Raises:
            ArtifactError: a file is missing, cut short or altered (named).
            TokenizerMismatchError: the index was built for another tokenizer.
        """
        directory = Path(directory)
        manifest = artifact.verify(directory, kind=_KIND, version=_VERSION)
        if tokenizer is not None and manifest["tokenizer"] != tokenizer.fingerprint:
            raise TokenizerMismatchError(
                f"index {directory.name!r} was built for tokenizer {manifest['tokenizer'][:12]}, not for "
                f"{tokenizer.fingerprint[:12]}; build it again with this model's tokenizer"
            )
        try:
            arrays = load_file(directory / "trie.safetensors")
            trie = TokenTrie(arrays["tokens"], arrays["offsets"], arrays["items"])
        except (SafetensorError, KeyError) as error:
            raise ArtifactError(f"{directory / 'trie.safetensors'} cannot be read: {error}; build it again") from error
        catalog = Catalog.read(directory / "catalog.parquet")
        if catalog.fingerprint != manifest["catalog"] or not np.array_equal(
            np.sort(trie.items), np.arange(len(catalog))
        ):
            raise MismatchError(f"the catalog and the trie in {directory} are not of one index; build it again")
        return cls(catalog, trie, manifest["tokenizer"], manifest["identifiers"])
