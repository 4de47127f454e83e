"""`genrec demo`: recommendations of a language model for five example users of a real shop."""

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

from genrec.cli import loading, model_downloads, options, tables, terminal
from genrec.cli.terminal import sanitize_line

if TYPE_CHECKING:
    from rich.console import Console

    from genrec.recommender import Recommender
    from genrec.settings import Settings
    from genrec.types import History, RecommendationList

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
_SHOWN_HISTORY_ITEMS = 6  # newest items shown of a history
MEASUREMENTS_FILE, METRIC = "measured.json", "ndcg@10"


@dataclass(frozen=True)
class ExampleUser:
    """A user of the demo.

    Attributes:
        description: of the user.
        user_id: a customer of the embedded shop; None for a new user.
        words: what the user is looking for.
        recommend_options: arguments of `Recommender.recommend`.
        attribute: a column of the catalog to show; None for none.
        tuned: whether to show the lists of the model alone, untrained and tuned.
    """

    description: str
    user_id: str | None = None
    words: str = ""
    recommend_options: Mapping[str, Any] = field(default_factory=lambda: _NO_OPTIONS)
    attribute: str | None = None
    tuned: bool = False


@dataclass(frozen=True)
class _UserLists:
    """A user of the demo and their lists.

    Attributes:
        user: the user.
        history: of the user.
        recommendations: the list of the full recommender.
        model_only: lists of the model alone, by name.
    """

    user: ExampleUser
    history: "History"
    recommendations: "RecommendationList"
    model_only: Mapping[str, "RecommendationList"]


