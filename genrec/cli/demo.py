"""`genrec demo`: five people, and what a real language model recommends to each of them out of a real shop."""

import json
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from genrec.cli import loading, options, tables, terminal
from genrec.cli.terminal import clean

if TYPE_CHECKING:
    from rich.console import Console

    from genrec.recommender import Recommender
    from genrec.types import History, RecommendationList

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_LATEST = 6  # history items that are shown
MEASURED, METRIC = "measured.json", "ndcg@10"


@dataclass(frozen=True)
class Guest:
    """One of the five.

    Attributes:
        title: who it is.
        user_id: a customer of the embedded shop; None for somebody new.
        words: what they say they look for.
        limits: arguments of `Recommender.recommend`.
        attribute: a column of the catalog to show.
        tuned: whether to show what the model alone makes of it, untrained and tuned.
    """

    title: str
    user_id: str | None = None
    words: str = ""
    limits: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    attribute: str | None = None
    tuned: bool = False


GUESTS = (
    Guest("a customer with a long history", "12476", tuned=True),
    Guest("a customer with a short history", "15049", tuned=True),
    Guest("somebody new, of whom nothing is known"),
    Guest("somebody new, who says what they look for", words="a birthday present for a girl who loves fairies"),
    Guest(
        "a customer with a filter: under 5.00, nothing already bought",
        "12762",
        limits={"where": "price < 5", "filter_seen": True},
        attribute="price",
    ),
)

NEXT = (
    ("recommend", "--words", "something for a garden party", "--where", "price < 3"),
    ("recommend", "12476", "--where", "price < 2", "--k", "3", "--explain"),
    ("prompt", "render", "next-item", "--user", "15049", "--tokens"),
)


def demo(k: options.K = 5, offline: options.Offline = False, as_json: options.Json = False) -> None:
    """Show what a language model recommends to five people out of a shop's 3,659 products."""
    from genrec.cache import default_cache

    start = time.perf_counter()
    cache, chosen = default_cache(), loading.settings({})
    _fetch([str(chosen.model), str(chosen.encoder)], cache, offline)
    opened = loading.load(loading.Source(), chosen, cache, need_model=True)
    tuned = loading.load(loading.Source(), loading.settings({"adapter": loading.DEFAULT}), cache, need_model=True)
    alone = {"untrained": _alone(opened), "tuned": _alone(tuned)}
    console = terminal.out()
    if not as_json:
        _introduce(console, opened, str(chosen.model))
    shown = []
    for place, guest in enumerate(GUESTS, 1):
        with terminal.progress() as progress:
            progress("recommending", place - 1, len(GUESTS))
            history = _history(opened, guest)
            answer = opened.recommend(history, k, explain=True, **guest.limits)
            after = {name: own.recommend(history, k, **guest.limits) for name, own in alone.items() if guest.tuned}
            loading.keep(opened)
        if as_json:
            shown.append(_facts(opened, guest, history, answer, after))
        else:
            _print(console, opened, f"{place} of {len(GUESTS)}: {guest.title}", guest, history, answer, after)
            terminal.flush()
    if as_json:
        terminal.write_json(shown)
    else:
        _tell_gain(console)
        _end(console, time.perf_counter() - start)


def _fetch(models: list[str], cache: Path, offline: bool) -> None:
    """See that the models are on this machine."""
    from genrec.datasets.models import find_model

    if not offline:
        loading.fetch(models, cache)
        return
    for name in models:
        find_model(name, cache)


def _history(opened: "Recommender", guest: Guest) -> "History":
    from genrec.types import History

    if guest.user_id is None or opened.interactions is None:
        return History(words=guest.words)
    return opened.interactions.history_of(guest.user_id)


def _facts(
    opened: "Recommender",
    guest: Guest,
    history: "History",
    answer: "RecommendationList",
    after: Mapping[str, "RecommendationList"],
) -> dict[str, Any]:
    person = {
        "person": guest.title,
        "user_id": guest.user_id,
        "words": guest.words,
        "limits": dict(guest.limits),
        "history": [
            {"item_id": item_id, "title": opened.catalog[opened.catalog.index_of(item_id)].title}
            for item_id in history.item_ids
        ],
    }
    lists = {f"alone, {name}": [asdict(item) for item in own.items] for name, own in after.items()}
    return {**tables.as_json(person, answer), **lists}


def _introduce(console: "Console", opened: "Recommender", model: str) -> None:
    events = "" if opened.interactions is None else f" and {len(opened.interactions):,} purchases"
    console.print(
        f"{model} recommends out of {len(opened.catalog):,} products{events} of a British gift shop (UCI Online "
        "Retail, CC BY 4.0). It can name nothing else: every token is held to the catalog.\n"
    )


