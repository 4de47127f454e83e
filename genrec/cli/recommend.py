"""`genrec recommend`: recommendation lists for users."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec.cli import loading, options, tables, terminal
from genrec.cli.settings_options import setting_options
from genrec.errors import InputError

if TYPE_CHECKING:
    from genrec.cli.terminal import Progress
    from genrec.data.user_frames import UserLike
    from genrec.recommender import Recommender
    from genrec.types import RecommendationList

_PROGRESS_BATCH_SIZE = 8  # users between two updates of the progress bar

Users = Annotated[list[str] | None, typer.Argument(metavar="USER", help="Ids of known users.", show_default=False)]
Deadline = Annotated[float | None, typer.Option("--deadline", help="Time limit in seconds.")]
OnUnknown = Annotated[
    str,
    typer.Option(
        "--on-unknown",
        metavar="CHOICE",
        help="Unknown users and history items: raise an error (raise), skip them (skip), or treat the user as new "
        "(fallback).",
    ),
]


@options.with_options(options.DATA_OPTIONS, setting_options())
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
    index: options.Index = None,
    as_json: options.Json = False,
    **given: Any,
) -> None:
    """Recommend items to known users, or to a new user with --words or --history.

    Without USER, --words and --history, the list is for a new user without a history.
    """
    from genrec.cache import default_cache
    from genrec.types import History

    if users and (words or history):
        raise InputError(
            f"user {users[0]!r} cannot be combined with --words or --history, which describe a new user; omit one of "
            "them"
        )
    requests: list[UserLike] = [*users] if users else [History(tuple(history or ()), words or "")]
    filters: dict[str, Any] = {"filter_seen": filter_seen, "only": only, "exclude": exclude}
    filters |= {"where": loading.join_filters(where), "boost": loading.parse_item_numbers(boost, "--boost")}
    filters |= {"deadline": deadline, "on_unknown": on_unknown}
    settings = loading.settings_from_options(given)
    source = loading.DataSource.from_options({**given, "index": index})
    need_model = loading.names_model(given)

    def check(unranked: "Recommender") -> None:
        with loading.translate_option_errors(has_on_unknown=True, new_user="--history or --words"):
            unranked.check(requests, k, **filters)

    recommender = loading.load_recommender(source, settings, default_cache(), need_model=need_model, check=check)
    with terminal.progress() as progress:
        lists = _recommend_in_batches(recommender, requests, progress, k=k, explain=explain, **filters)
        loading.save_priors(recommender)
    if as_json:
        pairs = zip(requests, lists, strict=True)
        terminal.write_json([tables.as_json(_user_fields(user), found) for user, found in pairs])
        return
    console = terminal.stdout_console()
    for user, found in zip(requests, lists, strict=True):
        if len(requests) > 1:
            console.rule(f"user {terminal.sanitize_line(str(user))}", align="left", style="dim")
        tables.print_list(console, found, show_reasons=explain)


def _recommend_in_batches(
    recommender: "Recommender", users: "Sequence[UserLike]", progress: "Progress", **options: Any
) -> "list[RecommendationList]":
    """A list for each user, in batches; with a deadline, which holds for all of them, in one batch."""
    batch_size = len(users) if options["deadline"] is not None else _PROGRESS_BATCH_SIZE
    lists: list[RecommendationList] = []
    for start in range(0, len(users), batch_size):
        if len(users) > batch_size:
            progress("Recommending", start, len(users))
        else:
            progress.start("Recommending")
        lists += recommender.recommend(users[start : start + batch_size], **options)
    return lists


def _user_fields(user: "UserLike") -> dict[str, Any]:
    """The user of a list, in plain values."""
    from genrec.types import History

    if isinstance(user, History):
        return {"user_id": None, "history": list(user.item_ids), "words": user.words}
    return {"user_id": user}
