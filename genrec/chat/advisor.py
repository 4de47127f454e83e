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

from genrec.chat.conversation import Conversation, Preferences, Turn, TurnContext
from genrec.chat.item_links import escape_markdown, extract_item_ids, format_item_link
from genrec.chat.parsers.lexical import LexicalParser, UserIntent
from genrec.data.catalog import Catalog
from genrec.deadline import Deadline
from genrec.errors import EngineError, InputError
from genrec.prompting.template import one_line
from genrec.recommender import Recommender
from genrec.types import History, ItemId, Recommendation, RecommendationList, Role

_NO_REASON = "I cannot tell just now."
_WORD_EXCLUSION = re.compile(r"['\"](.*?)['\"] not in words\(title\)")
_MAX_MESSAGE_LENGTH = 1000  # characters of what somebody says that are read

TurnEvent = Preferences | RecommendationList | str
"""The wishes of a turn; what was recommended under them; a piece of the reply."""

OnTurnEvent = Callable[[TurnEvent], None]
"""Told of each part of a turn as it is there. What it raises ends the turn."""

PreferenceParser = Callable[[str, Conversation], Preferences]
"""Reads the wishes that there are once somebody said something."""


class ReplyGenerator(Protocol):
    """Puts a turn into words by a language model."""

    def __call__(self, context: TurnContext, on_text: Callable[[str], None], deadline: Deadline) -> bool:
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
        parser: what reads wishes from words; by default `LexicalParser`.
        reply_generator: what puts a turn into words; by default `compose`, which knows no language model.
        ranking_timeout: seconds that ranking may take, so that somebody who talks is answered in time: a model that needs
            longer leaves the list to the next step of the ladder. By default without end.
    """

    def __init__(
        self,
        recommender: Recommender,
        *,
        k: int = 5,
        parser: PreferenceParser | None = None,
        reply_generator: ReplyGenerator | None = None,
        ranking_timeout: float = math.inf,
    ) -> None:
        self._recommender, self._k, self._reply_generator, self._ranking_timeout = (
            recommender,
            k,
            reply_generator,
            ranking_timeout,
        )
        self._lexical_parser = LexicalParser(recommender.catalog)
        self._parser = parser or self._lexical_parser

    @property
    def catalog(self) -> Catalog:
        """What can be recommended."""
        return self._recommender.catalog

    def respond(
        self,
        conversation: Conversation,
        message: str,
        *,
        on_event: OnTurnEvent | None = None,
        deadline: Deadline | None = None,
    ) -> Conversation:
        """The conversation after somebody said something, and was answered.

        What was recommended before stands behind what was not, and only where too little else is allowed. A question
        ("why the second?", "compare the first and the third") is answered about the list as it stands, and "undo"
        takes the last turn back.

        Args:
            conversation: what was said so far.
            message: what is said now; cut after 1,000 characters.
            on_event: told of wishes, list and reply as they come.
            deadline: until when the list and the reply have to be there; by default without end.

        Raises:
            InputError: nothing was said.
        """
        message = message.strip()[:_MAX_MESSAGE_LENGTH]
        if not message:
            raise InputError("nothing was said; say what you look for")
        tell, deadline = on_event or _ignore_event, deadline or Deadline.never()
        asked = self._lexical_parser.detect_intent(message, conversation.shown)
        if asked is not None:
            return self._answer_intent(conversation, message, asked, tell, deadline)
        return self._run_turn(conversation, message, self._parser(message, conversation), tell, deadline)

    def update_preferences(
        self,
        conversation: Conversation,
        preferences: Preferences,
        *,
        on_event: OnTurnEvent | None = None,
        deadline: Deadline | None = None,
    ) -> Conversation:
        """The conversation after wishes were corrected by hand; see `answer`."""
        return self._run_turn(conversation, "", preferences, on_event or _ignore_event, deadline or Deadline.never())

    def explain(
        self, conversation: Conversation, item_id: ItemId, *, deadline: Deadline | None = None
    ) -> Recommendation:
        """An item that was recommended, with what in the history, as it is now, speaks for it.

        Raises:
            UnknownItemError: it is not in the catalog any more.
        """
        person = self._user_history(conversation, conversation.preferences)
        found: RecommendationList = self._recommender.recommend(
            person,
            1,
            only=[item_id],
            filter_seen=False,
            explain=True,
            deadline=_remaining_seconds(deadline or Deadline.never()),
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
                conversation = self._replay_message(conversation, text.strip()[:_MAX_MESSAGE_LENGTH])
                asked = bool(conversation.shown)
            elif role == "assistant" and conversation.turns:
                last = conversation.turns[-1]
                # A question was answered about some items of a list that stands as it did.
                named = () if asked else self._linked_items(text)
                turn = replace(
                    last,
                    recommendations=RecommendationList(named or last.recommendations.items, proven=False, compared=0),
                    reply=text,
                )
                conversation, asked = replace(conversation, turns=(*conversation.turns[:-1], turn)), False
        return conversation

    def label_text(self, kind: str, value: ItemId) -> str:
        """What a wish is called when it is shown, see `Preferences.labels`: an item by its title."""
        catalog = self._recommender.catalog
        if kind in ("likes", "dislikes"):
            return catalog[catalog.index_of(value)].title
        lacks = _WORD_EXCLUSION.match(str(value))
        return f"no “{lacks[1]}”" if lacks else str(value)

    def _replay_message(self, conversation: Conversation, message: str) -> Conversation:
        asked = self._lexical_parser.detect_intent(message, conversation.shown)
        if asked is not None and asked.kind == "undo":
            return conversation.undo()
        if asked is not None and asked.kind == "start over":
            return replace(conversation, turns=())
        wishes = self._parser(message, conversation) if asked is None else conversation.preferences
        nothing = RecommendationList(conversation.shown if asked else (), proven=False, compared=0)
        turn = Turn(message, wishes, nothing, "", keeps_list=asked is not None)
        return replace(conversation, turns=(*conversation.turns, turn))

    def _linked_items(self, text: str) -> tuple[Recommendation, ...]:
        catalog = self._recommender.catalog
        places = catalog.indices_of(dict.fromkeys(extract_item_ids(text)), on_unknown="skip")
        items = [catalog[int(place)] for place in places]
        return tuple(
            Recommendation(None, item.item_id, rank, 0.0, "named", item.title) for rank, item in enumerate(items, 1)
        )

    def _user_history(self, conversation: Conversation, preferences: Preferences) -> History:
        return History((*conversation.history, *preferences.liked), "; ".join(preferences.words), conversation.user_id)

    def _run_turn(
        self,
        conversation: Conversation,
        message: str,
        preferences: Preferences,
        on_event: OnTurnEvent,
        deadline: Deadline,
    ) -> Conversation:
        on_event(preferences)
        answer = self._rank(conversation, preferences, deadline)
        on_event(answer)
        reply, fallback = self._generate_reply(
            TurnContext(conversation, message, preferences, answer), on_event, deadline
        )
        turn = Turn(message, preferences, answer, reply, fallback)
        return replace(conversation, turns=(*conversation.turns, turn))

    def _rank(self, conversation: Conversation, preferences: Preferences, deadline: Deadline) -> RecommendationList:
        """What was not shown yet, best first, and behind it what was."""
        person = self._user_history(conversation, preferences)
        where = " and ".join(f"({own.where})" for own in preferences.filters) or None
        before = [item.item_id for turn in conversation.turns for item in turn.recommendations.items]
        never = [*conversation.excluded, *preferences.disliked]
        answer = self._recommend(person, self._k, [*never, *before], where, deadline)
        if before and (missing := self._k - len(answer.items)):
            found = [item.item_id for item in answer.items]
            again = self._recommend(person, missing, [*never, *found], where, deadline, answer.seconds)
            items = (replace(item, rank=rank) for rank, item in enumerate((*answer.items, *again.items), start=1))
            return replace(again, items=tuple(items), proven=False)
        return answer

    def _recommend(
        self,
        history: History,
        k: int,
        exclude: Sequence[ItemId],
        where: str | None,
        deadline: Deadline,
        elapsed: float = 0.0,
    ) -> RecommendationList:
        found: RecommendationList = self._recommender.recommend(
            history,
            k,
            exclude=exclude,
            where=where,
            deadline=_remaining_seconds(deadline, self._ranking_timeout - elapsed),
        )
        return found

    def _generate_reply(self, context: TurnContext, on_event: OnTurnEvent, deadline: Deadline) -> tuple[str, bool]:
        """The reply, and whether a model failed to write it; what it began and could not end is ended plainly."""
        pieces: list[str] = []

        def tell_text(piece: str) -> None:
            pieces.append(piece)
            on_event(piece)

        asked = self._reply_generator is not None and bool(context.recommendations.items)
        written = False
        if self._reply_generator is not None and asked:
            try:
                written = self._reply_generator(context, tell_text, deadline)
            except (EngineError, InputError):  # the model failed, or these items cannot be written about
                if pieces:
                    tell_text("\n\n")
        if not written:
            tell_text(format_list(context.recommendations))
        return "".join(pieces), asked and not written

    def _answer_intent(
        self, conversation: Conversation, message: str, intent: UserIntent, on_event: OnTurnEvent, deadline: Deadline
    ) -> Conversation:
        """Answer a question about the list as it stands."""
        if intent.kind in ("undo", "start over"):
            before, conversation = conversation, conversation.undo()
            if intent.kind == "start over":
                conversation = replace(conversation, turns=())
            answer = conversation.turns[-1].recommendations if conversation.turns else RecommendationList((), True, 0)
            told = "Taken back." if before.turns else "There is nothing to take back."
            reply = f"{told} {format_list(answer) if answer.items else 'What do you look for?'}"
            for part in (conversation.preferences, answer, reply):
                on_event(part)
            return conversation
        last = conversation.turns[-1]
        on_event(last.preferences)
        if intent.kind == "why":
            reply = " ".join(self._explanation(conversation, item, deadline) for item in intent.items)
        else:
            reply = self._compare(intent.items)
        on_event(last.recommendations)
        on_event(reply)
        return replace(
            conversation,
            turns=(*conversation.turns, Turn(message, last.preferences, last.recommendations, reply, keeps_list=True)),
        )

    def _explanation(self, conversation: Conversation, item: Recommendation, deadline: Deadline) -> str:
        found = self.explain(conversation, item.item_id, deadline=deadline)
        return f"{format_item_link(item.item_id, item.title)}: {escape_markdown(one_line(found.reason or _NO_REASON))}"

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
            told = escape_markdown(one_line(facts)) or "nothing is known"
            lines.append(f"- {format_item_link(item.item_id, item.title)}: {told}")
        if len(items) == 1:
            return lines[0].removeprefix("- ")
        first = min(items, key=lambda item: item.rank)
        return "\n".join([*lines, "", f"By your wishes {format_item_link(first.item_id, first.title)} comes first."])


def format_list(recommendations: RecommendationList) -> str:
    """A plain reply: the items, each with its rank."""
    if not recommendations.items:
        return "Nothing is left that fits all of this; take one of your wishes back."
    named = (f"{item.rank}. {format_item_link(item.item_id, item.title)}" for item in recommendations.items)
    return "How about: " + ", ".join(named)


def _remaining_seconds(deadline: Deadline, max_seconds: float = math.inf) -> float | None:
    """What is left, for those who count from now; one that has passed leaves what needs no time."""
    left = min(deadline.remaining(), max_seconds)
    return None if left == math.inf else max(left, 1e-6)


def _ignore_event(event: TurnEvent) -> None: ...
