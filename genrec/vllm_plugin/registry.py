"""The catalogs that an engine serves, each loaded once from a sub-folder, and the constraints of its requests."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genrec.artifact import MANIFEST
from genrec.data.catalog import UNKNOWN
from genrec.data.named_items import withdrawn_notices
from genrec.data.subset import Subset
from genrec.decoding.constraints import CatalogGrammar, ConstraintState
from genrec.decoding.delimiters import DelimiterTokens
from genrec.errors import InputError, UnknownItemError, format_value
from genrec.index.catalog_index import CatalogIndex
from genrec.notices import Notice
from genrec.prompting.chat_template import ChatTemplateSettings
from genrec.prompting.tokenizer import HuggingFaceTokenizer
from genrec.types import IntArray

CATALOGS_ENV = "GENREC_CATALOGS"
CHAT_TEMPLATE_KEY = "genrec_chat_template"
"""The key of vLLM's additional configuration with the arguments of `ChatTemplateSettings`."""

EXTRA_ARG_KEYS = ("genrec_catalog", "genrec_form", "genrec_k", "genrec_allow", "genrec_deny")
_MAX_NAMES_SHOWN = 30  # catalog names in a message
_LOGGER = logging.getLogger(__name__)


def is_genrec_key(key: object) -> bool:
    """Whether a key is meant for genrec, even if it is misspelled: a typo must not turn a constraint off."""
    return isinstance(key, str) and key.strip().casefold().startswith("genrec")


class CatalogRegistry:
    """The catalogs of a folder, for the tokenizer of one model.

    Args:
        folder: contains a sub-folder for each catalog, written by `CatalogIndex.save`.
        model: the folder of the model's tokenizer.
        chat_template: how its chat template was rendered when the catalogs were built.

    Attributes:
        folder: as given.

    Raises:
        InputError: `folder` does not exist.
        ArtifactError: the tokenizer cannot be read.
    """

    def __init__(self, folder: Path, model: Path, chat_template: ChatTemplateSettings | None = None) -> None:
        if not folder.is_dir():
            raise InputError(
                f"{CATALOGS_ENV} is {str(folder)!r}, which is not a folder; set it to the folder of saved catalogs"
            )
        self.folder = folder
        self._tokenizer = HuggingFaceTokenizer.from_directory(model, chat_template)
        self.delimiters = DelimiterTokens.from_tokenizer(self._tokenizer)
        self._loaded: dict[str, tuple[CatalogIndex, CatalogGrammar]] = {}

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What the operator should know about the model's chat template, such as reasoning that is skipped."""
        return self._tokenizer.notices

    @property
    def names(self) -> list[str]:
        """The names of the catalogs that are in the folder now."""
        return sorted(path.parent.name for path in self.folder.glob(f"[!.]*/{MANIFEST}"))

    def load(self, name: object) -> tuple[CatalogIndex, CatalogGrammar]:
        """The index of a catalog, memory-mapped after its checksums are verified, and its grammar.

        Raises:
            InputError: no catalog has this name.
            ArtifactError: a file of the catalog was altered or cut short.
            TokenizerMismatchError: the catalog was built for another tokenizer than the model's.
        """
        if isinstance(name, str) and name in self._loaded:
            return self._loaded[name]
        if name not in (names := self.names):
            more = f" and {len(names) - _MAX_NAMES_SHOWN} more" if names[_MAX_NAMES_SHOWN:] else ""
            available = ", ".join(names[:_MAX_NAMES_SHOWN]) + more or "none yet; save one with CatalogIndex.save"
            raise InputError(
                f"genrec_catalog is {format_value(name, 60)}; choose one of the catalogs in {CATALOGS_ENV}: {available}"
            )
        name = str(name)
        index = CatalogIndex.load(self.folder / name, tokenizer=self._tokenizer)
        self._loaded[name] = index, CatalogGrammar(index.trie, self.delimiters)
        return self._loaded[name]

    def start(self, extra_args: Mapping[str, Any]) -> ConstraintState:
        """The constraint of a request, before its first token.

        Args:
            extra_args: the request's extra arguments; only those of `EXTRA_ARG_KEYS` are read.

        Raises:
            GenrecError: as for `load` and `CatalogGrammar.start`; or a key is unknown, or an item id was never in the
                catalog. The ids of withdrawn items are ignored, and logged; see `genrec.data.named_items`.
        """
        unknown = [key for key in extra_args if is_genrec_key(key) and key not in EXTRA_ARG_KEYS]
        if unknown or "genrec_catalog" not in extra_args:
            wrong = f"{format_value(unknown[0], 60)} is not a key of genrec" if unknown else "genrec_catalog is missing"
            raise InputError(f"{wrong}; use the keys {', '.join(EXTRA_ARG_KEYS)}")
        index, grammar = self.load(extra_args["genrec_catalog"])
        allowed = Subset.everything(len(index.catalog))
        if "genrec_allow" in extra_args:
            allowed = allowed.intersect(_item_indices(index, "genrec_allow", extra_args))
        if "genrec_deny" in extra_args:
            allowed = allowed.without(_item_indices(index, "genrec_deny", extra_args))
        form, k = extra_args.get("genrec_form", "list"), extra_args.get("genrec_k")
        try:
            return grammar.start(form, k=k, allowed=index.to_row_subset(allowed))
        except InputError as error:  # which knows of no keys
            if "argument" not in error.fields:
                raise
            raise error.revised(problem=f"genrec_{error.problem}") from error


def _item_indices(index: CatalogIndex, key: str, extra_args: Mapping[str, Any]) -> IntArray:
    """The indices of the items that a request lists under a key, without withdrawn ones."""
    item_ids = extra_args[key]
    if not isinstance(item_ids, list | tuple):
        raise InputError(f"{key} is {format_value(item_ids, 60)}; give a list of item ids")
    found, catalog = index.catalog.lookup(item_ids), extra_args["genrec_catalog"]
    unknown = np.flatnonzero(found == UNKNOWN)
    if unknown.size:
        first = format_value(item_ids[int(unknown[0])], 60)
        raise UnknownItemError(
            f"{key} names item {first}, which is not in catalog {catalog!r} "
            f"({len(index.catalog):,} items; {unknown.size:,} of {len(item_ids):,} listed ids are unknown); "
            "remove it"
        )
    for notice in withdrawn_notices(item_ids[position] for position in np.flatnonzero(found < 0)):
        _LOGGER.info("%s, catalog %r: %s", key, catalog, notice)
    return found[found >= 0]