EXAMPLE_USERS = (
    ExampleUser("a customer with a long history", "12476", tuned=True),
    ExampleUser("a customer with a short history", "15049", tuned=True),
    ExampleUser("a new user without a history"),
    ExampleUser("a new user with search words", words="a birthday present for a girl who loves fairies"),
    ExampleUser(
        "a customer with a filter: under 5.00, no items already bought",
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
    """Show recommendations of a language model for five users of a shop with 3,659 products."""
    from genrec.cache import default_cache

    start = time.perf_counter()
    cache, settings = default_cache(), loading.settings_from_options({})
    _fetch_models(settings, cache, offline)
    opened = loading.load_recommender(loading.DataSource(), settings, cache, need_model=True)
    tuned = loading.load_recommender(
        loading.DataSource(),
        loading.settings_from_options({"adapter": loading.DEFAULT_DATASET}),
        cache,
        need_model=True,
    )
    alone = {"untrained": _model_only(opened), "tuned": _model_only(tuned)}
    console = terminal.stdout_console()
    if not as_json:
        _print_introduction(console, opened, str(settings.model))
    shown = []
    for number, user in enumerate(EXAMPLE_USERS, 1):
        with terminal.progress() as progress:
            progress("Recommending", number - 1, len(EXAMPLE_USERS))
            history = _history_of(opened, user)
            lists = _UserLists(
                user,
                history,
                opened.recommend(history, k, explain=True, **user.recommend_options),
                {
                    name: model_only.recommend(history, k, **user.recommend_options)
                    for name, model_only in alone.items()
                    if user.tuned
                },
            )
            loading.save_priors(opened)
        if as_json:
            shown.append(_user_json(opened, lists))
        else:
            _print_user(console, opened, f"{number} of {len(EXAMPLE_USERS)}: {user.description}", lists)
            terminal.flush()
    if as_json:
        terminal.write_json(shown)
    else:
        _print_gain(console)
        _print_next_commands(console, time.perf_counter() - start)


def _fetch_models(settings: "Settings", cache: Path, offline: bool) -> None:
    """Download missing models; offline, raise an error if one is missing."""
    from genrec.datasets.models import find_model

    if not offline:
        model_downloads.fetch_models(settings, cache)
        return
    for name in (settings.model, settings.encoder):
        find_model(str(name), cache)


def _history_of(recommender: "Recommender", user: ExampleUser) -> "History":
    from genrec.types import History

    if user.user_id is None or recommender.interactions is None:
        return History(words=user.words)
    return recommender.interactions.history_of(user.user_id)


def _user_json(recommender: "Recommender", lists: _UserLists) -> dict[str, Any]:
    user = lists.user
    fields = {
        "person": user.description,
        "user_id": user.user_id,
        "words": user.words,
        "limits": dict(user.recommend_options),
        "history": [
            {"item_id": item_id, "title": recommender.catalog[recommender.catalog.index_of(item_id)].title}
            for item_id in lists.history.item_ids
        ],
    }
    model_only = {
        f"alone, {name}": [tables.item_fields(item) for item in result.items]
        for name, result in lists.model_only.items()
    }
    return {**tables.as_json(fields, lists.recommendations), **model_only}


def _print_introduction(console: "Console", recommender: "Recommender", model: str) -> None:
    events = "" if recommender.interactions is None else f" and {len(recommender.interactions):,} purchases"
    console.print(
        f"{model} recommends from the {len(recommender.catalog):,} products{events} of a British gift shop (UCI Online "
        "Retail, CC BY 4.0). Constrained decoding limits every token to titles of the catalog.\n"
    )


def _print_user(console: "Console", recommender: "Recommender", title: str, lists: _UserLists) -> None:
    from rich.box import ROUNDED
    from rich.console import Group
    from rich.padding import Padding
    from rich.panel import Panel
    from rich.text import Text

    user, recommendations = lists.user, lists.recommendations
    extra = {user.attribute: _attribute_column(recommender, user.attribute, recommendations)} if user.attribute else {}
    width = console.width - 4  # without the border
    body = Group(
        _describe_user(recommender, user, lists.history),
        "",
        tables.as_table(recommendations, width=width, show_reasons=False, extra_columns=extra),
        "",
        tables.as_footer(recommendations),
        *(["", _model_only_text(lists.model_only)] if lists.model_only else []),
    )
    if console.is_terminal:
        console.print(Panel(body, title=Text(title, style="bold"), title_align="left", box=ROUNDED, padding=(0, 1)))
    else:
        console.print(title)
        console.print(Padding(body, (0, 0, 0, 2), expand=False))
        console.print()


def _model_only(recommender: "Recommender") -> "Recommender":
    """A recommender that ranks the candidates by the model alone, without the retriever's scores."""
    from genrec.recommender import Recommender

    (model,) = loading.generative_rankers(recommender)
    stages = [model.with_settings(fusion_weight=0.0), recommender.stages[-1]]
    return Recommender(recommender.catalog, stages, interactions=recommender.interactions)


def _model_only_text(model_only_lists: Mapping[str, "RecommendationList"]) -> Any:
    """The lists of the model alone, one line each."""
    from rich.text import Text

    text = Text()
    for name, found in model_only_lists.items():
        text.append(f"the model alone, {name}: ", style="cyan")
        text.append("; ".join(sanitize_line(item.title) for item in found.items) + "\n")
    text.right_crop(1)
    return text


def _print_gain(console: "Console") -> None:
    """Print the measured gain of tuning, which `eval.rank` wrote beside the adapter."""
    from genrec.datasets.registry import find_adapter

    measured = json.loads((find_adapter(loading.DEFAULT_DATASET) / MEASUREMENTS_FILE).read_text(encoding="utf-8"))
    rows = {(row["ranker"], row["metric"]): row for row in measured["rows"] if row["slice"] == "all"}
    before, now = rows["untrained", METRIC], rows["tuned", METRIC]
    gain = rows["tuned", f"{METRIC} over untrained"]
    console.print(
        f"Ranking 50 candidates for the next baskets of {now['users']:,} customers, the model alone reaches NDCG@10 "
        f"{before['value']:.2f} untrained and {now['value']:.2f} tuned on this shop's orders: {gain['value']:+.2f} "
        f"[{gain['low']:+.2f}, {gain['high']:+.2f}] (python -m eval.rank retail_tuned in a checkout).\n"
    )


def _describe_user(recommender: "Recommender", user: ExampleUser, history: "History") -> Any:
    """The newest items of the user, or their words."""
    from rich.text import Text

    if user.words:
        return Text(f"is looking for: “{sanitize_line(user.words)}”", style="cyan")
    if not history.item_ids:
        return Text("has no history and no search words", style="cyan")
    newest = list(dict.fromkeys(reversed(history.item_ids)))
    titles = [
        sanitize_line(recommender.catalog[recommender.catalog.index_of(item_id)].title)
        for item_id in newest[:_SHOWN_HISTORY_ITEMS]
    ]
    more = len(newest) - len(titles)
    text = Text(f"customer {user.user_id} bought {len(newest):,} different products, newest first: ", style="cyan")
    return text.append("; ".join(titles) + (f"; and {more:,} more" if more else ""))


def _attribute_column(recommender: "Recommender", name: str, recommendations: "RecommendationList") -> dict[Any, str]:
    item_ids = [item.item_id for item in recommendations.items]
    items = [recommender.catalog[recommender.catalog.index_of(item_id)] for item_id in item_ids]
    values = [item.attributes.get(name) for item in items]
    texts = [f"{value:.2f}" if isinstance(value, float) else str(value) for value in values]
    return dict(zip(item_ids, texts, strict=True))


def _print_next_commands(console: "Console", seconds: float) -> None:
    program = _program_name()
    console.print(f"Done in {seconds:.0f} s, on this machine only. Try next:\n")
    for arguments in NEXT_COMMANDS:
        console.print(f"  {program} {shlex.join(arguments)}", soft_wrap=True)


def _program_name() -> str:
    """The command that runs this program from the current folder."""
    called = Path(sys.argv[0])
    if called.stem == "__main__":
        return f"{_relative_path(Path(sys.executable))} -m genrec"
    found = shutil.which("genrec")
    return "genrec" if found is not None and Path(found).resolve() == called.resolve() else _relative_path(called)


def _relative_path(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
