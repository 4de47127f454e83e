"""`genrec chat`: a conversation in the terminal."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec.cli import loading, options, tables, terminal, user_options
from genrec.cli.settings_options import setting_options
from genrec.errors import ArtifactError, GenrecError, InputError, check_count

if TYPE_CHECKING:
    from rich.console import Console

    from genrec.chat.advisor import Advisor, TurnEvent
    from genrec.chat.conversation import Conversation
    from genrec.chat.preferences import Preferences
    from genrec.recommender import Recommender
    from genrec.types import RecommendationList

_PROMPT = "you: "
_HELP = """Write what you are looking for ("more like the second", "no candles"), or:
/like N, /dislike N   rate an item of the list      /why N      explain an item
/filter CONDITION     such as price < 5             /undo       undo a turn
/preferences          show your preferences         /forget N   remove one
/save FILE            save the conversation         /quit       end it"""


@options.with_options(options.DATA_OPTIONS, setting_options(), options.ADVISOR_OPTIONS)
def chat(
    user: user_options.User = None,
    history: options.History = None,
    k: options.K = 5,
    **given: Any,
) -> None:
    """Ask for recommendations in a conversation; every suggestion is a real item in the catalog.

    Reads lines from standard input, so a conversation can be piped in. /help lists the commands.
    """
    from genrec.cache import default_cache
    from genrec.chat.conversation import Conversation
    from genrec.chat.loading import advisor_builder, check_advisor_options

    check_count("--k", k)
    user_options.check_user(user, history)
    settings, source = loading.settings_from_options(given), loading.DataSource.from_options(given)
    need_model = loading.names_model(given)
    chat_options = loading.advisor_options(given)
    check_advisor_options(**chat_options)

    def check(recommender: "Recommender") -> None:
        with loading.translate_option_errors(new_user="--history"):
            recommender.catalog.indices_of(user_options.history_of(user, history, recommender.interactions))

    recommender = loading.load_recommender(source, settings, default_cache(), need_model=need_model, check=check)
    for notice in recommender.notices:
        terminal.print_notice(f"note: {notice}")
    item_ids = user_options.history_of(user, history, recommender.interactions)
    build_advisor = advisor_builder(recommender, **chat_options)
    session = _ChatSession(build_advisor(recommender, k), Conversation(user, item_ids), terminal.stdout_console())
    for line in _read_lines():
        try:
            if session.handle(line):
                break
        except GenrecError as error:
            terminal.print_error(str(error))
    loading.save_priors(recommender)


class _ChatSession:
    """One conversation, and the commands that change it."""

    def __init__(self, advisor: "Advisor", conversation: "Conversation", console: "Console") -> None:
        self._advisor, self.conversation, self._console = advisor, conversation, console
        self._last_list: RecommendationList | None = None
        self._commands: dict[str, Callable[[str], None]] = {
            "like": lambda argument: self._set_feedback(argument, liked=True),
            "dislike": lambda argument: self._set_feedback(argument, liked=False),
            "why": self._why,
            "filter": self._filter,
            "preferences": lambda _: self._show_preferences(self.conversation.preferences),
            "wishes": lambda _: self._show_preferences(self.conversation.preferences),  # the former name
            "forget": self._forget,
            "undo": lambda _: self._undo(),
            "save": self._save,
            "help": lambda _: self._console.print(_HELP, markup=False, highlight=False),
        }

    def handle(self, line: str) -> bool:
        """Process a line of input; returns True if it ends the conversation.

        Raises:
            GenrecError: the line cannot be processed.
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
            raise InputError(f"Unknown command /{name:.40}; try /help")
        self._commands[name](rest.strip())
        return False

    def _update_preferences(self, preferences: "Preferences") -> None:
        self.conversation = self._advisor.update_preferences(self.conversation, preferences, on_event=self._show_event)
        self._console.print()

    def _show_event(self, event: "TurnEvent") -> None:
        """Print an event of a turn as it arrives; a reply that only repeats the list is not printed."""
        from rich.text import Text

        from genrec.chat.item_links import split_item_links
        from genrec.chat.plain_replies import format_list
        from genrec.chat.preferences import Preferences

        if isinstance(event, Preferences):
            self._show_preferences(event)
        elif not isinstance(event, str):
            if event != self._last_list:  # the list stays when the turn asks a question about it
                tables.print_list(self._console, event, show_reasons=False)
            self._last_list = event
        elif self._last_list is None or event != format_list(self._last_list):
            for piece in split_item_links(event):
                text = piece if isinstance(piece, str) else piece.title
                self._console.print(Text(terminal.sanitize(text, keep="\n")), end="")

    def _set_feedback(self, argument: str, *, liked: bool) -> None:
        item_id, preferences = self._item_id(argument), self.conversation.preferences
        changed = preferences.with_liked(item_id) if liked else preferences.with_disliked(item_id)
        self._update_preferences(changed)

    def _why(self, argument: str) -> None:
        from rich.text import Text

        found = self._advisor.explain(self.conversation, self._item_id(argument))
        drivers = ", ".join(f"{terminal.sanitize_line(driver.title)} (-{driver.drop:.2f})" for driver in found.drivers)
        self._console.print(Text(f"{terminal.sanitize_line(found.reason or '')} {drivers}".strip()))

    def _filter(self, argument: str) -> None:
        from genrec.chat.preferences import PreferenceFilter
        from genrec.data.filter_syntax import parse_filter

        condition = parse_filter(argument)
        self._advisor.catalog.where(condition)  # raises before anything changes if the filter is wrong
        added = PreferenceFilter(str(condition), condition)
        self._update_preferences(self.conversation.preferences.with_filter(added))

    def _forget(self, argument: str) -> None:
        preferences = self.conversation.preferences
        position = _parse_position(argument, len(preferences.labels), "/preferences lists them")
        self._update_preferences(preferences.without(preferences.labels[position]))

    def _undo(self) -> None:
        self.conversation = self.conversation.undo()
        self._show_preferences(self.conversation.preferences)
        if self.conversation.turns:
            tables.print_list(self._console, self.conversation.turns[-1].recommendations, show_reasons=False)

    def _save(self, argument: str) -> None:
        if not argument:
            raise InputError("/save needs a file; try /save chat.json")
        try:
            text = json.dumps(_saved_conversation(self.conversation), indent=2, ensure_ascii=False)
            Path(argument).write_text(f"{text}\n", encoding="utf-8")
        except OSError as error:
            raise ArtifactError(f"cannot write {argument}: {error.strerror}; name another file") from error
        terminal.print_notice(f"saved to {argument}")

    def _show_preferences(self, preferences: "Preferences") -> None:
        from rich.text import Text

        labels = [
            f"{number}. {kind} {terminal.sanitize_line(self._advisor.label_text(preferences, (kind, value)))}"
            for number, (kind, value) in enumerate(preferences.labels, start=1)
        ]
        self._console.print(Text("Your preferences: " + ("; ".join(labels) or "none yet"), style="dim"))

    def _item_id(self, argument: str) -> Any:
        shown = self.conversation.shown
        return shown[_parse_position(argument, len(shown), "the last list has that many items")].item_id


def _parse_position(text: str, count: int, hint: str) -> int:
    """Parse a number from 1 to `count` as an index from 0."""
    if not text:
        raise InputError(f"Give a number from 1 to {count}; {hint}" if count else "There is nothing to choose from yet")
    # The number of digits is checked first: Python refuses to read thousands of them.
    if not text.isdecimal() or len(text) > len(str(count)) or not 1 <= int(text) <= count:
        raise InputError(f"{text!r:.40} is not a number from 1 to {count}; {hint}")
    return int(text) - 1


def _read_lines() -> Iterator[str]:
    """Lines of standard input; on a terminal, with line editing and history."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with suppress(ImportError):
        import readline  # noqa: F401  (importing it is what gives `input` its history)
    terminal.print_notice("What are you looking for? Type /help for commands.")
    while True:
        try:
            yield input(_PROMPT)
        except EOFError:
            return


def _saved_conversation(conversation: "Conversation") -> dict[str, Any]:
    """The JSON object of a saved conversation; its keys are a file format and do not change."""
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
                    "limits": [
                        {"about": condition.key, "where": condition.where} for condition in turn.preferences.filters
                    ],
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
