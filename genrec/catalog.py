"""The things that may be recommended: an ordered, immutable, columnar catalog and the filters over it.

Letters: N items. An item's index is its place in the table it was read from, from 0.
"""

import ast
import difflib
import hashlib
import json
import numbers
import os
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from genrec.errors import ArtifactError, FilterError, InputError, UnknownItemError
from genrec.table import Ids, Table, describe, read_table, shown, table_of
from genrec.types import BoolArray, IntArray, Item

OnUnknown = Literal["raise", "skip"]

_OWN = ("item_id", "title")
_METADATA = b"genrec.catalog"
_VERSION = 1


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
        self.item_ids = table.ids("item_id")
        _refuse_repeats(self.item_ids, table)
        self._titles = table.texts("title")
        self._attributes = {key: _present(column) for key, column in table.columns.items() if key not in _OWN}
        self.attribute_names = tuple(self._attributes)
        self.fingerprint = _fingerprint(self.item_ids.keys, self._titles, self._attributes)

    @classmethod
    def from_items(cls, items: Iterable[Item], *, name: str = "catalog") -> "Catalog":
        """A catalog of `Item` values; an attribute that an item lacks is missing there.

        Raises:
            InputError: as for `read_catalog`, or an attribute whose values have more than one type.
        """
        rows = list(items)
        keys = dict.fromkeys(key for item in rows for key in item.attributes)
        clash = [key for key in keys if key in _OWN or not isinstance(key, str)]
        if clash:
            raise InputError(f"attribute {clash[0]!r} of the items is no free name; rename it")
        columns = {
            "item_id": _column("item_id", [item.item_id for item in rows]),
            "title": _column("title", [item.title for item in rows]),
        } | {key: _column(key, [item.attributes.get(key) for item in rows]) for key in keys}
        return cls(table_of(columns, "the items"), name=name)

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
        for start in range(0, len(self), 4096):
            ids = self.item_ids.array.slice(start, 4096).to_pylist()
            titles = self._titles.slice(start, 4096).to_pylist()
            columns = [column.slice(start, 4096).to_pylist() for column in self._attributes.values()]
            values = zip(*columns, strict=True) if columns else ((),) * len(ids)
            for item_id, title, row in zip(ids, titles, values, strict=True):
                yield Item(item_id, title, dict(zip(self._attributes, row, strict=True)))

    def __contains__(self, item_id: object) -> bool:
        return item_id in self.item_ids

    def __repr__(self) -> str:
        return f"Catalog({self.name!r}, {len(self):,} items, fingerprint {self.fingerprint[:12]})"

    @property
    def titles(self) -> Sequence[str]:
        """The titles [N], untrusted text."""
        return _Titles(self._titles)

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
                f"item {shown(item_id)} is not in catalog {self.name!r} ({len(self):,} items); "
                "check the id, or that the catalog is the one it belongs to"
            )
        return index

    def indices_of(self, ids: Iterable[object], on_unknown: OnUnknown = "raise") -> IntArray:
        """The indices of many ids, int64, in their order and with their repeats.

        Args:
            ids: ids of the caller.
            on_unknown: what to do with an id that no item has; "skip" leaves it out, so fewer come back.

        Raises:
            UnknownItemError: an id that no item has, unless skipped.
        """
        known = check_on_unknown(on_unknown)
        if not isinstance(ids, Ids | str | bytes):
            ids = list(ids)
        found = self.item_ids.positions(ids)
        lacking = found < 0
        if not lacking.any():
            return found
        if known == "raise":
            first = next(one for one, absent in zip(ids, lacking, strict=True) if absent)
            others = int(np.count_nonzero(lacking)) - 1
            more = f" and {others:,} more {'are' if others else 'is'}" if others else " is"
            raise UnknownItemError(
                f"item {shown(first)}{more} not in catalog {self.name!r} ({len(self):,} items); "
                'pass on_unknown="skip" to drop such items'
            )
        return found[~lacking]

    def mask_of(self, ids: Iterable[object], on_unknown: OnUnknown = "raise") -> BoolArray:
        """Which items are listed: bool [N], for allow-lists. Raises as `indices_of`."""
        mask = np.zeros(len(self), dtype=np.bool_)
        mask[self.indices_of(ids, on_unknown)] = True
        return mask

    def where(self, expression: "str | pc.Expression") -> BoolArray:
        """Which items a filter allows: bool [N].

        A filter is written like a Python condition over item_id, title and the attributes:

            price < 5 and genre in ['Horror', 'Comedy']
            not discontinued and 1990 <= year < 2000
            'lamp' in title                     # text: part of it, capitals or not
            'Horror' in genres                  # lists: one of them, exactly
            released >= '2020-01-01' or released is None

        `and`, `or`, `not`, comparisons (chained too), `in`, `not in`, `is None` and `is not None` may be used, with
        text, numbers, True, False and lists of these; nothing is ever evaluated as Python. Names that are no Python
        names are reached after renaming them through `read_catalog(columns=...)`.

        What is missing is neither true nor false. A comparison with a missing attribute is unknown, `not` leaves it
        unknown, `and` and `or` follow Kleene's three-valued logic, and an item whose answer is unknown is not
        allowed: `not (price < 5)` does not let through an item without a price. Only `is None` finds it.

        Args:
            expression: such a text, or a `pyarrow.compute.Expression` over the same columns.

        Raises:
            FilterError: it does not parse, names no attribute, or compares things of different kinds.
        """
        columns = self._columns()
        if isinstance(expression, pc.Expression):
            return _filtered(columns, expression)
        if not isinstance(expression, str):
            raise FilterError(
                f"a filter is a text or a pyarrow.compute.Expression, not {type(expression).__name__}; "
                'pass for example "price < 5"'
            )
        return _Filter(expression, columns).mask()

    def write(self, path: str | Path) -> None:
        """Write one Parquet file that `Catalog.read` brings back exactly; whole or not at all.

        Raises:
            ArtifactError: the place cannot be written.
        """
        import pyarrow.parquet as parquet

        path = Path(path)
        facts = {"version": _VERSION, "name": self.name, "fingerprint": self.fingerprint}
        table = pa.table(self._columns()).replace_schema_metadata({_METADATA: json.dumps(facts).encode()})
        aside = None
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
                aside = file.name
                parquet.write_table(table, file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
            os.chmod(aside, 0o644)
            os.replace(aside, path)
            aside = None
        except (OSError, pa.ArrowException) as error:
            raise ArtifactError(
                f"cannot write catalog {self.name!r} to {path}: {error}; nothing was changed"
            ) from error
        finally:
            if aside is not None:
                Path(aside).unlink(missing_ok=True)

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
            facts = json.loads((table.schema.metadata or {})[_METADATA])
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
            catalog = cls(table_of(columns, path.name), name=name)
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
    table = read_table(source, needed=_OWN, columns=columns, verbatim=_OWN)
    default = Path(source).stem if isinstance(source, str | Path) else "catalog"
    return Catalog(table, name=name if name is not None else default)


def check_on_unknown(choice: str) -> OnUnknown:
    """Refuse a choice that is neither "raise" nor "skip"."""
    if choice not in ("raise", "skip"):
        raise InputError(f'on_unknown is {choice!r}; pass "raise" or "skip"')
    return "raise" if choice == "raise" else "skip"


class _Titles(Sequence[str]):
    def __init__(self, values: pa.Array) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index].to_pylist() if isinstance(index, slice) else self._values[int(index)].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 65536):
            yield from self._values.slice(start, 65536).to_pylist()