def _print(
    console: "Console",
    opened: "Recommender",
    title: str,
    guest: Guest,
    history: "History",
    answer: "RecommendationList",
    after: Mapping[str, "RecommendationList"],
) -> None:
    from rich.box import ROUNDED
    from rich.console import Group
    from rich.padding import Padding
    from rich.panel import Panel
    from rich.text import Text

    extra = {guest.attribute: _column(opened, guest.attribute, answer)} if guest.attribute else {}
    inside = console.width - 4
    body = Group(
        _told(opened, guest, history),
        "",
        tables.as_table(answer, width=inside, reasons=False, extra=extra),
        "",
        tables.as_footer(answer),
        *(["", _compared(after)] if after else []),
    )
    if console.is_terminal:
        console.print(Panel(body, title=Text(title, style="bold"), title_align="left", box=ROUNDED, padding=(0, 1)))
    else:
        console.print(title)
        console.print(Padding(body, (0, 0, 0, 2), expand=False))
        console.print()


def _alone(opened: "Recommender") -> "Recommender":
    """The same by the model's own order of its candidates, without the evidence of what people did."""
    from genrec.recommender import Recommender

    (model,) = loading.generative(opened)
    ladder = [model.with_settings(evidence=0.0), opened.ladder[-1]]
    return Recommender(opened.catalog, ladder, interactions=opened.interactions)


def _compared(after: Mapping[str, "RecommendationList"]) -> Any:
    """The model's own lists in a line each."""
    from rich.text import Text

    text = Text()
    for name, answer in after.items():
        text.append(f"the model alone, {name}: ", style="cyan")
        text.append("; ".join(clean(item.title) for item in answer.items) + "\n")
    text.right_crop(1)
    return text


def _tell_gain(console: "Console") -> None:
    """What tuning was measured to add: read from what `eval.rank` wrote beside the adapter."""
    from genrec.datasets.registry import find_adapter

    measured = json.loads((find_adapter(loading.DEFAULT) / MEASURED).read_text(encoding="utf-8"))
    rows = {(row["ranker"], row["metric"]): row for row in measured["rows"] if row["slice"] == "all"}
    before, now = rows["untrained", METRIC], rows["tuned", METRIC]
    gain = rows["tuned", f"{METRIC} over untrained"]
    console.print(
        f"Alone, the model ranks 50 candidates for the next baskets of {now['users']:,} customers with NDCG@10 "
        f"{before['value']:.2f} untrained and {now['value']:.2f} tuned on this shop's orders: {gain['value']:+.2f} "
        f"[{gain['low']:+.2f}, {gain['high']:+.2f}] (python -m eval.rank retail_tuned in a checkout).\n"
    )


def _told(opened: "Recommender", guest: Guest, history: "History") -> Any:
    """What is known of the guest: the newest items, or what they say."""
    from rich.text import Text

    if guest.words:
        return Text(f"says: “{clean(guest.words)}”", style="cyan")
    if not history.item_ids:
        return Text("has bought nothing and says nothing", style="cyan")
    newest = list(dict.fromkeys(reversed(history.item_ids)))
    titles = [clean(opened.catalog[opened.catalog.index_of(item_id)].title) for item_id in newest[:_LATEST]]
    more = len(newest) - len(titles)
    text = Text(f"customer {guest.user_id} bought {len(newest):,} different products, newest first: ", style="cyan")
    return text.append("; ".join(titles) + (f"; and {more:,} more" if more else ""))


def _column(opened: "Recommender", name: str, answer: "RecommendationList") -> dict[Any, str]:
    ids = [item.item_id for item in answer.items]
    items = [opened.catalog[opened.catalog.index_of(item_id)] for item_id in ids]
    values = [item.attributes.get(name) for item in items]
    texts = [f"{value:.2f}" if isinstance(value, float) else str(value) for value in values]
    return dict(zip(ids, texts, strict=True))


def _end(console: "Console", seconds: float) -> None:
    program = _program()
    console.print(f"Done in {seconds:.0f} s, on this machine alone. Three commands worth trying next:\n")
    for arguments in NEXT:
        console.print(f"  {program} {shlex.join(arguments)}", soft_wrap=True)


def _program() -> str:
    """How this program is called from here."""
    called = Path(sys.argv[0])
    if called.stem == "__main__":
        return f"{_from_here(Path(sys.executable))} -m genrec"
    found = shutil.which("genrec")
    return "genrec" if found is not None and Path(found).resolve() == called.resolve() else _from_here(called)


def _from_here(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
