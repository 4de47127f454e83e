"""`genrec recommend`: people in, lists out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec.cli import loading, options, tables, terminal
from genrec.errors import InputError

if TYPE_CHECKING:
    from genrec.cli.terminal import Progress
    from genrec.recommender import Recommender, UserLike
    from genrec.types import RecommendationList

_PROGRESS_BATCH_SIZE = 8  # people asked for between two steps of the progress bar

Users = Annotated[list[str] | None, typer.Argument(metavar="USER", help="Ids of known people.", show_default=False)]
Deadline = Annotated[float | None, typer.Option("--deadline", help="Seconds until every answer must be there.")]
OnUnknown = Annotated[
    str,
    typer.Option(
        "--on-unknown",
        metavar="CHOICE",
        help="Users and history items nobody knows: raise an error, skip them, or take the user for somebody new "
        "(fallback).",
    ),
]


def recommend(
    users: Users = None,
    words: options.Words = None,
    history: options.History = None,
    k: options.K = 10,
    explain: options.Explain = False,
    deadline: Deadline = None,
    on_unknown: OnUnknown = "raise",
    filter_seen: options.FilterSeen = True,
    only: options.Only = None,
    exclude: options.Exclude = None,
    where: options.Where = None,
    boost: options.Boost = None,
    data: options.Data = None,
    items: options.Items = None,
    interactions: options.Interactions = None,
    columns: options.Columns = None,
    index: options.Index = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    encoder: options.Encoder = None,
    template: options.Template = None,
    cold_template: options.ColdTemplate = None,
    strategy: options.Strategy = None,
    score: options.Score = None,
    prior: options.Prior = None,
    fusion_weight: options.FusionWeight = None,
    candidates: options.Candidates = None,
    width: options.Width = None,
    exact: options.Exact = None,
    max_nodes: options.MaxNodes = None,
    min_history: options.MinHistory = None,
    max_history: options.MaxHistory = None,
    history_step: options.HistoryStep = None,
    background: options.Background = None,
    batch_size: options.BatchSize = None,
    memory: options.Memory = None,
    as_json: options.Json = False,
) -> None:
    """Recommend to known users, or to somebody who says words or shows a history.

    Without a user, words or a history the list is for somebody of whom nothing is known.
    """
    from genrec.cache import default_cache
    from genrec.types import History

    if users and (words or history):
        raise InputError(
            f"user {users[0]!r} and --words or --history exclude each other; words and a history are for somebody "
            "without an id"
        )
    people: list[UserLike] = [*users] if users else [History(tuple(history or ()), words or "")]
    limits: dict[str, Any] = {"filter_seen": filter_seen, "only": only, "exclude": exclude, "where": where}
    limits |= {"boost": loading.parse_item_numbers(boost, "--boost"), "deadline": deadline, "on_unknown": on_unknown}
    chosen = loading.settings_from_options(
        {
            "model": model,
            "adapter": adapter,
            "encoder": encoder,
            "template": template,
            "cold_template": cold_template,
            "strategy": strategy,
            "score": score,
            "prior": prior,
            "fusion_weight": fusion_weight,
            "candidates": candidates,
            "width": width,
            "exact": exact,
            "max_nodes": max_nodes,
            "min_history": min_history,
            "max_history": max_history,
            "history_step": history_step,
            "background": background,
            "batch_size": batch_size,
            "memory": memory,
        }
    )
    named = loading.DataSource.from_options(data, items, interactions, columns, index)
    opened = loading.load_recommender(named, chosen, default_cache(), need_model=bool(model or adapter))
    with loading.translate_option_errors(), terminal.progress() as progress:
        answers = _recommend_in_batches(opened, people, progress, k=k, explain=explain, **limits)
        loading.save_priors(opened)
    if as_json:
        pairs = zip(people, answers, strict=True)
        terminal.write_json([tables.as_json(_user_fields(person), answer) for person, answer in pairs])
        return
    console = terminal.stdout_console()
    for person, answer in zip(people, answers, strict=True):
        if len(people) > 1:
            console.rule(f"user {terminal.sanitize_line(str(person))}", align="left", style="dim")
        tables.print_list(console, answer, show_reasons=explain)


def _recommend_in_batches(
    recommender: "Recommender", users: "Sequence[UserLike]", progress: "Progress", **options: Any
) -> "list[RecommendationList]":
    """The answers, a few people at a time; all at once where one deadline holds for them all."""
    together = len(users) if options["deadline"] is not None else _PROGRESS_BATCH_SIZE
    answers: list[RecommendationList] = []
    for start in range(0, len(users), together):
        if len(users) > together:
            progress("recommending", start, len(users))
        else:
            progress.start("recommending")
        answers += recommender.recommend(users[start : start + together], **options)
    return answers


def _user_fields(user: "UserLike") -> dict[str, Any]:
    """Who a list is for, in plain values."""
    from genrec.types import History

    if isinstance(user, History):
        return {"user_id": None, "history": list(user.item_ids), "words": user.words}
    return {"user_id": user}