def _kind(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "true or false"
    if isinstance(value, numbers.Real | Decimal):
        return "numbers"
    return "text" if isinstance(value, str) else "lists" if isinstance(value, list | tuple) else type(value).__name__


def _column(name: str, values: list[Any]) -> pa.Array:
    kinds = {_kind(value) for value in values if value is not None}
    if len(kinds) > 1:
        raise InputError(f"{name} of the items holds {' and '.join(sorted(kinds))}; give every value one type")
    try:
        return pa.array([None if isinstance(v, float) and v != v else v for v in values])
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError) as error:
        raise InputError(f"{name} of the items cannot be kept: {error}; use text, numbers, dates or lists") from error


def _present(column: pa.Array) -> pa.Array:
    """An attribute with every way of saying "missing" made null."""
    if column.type == pa.float64():
        return pc.if_else(pc.is_nan(column), None, column)
    if column.type == pa.large_string():
        return pc.if_else(pc.equal(column, ""), None, column)
    return column


def _refuse_repeats(ids: Ids, table: Table) -> None:
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


def _fingerprint(keys: pa.Array, titles: pa.Array, attributes: Mapping[str, pa.Array]) -> str:
    digest = hashlib.sha256(b"genrec catalog 1")
    _feed(digest, keys)
    _feed(digest, titles)
    for name in sorted(attributes):
        digest.update(f"{len(name.encode())}:{name}".encode())
        _feed(digest, attributes[name])
    return digest.hexdigest()


