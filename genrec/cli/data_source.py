"""The data of a command from its options: a data set, files or a saved index."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from genrec.cli.terminal import print_notice
from genrec.errors import MODEL_ERRORS, InputError, UnknownUserError

if TYPE_CHECKING:
    from genrec.data.catalog import Catalog
    from genrec.data.file_options import FileFormat
    from genrec.data.interactions import Interactions
    from genrec.data.timestamps import OrderChoice
    from genrec.index.catalog_index import CatalogIndex
    from genrec.settings import Settings
    from genrec.store.event_store import Store

DEFAULT_DATASET = "online-retail"
_TABLES = ("items", "interactions")
_FILE_OPTIONS = ("columns", "separator", "encoding", "header", "id_from", "take", "order", "types")
_INTERACTION_COLUMNS = ("user_id", "timestamp", "event", "weight")


@dataclass(frozen=True)
class DataSource:
    """The data that a command works on: a data set, files, or a saved index.

    Attributes:
        data: name of a data set.
        items, interactions: paths of tables.
        index: folder of a saved `CatalogIndex`, instead of items.
        columns: for "items" and "interactions", a mapping from genrec's column names to those of the file.
        formats: for "items" and "interactions", how the file is read.
        id_from: for "items" and "interactions", the columns that ids of items are made of.
        take: the columns of items that are read; None for all.
        order: what orders the events of a user, see `genrec.data.timestamps.OrderChoice`.
        store: an open event store, whose forgotten users are excluded from the interactions; None for none.
    """

    data: str | None = None
    items: Path | None = None
    interactions: Path | None = None
    index: Path | None = None
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    formats: "Mapping[str, FileFormat]" = field(default_factory=dict)
    id_from: Mapping[str, Sequence[str]] = field(default_factory=dict)
    take: Sequence[str] | None = None
    order: "OrderChoice" = "time"
    store: "Store | None" = None

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "DataSource":
        """Create a source from the options data, items, interactions and index, and those of files; missing ones count
        as None.

        Raises:
            InputError: options cannot be combined or require others, or a value of one cannot be used.
        """
        data = options.get("data")
        items, interactions, index = (
            None if options.get(name) is None else Path(options[name]) for name in ("items", "interactions", "index")
        )
        given = {"--data": data, "--items": items, "--index": index}
        named = [f"{name} {value}" for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise InputError(f"{' and '.join(named)} cannot be combined; give one of them")
        if interactions is not None and (data is not None or not named):
            raise InputError(f"--interactions {interactions} needs a table of items; add --items FILE, without --data")
        given_file_options = [name for name in _FILE_OPTIONS if options.get(name)]
        if given_file_options and items is None and interactions is None:
            name = given_file_options[0]
            value = options[name] if isinstance(options[name], str) else options[name][0]
            raise InputError(f"--{name.replace('_', '-')} {value} applies only to your own files; add --items FILE")
        columns = options.get("columns") or ()
        lists = [value for value in columns if _is_name_list(value)]
        mappings = _parse_columns([value for value in columns if value not in lists])
        id_from = _parse_id_from(options.get("id_from") or ())
        take = [name for value in options.get("take") or () for name in _names(value)] or None
        order = _parse_order(options.get("order"), interactions)
        return cls(data, items, interactions, index, mappings, _parse_formats(options, lists), id_from, take, order)

    @property
    def name(self) -> str:
        """The name of the data in messages."""
        return self.data or next((path.name for path in (self.items, self.index) if path is not None), DEFAULT_DATASET)

    def read(self, cache: Path, settings: "Settings | None" = None) -> "tuple[Catalog, Interactions | None]":
        """Read the catalog, and the interactions if there are any, without users whom the store has forgotten.

        Args:
            cache: the cache folder.
            settings: name the model whose tokenizer must be that of a saved index; by default it is not checked.

        Raises:
            InputError: a table cannot be used.
            ArtifactError: the index is damaged.
            TokenizerMismatchError: the index was built for another tokenizer than that of the model.
            StoreError: the store cannot be read.
        """
        catalog, interactions = self._read_files(cache, settings)
        if interactions is not None and self.store is not None:
            from genrec.store.forgetting import remaining_interactions

            interactions = remaining_interactions(interactions, self.store, cache)
        return catalog, interactions

    def _read_files(self, cache: Path, settings: "Settings | None") -> "tuple[Catalog, Interactions | None]":
        from genrec.data.catalog import read_catalog
        from genrec.data.interactions import read_interactions
        from genrec.loading.pipeline import open_dataset

        if self.index is not None:
            catalog = _read_index(self.index, settings, cache).catalog
        elif self.items is not None:
            with translate_option_errors("items"):
                catalog = read_catalog(
                    self.items,
                    columns=self.columns.get("items"),
                    file_format=self.formats.get("items"),
                    id_from=self.id_from.get("items", ()),
                    take=self.take,
                )
            _print_notices(catalog)
        else:
            return open_dataset(self.data or DEFAULT_DATASET, cache)
        if self.interactions is None:
            return catalog, None
        with translate_option_errors("interactions"):
            interactions = read_interactions(
                self.interactions,
                columns=self.columns.get("interactions"),
                file_format=self.formats.get("interactions"),
                id_from=self.id_from.get("interactions", ()),
                order=self.order,
            )
        _print_notices(interactions)
        return catalog, interactions


def _print_notices(table: "Catalog | Interactions") -> None:
    for notice in table.notices:
        print_notice(f"note: {notice}")


@contextmanager
def translate_option_errors(
    table: str = "interactions", *, has_on_unknown: bool = False, new_user: str = ""
) -> Iterator[None]:
    """Replace parameters of the library in error messages by options of the command.

    Args:
        table: the table that --columns advice is for, unless an inner block has named another.
        has_on_unknown: whether the command has the option --on-unknown.
        new_user: its options for a new user, such as "--history"; "" for none.
    """
    try:
        yield
    except InputError as error:
        error.fields.setdefault("table", table)
        raise error.revised(remedy=_option_remedy(error, has_on_unknown, new_user)) from None


def _option_remedy(error: InputError, has_on_unknown: bool, new_user: str) -> str:
    """The remedy of an error in terms of command-line options."""
    if "id_from" in error.fields:
        return _id_flags(error)
    orders = cast("Mapping[str, str]", error.fields.get("orders", {}))
    if columns := error.fields.get("columns"):
        flags = _columns_flags(cast("Mapping[str, str]", columns), str(error.fields["table"]))
        return f"{flags}, or without times {_order_flags(orders)}" if orders else flags
    if form := error.fields.get("file_format"):
        flags = _format_flags(cast("Mapping[str, Any]", form), str(error.fields["table"]))
        return f"{flags}, and without times {_order_flags(orders)}" if orders else flags
    if orders:
        return f"pass {_order_flags(orders)}"
    if choice := error.fields.get("on_unknown"):
        return f"pass --on-unknown {choice} to drop them" if has_on_unknown else "check the id, or omit it"
    if isinstance(error, UnknownUserError):
        return f"check the id, or use {new_user} for a new user" if new_user else "check the id"
    return error.remedy


def _read_index(directory: Path, settings: "Settings | None", cache: Path) -> "CatalogIndex":
    """Load a saved index; with a model, its tokenizer must match."""
    from genrec.index.catalog_index import CatalogIndex
    from genrec.loading.language_model import load_tokenizer

    tokenizer = None
    if settings is not None and settings.model is not None:
        with suppress(*MODEL_ERRORS):  # the recommender reports it and works without the model
            tokenizer = load_tokenizer(settings, cache)
    return CatalogIndex.load(directory, tokenizer=tokenizer)


def _columns_flags(columns: Mapping[str, str], table: str) -> str:
    from genrec.data.column_mapping import UNGUESSED

    pairs = (f"{table}.{name}={column}" for name, column in columns.items())
    flags = "pass " + " ".join(f"--columns {shlex.quote(pair)}" for pair in pairs)
    return flags + (UNGUESSED if "..." in columns.values() else "")


def _order_flags(orders: Mapping[str, str]) -> str:
    """The options that say what orders events."""
    from genrec.data.timestamps import offer_orders

    return offer_orders(orders, "--order {}")


def _id_flags(error: InputError) -> str:
    """The options that say what the ids of items are, where no column has them."""
    columns = cast("Mapping[str, str]", error.fields["columns"])
    together = ",".join(cast("Sequence[str]", error.fields["id_from"]))
    flags = [_columns_flags(columns, "items").removeprefix("pass ")] if columns else []
    made = f"--id-from {shlex.quote(together)} to make the ids of these columns" if together else ""
    if columns and "item_id" not in columns:
        flags = [f"{flags[0]} and {made}" if made else f"{flags[0]} and --id-from row"]
    elif made:
        flags.append(made)
    return f"pass {', or '.join([*flags, '--id-from row to number the rows'])}"


def _format_flags(form: "Mapping[str, Any]", table: str) -> str:
    """The options that set fields of a `FileFormat`."""
    pairs = {
        "--columns" if name == "names" else f"--{name}": f"{table}={','.join(value) if name == 'names' else value}"
        for name, value in form.items()
    }
    return "pass " + " ".join(f"{flag} {shlex.quote(value)}" for flag, value in pairs.items())


def _is_name_list(value: str) -> bool:
    """Whether a --columns names the columns of a file in order: items=item_id,title,genres."""
    table, _, names = value.partition("=")
    return table in _TABLES and "," in names


def _parse_formats(options: Mapping[str, Any], name_lists: Sequence[str]) -> "dict[str, FileFormat]":
    """How each table's file is read."""
    from genrec.data.file_options import FileFormat

    chosen: dict[str, dict[str, Any]] = {table: {} for table in _TABLES}
    for name in ("separator", "encoding", "header"):
        for value in options.get(name) or ():
            table, equals, text = value.partition("=")
            for one in [table] if equals and table in _TABLES else _TABLES:
                chosen[one][name] = text if equals and table in _TABLES else value
    for value in name_lists:
        table, _, names = value.partition("=")
        chosen[table]["names"] = [name.strip() for name in names.split(",")]
    if types := options.get("types"):
        chosen["items"]["types"] = _parse_types(types)
    return {table: FileFormat(**fields) for table, fields in chosen.items()}


