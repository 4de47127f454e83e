"""The catalogs that an engine serves: each is a sub-folder, read once, and opened by what a request says."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genrec.artifact import MANIFEST
from genrec.data.subset import Subset
from genrec.decoding.constraints import Grammar, Marks, State
from genrec.errors import InputError, UnknownItemError
from genrec.index.catalog_index import CatalogIndex
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.types import IntArray

FOLDER = "GENREC_CATALOGS"
KEYS = ("genrec_catalog", "genrec_form", "genrec_k", "genrec_allow", "genrec_deny")
_SHOWN = 30  # names in an error
_ARGUMENT = re.compile(r"^(form|k)(?= is )")


def is_ours(key: object) -> bool:
    """Whether a key is meant for genrec, also one that is misspelled: a typo must not turn a constraint off."""
    return isinstance(key, str) and key.strip().casefold().startswith("genrec")


class Shelf:
    """The catalogs of a folder, for the tokenizer of one model.

    Args:
        folder: its sub-folders, each written by `CatalogIndex.save`, are the catalogs.
        model: the folder of the model's tokenizer.

    Raises:
        InputError: there is no such folder, or the tokenizer has no marks; see `genrec.decoding.constraints.Marks`.
        ArtifactError: the tokenizer cannot be read.
    """

    def __init__(self, folder: Path, model: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"{FOLDER} is {str(folder)!r}, which is no folder; set it to the folder of saved catalogs")
        self._folder = folder
        self._tokenizer = HuggingFaceTokenizer.from_directory(model)
        self.marks = Marks.of(self._tokenizer)
        self._opened: dict[str, tuple[CatalogIndex, Grammar]] = {}

    @property
    def names(self) -> list[str]:
        """The catalogs that are there now."""
        return sorted(path.parent.name for path in self._folder.glob(f"[!.]*/{MANIFEST}"))

    def load(self, name: object) -> tuple[CatalogIndex, Grammar]:
        """A catalog's index, mapped once its checksums are verified, and the grammar over it.

        Raises:
            InputError: there is none of this name.
            ArtifactError: it was altered or cut short.
            TokenizerMismatchError: it was built for another tokenizer than the model's.
        """
        if isinstance(name, str) and name in self._opened:
            return self._opened[name]
        if name not in (names := self.names):
            more = f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
            there = ", ".join(names[:_SHOWN]) + more or "none yet; save one there with CatalogIndex.save"
            raise InputError(f"genrec_catalog is {name!r:.60}; choose one of the catalogs in {FOLDER}: {there}")
        name = str(name)
        index = CatalogIndex.load(self._folder / name, tokenizer=self._tokenizer)
        self._opened[name] = index, Grammar(index.trie, self.marks)
        return self._opened[name]

    def start(self, wishes: Mapping[str, Any]) -> State:
        """The constraint that a request asks for, before its first token.

        Args:
            wishes: values by `KEYS`; others that are not meant for genrec may be among them.

        Raises:
            GenrecError: as for `load` and `Grammar.start`, an unknown key, or an item id that is not in the catalog.
        """
        unknown = [key for key in wishes if is_ours(key) and key not in KEYS]
        if unknown or "genrec_catalog" not in wishes:
            wrong = f"{unknown[0]!r:.60} is no key of genrec" if unknown else "genrec_catalog is missing"
            raise InputError(f"{wrong}; the keys are {', '.join(KEYS)}")
        index, grammar = self.load(wishes["genrec_catalog"])
        allowed = Subset.everything(len(index.catalog))
        if "genrec_allow" in wishes:
            allowed = allowed.within(_positions(index, "genrec_allow", wishes))
        if "genrec_deny" in wishes:
            allowed = allowed.without(_positions(index, "genrec_deny", wishes))
        form, k = wishes.get("genrec_form", "list"), wishes.get("genrec_k")
        try:
            return grammar.start(form, k=k, allowed=index.rows(allowed))
        except InputError as error:  # which knows of no keys
            raise type(error)(_ARGUMENT.sub(r"genrec_\1", str(error))) from error


def _positions(index: CatalogIndex, key: str, wishes: Mapping[str, Any]) -> IntArray:
    """The indices of the items that a request names."""
    ids = wishes[key]
    if not isinstance(ids, list | tuple):
        raise InputError(f"{key} is {ids!r:.60}; give a list of item ids")
    found, catalog = index.catalog.item_ids.positions(ids), wishes["genrec_catalog"]
    if (found < 0).any():
        raise UnknownItemError(
            f"{key} names item {ids[int(np.argmin(found))]!r:.60}, which is not in catalog {catalog!r} "
            f"({len(index.catalog):,} items; {int((found < 0).sum()):,} of the {len(ids):,} named are unknown); "
            "leave it out"
        )
    return found
