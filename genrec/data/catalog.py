"""Catalogs: the items that can be recommended, as an ordered, immutable, columnar table.

Letters: N items. An item's index is its row in the table it was read from, counted from 0.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.artifact import atomic_writer
from genrec.data.column_mapping import ColumnMapping
from genrec.data.composed_ids import REPEATED_REMEDY
from genrec.data.entities import decode_entities
from genrec.data.file_options import FileFormat
from genrec.data.filter_syntax import Filter
from genrec.data.filters import filter_mask
from genrec.data.ids import Ids, list_of_ids
from genrec.data.item_columns import (
    concatenate_columns,
    fingerprint_columns,
    item_values_to_array,
    replace_missing_by_null,
    require_distinct_ids,
)
from genrec.data.readers import read_table
from genrec.data.table import Table
from genrec.deadline import Deadline
from genrec.errors import ArtifactError, InputError, UnknownItemError, format_value
from genrec.types import BoolArray, IntArray, Item

OnUnknownItem = Literal["raise", "skip"]

_REQUIRED_COLUMNS = ("item_id", "title")
_METADATA_KEY = b"genrec.catalog"
_VERSION = 1
UNKNOWN, WITHDRAWN = -1, -2  # instead of the index of an item that is not in a catalog
_CHUNK_ROWS = 65_536  # rows converted to Python values at once


class Catalog:
    """Ordered items, each with an id, a title and attributes; immutable.

    Made by `read_catalog`, `Catalog.from_items` or `Catalog.read`. Two catalogs with the same ids, titles and
    attributes in the same order have the same fingerprint, whatever file, frame or machine they came from.

    Attributes:
        name: the catalog's name in messages.
        item_ids: the caller's ids [N], text or whole numbers, unchanged.
        titles: untrusted text [N].
        attribute_names: every column but the id and the title, in the table's order.
        fingerprint: SHA-256 over ids (as text), titles and attributes, in hexadecimal.
        withdrawn_ids: ids, as text, of items that an earlier version of the catalog had; see `lookup`.
        notices: what was inferred about the file or the data frame, and which columns were left out.
    """

    def __init__(self, table: Table, *, name: str, withdrawn_ids: Iterable[str] = ()) -> None:
        """Check a table with the columns item_id and title; other columns become attributes.

        Ids of items in the table are removed from `withdrawn_ids`.

        Raises:
            InputError: no items, a row without an id or a title, or a repeated id.
        """
        if len(table) == 0:
            raise InputError(f"{table.source} contains no items; add at least one")
        self.name = name
        self.notices = table.notices
        self.item_ids = table.id_column("item_id")
        require_distinct_ids(self.item_ids, table.source)
        self._titles = table.text_column("title")
        self._attributes = {
            key: replace_missing_by_null(column)
            for key, column in table.columns.items()
            if key not in _REQUIRED_COLUMNS
        }
        self.attribute_names = tuple(self._attributes)
        ordered = {name: self._attributes[name] for name in sorted(self._attributes)}
        self.fingerprint = fingerprint_columns({"item_id": self.item_ids.keys, "title": self._titles, **ordered})
        former = list(withdrawn_ids)
        present = self.item_ids.positions(former) >= 0
        self.withdrawn_ids = frozenset(key for key, is_present in zip(former, present, strict=True) if not is_present)

    @classmethod
    def from_items(cls, items: Iterable[Item], *, name: str = "catalog") -> "Catalog":
        """A catalog of `Item` values; attributes that an item lacks are null.

        Raises:
            InputError: as for `read_catalog`; or an attribute has values of several types or a reserved name.
        """
        rows = list(items)
        if odd := next((item for item in rows if not isinstance(item.attributes, Mapping)), None):
            raise InputError(
                f"the attributes of item {format_value(odd.item_id)} are {format_value(odd.attributes)}; "
                "pass a mapping of names to values"
            )
        keys = dict.fromkeys(key for item in rows for key in item.attributes)
        clash = [key for key in keys if key in _REQUIRED_COLUMNS or not isinstance(key, str)]
        if clash:
            raise InputError(f"attribute name {format_value(clash[0])} of the items is reserved or not text; rename it")
        columns = {
            "item_id": item_values_to_array("item_id", [item.item_id for item in rows]),
            "title": item_values_to_array("title", [item.title for item in rows]),
        } | {key: item_values_to_array(key, [item.attributes.get(key) for item in rows]) for key in keys}
        return cls(Table.from_arrow(columns, "the items"), name=name)

    def __len__(self) -> int:
        return len(self.item_ids)

    def __getitem__(self, index: int) -> Item:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"index {index} is outside catalog {self.name!r} ({size:,} items)")
        row = int(index) % size
        attributes = {key: column[row].as_py() for key, column in self._attributes.items()}
        return Item(self.item_ids[row], self._titles[row].as_py(), attributes)

    def __iter__(self) -> Iterator[Item]:
        for start in range(0, len(self), _CHUNK_ROWS):
            item_ids = self.item_ids.array.slice(start, _CHUNK_ROWS).to_pylist()
            titles = self._titles.slice(start, _CHUNK_ROWS).to_pylist()
            columns = [column.slice(start, _CHUNK_ROWS).to_pylist() for column in self._attributes.values()]
            values = zip(*columns, strict=True) if columns else ((),) * len(item_ids)
            for item_id, title, row in zip(item_ids, titles, values, strict=True):
                yield Item(item_id, title, dict(zip(self._attributes, row, strict=True)))

    def __contains__(self, item_id: object) -> bool:
        return item_id in self.item_ids

    def __repr__(self) -> str:
        return f"Catalog({self.name!r}, {len(self):,} items, fingerprint {self.fingerprint[:12]})"

    @cached_property
    def titles(self) -> tuple[str, ...]:
        """The titles [N], untrusted text."""
        return tuple(self._titles.to_pylist())

    def titles_at(self, indices: IntArray) -> list[str]:
        """The titles of some items, in the order of `indices`; cheaper than `titles` for a few items."""
        titles: list[str] = self._titles.take(pa.array(indices)).to_pylist()
        return titles

    def items_at(self, indices: IntArray) -> list[Item]:
        """Some items, in the order of `indices`; reads each column once."""
        taken = {name: column.take(pa.array(indices)).to_pylist() for name, column in self._columns().items()}
        item_ids, titles = taken.pop("item_id"), taken.pop("title")
        rows = range(len(item_ids))
        return [Item(item_ids[row], titles[row], {name: values[row] for name, values in taken.items()}) for row in rows]

    def column(self, name: str) -> pa.Array:
        """A column as an Arrow array [N]: item_id, title or an attribute; missing values are null.

        Raises:
            InputError: the catalog has no such column.
        """
        columns = self._columns()
        if not isinstance(name, str) or name not in columns:
            raise InputError(
                f"catalog {self.name!r} has no attribute {format_value(name)}; use one of {', '.join(columns)}"
            )
        return columns[name]

    @cached_property
    def _withdrawn(self) -> Ids:
        return Ids(pa.array(sorted(self.withdrawn_ids), pa.large_string()))

    def lookup(self, item_ids: Iterable[object]) -> IntArray:
        """The index of each of Q ids: int64 [Q], WITHDRAWN (-2) if it was withdrawn, UNKNOWN (-1) if it never existed.

        `genrec.data.named_items` has the rule that every request follows.

        Raises:
            InputError: `item_ids` is a single text.
        """
        if isinstance(item_ids, Iterable) and not isinstance(item_ids, Ids | str | bytes):
            item_ids = list(item_ids)
        indices = self.item_ids.positions(item_ids)
        missing = np.flatnonzero(indices < 0)
        if missing.size and self.withdrawn_ids:
            absent = item_ids.take(missing) if isinstance(item_ids, Ids) else [item_ids[at] for at in missing.tolist()]
            indices[missing[self._withdrawn.positions(absent) >= 0]] = WITHDRAWN
        return indices

    def index_of(self, item_id: object) -> int:
        """The index of an id; 85123 and "85123" are the same id.

        Raises:
            UnknownItemError: no item has this id, or the item was withdrawn.
        """
        index = int(self.lookup([item_id])[0])
        if index >= 0:
            return index
        size = f"catalog {self.name!r} ({len(self):,} items)"
        if index == WITHDRAWN:
            raise UnknownItemError(f"item {format_value(item_id)} was withdrawn from {size}; add it again to use it")
        raise UnknownItemError(
            f"item {format_value(item_id)} is not in {size}; check the id, and that this is the right catalog"
        )

    def indices_of(self, item_ids: Iterable[object], on_unknown: OnUnknownItem = "raise") -> IntArray:
        """The indices of many ids: int64, in the order of `item_ids`, repeats included.

        Args:
            item_ids: ids of the caller; 85123 and "85123" are the same id.
            on_unknown: "raise", or "skip" to drop ids that the catalog lacks, so fewer indices come back.

        Raises:
            UnknownItemError: no item has this id, unless skipped.
        """
        choice = check_on_unknown(on_unknown)
        if not isinstance(item_ids, Ids):
            item_ids = list_of_ids(item_ids)
        indices = self.item_ids.positions(item_ids)
        unknown = indices < 0
        if not unknown.any():
            return indices
        if choice == "raise":
            first = next(item_id for item_id, is_unknown in zip(item_ids, unknown, strict=True) if is_unknown)
            others = int(np.count_nonzero(unknown)) - 1
            more = f" and {others:,} more are" if others else " is"
            raise UnknownItemError(
                f"item {format_value(first)}{more} not in catalog {self.name!r} ({len(self):,} items)",
                remedy='pass on_unknown="skip" to drop such items',
                on_unknown="skip",
            )
        return indices[~unknown]

    def where(self, expression: "str | Filter | pc.Expression", *, deadline: Deadline | None = None) -> BoolArray:
        """Which items a filter allows: bool [N].

        Args:
            expression: a condition over item_id, title and the attributes, such as
                `"price < 5 and genre in ['Horror', 'Comedy']"`, in the language of `genrec.data.filters`; a `Filter`
                parsed from one; or a `pyarrow.compute.Expression`. Items with a missing value in the condition are not
                allowed. Attributes whose names are not Python names must be renamed with `read_catalog(columns=...)`
                first.
            deadline: when to stop; by default never.

        Raises:
            FilterError: the filter does not parse, names no attribute, or compares values of different types.
            DeadlineExceededError: the deadline passed between two conditions of the filter.
        """
        return filter_mask(expression, self._columns(), deadline)

    def revised(
        self,
        *,
        upsert: "Catalog | None" = None,
        remove: Sequence[int] | IntArray = (),
        new_titles: Mapping[int, str] | None = None,
        withdrawn_ids: Iterable[str] = (),
    ) -> "Catalog":
        """A new catalog: this one with items removed, titles changed, and items replaced or added.

        Args:
            upsert: items that replace those with the same ids; items with new ids are appended. Attributes that one of
                the catalogs lacks are null in its items. If an attribute has fractions in one catalog and whole
                numbers in the other, all its values become fractions.
            remove: indices of items to remove. An item that is also in `upsert` is appended as a new one.
            new_titles: new titles by index.
            withdrawn_ids: ids, as text, of items that were withdrawn, in addition to those of `remove`.

        Raises:
            InputError: no item would be left, an attribute has values of another type, or the ids of this catalog are
                whole numbers and one of `upsert` is not.
        """
        columns = self._columns()
        if new_titles:
            texts = self._titles.to_pylist()
            for index, title in new_titles.items():
                texts[index] = title
            columns["title"] = pa.array(texts, pa.large_string())
        rows = np.arange(len(self))
        if upsert is not None:
            columns = concatenate_columns(columns, upsert._columns(), len(self), len(upsert))
            indices, new_rows = self.item_ids.positions(upsert.item_ids), len(self) + np.arange(len(upsert))
            replaces = (indices >= 0) & ~np.isin(indices, remove)
            rows[indices[replaces]] = new_rows[replaces]
            rows = np.concatenate([rows, new_rows[~replaces]])
        removed = np.asarray(remove, dtype=np.int64)
        rows = np.delete(rows, removed)
        columns = {name: column.take(pa.array(rows)) for name, column in columns.items()}
        return Catalog(
            Table.from_arrow(columns, f"the revised catalog {self.name!r}"),
            name=self.name,
            withdrawn_ids=[
                *self.withdrawn_ids,
                *withdrawn_ids,
                *self.item_ids.keys.take(pa.array(removed)).to_pylist(),
            ],
        )

    def write(self, path: str | Path) -> None:
        """Write one Parquet file, atomically; `Catalog.read` restores the same catalog.

        Raises:
            ArtifactError: the file cannot be written.
        """
        import pyarrow.parquet as parquet

        path = Path(path)
        metadata: dict[str, Any] = {"version": _VERSION, "name": self.name, "fingerprint": self.fingerprint}
        if self.withdrawn_ids:
            metadata["withdrawn"] = sorted(self.withdrawn_ids)
        table = pa.table(self._columns()).replace_schema_metadata({_METADATA_KEY: json.dumps(metadata).encode()})
        try:
            with atomic_writer(path) as file:
                parquet.write_table(table, file, compression="zstd")
        except (OSError, pa.ArrowException) as error:
            raise ArtifactError(
                f"cannot write catalog {self.name!r} to {path}: {error}; nothing was changed, choose another path"
            ) from error

    @classmethod
    def read(cls, path: str | Path) -> "Catalog":
        """Read a catalog that `write` saved.

        Raises:
            ArtifactError: the file does not exist, is not a saved catalog, or was altered since it was written.
        """
        import pyarrow.parquet as parquet

        path = Path(path)
        try:
            with parquet.ParquetFile(path) as file:
                table = file.read()
            metadata = json.loads((table.schema.metadata or {})[_METADATA_KEY])
            version, name, fingerprint = metadata["version"], metadata["name"], metadata["fingerprint"]
            withdrawn_ids = metadata.get("withdrawn", ())
        except FileNotFoundError:
            raise ArtifactError(f"{path} is missing; save the catalog there first") from None
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{path} is not a saved catalog; read other tables with read_catalog") from error
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ArtifactError(f"{path} was altered or cut short ({error}); save the catalog again") from error
        if version != _VERSION:
            raise ArtifactError(
                f"{path} has format version {version!r}, but this genrec reads {_VERSION}; save it again"
            )
        try:
            columns = dict(zip(table.column_names, table.columns, strict=True))
            catalog = cls(Table.from_arrow(columns, path.name), name=name, withdrawn_ids=withdrawn_ids)
        except (InputError, KeyError) as error:
            raise ArtifactError(f"{path} was altered since it was written ({error}); save it again") from error
        if catalog.fingerprint != fingerprint:
            raise ArtifactError(f"{path} was altered since it was written (its fingerprint differs); save it again")
        return catalog

    def _columns(self) -> dict[str, pa.Array]:
        return {"item_id": self.item_ids.array, "title": self._titles, **self._attributes}


def read_catalog(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    file_format: FileFormat | None = None,
    name: str | None = None,
    id_from: Sequence[str] = (),
    take: Sequence[str] | None = None,
) -> Catalog:
    """Read a catalog from a file or a data frame.

    Args:
        source: path of a file of text, JSON or Parquet, plain or compressed, or a data frame (pandas, Polars, Arrow),
            with the columns item_id and title. Every other column becomes an attribute; empty text, NaN and infinite
            numbers become null. HTML entities in titles, such as "&amp;", are decoded once.
        columns: genrec's names, also of attributes, to those in the source; common ones, such as "asin", are known.
        file_format: how a text file is to be read, where its text does not show it.
        name: the catalog's name in messages; by default a file's name without its suffix.
        id_from: columns whose values make the id of an item, such as "bag|Crossbody Bag"; ["row"] numbers the rows.
        take: the columns that become attributes, by their names in the source; by default all. Others are not read.

    Raises:
        InputError: the source cannot be read, lacks a column or items, or a row has no title, no id or another's id.
    """
    mapping = ColumnMapping(_REQUIRED_COLUMNS, None, {} if columns is None else columns, id_from, take)
    table = read_table(source, mapping, as_text=_REQUIRED_COLUMNS, file_format=file_format)
    if id_from:
        require_distinct_ids(table.id_column("item_id"), table.source, REPEATED_REMEDY)
    table = decode_entities(table, "title")
    default = Path(source).stem if isinstance(source, str | Path) else "catalog"
    return Catalog(table, name=name if name is not None else default)


def check_on_unknown(choice: str) -> OnUnknownItem:
    """Check that a choice is "raise" or "skip".

    Raises:
        InputError: it is neither.
    """
    if choice not in ("raise", "skip"):
        raise InputError(f'on_unknown is {format_value(choice)}; pass "raise" or "skip"')
    return "raise" if choice == "raise" else "skip"