def _feed(digest: Any, array: pa.Array) -> None:
    """Add an array's values, and nothing of how Arrow stores them, to a digest."""
    kind = array.type
    digest.update(f"{len(array)};".encode())
    if array.null_count == len(array):
        digest.update(b"missing")
        return
    digest.update(np.packbits(pc.is_valid(array).to_numpy(zero_copy_only=False)).tobytes())
    if kind == pa.large_string():
        text = array.fill_null("")
        _, offsets, data = text.buffers()
        ends = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
        digest.update(b"text" + np.diff(ends).astype("<i8").tobytes())
        digest.update(memoryview(data)[ends[0] : ends[-1]] if data is not None else b"")
    elif kind == pa.float64():
        figures = array.fill_null(0.0).to_numpy(zero_copy_only=False) + 0.0
        digest.update(b"float" + np.where(np.isnan(figures), np.nan, figures).astype("<f8").tobytes())
    elif kind in (pa.int64(), pa.bool_(), pa.date32()) or pa.types.is_timestamp(kind):
        whole = array.cast(pa.int32()) if kind == pa.date32() else array
        digest.update(str(kind).encode())
        digest.update(whole.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
    elif pa.types.is_large_list(kind):
        lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
        digest.update(b"list" + lengths.astype("<i8").tobytes())
        _feed(digest, array.flatten())
    elif pa.types.is_struct(kind):
        for field in sorted(kind, key=lambda field: str(field.name)):
            digest.update(f"field {field.name};".encode())
            _feed(digest, pc.struct_field(array, field.name))
    else:
        digest.update(repr([str(value) for value in array.to_pylist()]).encode())


def _filtered(columns: Mapping[str, pa.Array], expression: "pc.Expression") -> BoolArray:
    row = "row"
    while row in columns:
        row += "_"
    size = len(columns["item_id"])
    try:
        kept = pa.table({**columns, row: pa.array(np.arange(size))}).filter(expression)
    except (pa.ArrowException, TypeError, ValueError, KeyError) as error:
        raise FilterError(
            f"the filter {expression} cannot be applied: {str(error).splitlines()[0]}; "
            f"the attributes are {', '.join(columns)}"
        ) from error
    mask = np.zeros(size, dtype=np.bool_)
    mask[kept.column(row).to_numpy()] = True
    return mask


_COMPARE = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_MIRROR = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}


