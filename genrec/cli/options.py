"""Options that several commands take: each is called what the Python parameter is called.

An option left out is None and means the library's own default, so that a default stands in one place.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

_DATA_PANEL, _MODEL_PANEL, _SEARCH_PANEL, _FILTER_PANEL = "Data", "Model", "Search", "What may be recommended"

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]

K = Annotated[int, typer.Option("--k", "-k", help="List length.")]
Explain = Annotated[bool, typer.Option("--explain/--no-explain", help="Say which history items drove each item.")]
Offline = Annotated[bool, typer.Option("--offline", help="Fetch nothing; stop where a model is missing.")]

Data = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="NAME", help="A named data set.", show_default="online-retail", rich_help_panel=_DATA_PANEL
    ),
]
Items = Annotated[
    Path | None,
    typer.Option(
        "--items", metavar="FILE", help="Your items: item_id, title, and any other column.", rich_help_panel=_DATA_PANEL
    ),
]
Interactions = Annotated[
    Path | None,
    typer.Option(
        "--interactions", metavar="FILE", help="Your events: user_id, item_id, timestamp.", rich_help_panel=_DATA_PANEL
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        metavar="NAME=COLUMN",
        help="What your file calls a column, such as user_id=CustomerID. Repeat it. To name one file only, write "
        "items.item_id=... or interactions.item_id=...",
        rich_help_panel=_DATA_PANEL,
    ),
]

Index = Annotated[
    Path | None,
    typer.Option(
        "--index",
        metavar="DIR",
        help="A catalog that `genrec index build` saved; refused where the model has another tokenizer.",
        rich_help_panel=_DATA_PANEL,
    ),
]

Words = Annotated[str | None, typer.Option("--words", metavar="TEXT", help="What somebody says they look for.")]
History = Annotated[
    list[str] | None,
    typer.Option("--history", metavar="ITEM", help="An item somebody chose, oldest first. Repeat it."),
]

FilterSeen = Annotated[
    bool,
    typer.Option(
        "--filter-seen/--no-filter-seen", help="Leave out what is in the history.", rich_help_panel=_FILTER_PANEL
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="ITEM", help="Nothing but this item. Repeat it.", rich_help_panel=_FILTER_PANEL),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="ITEM", help="Never this item. Repeat it.", rich_help_panel=_FILTER_PANEL),
]
Where = Annotated[
    str | None,
    typer.Option("--where", metavar="FILTER", help="A filter, such as 'price < 5'.", rich_help_panel=_FILTER_PANEL),
]
Boost = Annotated[
    list[str] | None,
    typer.Option(
        "--boost", metavar="ITEM=NUMBER", help="Add to the score of an item. Repeat it.", rich_help_panel=_FILTER_PANEL
    ),
]

Adapter = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        metavar="FOLDER",
        help="A LoRA adapter for the model, as finetune.train makes it, or online-retail for the one that ships.",
        rich_help_panel=_MODEL_PANEL,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="The language model: a bundled one's name, a folder, or none.",
        show_default="SmolLM2-135M-Instruct",
        rich_help_panel=_MODEL_PANEL,
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        metavar="NAME",
        help="The sentence encoder: a bundled one's name, a folder, or none.",
        show_default="all-MiniLM-L6-v2",
        rich_help_panel=_MODEL_PANEL,
    ),
]
Template = Annotated[
    str | None,
    typer.Option(
        "--template",
        metavar="NAME",
        help="The prompt for people with a history: a shipped template's name or a .j2 file.",
        show_default="next-item",
        rich_help_panel=_MODEL_PANEL,
    ),
]
ColdTemplate = Annotated[
    str | None,
    typer.Option(
        "--cold-template",
        metavar="NAME",
        help="The same for people without one.",
        show_default="cold-start",
        rich_help_panel=_MODEL_PANEL,
    ),
]

Strategy = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        metavar="CHOICE",
        help="Score the candidates another ranker proposes, search the whole catalog by beam, or score all of it "
        "(exhaustive).",
        rich_help_panel=_SEARCH_PANEL,
    ),
]
Score = Annotated[
    str | None,
    typer.Option(
        "--score",
        metavar="CHOICE",
        help="Log-probability over the whole vocabulary (model), or over the allowed next tokens (catalog).",
        rich_help_panel=_SEARCH_PANEL,
    ),
]
Prior = Annotated[
    float | None,
    typer.Option(
        "--prior",
        help="Weight of the score behind other people's histories, which is subtracted.",
        rich_help_panel=_SEARCH_PANEL,
    ),
]
FusionWeight = Annotated[
    float | None,
    typer.Option(
        "--fusion-weight",
        "--evidence",
        help="Weight of what the proposing ranker says, which is added.",
        rich_help_panel=_SEARCH_PANEL,
    ),
]
Candidates = Annotated[
    int | None,
    typer.Option("--candidates", help="How many items are proposed and scored.", rich_help_panel=_SEARCH_PANEL),
]
Width = Annotated[int | None, typer.Option("--width", help="Beam width.", rich_help_panel=_SEARCH_PANEL)]
Exact = Annotated[
    bool | None,
    typer.Option(
        "--exact/--no-exact", help="Let the beam go on until its ranking is proven.", rich_help_panel=_SEARCH_PANEL
    ),
]
MinHistory = Annotated[
    int | None,
    typer.Option(
        "--min-history",
        help="With fewer items, and no words, the language model is not asked.",
        rich_help_panel=_SEARCH_PANEL,
    ),
]
Background = Annotated[
    int | None,
    typer.Option(
        "--background", help="How many people's histories the prior is measured behind.", rich_help_panel=_SEARCH_PANEL
    ),
]
MaxHistory = Annotated[
    int | None,
    typer.Option(
        "--max-history", help="The newest items of a history that the prompt shows.", rich_help_panel=_SEARCH_PANEL
    ),
]
MaxNodes = Annotated[
    int | None,
    typer.Option("--max-nodes", help="Tokens after which a proof is given up.", rich_help_panel=_SEARCH_PANEL),
]
Memory = Annotated[
    float | None,
    typer.Option(
        "--memory",
        metavar="BYTES",
        help="Refuse a batch that would need more, such as 4e9.",
        rich_help_panel=_SEARCH_PANEL,
    ),
]
HistoryStep = Annotated[
    int | None,
    typer.Option(
        "--history-step",
        help="How many items leave the prompt together when there would be more; 1 lets it slide.",
        rich_help_panel=_SEARCH_PANEL,
    ),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", help="Prompts computed at once.", rich_help_panel=_SEARCH_PANEL)
]

Reader = Annotated[
    str | None,
    typer.Option(
        "--reader",
        metavar="CHOICE",
        help="What reads wishes: rules, or the model where rules know no way.",
        show_default="rules",
        rich_help_panel=_MODEL_PANEL,
    ),
]
Replies = Annotated[
    str | None,
    typer.Option(
        "--replies",
        metavar="CHOICE",
        help="What the model may say: bound to clauses that are looked up, or free but for the items it mentions.",
        show_default="bound",
        rich_help_panel=_MODEL_PANEL,
    ),
]
Patience = Annotated[
    float | None,
    typer.Option(
        "--patience",
        help="Seconds that ranking may take in a turn of a conversation.",
        show_default="1.5",
        rich_help_panel=_SEARCH_PANEL,
    ),
]


def with_options_of(other: Callable[..., None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of another function behind its own; they arrive by name, and in its context."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command)
        kept = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        more = inspect.signature(other).parameters.values()
        changed: Any = command
        changed.__signature__ = own.replace(parameters=[*kept, *more])
        changed.__annotations__ = {**inspect.get_annotations(other), **inspect.get_annotations(command)}
        return command

    return decorate
