"""`genrec chat`: a conversation in the terminal."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec.cli import loading, options, tables, terminal
from genrec.errors import ArtifactError, GenrecError, InputError, check_count

if TYPE_CHECKING:
    from rich.console import Console

    from genrec.chat.advisor import Advisor, Part
    from genrec.chat.conversation import Conversation, Wishes
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
    evidence: options.Evidence = None,
    candidates: options.Candidates = None,
    reader: options.Reader = None,
    replies: options.Replies = None,
    patience: options.Patience = None,
) -> None:
    """Talk about what to recommend; every item that is named is there.

    Reads lines from standard input, so a conversation can be piped in. /help says what can be said.
    """
    from genrec.cache import default_cache
    from genrec.chat.advising import advising
    from genrec.chat.conversation import Conversation

    check_count("--k", k)
    if user is not None and history:
        raise InputError(f"--user {user} and --history exclude each other; the user has a history")
    chosen = loading.settings(
        {
            "model": model,
            "adapter": adapter,
            "encoder": encoder,
            "strategy": strategy,
            "evidence": evidence,
            "candidates": candidates,
        }
    )
    named = loading.Source.of(data, items, interactions, columns)
    opened = loading.load(named, chosen, default_cache(), need_model=bool(model or adapter))
    with loading.in_options():
        met = tuple(history or ()) if user is None else _history_of(opened, user)
        opened.catalog.indices_of(met)
    advise = advising(opened, **loading.given(reader=reader, replies=replies, patience=patience))
    session = _Session(advise(opened, k), Conversation(user, met), terminal.out())
    for line in _lines():
        try:
            if session.take(line):
                break
        except GenrecError as error:
            terminal.complain(str(error))
    loading.keep(opened)


class _Session:
    """One conversation, and what each line of it does."""

    def __init__(self, advisor: "Advisor", conversation: "Conversation", console: "Console") -> None:
        self._advisor, self.conversation, self._console = advisor, conversation, console
        self._listed: RecommendationList | None = None
        self._commands: dict[str, Callable[[str], None]] = {
            "like": lambda said: self._judge(said, liked=True),
            "dislike": lambda said: self._judge(said, liked=False),
            "why": self._why,
            "filter": self._filter,
            "wishes": lambda _: self._show_wishes(self.conversation.wishes),
            "forget": self._forget,
            "undo": lambda _: self._undo(),
            "save": self._save,
            "help": lambda _: self._console.print(_HELP, markup=False, highlight=False),
        }

    def take(self, line: str) -> bool:
        """Answer a line; True where it ends the conversation.

        Raises:
            GenrecError: it cannot be answered.
        """
        line = line.strip()
        if not line:
            return False
        if not line.startswith("/"):
            self.conversation = self._advisor.answer(self.conversation, line, on_part=self._show)
            self._console.print()
            return False
        name, _, rest = line[1:].partition(" ")
        if name in ("quit", "exit"):
            return True
        if name not in self._commands:
            raise InputError(f"there is no /{name:.40}; /help says what there is")
        self._commands[name](rest.strip())
        return False

    def _change(self, wishes: "Wishes") -> None:
        self.conversation = self._advisor.change(self.conversation, wishes, on_part=self._show)
        self._console.print()

    def _show(self, part: "Part") -> None:
        """A part of a turn as it is there; a reply that only says the list again is left out."""
        from rich.text import Text

        from genrec.chat.advisor import compose
        from genrec.chat.conversation import Wishes
        from genrec.chat.item_links import read_parts

        if isinstance(part, Wishes):
            self._show_wishes(part)
        elif not isinstance(part, str):
            if part != self._listed:  # else a question was asked about it
                tables.show(self._console, part, reasons=False)
            self._listed = part
        elif self._listed is None or part != compose(self._listed):
            for piece in read_parts(part):
                said = piece if isinstance(piece, str) else piece.title
                self._console.print(Text(terminal.harmless(said, keep="\n")), end="")

    def _judge(self, said: str, *, liked: bool) -> None:
        item, wishes = self._item(said), self.conversation.wishes
        changed = wishes.like(item) if liked else wishes.dislike(item)
        self._change(changed)

    def _why(self, said: str) -> None:
        from rich.text import Text

        found = self._advisor.why(self.conversation, self._item(said))
        drivers = ", ".join(f"{terminal.clean(driver.title)} (-{driver.drop:.2f})" for driver in found.drivers)
        self._console.print(Text(f"{terminal.clean(found.reason or '')} {drivers}".strip()))

    def _filter(self, said: str) -> None:
        from genrec.chat.conversation import Limit

        self._advisor.catalog.where(said)  # before anything is shown under it
        self._change(self.conversation.wishes.limit(Limit(said, said)))

    def _forget(self, said: str) -> None:
        chips = self.conversation.wishes.chips
        self._change(self.conversation.wishes.without(chips[_place(said, len(chips), "/wishes shows them")]))

    def _undo(self) -> None:
        self.conversation = self.conversation.undo()
        self._show_wishes(self.conversation.wishes)
        if self.conversation.turns:
            tables.show(self._console, self.conversation.turns[-1].answer, reasons=False)

    def _save(self, said: str) -> None:
        if not said:
            raise InputError("/save needs a file; write /save talk.json")
        try:
            text = json.dumps(asdict(self.conversation), indent=2, ensure_ascii=False)
            Path(said).write_text(f"{text}\n", encoding="utf-8")
        except OSError as error:
            raise ArtifactError(f"cannot write {said}: {error.strerror}; name another file") from error
        terminal.say(f"saved to {said}")

    def _show_wishes(self, wishes: "Wishes") -> None:
        from rich.text import Text

        chips = [
            f"{place}. {kind} {terminal.clean(self._advisor.name_of(kind, value))}"
            for place, (kind, value) in enumerate(wishes.chips, start=1)
        ]
        self._console.print(Text("wishes: " + ("; ".join(chips) or "none yet"), style="dim"))

    def _item(self, said: str) -> Any:
        shown = self.conversation.shown
        return shown[_place(said, len(shown), "that is how many were recommended last")].item_id


def _place(said: str, count: int, what: str) -> int:
    """A number from 1 as a place from 0."""
    if not said:
        raise InputError(f"say which one, by a number from 1 to {count}; {what}" if count else "nothing is there yet")
    if not said.isdecimal() or not 1 <= int(said) <= count:
        raise InputError(f"{said!r:.40} is no number from 1 to {count}; {what}")
    return int(said) - 1


def _history_of(opened: "Recommender", user: str) -> tuple[Any, ...]:
    if opened.interactions is None:
        raise InputError(f"--user {user} needs a history; add --interactions FILE")
    return opened.interactions.history_of(user).item_ids


def _lines() -> Iterator[str]:
    """What is said, line by line; with the terminal's own history and editing where there is one."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with suppress(ImportError):
        import readline  # noqa: F401  (importing it is what gives `input` its history)
    terminal.say("say what you look for; /help says what else there is")
    while True:
        try:
            yield input(_PROMPT)
        except EOFError:
            return