def _parse_order(order: str | None, interactions: Path | None) -> "OrderChoice":
    """What orders the events of the interactions."""
    if order is None:
        return "time"
    from genrec.data.timestamps import check_order_choice

    if interactions is None:
        raise InputError(f"--order {order} is for a table of interactions; add --interactions FILE")
    return check_order_choice(order)


def _parse_types(values: Sequence[str]) -> Mapping[str, str] | str:
    """The types of columns of items; "text" for all."""
    if list(values) == ["text"]:
        return "text"
    pairs = [value.rpartition("=") for value in values]
    if bad := next((value for value, (name, _, _) in zip(values, pairs, strict=True) if not name), None):
        raise InputError(f"--types {bad!r} is not COLUMN=TYPE; write for example --types price=decimal-comma")
    return {name: kind for name, _, kind in pairs}


def _parse_id_from(values: Sequence[str]) -> dict[str, Sequence[str]]:
    """The columns of ids for each table; without a table they apply to both, and row numbers to the items."""
    chosen: dict[str, Sequence[str]] = {}
    for value in values:
        table, equals, names = value.partition("=")
        if equals and table in _TABLES:
            chosen[table] = _names(names)
            continue
        chosen["items"] = _names(value)
        if chosen["items"] != ["row"]:
            chosen["interactions"] = chosen["items"]
    return chosen


def _names(value: str) -> list[str]:
    """Column names separated by commas."""
    return [name.strip() for name in value.split(",") if name.strip()]


def _parse_columns(columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Column mappings for each table; `item_id` applies to both, `user_id` to interactions only."""
    chosen: dict[str, dict[str, str]] = {"items": {}, "interactions": {}}
    for value in columns:
        name, equals, column = value.partition("=")
        table, dot, column_name = name.partition(".")
        if not equals or not name or not column:
            raise InputError(f"--columns {value!r} is not NAME=COLUMN; write for example --columns user_id=CustomerID")
        if dot and table in chosen:
            chosen[table][column_name] = column
        elif name == "item_id":
            chosen["items"].setdefault(name, column)
            chosen["interactions"].setdefault(name, column)
        else:
            chosen["interactions" if name in _INTERACTION_COLUMNS else "items"][name] = column
    return chosen