class _Filter:
    """One filter text over columns [N]. Truth values are Arrow booleans in which null means unknown."""

    LENGTH = 10_000
    DEPTH = 32

    def __init__(self, text: str, columns: Mapping[str, pa.Array]) -> None:
        self.text = text
        self.columns = columns
        self.size = len(columns["item_id"])

    def mask(self) -> BoolArray:
        if len(self.text) > self.LENGTH:
            self.text, length = f"{self.text[:40]}...", len(self.text)
            raise self._wrong(
                f"it is {length:,} characters long, {self.LENGTH:,} are allowed; pass ids as an allow-list"
            )
        if not self.text.strip():
            raise self._wrong("it is empty; leave it out to allow every item")
        try:
            tree = ast.parse(self.text.strip(), mode="eval")
        except SyntaxError as error:
            rest = (error.text or "")[(error.offset or 1) - 1 :].strip()
            at = f" near {rest[:20]!r}" if rest else ""
            raise self._wrong(
                f"it does not parse{at} ({error.msg}); write such as: price < 5 and title != 'x'"
            ) from error
        except (ValueError, RecursionError, MemoryError) as error:
            raise self._wrong(f"it does not parse ({str(error) or 'nested too deeply'}); write it simpler") from error
        truth = self._truth(tree.body, 0)
        return np.asarray(truth.fill_null(False).to_numpy(zero_copy_only=False), dtype=np.bool_)

    def _truth(self, node: ast.expr, depth: int) -> pa.Array:
        if depth > self.DEPTH:
            raise self._wrong(f"it is nested more than {self.DEPTH} deep; write it flatter")
        if isinstance(node, ast.BoolOp):
            join = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
            return reduce(join, [self._truth(part, depth + 1) for part in node.values])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return pc.invert(self._truth(node.operand, depth + 1))
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            pairs = zip(sides, node.ops, sides[1:], strict=False)
            return reduce(pc.and_kleene, [self._pair(left, op, right) for left, op, right in pairs])
        if isinstance(node, ast.Name):
            column = self._column(node)
            if pa.types.is_null(column.type):
                return self._unknown()
            if column.type != pa.bool_():
                raise self._wrong(f"{node.id} holds {describe(column.type)}; compare it with something")
            return column
        raise self._wrong(f"{self._excerpt(node)} is no condition; use comparisons, in, is None, and, or, not")

    def _pair(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> pa.Array:
        if isinstance(op, ast.In | ast.NotIn):
            truth = self._membership(left, right)
            return pc.invert(truth) if isinstance(op, ast.NotIn) else truth
        if isinstance(op, ast.Is | ast.IsNot):
            if not isinstance(left, ast.Name) or not isinstance(right, ast.Constant) or right.value is not None:
                raise self._wrong("is and is not ask only whether an attribute is None; write == or !=")
            column = self._column(left)
            return pc.is_null(column) if isinstance(op, ast.Is) else pc.is_valid(column)
        kind: Any = type(op)
        if not isinstance(left, ast.Name):
            left, right, kind = right, left, _MIRROR.get(kind, kind)
        if not isinstance(left, ast.Name):
            raise self._wrong(
                f"{self._excerpt(left)} and {self._excerpt(right)} are compared, but neither is an attribute"
            )
        column = self._column(left)
        if isinstance(right, ast.Name):
            other: Any = self._column(right)
            if pa.types.is_null(column.type) or pa.types.is_null(other.type):
                return self._unknown()
            if describe(column.type) != describe(other.type):
                raise self._wrong(
                    f"{left.id} holds {describe(column.type)} and {right.id} {describe(other.type)}; "
                    "compare things of one kind"
                )
        else:
            value = self._literal(right)
            if pa.types.is_null(column.type):
                return self._unknown()
            other = self._scalar(value, left.id, column.type)
        if describe(column.type) not in ("numbers", "text", "dates") and kind not in (ast.Eq, ast.NotEq):
            raise self._wrong(f"{left.id} holds {describe(column.type)}, which has no order; write == or !=")
        try:
            return _COMPARE[kind](column, other)
        except pa.ArrowException as error:
            raise self._wrong(f"{left.id} cannot be compared: {str(error).splitlines()[0]}") from error

    def _membership(self, left: ast.expr, right: ast.expr) -> pa.Array:
        if isinstance(right, ast.List | ast.Tuple | ast.Set):
            if not isinstance(left, ast.Name):
                raise self._wrong(f"{self._excerpt(left)} is no attribute; write the attribute before in")
            column = self._column(left)
            values = [self._literal(part) for part in right.elts]
            if pa.types.is_null(column.type):
                return self._unknown()
            if pa.types.is_large_list(column.type):
                raise self._wrong(f"{left.id} holds lists; write: 'one of them' in {left.id}")
            known = [self._scalar(value, left.id, column.type) for value in values]
            # A whole number never equals a fraction, which is what keeps another type here.
            listed = pa.array([one.as_py() for one in known if one.type == column.type], column.type)
            return pc.if_else(pc.is_valid(column), pc.is_in(column, value_set=listed), None)
        if not isinstance(right, ast.Name):
            raise self._wrong(f"{self._excerpt(right)} is neither an attribute nor a list of values")
        column, value = self._column(right), self._literal(left)
        if pa.types.is_null(column.type):
            return self._unknown()
        if pa.types.is_large_list(column.type):
            return self._listed(column, self._scalar(value, right.id, column.type.value_type))
        if column.type != pa.large_string():
            raise self._wrong(f"{right.id} holds {describe(column.type)}; in looks into text and lists")
        if not isinstance(value, str):
            raise self._wrong(f"{right.id} holds text, and {value!r} is none; write it in quotes")
        return pc.match_substring(column, self._scalar(value, right.id, column.type).as_py(), ignore_case=True)

    def _listed(self, column: pa.Array, value: pa.Scalar) -> pa.Array:
        # Only `flatten` knows of elements that lie unseen beneath a null list, so rows are counted by lengths.
        hits = pc.equal(column.flatten(), value).fill_null(False).to_numpy(zero_copy_only=False)
        lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        rows = np.repeat(np.arange(self.size), lengths)[hits]
        found = np.zeros(self.size, dtype=np.bool_)
        found[rows] = True
        return pc.if_else(pc.is_valid(column), pa.array(found), None)

    def _column(self, node: ast.Name) -> pa.Array:
        # Python's parser brings names to NFKC, the table's own names may not be.
        same = (name for name in self.columns if unicodedata.normalize("NFKC", name) == node.id)
        name = node.id if node.id in self.columns else next(same, None)
        if name is not None:
            return self.columns[name]
        close = difflib.get_close_matches(node.id, self.columns, 1)
        hint = f"did you mean {close[0]!r}?" if close else "text goes in quotes"
        raise self._wrong(f"{node.id!r} is no attribute; {hint}")

    def _literal(self, node: ast.expr) -> Any:
        sign = 1
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            sign, node = (-1 if isinstance(node.op, ast.USub) else 1), node.operand
            if not isinstance(node, ast.Constant) or type(node.value) not in (int, float):
                raise self._wrong(f"{self._excerpt(node)} is no number to put a sign before")
        if isinstance(node, ast.Constant):
            if node.value is None:
                raise self._wrong("None equals nothing; write is None or is not None")
            if isinstance(node.value, int | float) and not isinstance(node.value, bool):
                return sign * node.value
            if isinstance(node.value, str | bool):
                return node.value
        hint = "; attributes stand on their own" if isinstance(node, ast.Name) else ""
        raise self._wrong(f"{self._excerpt(node)} is neither text in quotes, a number, True nor False{hint}")

    def _scalar(self, value: Any, name: str, kind: pa.DataType) -> pa.Scalar:
        """A literal in the type of the column it is compared with."""
        holds = describe(kind)
        try:
            if holds == "text" and isinstance(value, str):
                return pa.scalar(value, kind)
            if holds == "true or false" and isinstance(value, bool):
                return pa.scalar(value)
            if holds == "numbers" and isinstance(value, int | float) and not isinstance(value, bool):
                return _number(value, kind)
            if holds == "dates" and isinstance(value, str):
                return _instant(value, kind)
        except UnicodeEncodeError as error:
            raise self._wrong(f"{value!r} is no text that UTF-8 can write") from error
        except ValueError as error:
            raise self._wrong(f"{name} holds dates, and {value!r} is none; write '2020-12-31'") from error
        if holds == "lists":
            raise self._wrong(f"{name} holds lists; write: {value!r} in {name}")
        given = "true or false" if isinstance(value, bool) else "text" if isinstance(value, str) else "a number"
        example = {"numbers": "5", "text": "'x'", "true or false": "True", "dates": "'2020-12-31'"}.get(holds)
        raise self._wrong(
            f"{name} holds {holds}, and {value!r} is {given}"
            + (f"; compare it with such as {example}" if example else "")
        )

    def _unknown(self) -> pa.Array:
        return pa.nulls(self.size, pa.bool_())

    def _excerpt(self, node: ast.expr) -> str:
        part = ast.get_source_segment(self.text.strip(), node) or type(node).__name__
        return repr(part if len(part) <= 60 else part[:57] + "...")

    def _wrong(self, what: str) -> FilterError:
        names = list(self.columns)
        listed = ", ".join(names[:30]) + (f" and {len(names) - 30} more" if names[30:] else "")
        return FilterError(f"filter {self.text!r}: {what} (attributes: {listed})")


def _number(value: int | float, kind: pa.DataType) -> pa.Scalar:
    if kind == pa.int64() and value == value // 1 and -(2**63) <= value < 2**63:
        return pa.scalar(int(value), kind)
    try:
        return pa.scalar(float(value))
    except OverflowError:
        return pa.scalar(float("inf") if value > 0 else float("-inf"))


def _instant(value: str, kind: pa.DataType) -> pa.Scalar:
    if pa.types.is_date(kind):
        return pa.scalar(date.fromisoformat(value), kind)
    instant = datetime.fromisoformat(value)
    instant = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return pa.scalar(instant.astimezone(UTC) if kind.tz else instant.astimezone(UTC).replace(tzinfo=None), kind)
