"""`genrec chat`: a conversation in the terminal."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec.cli import loading, options, tables, terminal
from genrec.errors import ArtifactError, GenrecError, InputError, check_count

if TYPE_CHECKING:
    from rich.console import Console

    from genrec.chat.advisor import Advisor, TurnEvent
    from genrec.chat.conversation import Conversation
    from genrec.chat.preferences import Preferences
    from genrec.recommender import Recommender
    from genrec.types import RecommendationList

_PROMPT = "you: "
_HELP = """say what you look for in your words ("more like the second", "no candles", "under 5", "not that series"), or:
/like N, /dislike N   an item of the last list     /why N      what spoke for it
/filter CONDITION     such as price < 5            /wishes     what was read so far
/forget N             take back a wish of these    /undo       as it was before
/save FILE            the conversation as JSON     /quit"""

User = Annotated[str | None, typer.Option("--user", metavar="USER", help="The id of a known person who talks.")]


def chat(
    user: User = None,
    history: options.History = None,
    k: options.K = 5,
    data: options.Data = None,
    items: options.Items = None,
    interactions: options.Interactions = None,
    columns: options.Columns = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    encoder: options.Encoder = None,
    strategy: options.Strategy = None,
    fusion_weight: options.FusionWeight = None,
    candidates: options.Candidates = None,
    reader: options.Reader = None,
    replies: options.Replies = None,
    patience: options.Patience = None,
) -> None:
    """Talk about what to recommend; every item that is named is there.

    Reads lines from standard input, so a conversation can be piped in. /help says what can be said.
    """
    from genrec.cache import default_cache
    from genrec.chat.conversation import Conversation
    from genrec.chat.loading import advisor_builder

    check_count("--k", k)
    if user is not None and history:
        raise InputError(f"--user {user} and --history exclude each other; the user has a history")
    chosen = loading.settings_from_options(
        {
            "model": model,
            "adapter": adapter,
            "encoder": encoder,
            "strategy": strategy,
            "fusion_weight": fusion_weight,
            "candidates": candidates,
        }
    )
    named = loading.DataSource.from_options(data, items, interactions, columns)
    opened = loading.load_recommender(named, chosen, default_cache(), need_model=bool(model or adapter))
    with loading.translate_option_errors():
        met = tuple(history or ()) if user is None else _history_of(opened, user)
        opened.catalog.indices_of(met)
    advise = advisor_builder(
        opened, **loading.without_none(parser=reader, reply_mode=replies, ranking_timeout=patience)
    )
    session = _ChatSession(advise(opened, k), Conversation(user, met), terminal.stdout_console())
    for line in _read_lines():
        try:
            if session.handle(line):
                break
        except GenrecError as error:
            terminal.print_error(str(error))
    loading.save_priors(opened)


class _ChatSession:
    """One conversation, and what each line of it does."""

    def __init__(self, advisor: "Advisor", conversation: "Conversation", console: "Console") -> None:
        self._advisor, self.conversation, self._console = advisor, conversation, console
        self._last_list: RecommendationList | None = None
        self._commands: dict[str, Callable[[str], None]] = {
            "like": lambda said: self._set_feedback(said, liked=True),
            "dislike": lambda said: self._set_feedback(said, liked=False),
            "why": self._why,
            "filter": self._filter,
            "wishes": lambda _: self._show_preferences(self.conversation.preferences),
            "forget": self._forget,
            "undo": lambda _: self._undo(),
            "save": self._save,
            "help": lambda _: self._console.print(_HELP, markup=False, highlight=False),
        }

    def handle(self, line: str) -> bool:
        """Answer a line; True where it ends the conversation.

        Raises:
            GenrecError: it cannot be answered.
        """
        line = line.strip()
        if not line:
            return False
        if not line.startswith("/"):
            self.conversation = self._advisor.respond(self.conversation, line, on_event=self._show_event)
            self._console.print()
            return False
        name, _, rest = line[1:].partition(" ")
        if name in ("quit", "exit"):
            return True
        if name not in self._commands:
            raise InputError(f"there is no /{name:.40}; /help says what there is")
        self._commands[name](rest.strip())
        return False

    def _update_preferences(self, preferences: "Preferences") -> None:
        self.conversation = self._advisor.update_preferences(self.conversation, preferences, on_event=self._show_event)
        self._console.print()

    def _show_event(self, event: "TurnEvent") -> None:
        """A part of a turn as it is there; a reply that only says the list again is left out."""
        from rich.text import Text

        from genrec.chat.item_links import split_item_links
        from genrec.chat.preferences import Preferences
        from genrec.chat.replies import format_list

        if isinstance(event, Preferences):
            self._show_preferences(event)
        elif not isinstance(event, str):
            if event != self._last_list:  # else a question was asked about it
                tables.print_list(self._console, event, show_reasons=False)
            self._last_list = event
        elif self._last_list is None or event != format_list(self._last_list):
            for piece in split_item_links(event):
                said = piece if isinstance(piece, str) else piece.title
                self._console.print(Text(terminal.sanitize(said, keep="\n")), end="")

    def _set_feedback(self, argument: str, *, liked: bool) -> None:
        item, wishes = self._item_id(argument), self.conversation.preferences
        changed = wishes.with_liked(item) if liked else wishes.with_disliked(item)
        self._update_preferences(changed)

    def _why(self, argument: str) -> None:
        from rich.text import Text

        found = self._advisor.explain(self.conversation, self._item_id(argument))
        drivers = ", ".join(f"{terminal.sanitize_line(driver.title)} (-{driver.drop:.2f})" for driver in found.drivers)
        self._console.print(Text(f"{terminal.sanitize_line(found.reason or '')} {drivers}".strip()))

    def _filter(self, argument: str) -> None:
        from genrec.chat.preferences import PreferenceFilter

        self._advisor.catalog.where(argument)  # before anything is shown under it
        self._update_preferences(self.conversation.preferences.with_filter(PreferenceFilter(argument, argument)))

    def _forget(self, argument: str) -> None:
        chips = self.conversation.preferences.labels
        self._update_preferences(
            self.conversation.preferences.without(chips[_parse_position(argument, len(chips), "/wishes shows them")])
        )

    def _undo(self) -> None:
        self.conversation = self.conversation.undo()
        self._show_preferences(self.conversation.preferences)
        if self.conversation.turns:
            tables.print_list(self._console, self.conversation.turns[-1].recommendations, show_reasons=False)

    def _save(self, argument: str) -> None:
        if not argument:
            raise InputError("/save needs a file; write /save talk.json")
        try:
            text = json.dumps(_saved_conversation(self.conversation), indent=2, ensure_ascii=False)
            Path(argument).write_text(f"{text}\n", encoding="utf-8")
        except OSError as error:
            raise ArtifactError(f"cannot write {argument}: {error.strerror}; name another file") from error
        terminal.print_notice(f"saved to {argument}")

    def _show_preferences(self, preferences: "Preferences") -> None:
        from rich.text import Text

        chips = [
            f"{place}. {label[0]} {terminal.sanitize_line(self._advisor.label_text(preferences, label))}"
            for place, label in enumerate(preferences.labels, start=1)
        ]
        self._console.print(Text("wishes: " + ("; ".join(chips) or "none yet"), style="dim"))

    def _item_id(self, argument: str) -> Any:
        shown = self.conversation.shown
        return shown[_parse_position(argument, len(shown), "that is how many were recommended last")].item_id


def _parse_position(text: str, count: int, hint: str) -> int:
    """A number from 1 as a place from 0."""
    if not text:
        raise InputError(f"say which one, by a number from 1 to {count}; {hint}" if count else "nothing is there yet")
    if not text.isdecimal() or not 1 <= int(text) <= count:
        raise InputError(f"{text!r:.40} is no number from 1 to {count}; {hint}")
    return int(text) - 1


def _history_of(recommender: "Recommender", user: str) -> tuple[Any, ...]:
    if recommender.interactions is None:
        raise InputError(f"--user {user} needs a history; add --interactions FILE")
    return recommender.interactions.history_of(user).item_ids


def _read_lines() -> Iterator[str]:
    """What is said, line by line; with the terminal's own history and editing where there is one."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with suppress(ImportError):
        import readline  # noqa: F401  (importing it is what gives `input` its history)
    terminal.print_notice("say what you look for; /help says what else there is")
    while True:
        try:
            yield input(_PROMPT)
        except EOFError:
            return


def _saved_conversation(conversation: "Conversation") -> dict[str, Any]:
    """The JSON of a saved conversation, under the keys that saved files have had from the start."""
    return {
        "user_id": conversation.user_id,
        "history": conversation.history,
        "turns": [
            {
                "said": turn.message,
                "wishes": {
                    "liked": turn.preferences.liked,
                    "disliked": turn.preferences.disliked,
                    "words": turn.preferences.words,
                    "limits": [{"about": one.key, "where": one.where} for one in turn.preferences.filters],
                },
                "answer": tables.list_fields(turn.recommendations),
                "reply": turn.reply,
                "fallback": turn.is_fallback_reply,
                "question": turn.keeps_list,
            }
            for turn in conversation.turns
        ],
        "unwanted": conversation.excluded,
    }
