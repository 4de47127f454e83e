"""The things that may be recommended: an ordered, immutable, columnar catalog.

Letters: N items. An item's index is its place in the table it was read from, from 0.
"""

import hashlib
import json
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.artifact import atomic_writer
from genrec.data.filters import filter_mask
from genrec.data.ids import Ids
from genrec.data.table import Table, describe_type, format_value, read_table, table_from_arrow
from genrec.errors import ArtifactError, InputError, UnknownItemError
from genrec.types import BoolArray, IntArray, Item

OnUnknown = Literal["raise", "skip"]

_REQUIRED_COLUMNS = ("item_id", "title")
_METADATA_KEY = b"genrec.data.catalog"
_VERSION = 1
_CHUNK_ROWS = 65_536  # rows that exist as Python values at once


class Catalog:
    """Ordered items with a title each and any other column as an attribute; immutable.

    Made by `read_catalog`, `Catalog.from_items` or `Catalog.read`. Two catalogs with the same ids, titles and
    attributes in the same order have the same fingerprint, whatever file, frame or machine they came from.

    Attributes:
        name: what messages call the catalog.
        item_ids: the caller's ids [N], text or whole numbers as they came.
        titles: untrusted text [N].
        attribute_names: every column but the id and the title, in the table's order.
        fingerprint: SHA-256 over ids (as text), titles and attributes, in hexadecimal.
    """

    def __init__(self, table: Table, *, name: str) -> None:
        """Check a table with the columns item_id and title; other columns become attributes.

        Raises:
            InputError: no items, a row without an id or a title, an id that appears twice.
        """
        if len(table) == 0:
            raise InputError(f"{table.source} holds no items; a catalog needs at least one")
        self.name = name
        self.item_ids = table.id_column("item_id")
        _reject_duplicate_ids(self.item_ids, table)
        self._titles = table.text_column("title")
        self._attributes = {
            key: _nulls_for_missing(column) for key, column in table.columns.items() if key not in _REQUIRED_COLUMNS
        }
        self.attribute_names = tuple(self._attributes)
        ordered = {name: self._attributes[name] for name in sorted(self._attributes)}
        self.fingerprint = _fingerprint({"item_id": self.item_ids.keys, "title": self._titles, **ordered})

    @classmethod
    def from_items(cls, items: Iterable[Item], *, name: str = "catalog") -> "Catalog":
        """A catalog of `Item` values; an attribute that an item lacks is missing there.

        Raises:
            InputError: as for `read_catalog`, or an attribute whose values have more than one type.
        """
        rows = list(items)
        keys = dict.fromkeys(key for item in rows for key in item.attributes)
        clash = [key for key in keys if key in _REQUIRED_COLUMNS or not isinstance(key, str)]
        if clash:
            raise InputError(f"attribute {clash[0]!r} of the items is no free name; rename it")
        columns = {
            "item_id": _to_array("item_id", [item.item_id for item in rows]),
            "title": _to_array("title", [item.title for item in rows]),
        } | {key: _to_array(key, [item.attributes.get(key) for item in rows]) for key in keys}
        return cls(table_from_arrow(columns, "the items"), name=name)

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
            ids = self.item_ids.array.slice(start, _CHUNK_ROWS).to_pylist()
            titles = self._titles.slice(start, _CHUNK_ROWS).to_pylist()
            columns = [column.slice(start, _CHUNK_ROWS).to_pylist() for column in self._attributes.values()]
            values = zip(*columns, strict=True) if columns else ((),) * len(ids)
            for item_id, title, row in zip(ids, titles, values, strict=True):
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
        """The titles of some items, in their order, without making those of all."""
        titles: list[str] = self._titles.take(pa.array(indices)).to_pylist()
        return titles

    def items_at(self, indices: IntArray) -> list[Item]:
        """Some items, in their order; a column is looked into once for all of them."""
        taken = {name: column.take(pa.array(indices)).to_pylist() for name, column in self._columns().items()}
        ids, titles = taken.pop("item_id"), taken.pop("title")
        rows = range(len(ids))
        return [Item(ids[row], titles[row], {name: values[row] for name, values in taken.items()}) for row in rows]

    def column(self, name: str) -> pa.Array:
        """A column as an Arrow array [N]: item_id, title or an attribute; what is missing is null.

        Raises:
            InputError: no such column.
        """
        columns = self._columns()
        if name not in columns:
            raise InputError(f"catalog {self.name!r} has no attribute {name!r}; it has {', '.join(columns)}")
        return columns[name]

    def index_of(self, item_id: object) -> int:
        """The index of an id; 85123 and "85123" are the same id.

        Raises:
            UnknownItemError: no item has this id.
        """
        index = self.item_ids.position(item_id)
        if index < 0:
            raise UnknownItemError(
                f"item {format_value(item_id)} is not in catalog {self.name!r} ({len(self):,} items); "
                "check the id, or that the catalog is the one it belongs to"
            )
        return index

    def indices_of(self, item_ids: Iterable[object], on_unknown: OnUnknown = "raise") -> IntArray:
        """The indices of many ids, int64, in their order and with their repeats.

        Args:
            item_ids: ids of the caller.
            on_unknown: what to do with an id that no item has; "skip" leaves it out, so fewer come back.

        Raises:
            UnknownItemError: an id that no item has, unless skipped.
        """
        known = check_on_unknown(on_unknown)
        if not isinstance(item_ids, Ids | str | bytes):
            item_ids = list(item_ids)
        found = self.item_ids.positions(item_ids)
        lacking = found < 0
        if not lacking.any():
            return found
        if known == "raise":
            first = next(one for one, absent in zip(item_ids, lacking, strict=True) if absent)
            others = int(np.count_nonzero(lacking)) - 1
            more = f" and {others:,} more {'are' if others else 'is'}" if others else " is"
            raise UnknownItemError(
                f"item {format_value(first)}{more} not in catalog {self.name!r} ({len(self):,} items)",
                remedy='pass on_unknown="skip" to drop such items',
                on_unknown="skip",
            )
        return found[~lacking]

    def mask_of(self, item_ids: Iterable[object], on_unknown: OnUnknown = "raise") -> BoolArray:
        """Which items are listed: bool [N], for allow-lists. Raises as `indices_of`."""
        mask = np.zeros(len(self), dtype=np.bool_)
        mask[self.indices_of(item_ids, on_unknown)] = True
        return mask

    def where(self, expression: "str | pc.Expression") -> BoolArray:
        """Which items a filter allows: bool [N].

        Args:
            expression: a condition over item_id, title and the attributes, such as
                `"price < 5 and genre in ['Horror', 'Comedy']"`, in the language of `genrec.data.filters`; or a
                `pyarrow.compute.Expression`. An item that lacks what is asked about is not allowed. A name that is
                no Python name is reached after renaming it through `read_catalog(columns=...)`.

        Raises:
            FilterError: it does not parse, names no attribute, or compares things of different kinds.
        """
        return filter_mask(expression, self._columns())

    def revised(
        self,
        *,
        upsert: "Catalog | None" = None,
        remove: Sequence[int] | IntArray = (),
        new_titles: Mapping[int, str] | None = None,
    ) -> "Catalog":
        """This catalog without some items, with other titles for some, and with others put into it.

        Args:
            upsert: items that take the place of those with their ids, and new ones, which follow behind; an attribute
                that one of the catalogs lacks is missing in its items. Fractions among whole numbers make all of them
                fractions.
            remove: indices; an item that is put as well is a new one.
            new_titles: new titles by index.

        Raises:
            InputError: nothing would be left, or an attribute is of another kind.
        """
        columns = self._columns()
        if new_titles:
            texts = self._titles.to_pylist()
            for index, title in new_titles.items():
                texts[index] = title
            columns["title"] = pa.array(texts, pa.large_string())
        rows = np.arange(len(self))
        if upsert is not None:
            columns = _concatenate_columns(columns, upsert._columns(), len(self), len(upsert))
            places, theirs = self.item_ids.positions(upsert.item_ids), len(self) + np.arange(len(upsert))
            there = (places >= 0) & ~np.isin(places, remove)
            rows[places[there]] = theirs[there]
            rows = np.concatenate([rows, theirs[~there]])
        rows = np.delete(rows, np.asarray(remove, dtype=np.int64))
        columns = {name: column.take(pa.array(rows)) for name, column in columns.items()}
        return Catalog(table_from_arrow(columns, f"the revised catalog {self.name!r}"), name=self.name)

    def write(self, path: str | Path) -> None:
        """Write one Parquet file that `Catalog.read` brings back exactly; whole or not at all.

        Raises:
            ArtifactError: the place cannot be written.
        """
        import pyarrow.parquet as parquet

        path = Path(path)
        facts = {"version": _VERSION, "name": self.name, "fingerprint": self.fingerprint}
        table = pa.table(self._columns()).replace_schema_metadata({_METADATA_KEY: json.dumps(facts).encode()})
        try:
            with atomic_writer(path) as file:
                parquet.write_table(table, file, compression="zstd")
        except (OSError, pa.ArrowException) as error:
            raise ArtifactError(
                f"cannot write catalog {self.name!r} to {path}: {error}; nothing was changed"
            ) from error

    @classmethod
    def read(cls, path: str | Path) -> "Catalog":
        """Read what `write` wrote.

        Raises:
            ArtifactError: no such file, no saved catalog, or content that is not what was written.
        """
        import pyarrow.parquet as parquet

        path = Path(path)
        try:
            with parquet.ParquetFile(path) as file:
                table = file.read()
            facts = json.loads((table.schema.metadata or {})[_METADATA_KEY])
            version, name, fingerprint = facts["version"], facts["name"], facts["fingerprint"]
        except FileNotFoundError:
            raise ArtifactError(f"{path} is missing; write the catalog there first") from None
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{path} is no saved catalog; use read_catalog for a table of yours") from error
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ArtifactError(f"{path} was altered or cut short ({error}); write the catalog again") from error
        if version != _VERSION:
            raise ArtifactError(f"{path} has format version {version!r}, this genrec reads {_VERSION}; write it again")
        try:
            columns = dict(zip(table.column_names, table.columns, strict=True))
            catalog = cls(table_from_arrow(columns, path.name), name=name)
        except (InputError, KeyError) as error:
            raise ArtifactError(f"{path} was altered since it was written ({error}); write it again") from error
        if catalog.fingerprint != fingerprint:
            raise ArtifactError(f"{path} was altered since it was written (its fingerprint differs); write it again")
        return catalog

    def _columns(self) -> dict[str, pa.Array]:
        return {"item_id": self.item_ids.array, "title": self._titles, **self._attributes}


