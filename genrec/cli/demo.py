"""`genrec demo`: five people, and what a real language model recommends to each of them out of a real shop."""

import json
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from genrec.cli import loading, options, tables, terminal
from genrec.cli.terminal import sanitize_line

if TYPE_CHECKING:
    from rich.console import Console

    from genrec.recommender import Recommender
    from genrec.types import History, RecommendationList

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
_SHOWN_HISTORY_ITEMS = 6  # history items that are shown
MEASUREMENTS_FILE, METRIC = "measured.json", "ndcg@10"


@dataclass(frozen=True)
class ExampleUser:
    """One of the five.

    Attributes:
        description: who it is.
        user_id: a customer of the embedded shop; None for somebody new.
        words: what they say they look for.
        recommend_options: arguments of `Recommender.recommend`.
        attribute: a column of the catalog to show.
        tuned: whether to show what the model alone makes of it, untrained and tuned.
    """

    description: str
    user_id: str | None = None
    words: str = ""
    recommend_options: Mapping[str, Any] = field(default_factory=lambda: _NO_OPTIONS)
    attribute: str | None = None
    tuned: bool = False


EXAMPLE_USERS = (
    ExampleUser("a customer with a long history", "12476", tuned=True),
    ExampleUser("a customer with a short history", "15049", tuned=True),
    ExampleUser("somebody new, of whom nothing is known"),
    ExampleUser("somebody new, who says what they look for", words="a birthday present for a girl who loves fairies"),
    ExampleUser(
        "a customer with a filter: under 5.00, nothing already bought",
        "12762",
        recommend_options={"where": "price < 5", "filter_seen": True},
        attribute="price",
    ),
)

NEXT_COMMANDS = (
    ("recommend", "--words", "something for a garden party", "--where", "price < 3"),
    ("recommend", "12476", "--where", "price < 2", "--k", "3", "--explain"),
    ("prompt", "render", "next-item", "--user", "15049", "--tokens"),
)


def demo(k: options.K = 5, offline: options.Offline = False, as_json: options.Json = False) -> None:
    """Show what a language model recommends to five people out of a shop's 3,659 products."""
    from genrec.cache import default_cache

    start = time.perf_counter()
    cache, chosen = default_cache(), loading.settings_from_options({})
    _fetch_models([str(chosen.model), str(chosen.encoder)], cache, offline)
    opened = loading.load_recommender(loading.DataSource(), chosen, cache, need_model=True)
    tuned = loading.load_recommender(
        loading.DataSource(),
        loading.settings_from_options({"adapter": loading.DEFAULT_DATASET}),
        cache,
        need_model=True,
    )
    alone = {"untrained": _model_only(opened), "tuned": _model_only(tuned)}
    console = terminal.stdout_console()
    if not as_json:
        _print_introduction(console, opened, str(chosen.model))
    shown = []
    for place, guest in enumerate(EXAMPLE_USERS, 1):
        with terminal.progress() as progress:
            progress("recommending", place - 1, len(EXAMPLE_USERS))
            history = _history_of(opened, guest)
            answer = opened.recommend(history, k, explain=True, **guest.recommend_options)
            after = {
                name: own.recommend(history, k, **guest.recommend_options) for name, own in alone.items() if guest.tuned
            }
            loading.save_priors(opened)
        if as_json:
            shown.append(_user_json(opened, guest, history, answer, after))
        else:
            _print_user(
                console, opened, f"{place} of {len(EXAMPLE_USERS)}: {guest.description}", guest, history, answer, after
            )
            terminal.flush()
    if as_json:
        terminal.write_json(shown)
    else:
        _print_gain(console)
        _print_next_commands(console, time.perf_counter() - start)


def _fetch_models(models: list[str], cache: Path, offline: bool) -> None:
    """See that the models are on this machine."""
    from genrec.datasets.models import find_model

    if not offline:
        loading.fetch_models(models, cache)
        return
    for name in models:
        find_model(name, cache)


def _history_of(recommender: "Recommender", user: ExampleUser) -> "History":
    from genrec.types import History

    if user.user_id is None or recommender.interactions is None:
        return History(words=user.words)
    return recommender.interactions.history_of(user.user_id)


def _user_json(
    recommender: "Recommender",
    user: ExampleUser,
    history: "History",
    recommendations: "RecommendationList",
    model_only_lists: Mapping[str, "RecommendationList"],
) -> dict[str, Any]:
    person = {
        "person": user.description,
        "user_id": user.user_id,
        "words": user.words,
        "limits": dict(user.recommend_options),
        "history": [
            {"item_id": item_id, "title": recommender.catalog[recommender.catalog.index_of(item_id)].title}
            for item_id in history.item_ids
        ],
    }
    lists = {
        f"alone, {name}": [tables.item_fields(item) for item in own.items] for name, own in model_only_lists.items()
    }
    return {**tables.as_json(person, recommendations), **lists}


