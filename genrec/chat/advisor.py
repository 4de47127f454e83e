"""Goes on with a conversation: reads wishes, ranks under them, and replies.

    what was said --Read--> wishes --Recommender.recommend--> list --Write or compose--> reply

Each of these is told as soon as it is there, so that a person sees that they were understood before the list is ranked,
and the list before the reply is written.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from genrec.chat.conversation import Conversation, Occasion, Turn, Wishes
from genrec.chat.item_links import read_mentions, write_mention, write_text
from genrec.chat.parsers.lexical import CritiqueReader, Question
from genrec.data.catalog import Catalog
from genrec.deadline import Deadline
from genrec.errors import EngineError, InputError
from genrec.prompting.template import one_line
from genrec.recommender import Recommender
from genrec.types import History, ItemId, Recommendation, RecommendationList, Role

_NO_REASON = "I cannot tell just now."
_LACKS = re.compile(r"['\"](.*?)['\"] not in words\(title\)")
_LONGEST = 1000  # characters of what somebody says that are read

Part = Wishes | RecommendationList | str
"""The wishes of a turn; what was recommended under them; a piece of the reply."""

OnPart = Callable[[Part], None]
"""Told of each part of a turn as it is there. What it raises ends the turn."""

Read = Callable[[str, Conversation], Wishes]
"""Reads the wishes that there are once somebody said something."""


class Write(Protocol):
    """Puts a turn into words by a language model."""

    def __call__(self, occasion: Occasion, on_text: Callable[[str], None], deadline: Deadline) -> bool:
        """Tell the reply piece by piece; False where it cannot be written, before any piece was told.

        Raises:
            EngineError: the model failed, perhaps after some pieces.
        """
        ...


class Advisor:
    """Goes on with conversations.

    Args:
        recommender: ranks.
        k: how many items are recommended in a turn.
        read: what reads wishes from words; by default `CritiqueReader`.
        write: what puts a turn into words; by default `compose`, which knows no language model.
        patience: seconds that ranking may take, so that somebody who talks is answered in time: a model that needs
            longer leaves the list to the next step of the ladder. By default without end.
    """

    def __init__(
        self,
        recommender: Recommender,
        *,
        k: int = 5,
        read: Read | None = None,
        write: Write | None = None,
        patience: float = math.inf,
    ) -> None:
        self._recommender, self._k, self._write, self._patience = recommender, k, write, patience
        self._rules = CritiqueReader(recommender.catalog)
        self._read = read or self._rules

    @property
    def catalog(self) -> Catalog:
        """What can be recommended."""
        return self._recommender.catalog

    def answer(
        self,
        conversation: Conversation,
        said: str,
        *,
        on_part: OnPart | None = None,
        deadline: Deadline | None = None,
    ) -> Conversation:
        """The conversation after somebody said something, and was answered.

        What was recommended before stands behind what was not, and only where too little else is allowed. A question
        ("why the second?", "compare the first and the third") is answered about the list as it stands, and "undo"
        takes the last turn back.

        Args:
            conversation: what was said so far.
            said: what is said now; cut after 1,000 characters.
            on_part: told of wishes, list and reply as they come.
            deadline: until when the list and the reply have to be there; by default without end.

        Raises:
            InputError: nothing was said.
        """
        said = said.strip()[:_LONGEST]
        if not said:
            raise InputError("nothing was said; say what you look for")
        tell, deadline = on_part or _say_nothing, deadline or Deadline.never()
        asked = self._rules.question(said, conversation.shown)
        if asked is not None:
            return self._explain(conversation, said, asked, tell, deadline)
        return self._go_on(conversation, said, self._read(said, conversation), tell, deadline)

    def change(
        self,
        conversation: Conversation,
        wishes: Wishes,
        *,
        on_part: OnPart | None = None,
        deadline: Deadline | None = None,
    ) -> Conversation:
        """The conversation after wishes were corrected by hand; see `answer`."""
        return self._go_on(conversation, "", wishes, on_part or _say_nothing, deadline or Deadline.never())

    def why(self, conversation: Conversation, item_id: ItemId, *, deadline: Deadline | None = None) -> Recommendation:
        """An item that was recommended, with what in the history, as it is now, speaks for it.

        Raises:
            UnknownItemError: it is not in the catalog any more.
        """
        person = self._person(conversation, conversation.wishes)
        found: RecommendationList = self._recommender.recommend(
            person, 1, only=[item_id], filter_seen=False, explain=True, deadline=_seconds(deadline or Deadline.never())
        )
        return found.items[0]

    def replay(self, conversation: Conversation, messages: Iterable[tuple[Role, str]]) -> Conversation:
        """A conversation once more, from its text: the items of each list are those that the reply names.

        Wishes are read again, nothing is ranked, and what no item has is left out.

        Args:
            conversation: what was there before.
            messages: who spoke and what, oldest first; whoever is neither the person ("user") nor "assistant" is
                passed over.
        """
        asked = False
        for role, text in messages:
            if role == "user" and text.strip():
                conversation = self._reread(conversation, text.strip()[:_LONGEST])
                asked = bool(conversation.shown)
            elif role == "assistant" and conversation.turns:
                last = conversation.turns[-1]
                # A question was answered about some items of a list that stands as it did.
                named = () if asked else self._named(text)
                turn = replace(
                    last, answer=RecommendationList(named or last.answer.items, proven=False, compared=0), reply=text
                )
                conversation, asked = replace(conversation, turns=(*conversation.turns[:-1], turn)), False
        return conversation

    def name_of(self, kind: str, value: ItemId) -> str:
        """What a wish is called when it is shown, see `Wishes.chips`: an item by its title."""
        catalog = self._recommender.catalog
        if kind in ("likes", "dislikes"):
            return catalog[catalog.index_of(value)].title
        lacks = _LACKS.match(str(value))
        return f"no “{lacks[1]}”" if lacks else str(value)

    def _reread(self, conversation: Conversation, said: str) -> Conversation:
        asked = self._rules.question(said, conversation.shown)
        if asked is not None and asked.about == "undo":
            return conversation.undo()
        if asked is not None and asked.about == "start over":
            return replace(conversation, turns=())
        wishes = self._read(said, conversation) if asked is None else conversation.wishes
        nothing = RecommendationList(conversation.shown if asked else (), proven=False, compared=0)
        turn = Turn(said, wishes, nothing, "", question=asked is not None)
        return replace(conversation, turns=(*conversation.turns, turn))

    def _named(self, text: str) -> tuple[Recommendation, ...]:
        catalog = self._recommender.catalog
        places = catalog.indices_of(dict.fromkeys(read_mentions(text)), on_unknown="skip")
        items = [catalog[int(place)] for place in places]
        return tuple(
            Recommendation(None, item.item_id, rank, 0.0, "named", item.title) for rank, item in enumerate(items, 1)
        )

    def _person(self, conversation: Conversation, wishes: Wishes) -> History:
        return History((*conversation.history, *wishes.liked), "; ".join(wishes.words), conversation.user_id)

    def _go_on(
        self, conversation: Conversation, said: str, wishes: Wishes, tell: OnPart, deadline: Deadline
    ) -> Conversation:
        tell(wishes)
        answer = self._rank(conversation, wishes, deadline)
        tell(answer)
        reply, fallback = self._reply(Occasion(conversation, said, wishes, answer), tell, deadline)
        turn = Turn(said, wishes, answer, reply, fallback)
        return replace(conversation, turns=(*conversation.turns, turn))

    def _rank(self, conversation: Conversation, wishes: Wishes, deadline: Deadline) -> RecommendationList:
        """What was not shown yet, best first, and behind it what was."""
        person = self._person(conversation, wishes)
        where = " and ".join(f"({own.where})" for own in wishes.limits) or None
        before = [item.item_id for turn in conversation.turns for item in turn.answer.items]
        never = [*conversation.unwanted, *wishes.disliked]
        answer = self._ask(person, self._k, [*never, *before], where, deadline)
        if before and (missing := self._k - len(answer.items)):
            found = [item.item_id for item in answer.items]
            again = self._ask(person, missing, [*never, *found], where, deadline, answer.seconds)
            items = (replace(item, rank=rank) for rank, item in enumerate((*answer.items, *again.items), start=1))
            return replace(again, items=tuple(items), proven=False)
        return answer

    def _ask(
        self,
        person: History,
        k: int,
        exclude: Sequence[ItemId],
        where: str | None,
        deadline: Deadline,
        spent: float = 0.0,
    ) -> RecommendationList:
        found: RecommendationList = self._recommender.recommend(
            person, k, exclude=exclude, where=where, deadline=_seconds(deadline, self._patience - spent)
        )
        return found

    def _reply(self, occasion: Occasion, tell: OnPart, deadline: Deadline) -> tuple[str, bool]:
        """The reply, and whether a model failed to write it; what it began and could not end is ended plainly."""
        pieces: list[str] = []

        def tell_text(piece: str) -> None:
            pieces.append(piece)
            tell(piece)

        asked = self._write is not None and bool(occasion.answer.items)
        written = False
        if self._write is not None and asked:
            try:
                written = self._write(occasion, tell_text, deadline)
            except (EngineError, InputError):  # the model failed, or these items cannot be written about
                if pieces:
                    tell_text("\n\n")
        if not written:
            tell_text(compose(occasion.answer))
        return "".join(pieces), asked and not written

    def _explain(
        self, conversation: Conversation, said: str, asked: Question, tell: OnPart, deadline: Deadline
    ) -> Conversation:
        """Answer a question about the list as it stands."""
        if asked.about in ("undo", "start over"):
            before, conversation = conversation, conversation.undo()
            if asked.about == "start over":
                conversation = replace(conversation, turns=())
            answer = conversation.turns[-1].answer if conversation.turns else RecommendationList((), True, 0)
            told = "Taken back." if before.turns else "There is nothing to take back."
            reply = f"{told} {compose(answer) if answer.items else 'What do you look for?'}"
            for part in (conversation.wishes, answer, reply):
                tell(part)
            return conversation
        last = conversation.turns[-1]
        tell(last.wishes)
        if asked.about == "why":
            reply = " ".join(self._reason(conversation, item, deadline) for item in asked.items)
        else:
            reply = self._compare(asked.items)
        tell(last.answer)
        tell(reply)
        return replace(
            conversation, turns=(*conversation.turns, Turn(said, last.wishes, last.answer, reply, question=True))
        )

    def _reason(self, conversation: Conversation, item: Recommendation, deadline: Deadline) -> str:
        found = self.why(conversation, item.item_id, deadline=deadline)
        return f"{write_mention(item.item_id, item.title)}: {write_text(one_line(found.reason or _NO_REASON))}"

    def _compare(self, items: Sequence[Recommendation]) -> str:
        """What the catalog says differently of some items, and which of them stood first."""
        catalog = self._recommender.catalog
        said = {item.item_id: catalog[catalog.index_of(item.item_id)].attributes for item in items}
        names = dict.fromkeys(name for own in said.values() for name in own)
        differ = [name for name in names if len({str(own.get(name)) for own in said.values()}) > 1]
        lines = []
        for item in items:
            own = said[item.item_id]
            facts = ", ".join(f"{name} {own[name]}" for name in differ or names if own.get(name) is not None)
            told = write_text(one_line(facts)) or "nothing is known"
            lines.append(f"- {write_mention(item.item_id, item.title)}: {told}")
        if len(items) == 1:
            return lines[0].removeprefix("- ")
        first = min(items, key=lambda item: item.rank)
        return "\n".join([*lines, "", f"By your wishes {write_mention(first.item_id, first.title)} comes first."])


def compose(answer: RecommendationList) -> str:
    """A plain reply: the items, each with its rank."""
    if not answer.items:
        return "Nothing is left that fits all of this; take one of your wishes back."
    named = (f"{item.rank}. {write_mention(item.item_id, item.title)}" for item in answer.items)
    return "How about: " + ", ".join(named)


def _seconds(deadline: Deadline, most: float = math.inf) -> float | None:
    """What is left, for those who count from now; one that has passed leaves what needs no time."""
    left = min(deadline.left(), most)
    return None if left == math.inf else max(left, 1e-6)


def _say_nothing(part: Part) -> None: ...
