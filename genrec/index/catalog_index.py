"""The catalog index: items, their token identifiers, and the trie over these.

Letters: N items.
"""

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
from genrec.errors import InputError, MismatchError, TokenizerMismatchError, UnknownItemError, format_value
from genrec.index.identifiers import Identifiers
from genrec.index.trie import TokenTrie
from genrec.prompting.tokenizer import Tokenizer
from genrec.types import IntArray

INDEX_KIND = "index"
INDEX_VERSION = 2
"""The format version of saved indexes and of everything numbered by their rows and tokens; part of cache keys."""


@dataclass(frozen=True, eq=False)
class CatalogIndex:
    """A catalog, its trie, and the fingerprints of the tokenizer and the identifiers that it was built with.

    Made by `CatalogIndex.build` or `CatalogIndex.load`.
    """

    catalog: Catalog
    trie: TokenTrie
    tokenizer_fingerprint: str
    identifiers_fingerprint: str
    _row_masks: "WeakKeyDictionary[Mask, Mask]" = field(default_factory=WeakKeyDictionary, init=False, repr=False)

    def __reduce__(self) -> tuple[object, ...]:
        # The cached row masks are not pickled.
        return CatalogIndex, (self.catalog, self.trie, self.tokenizer_fingerprint, self.identifiers_fingerprint)

    @classmethod
    def build(cls, catalog: Catalog, identifiers: Identifiers, tokenizer: Tokenizer) -> "CatalogIndex":
        """Encode every item as tokens and sort the identifiers."""
        trie = TokenTrie.from_sequences(identifiers.encode(catalog, tokenizer), vocab_size=tokenizer.vocab_size)
        return cls(catalog, trie, tokenizer.fingerprint, identifiers.fingerprint)

    @property
    def fingerprint(self) -> str:
        """Identifies the index; part of the keys of priors and of results."""
        # An updated index can encode an item differently from a rebuilt one, so the trie is part of it.
        fingerprints = (
            self.catalog.fingerprint[:16],
            self.identifiers_fingerprint[:8],
            self.tokenizer_fingerprint[:8],
            self.trie.digest[:8],
        )
        return "-".join((str(INDEX_VERSION), *fingerprints))

    def to_row_subset(self, item_subset: Subset) -> Subset:
        """The subset of rows for a subset of items; the rows of a mask are computed once for the lifetime of the mask.

        Raises:
            InputError: the subset has another number of items.
        """
        self._check_universe(item_subset.universe)
        mask = None
        if item_subset.mask is not None:
            mask = self._row_masks.get(item_subset.mask)
            if mask is None:
                # If two threads compute it at once, both use the first result: a batch must have one mask.
                made = Mask.from_bool(item_subset.mask.to_bool()[self.trie.items])
                mask = self._row_masks.setdefault(item_subset.mask, made)
        return Subset(
            len(self.trie), mask, np.sort(self.trie.rows_of_items[item_subset.listed]), item_subset.is_allowlist
        )

    def to_row_boost(self, boost: Boost) -> Boost:
        """The boost of rows for a boost of items.

        Raises:
            InputError: a boosted item is not in the index.
        """
        if len(boost) and int(boost.indices[-1]) >= len(self.trie):
            raise InputError(
                f"item {boost.indices[-1]} is boosted, but the index has items 0 to {len(self.trie) - 1:,}; "
                "make the boost for this catalog"
            )
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
        """This index with items added, withdrawn and retitled; only the changed items are encoded and sorted.

        Kept items come first, in their order; added ones follow. If a new title has the tokens of a kept item, only the
        new one gets a suffix and the kept one does not change; a rebuild would give both a suffix.

        Args:
            identifiers, tokenizer: those the index was built with.
            add: items with new ids, and attributes of the types that the catalog has.
            withdraw: ids of items to remove.
            retitle: new titles by id.

        Raises:
            MismatchError: the index was built with other identifiers, or for another tokenizer.
            UnknownItemError: an id to withdraw or retitle is not in the catalog.
            InputError: an added id is in the catalog already, an item is both withdrawn and retitled, or the catalog
                would be empty.
        """
        self._check_fingerprints(identifiers, tokenizer)
        if add is not None and not isinstance(add, Catalog):
            raise InputError(f"add is a {type(add).__name__}; pass a Catalog, such as Catalog.from_items(...)")
        titles = dict(retitle or {})
        for item_id, title in titles.items():
            if not isinstance(title, str) or not title.strip():
                raise InputError(
                    f"the new title of item {format_value(item_id)} is {format_value(title)}; pass a non-empty string"
                )
        removed = np.unique(self._item_indices_of("withdraw", withdraw))
        changed = self._item_indices_of("retitle", list(titles))
        if len(repeated := changed[np.argsort(changed)][1:][np.diff(np.sort(changed)) == 0]):
            raise InputError(
                f"retitle contains item {self.catalog.item_ids[int(repeated[0])]!r} twice; pass one title for each item"
            )
        if both := sorted(set(removed.tolist()) & set(changed.tolist())):
            raise InputError(
                f"item {self.catalog.item_ids[both[0]]!r} is in both withdraw and retitle; remove it from one"
            )
        if add is not None:
            existing = np.setdiff1d(self.catalog.item_ids.positions(add.item_ids), [-1, *removed])
            if existing.size:
                item_id = self.catalog.item_ids[int(existing[0])]
                raise InputError(
                    f"add contains item {item_id!r}, which is in the catalog already; withdraw or retitle it"
                )
        new_titles = dict(zip(changed.tolist(), titles.values(), strict=True))
        return self.reindexed(
            self.catalog.revised(upsert=add, remove=removed, new_titles=new_titles), identifiers, tokenizer
        )

    def reindexed(self, catalog: Catalog, identifiers: Identifiers, tokenizer: Tokenizer) -> "CatalogIndex":
        """The index of another version of the catalog; only items with a new id or title are encoded and sorted.

        All others keep their identifiers, even if their attributes have changed.

        Args:
            catalog: the other version.
            identifiers, tokenizer: those the index was built with.

        Raises:
            MismatchError: the index was built with other identifiers, or for another tokenizer.
        """
        self._check_fingerprints(identifiers, tokenizer)
        new_indices = unchanged_item_indices(self.catalog, catalog)
        removed_rows = np.sort(self.trie.rows_of_items[np.flatnonzero(new_indices < 0)])
        added = np.delete(np.arange(len(catalog)), new_indices[new_indices >= 0])
        kept, other = self.trie, None
        if len(removed_rows) == len(kept):
            return CatalogIndex.build(catalog, identifiers, tokenizer)
        if len(removed_rows):
            kept = kept.merge(removed_rows=removed_rows)
        kept = replace(kept, items=new_indices[kept.items].astype(np.int32))
        if len(added):
            added_items = Catalog.from_items((catalog[int(item)] for item in added), name=catalog.name)
            sequences = identifiers.encode(added_items, tokenizer, is_taken=kept.conflicts_with)
            lengths = np.array([len(sequence) for sequence in sequences])
            other = TokenTrie.from_rows(
                np.concatenate(sequences), lengths, item_indices=added, vocab_size=tokenizer.vocab_size
            )
        return CatalogIndex(catalog, kept.merge(other), self.tokenizer_fingerprint, self.identifiers_fingerprint)

    def _item_indices_of(self, name: str, item_ids: Iterable[object]) -> IntArray:
        """The item indices of the ids in argument `name` of an update."""
        item_ids = item_ids if isinstance(item_ids, str | bytes) else list(item_ids)
        found = self.catalog.item_ids.positions(item_ids)
        if (found < 0).any():
            unknown = list(item_ids)[int(np.argmin(found))]
            raise UnknownItemError(
                f"{name} contains item {unknown!r}, which is not in catalog {self.catalog.name!r} "
                f"({len(self.catalog):,} items); remove it"
            )
        return found

    def _check_universe(self, universe: int) -> None:
        if universe != len(self.trie):
            raise InputError(
                f"the subset has {universe:,} items, but the index has {len(self.trie):,}; make it for this catalog"
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
        """Write a directory, completely or not at all: catalog.parquet, trie.safetensors, manifest.json.

        Raises:
            ArtifactError: the directory cannot be written, or holds something else.
        """
        metadata = {
            "catalog": self.catalog.fingerprint,
            "items": len(self.catalog),
            "tokenizer": self.tokenizer_fingerprint,
            "identifiers": self.identifiers_fingerprint,
        }
        user_data = artifact.UserData("none", "the catalog, and its titles as token ids", 0)
        with artifact.artifact_writer(
            Path(directory), kind=INDEX_KIND, version=INDEX_VERSION, user_data=user_data, metadata=metadata
        ) as folder:
            self.catalog.write(folder / "catalog.parquet")
            self.trie.write(folder / "trie.safetensors")

    @classmethod
    def load(cls, directory: str | Path, *, tokenizer: Tokenizer | None = None) -> "CatalogIndex":
        """Load a saved index after checking the SHA-256 of every file; the trie is memory-mapped.

        Args:
            directory: a directory that `save` wrote.
            tokenizer: the tokenizer that the index must have been built for; None for no check.

        Raises:
            ArtifactError: a file is missing, cut short or altered (named).
            MismatchError: catalog and trie belong to different indexes.
            TokenizerMismatchError: the index was built for another tokenizer.
        """
        directory = Path(directory)
        manifest = artifact.verify(directory, kind=INDEX_KIND, version=INDEX_VERSION)
        if tokenizer is not None and manifest["tokenizer"] != tokenizer.fingerprint:
            raise TokenizerMismatchError(
                f"index {str(directory)!r} was built for tokenizer {manifest['tokenizer'][:12]}, not for "
                f"{tokenizer.fingerprint[:12]}; build it again with this model's tokenizer"
            )
        trie = TokenTrie.read(directory / "trie.safetensors")
        catalog = Catalog.read(directory / "catalog.parquet")
        if catalog.fingerprint != manifest["catalog"] or not np.array_equal(
            np.sort(trie.items), np.arange(len(catalog))
        ):
            raise MismatchError(
                f"the catalog and the trie in {str(directory)!r} belong to different indexes", remedy="build it again"
            )
        return cls(catalog, trie, manifest["tokenizer"], manifest["identifiers"])


def unchanged_item_indices(before: Catalog, after: Catalog) -> IntArray:
    """int64 [N], the index of each item in another version of the catalog; -1 if it was removed or retitled."""
    indices = after.item_ids.positions(before.item_ids)
    kept = np.flatnonzero(indices >= 0)
    titles = [
        catalog.column("title").take(pa.array(rows)) for catalog, rows in ((before, kept), (after, indices[kept]))
    ]
    same = np.asarray(pc.equal(*titles).to_numpy(zero_copy_only=False), dtype=np.bool_)
    indices[kept[~same]] = -1
    return indices