def read_catalog(source: Any, *, columns: Mapping[str, str] | None = None, name: str | None = None) -> Catalog:
    """Read a catalog from a file or a data frame.

    Args:
        source: path of a .csv, .tsv, .jsonl, .ndjson or .parquet file, or a data frame (pandas, Polars, Arrow), with
            the columns item_id and title. Every other column becomes an attribute; empty text and NaN mean missing.
        columns: genrec's name to the name in the source, such as {"item_id": "StockCode"}; attributes may be
            renamed in the same way.
        name: what messages call the catalog; a file's name without its suffix by default.

    Raises:
        InputError: the source cannot be read, lacks a column, holds no items, a row without an id or a title, or an
            id twice.
    """
    table = read_table(source, required=_REQUIRED_COLUMNS, columns=columns, as_text=_REQUIRED_COLUMNS)
    default = Path(source).stem if isinstance(source, str | Path) else "catalog"
    return Catalog(table, name=name if name is not None else default)


def check_on_unknown(choice: str) -> OnUnknown:
    """Refuse a choice that is neither "raise" nor "skip"."""
    if choice not in ("raise", "skip"):
        raise InputError(f'on_unknown is {choice!r}; pass "raise" or "skip"')
    return "raise" if choice == "raise" else "skip"


def _value_kind(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "true or false"
    if isinstance(value, numbers.Real | Decimal):
        return "numbers"
    return "text" if isinstance(value, str) else "lists" if isinstance(value, list | tuple) else type(value).__name__


def _to_array(name: str, values: list[Any]) -> pa.Array:
    kinds = {_value_kind(value) for value in values if value is not None}
    if len(kinds) > 1:
        raise InputError(f"{name} of the items holds {' and '.join(sorted(kinds))}; give every value one type")
    try:
        return pa.array([None if isinstance(v, float) and v != v else v for v in values])
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError) as error:
        raise InputError(f"{name} of the items cannot be kept: {error}; use text, numbers, dates or lists") from error