def _print_introduction(console: "Console", recommender: "Recommender", model: str) -> None:
    events = "" if recommender.interactions is None else f" and {len(recommender.interactions):,} purchases"
    console.print(
        f"{model} recommends out of {len(recommender.catalog):,} products{events} of a British gift shop (UCI Online "
        "Retail, CC BY 4.0). It can name nothing else: every token is held to the catalog.\n"
    )


def _print_user(
    console: "Console",
    recommender: "Recommender",
    title: str,
    user: ExampleUser,
    history: "History",
    recommendations: "RecommendationList",
    model_only_lists: Mapping[str, "RecommendationList"],
) -> None:
    from rich.box import ROUNDED
    from rich.console import Group
    from rich.padding import Padding
    from rich.panel import Panel
    from rich.text import Text

    extra = {user.attribute: _attribute_column(recommender, user.attribute, recommendations)} if user.attribute else {}
    inside = console.width - 4
    body = Group(
        _describe_user(recommender, user, history),
        "",
        tables.as_table(recommendations, width=inside, show_reasons=False, extra_columns=extra),
        "",
        tables.as_footer(recommendations),
        *(["", _model_only_text(model_only_lists)] if model_only_lists else []),
    )
    if console.is_terminal:
        console.print(Panel(body, title=Text(title, style="bold"), title_align="left", box=ROUNDED, padding=(0, 1)))
    else:
        console.print(title)
        console.print(Padding(body, (0, 0, 0, 2), expand=False))
        console.print()


def _model_only(recommender: "Recommender") -> "Recommender":
    """The same by the model's own order of its candidates, without the evidence of what people did."""
    from genrec.recommender import Recommender

    (model,) = loading.generative_rankers(recommender)
    ladder = [model.with_settings(fusion_weight=0.0), recommender.stages[-1]]
    return Recommender(recommender.catalog, ladder, interactions=recommender.interactions)


def _model_only_text(model_only_lists: Mapping[str, "RecommendationList"]) -> Any:
    """The model's own lists in a line each."""
    from rich.text import Text

    text = Text()
    for name, answer in model_only_lists.items():
        text.append(f"the model alone, {name}: ", style="cyan")
        text.append("; ".join(sanitize_line(item.title) for item in answer.items) + "\n")
    text.right_crop(1)
    return text


def _print_gain(console: "Console") -> None:
    """What tuning was measured to add: read from what `eval.rank` wrote beside the adapter."""
    from genrec.datasets.registry import find_adapter

    measured = json.loads((find_adapter(loading.DEFAULT_DATASET) / MEASUREMENTS_FILE).read_text(encoding="utf-8"))
    rows = {(row["ranker"], row["metric"]): row for row in measured["rows"] if row["slice"] == "all"}
    before, now = rows["untrained", METRIC], rows["tuned", METRIC]
    gain = rows["tuned", f"{METRIC} over untrained"]
    console.print(
        f"Alone, the model ranks 50 candidates for the next baskets of {now['users']:,} customers with NDCG@10 "
        f"{before['value']:.2f} untrained and {now['value']:.2f} tuned on this shop's orders: {gain['value']:+.2f} "
        f"[{gain['low']:+.2f}, {gain['high']:+.2f}] (python -m eval.rank retail_tuned in a checkout).\n"
    )


def _describe_user(recommender: "Recommender", user: ExampleUser, history: "History") -> Any:
    """What is known of the guest: the newest items, or what they say."""
    from rich.text import Text

    if user.words:
        return Text(f"says: “{sanitize_line(user.words)}”", style="cyan")
    if not history.item_ids:
        return Text("has bought nothing and says nothing", style="cyan")
    newest = list(dict.fromkeys(reversed(history.item_ids)))
    titles = [
        sanitize_line(recommender.catalog[recommender.catalog.index_of(item_id)].title)
        for item_id in newest[:_SHOWN_HISTORY_ITEMS]
    ]
    more = len(newest) - len(titles)
    text = Text(f"customer {user.user_id} bought {len(newest):,} different products, newest first: ", style="cyan")
    return text.append("; ".join(titles) + (f"; and {more:,} more" if more else ""))


def _attribute_column(recommender: "Recommender", name: str, recommendations: "RecommendationList") -> dict[Any, str]:
    ids = [item.item_id for item in recommendations.items]
    items = [recommender.catalog[recommender.catalog.index_of(item_id)] for item_id in ids]
    values = [item.attributes.get(name) for item in items]
    texts = [f"{value:.2f}" if isinstance(value, float) else str(value) for value in values]
    return dict(zip(ids, texts, strict=True))


def _print_next_commands(console: "Console", seconds: float) -> None:
    program = _program_name()
    console.print(f"Done in {seconds:.0f} s, on this machine alone. Three commands worth trying next:\n")
    for arguments in NEXT_COMMANDS:
        console.print(f"  {program} {shlex.join(arguments)}", soft_wrap=True)


def _program_name() -> str:
    """How this program is called from here."""
    called = Path(sys.argv[0])
    if called.stem == "__main__":
        return f"{_relative_path(Path(sys.executable))} -m genrec"
    found = shutil.which("genrec")
    return "genrec" if found is not None and Path(found).resolve() == called.resolve() else _relative_path(called)


def _relative_path(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
