"""The catalog as the search sees it: items, how they are written in tokens, and the trie over that."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec import artifact
from genrec.data.catalog import Catalog
from genrec.data.subset import Boost, Mask, Subset
from genrec.errors import InputError, MismatchError, TokenizerMismatchError, UnknownItemError
from genrec.index.identifiers import Identifiers
from genrec.index.trie import TokenTrie
from genrec.prompting.tokenizer import Tokenizer
from genrec.types import IntArray

_KIND = "index"
INDEX_VERSION = 2
"""The format of saved indexes, and of what is numbered by their rows and tokens; caches are kept by it."""


@dataclass(frozen=True, eq=False)
class CatalogIndex:
    """A catalog, its trie, and the tokenizer and identifiers they were written with (as fingerprints).

    Made by `CatalogIndex.build` or `CatalogIndex.load`.
    """

    catalog: Catalog
    trie: TokenTrie
    tokenizer_fingerprint: str
    identifiers_fingerprint: str
    _row_masks: "WeakKeyDictionary[Mask, Mask]" = field(default_factory=WeakKeyDictionary, init=False, repr=False)

    def __reduce__(self) -> tuple[object, ...]:
        # To another process goes what an index is made of, not what it has kept of masks.
        return CatalogIndex, (self.catalog, self.trie, self.tokenizer_fingerprint, self.identifiers_fingerprint)

    @classmethod
    def build(cls, catalog: Catalog, identifiers: Identifiers, tokenizer: Tokenizer) -> "CatalogIndex":
        """Write every item in tokens and sort the result."""
        trie = TokenTrie.from_sequences(identifiers.encode(catalog, tokenizer), vocab_size=tokenizer.vocab_size)
        return cls(catalog, trie, tokenizer.fingerprint, identifiers.fingerprint)

    @property
    def fingerprint(self) -> str:
        """Which index this is; priors and results carry it."""
        # An updated index may write an item in other tokens than one that was built anew: the trie counts too.
        parts = (
            self.catalog.fingerprint[:16],
            self.identifiers_fingerprint[:8],
            self.tokenizer_fingerprint[:8],
            self.trie.digest[:8],
        )
        return "-".join((str(INDEX_VERSION), *parts))

    def to_row_subset(self, item_subset: Subset) -> Subset:
        """The rows of a subset of items; a mask is turned into rows once, and kept for as long as it lives.

        Raises:
            InputError: the subset is of another number of items.
        """
        self._check_universe(item_subset.universe)
        mask = None
        if item_subset.mask is not None:
            mask = self._row_masks.get(item_subset.mask)
            if mask is None:
                # Of two requests that make it at once, both go on with the first: a batch has to have one mask.
                made = Mask.from_bool(item_subset.mask.to_bool()[self.trie.items])
                mask = self._row_masks.setdefault(item_subset.mask, made)
        return Subset(
            len(self.trie), mask, np.sort(self.trie.rows_of_items[item_subset.listed]), item_subset.is_allowlist
        )

    def to_row_boost(self, boost: Boost) -> Boost:
        """A boost of items as one of rows.

        Raises:
            InputError: a boosted item is not in the index.
        """
        if len(boost) and int(boost.indices[-1]) >= len(self.trie):
            raise InputError(f"item {boost.indices[-1]} is boosted; the index has items 0 to {len(self.trie) - 1:,}")
        rows = self.trie.rows_of_items[boost.indices]
        order = np.argsort(rows)
        return Boost(rows[order], boost.values[order])

    def update(
        self,
        identifiers: Identifiers,
        tokenizer: Tokenizer,
        *,
        add: Catalog | None = None,
        withdraw: Iterable[object] = (),
        retitle: Mapping[object, str] | None = None,
    ) -> "CatalogIndex":
        """This index with items added, withdrawn and retitled; only what changed is encoded and sorted.

        Kept items stay in their order and come first, added ones follow. Where a new title would be written in the
        tokens of a kept item's, the new one is told apart and the kept one stays as it is; building anew would mark
        both.

        Args:
            identifiers, tokenizer: those the index was built with.
            add: items with new ids, and attributes of the kinds that the catalog has.
            withdraw: ids.
            retitle: new titles by id.

        Raises:
            MismatchError: the index was built with other identifiers, or for another tokenizer.
            UnknownItemError: an id to withdraw or retitle is not in the catalog.
            InputError: an added id is there already, an item is both withdrawn and retitled, or nothing would be left.
        """
        self._check_fingerprints(identifiers, tokenizer)
        if add is not None and not isinstance(add, Catalog):
            raise InputError(f"add is a {type(add).__name__}; pass a Catalog, such as Catalog.from_items(...)")
        titles = dict(retitle or {})
        for item_id, title in titles.items():
            if not isinstance(title, str) or not title.strip():
                raise InputError(f"the new title of item {item_id!r} is {title!r}; give a text")
        gone = np.unique(self._item_indices_of("withdraw", withdraw))
        changed = self._item_indices_of("retitle", list(titles))
        if len(again := changed[np.argsort(changed)][1:][np.diff(np.sort(changed)) == 0]):
            raise InputError(
                f"item {self.catalog.item_ids[int(again[0])]!r} is to be retitled twice; give it one title"
            )
        if both := sorted(set(gone.tolist()) & set(changed.tolist())):
            raise InputError(
                f"item {self.catalog.item_ids[both[0]]!r} is to be withdrawn and retitled; leave it out of one"
            )
        if add is not None:
            there = np.setdiff1d(self.catalog.item_ids.positions(add.item_ids), [-1, *gone])
            if there.size:
                item_id = self.catalog.item_ids[int(there[0])]
                raise InputError(f"item {item_id!r} is to be added and is there already; withdraw or retitle it")
        named = dict(zip(changed.tolist(), titles.values(), strict=True))
        return self.reindexed(self.catalog.revised(upsert=add, remove=gone, new_titles=named), identifiers, tokenizer)

    def reindexed(self, catalog: Catalog, identifiers: Identifiers, tokenizer: Tokenizer) -> "CatalogIndex":
        """The index of another version of the catalog; only items with a new id or title are encoded and sorted.

        All others stay written as they are, whatever their attributes are now.

        Args:
            catalog: the other version.
            identifiers, tokenizer: those the index was built with.

        Raises:
            MismatchError: the index was built with other identifiers, or for another tokenizer.
        """
        self._check_fingerprints(identifiers, tokenizer)
        numbers = unchanged_item_indices(self.catalog, catalog)
        rows = np.sort(self.trie.rows_of_items[np.flatnonzero(numbers < 0)])
        fresh = np.delete(np.arange(len(catalog)), numbers[numbers >= 0])
        rest, other = self.trie, None
        if len(rows) == len(rest):
            return CatalogIndex.build(catalog, identifiers, tokenizer)
        if len(rows):
            rest = rest.merge(removed_rows=rows)
        rest = replace(rest, items=numbers[rest.items].astype(np.int32))
        if len(fresh):
            some = Catalog.from_items((catalog[int(item)] for item in fresh), name=catalog.name)
            sequences = identifiers.encode(some, tokenizer, is_taken=rest.conflicts_with)
            lengths = np.array([len(sequence) for sequence in sequences])
            other = TokenTrie.from_rows(
                np.concatenate(sequences), lengths, item_indices=fresh, vocab_size=tokenizer.vocab_size
            )
        return CatalogIndex(catalog, rest.merge(other), self.tokenizer_fingerprint, self.identifiers_fingerprint)

    def _item_indices_of(self, name: str, item_ids: Iterable[object]) -> IntArray:
        """The indices of ids that an update names."""
        item_ids = item_ids if isinstance(item_ids, str | bytes) else list(item_ids)
        found = self.catalog.item_ids.positions(item_ids)
        if (found < 0).any():
            unknown = list(item_ids)[int(np.argmin(found))]
            raise UnknownItemError(
                f"{name} names item {unknown!r}, which is not in catalog {self.catalog.name!r} "
                f"({len(self.catalog):,} items); leave it out"
            )
        return found

    def _check_universe(self, universe: int) -> None:
        if universe != len(self.trie):
            raise InputError(
                f"a subset of {universe:,} items; the index has {len(self.trie):,}; make it for this catalog"
            )

    def _check_fingerprints(self, identifiers: Identifiers, tokenizer: Tokenizer) -> None:
        if tokenizer.fingerprint != self.tokenizer_fingerprint:
            raise TokenizerMismatchError(
                f"the index was built for tokenizer {self.tokenizer_fingerprint[:12]}, not for "
                f"{tokenizer.fingerprint[:12]}; update it with the tokenizer it was built for"
            )
        if identifiers.fingerprint != self.identifiers_fingerprint:
            raise MismatchError(
                f"the index was built with identifiers {self.identifiers_fingerprint[:12]}, not with "
                f"{identifiers.fingerprint[:12]}; update it with those it was built with"
            )

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
        with artifact.artifact_writer(Path(directory), kind=_KIND, version=INDEX_VERSION, metadata=facts) as folder:
            self.catalog.write(folder / "catalog.parquet")
            self.trie.write(folder / "trie.safetensors")

    @classmethod
    def load(cls, directory: str | Path, *, tokenizer: Tokenizer | None = None) -> "CatalogIndex":
        """Read a saved index after checking every file's SHA-256; the trie is mapped, not read.

        Args:
            directory: where `save` wrote it.
            tokenizer: the tokenizer it will be used with, if it is to be checked.

        Raises:
            ArtifactError: a file is missing, cut short or altered (named).
            MismatchError: catalog and trie are not of one index.
            TokenizerMismatchError: the index was built for another tokenizer.
        """
        directory = Path(directory)
        manifest = artifact.verify(directory, kind=_KIND, version=INDEX_VERSION)
        if tokenizer is not None and manifest["tokenizer"] != tokenizer.fingerprint:
            raise TokenizerMismatchError(
                f"index {directory.name!r} was built for tokenizer {manifest['tokenizer'][:12]}, not for "
                f"{tokenizer.fingerprint[:12]}; build it again with this model's tokenizer"
            )
        trie = TokenTrie.read(directory / "trie.safetensors")
        catalog = Catalog.read(directory / "catalog.parquet")
        if catalog.fingerprint != manifest["catalog"] or not np.array_equal(
            np.sort(trie.items), np.arange(len(catalog))
        ):
            raise MismatchError(
                f"the catalog and the trie in {directory.name!r} are not of one index", remedy="build it again"
            )
        return cls(catalog, trie, manifest["tokenizer"], manifest["identifiers"])


def unchanged_item_indices(before: Catalog, after: Catalog) -> IntArray:
    """Where each of N items stands in another version of a catalog, -1 where it is gone or retitled: int64 [N]."""
    places = after.item_ids.positions(before.item_ids)
    kept = np.flatnonzero(places >= 0)
    titles = [catalog.column("title").take(pa.array(rows)) for catalog, rows in ((before, kept), (after, places[kept]))]
    same = np.asarray(pc.equal(*titles).to_numpy(zero_copy_only=False), dtype=np.bool_)
    places[kept[~same]] = -1
    return places