def _concatenate_columns(
    columns: Mapping[str, pa.Array], more: Mapping[str, pa.Array], size: int, added: int
) -> dict[str, pa.Array]:
    """Columns of two catalogs, one after the other."""
    joined = {}
    for name in dict.fromkeys([*columns, *more]):
        parts = [columns.get(name), more.get(name)]
        kinds = [part.type for part in parts if part is not None and not pa.types.is_null(part.type)]
        kind = kinds[0] if kinds else pa.null()
        if kinds == [pa.int64(), pa.float64()] and name != "item_id":
            kind = pa.float64()
        filled = [
            pa.nulls(count, kind) if part is None else part for part, count in zip(parts, (size, added), strict=True)
        ]
        try:
            joined[name] = pa.concat_arrays([part.cast(kind) for part in filled])
        except pa.ArrowException as error:
            raise InputError(
                f"{name} of the added items is {describe_type(filled[1].type)}, in the catalog it is {describe_type(kind)}: "
                f"{error}; give it the same kind"
            ) from error
    return joined


def _nulls_for_missing(column: pa.Array) -> pa.Array:
    """An attribute with every way of saying "missing" made null."""
    if column.type == pa.float64():
        return pc.if_else(pc.is_nan(column), None, column)
    if column.type == pa.large_string():
        return pc.if_else(pc.equal(column, ""), None, column)
    return column


def _reject_duplicate_ids(ids: Ids, table: Table) -> None:
    encoded = ids.keys.dictionary_encode()
    if len(encoded.dictionary) == len(ids):
        return
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    first = np.unique(codes, return_index=True)[1]
    again = np.setdiff1d(np.arange(len(codes)), first)
    row = int(again[0])
    others = f", and {len(again) - 1:,} more rows repeat an id" if len(again) > 1 else ""
    rows = f"{int(first[codes[row]]) + 1:,} and {row + 1:,}"
    raise InputError(
        f"item id {ids[row]!r} is in data rows {rows} of {table.source}{others}; keep one row for each item"
    )


def _fingerprint(columns: Mapping[str, pa.Array]) -> str:
    """SHA-256 over values, and nothing of how Arrow stores them."""
    digest = hashlib.sha256(b"genrec catalog 2")
    for name, column in columns.items():
        empty = column.null_count == len(column)
        digest.update(json.dumps([name, len(column), None if empty else describe_type(column.type)]).encode())
        for start in range(0, len(column), _CHUNK_ROWS):
            values = column.slice(start, _CHUNK_ROWS).to_pylist()
            digest.update(json.dumps(values, sort_keys=True, default=str).encode())
    return digest.hexdigest()
