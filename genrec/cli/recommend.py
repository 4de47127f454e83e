"""`genrec recommend`: people in, lists out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec.cli import listing, option, source, terminal
from genrec.errors import InputError

if TYPE_CHECKING:
    from genrec.cli.terminal import Progress
    from genrec.recommender import Person, Recommender
    from genrec.types import RecommendationList

_TOGETHER = 8  # people asked for between two steps of the progress bar

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
    words: option.Words = None,
    history: option.History = None,
    k: option.K = 10,
    explain: option.Explain = False,
    deadline: Deadline = None,
    on_unknown: OnUnknown = "raise",
    filter_seen: option.FilterSeen = True,
    only: option.Only = None,
    exclude: option.Exclude = None,
    where: option.Where = None,
    boost: option.Boost = None,
    data: option.Data = None,
    items: option.Items = None,
    interactions: option.Interactions = None,
    columns: option.Columns = None,
    index: option.Index = None,
    model: option.Model = None,
    adapter: option.Adapter = None,
    encoder: option.Encoder = None,
    template: option.Template = None,
    cold_template: option.ColdTemplate = None,
    strategy: option.Strategy = None,
    score: option.Score = None,
    prior: option.Prior = None,
    evidence: option.Evidence = None,
    candidates: option.Candidates = None,
    width: option.Width = None,
    exact: option.Exact = None,
    max_nodes: option.MaxNodes = None,
    min_history: option.MinHistory = None,
    max_history: option.MaxHistory = None,
    history_step: option.HistoryStep = None,
    background: option.Background = None,
    batch_size: option.BatchSize = None,
    memory: option.Memory = None,
    as_json: option.Json = False,
) -> None:
    """Recommend to known users, or to somebody who says words or shows a history.

    Without a user, words or a history the list is for somebody of whom nothing is known.
    """
    from genrec.assembly import default_cache
    from genrec.types import History

    if users and (words or history):
        raise InputError(
            f"user {users[0]!r} and --words or --history exclude each other; words and a history are for somebody "
            "without an id"
        )
    people: list[Person] = [*users] if users else [History(tuple(history or ()), words or "")]
    limits: dict[str, Any] = {"filter_seen": filter_seen, "only": only, "exclude": exclude, "where": where}
    limits |= {"boost": source.numbers(boost, "--boost"), "deadline": deadline, "on_unknown": on_unknown}
    chosen = source.settings(
        {
            "model": model,
            "adapter": adapter,
            "encoder": encoder,
            "template": template,
            "cold_template": cold_template,
            "strategy": strategy,
            "score": score,
            "prior": prior,
            "evidence": evidence,
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
    named = source.Source.of(data, items, interactions, columns, index)
    opened = source.load(named, chosen, default_cache(), need_model=bool(model or adapter))
    with source.in_options(), terminal.progress() as progress:
        answers = _ask(opened, people, progress, k=k, explain=explain, **limits)
        source.keep(opened)
    if as_json:
        pairs = zip(people, answers, strict=True)
        terminal.write_json([listing.as_json(_described(person), answer) for person, answer in pairs])
        return
    console = terminal.out()
    for person, answer in zip(people, answers, strict=True):
        if len(people) > 1:
            console.rule(f"user {terminal.clean(str(person))}", align="left", style="dim")
        listing.show(console, answer, reasons=explain)


def _ask(
    recommender: "Recommender", people: "Sequence[Person]", progress: "Progress", **options: Any
) -> "list[RecommendationList]":
    """The answers, a few people at a time; all at once where one deadline holds for them all."""
    together = len(people) if options["deadline"] is not None else _TOGETHER
    answers: list[RecommendationList] = []
    for start in range(0, len(people), together):
        if len(people) > together:
            progress("recommending", start, len(people))
        else:
            progress.say("recommending")
        answers += recommender.recommend(people[start : start + together], **options)
    return answers


def _described(person: "Person") -> dict[str, Any]:
    """Who a list is for, in plain values."""
    from genrec.types import History

    if isinstance(person, History):
        return {"user_id": None, "history": list(person.item_ids), "words": person.words}
    return {"user_id": person}
