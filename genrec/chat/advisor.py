"""The advisor: continues a conversation by one turn.

    message --PreferenceParser--> preferences --Recommender.recommend--> list --ReplyGenerator or format_list--> reply

Each part is passed on as soon as it is there, so that the user sees the preferences before the list is ranked, and the
list before the reply is written.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from genrec.chat.conversation import Conversation, Turn, TurnContext
from genrec.chat.item_links import ItemLink, split_item_links
from genrec.chat.parsers.intents import UserIntent, detect_intent
from genrec.chat.parsers.lexical import LexicalParser
from genrec.chat.plain_replies import (
    ReplyGenerator,
    format_comparison,
    format_list,
    format_reason,
    format_withdrawn,
)
from genrec.chat.preferences import Label, Preferences
from genrec.chat.turn_request import TurnRequest, numbered, split_withdrawn, without_withdrawn
from genrec.data.catalog import UNKNOWN, WITHDRAWN, Catalog
from genrec.deadline import Deadline
from genrec.errors import InputError
from genrec.notices import Notice
from genrec.rankers.failures import FailureLog, is_failure
from genrec.recommender import Recommender
from genrec.types import ItemId, Recommendation, RecommendationList, Role

_MAX_MESSAGE_LENGTH = 1000  # characters of a message that are read
_MAX_LINKED_ITEMS = 100  # items of a reply that count as its list in a replay, so that forged replies cost no more time
_NOTICES_OF_A_PART = ("few_allowed", "nothing_allowed")  # they count what one part of a list was allowed

TurnEvent = Preferences | RecommendationList | str
"""A part of a turn: the preferences after the message, the list, or a piece of the reply."""

OnTurnEvent = Callable[[TurnEvent], None]
"""Receives each part of a turn as soon as it is there. An exception from it ends the turn."""

PreferenceParser = Callable[[str, Conversation, Deadline], Preferences]
"""Parses a message: returns the preferences of the conversation after it, by a deadline.

Equal messages after equal preferences and lists must give equal preferences.
"""

_Readings = dict[tuple[str, Preferences, tuple[tuple[ItemId, str], ...]], Preferences]
"""The preferences after a message, by the message, the preferences before it, and the ids and titles of the list."""


class Advisor:
    """Continues conversations.

    A conversation may hold items that were withdrawn from the catalog since. They stay in it, and are ignored with a
    notice; an earlier list that is shown again leaves them out. Items that were never in the catalog are an error.

    Args:
        recommender: ranks the items.
        k: items per list.
        parser: parses preferences; by default `LexicalParser`.
        reply_generator: writes replies with a language model; by default replies are plain lists.
        ranking_timeout: seconds that ranking may take in a turn. A slower stage leaves the list to the next stage.
            Unlimited by default.
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
        self._recommender, self._k, self._ranking_timeout = recommender, k, ranking_timeout
        self._parser = parser or LexicalParser(recommender.catalog)
        self._reply_generator, self._failure_log = reply_generator, FailureLog()

    @property
    def catalog(self) -> Catalog:
        """The catalog of the recommender."""
        return self._recommender.catalog

    def respond(
        self,
        conversation: Conversation,
        message: str,
        *,
        on_event: OnTurnEvent | None = None,
        deadline: Deadline | None = None,
    ) -> Conversation:
        """Reply to a message.

        New items come before those that were shown before; the latter return only if too few others are allowed. A
        question ("why the second?", "compare the first and the third") is answered about the current list, and "undo"
        removes the last turn.

        Args:
            conversation: the conversation so far.
            message: the user's message; cut after 1,000 characters, which a notice of the list says.
            on_event: receives preferences, list and reply as they become available.
            deadline: when list and reply must be complete; by default never.

        Returns:
            The conversation with the new turn.

        Raises:
            InputError: the message is empty.
            UnknownItemError: an item of the conversation was never in the catalog.
        """
        whole = message.strip()
        message = whole[:_MAX_MESSAGE_LENGTH]
        if not message:
            raise InputError("the message is empty; write what you are looking for")
        on_event, deadline = on_event or _ignore_event, deadline or Deadline.never()
        intent = detect_intent(message, conversation.shown)
        if intent is None:
            preferences = self._parser(message, conversation, deadline)
            cut = Notice("message_cut", {"read": len(message), "total": len(whole)})
            notices = (cut,) if len(whole) > len(message) else ()
            return self._run_turn(conversation, message, preferences, on_event, deadline, notices)
        if intent.kind in ("undo", "start over"):
            return self._remove_turns(conversation, intent, on_event)
        return self._answer_question(conversation, message, intent, on_event, deadline)

    def update_preferences(
        self,
        conversation: Conversation,
        preferences: Preferences,
        *,
        on_event: OnTurnEvent | None = None,
        deadline: Deadline | None = None,
    ) -> Conversation:
        """Recommend under preferences that the user edited; see `respond`."""
        return self._run_turn(conversation, "", preferences, on_event or _ignore_event, deadline or Deadline.never())

    def explain(
        self, conversation: Conversation, item_id: ItemId, *, deadline: Deadline | None = None
    ) -> Recommendation:
        """Recommend one given item, with the reason from the current history and preferences.

        Raises:
            UnknownItemError: the item was withdrawn, or was never in the catalog.
        """
        if self.catalog.lookup([item_id])[0] == WITHDRAWN:
            self.catalog.index_of(item_id)  # raises
        recommendations: RecommendationList = self._recommender.recommend(
            TurnRequest.from_conversation(conversation, conversation.preferences, self.catalog).history,
            1,
            only=[item_id],
            filter_seen=False,
            explain=True,
            deadline=_remaining_seconds(deadline or Deadline.never()),
        )
        return recommendations.items[0]

    def replay(
        self, conversation: Conversation, messages: Iterable[tuple[Role, str]], *, deadline: Deadline | None = None
    ) -> Conversation:
        """Restore a conversation from its messages; the items of each list are those that the reply links to.

        Preferences are parsed again and nothing is ranked. Links to unknown items are ignored, and so are those after
        the first 100 of a reply. Items that were withdrawn since keep their places, so that "the second" is still the
        item that the user saw there.

        Args:
            conversation: the conversation before the messages.
            messages: role and text of each message, oldest first; roles other than "user" and "assistant" are ignored.
            deadline: when all messages must be read; by default never.

        Raises:
            DeadlineExceededError: the deadline passed before all messages were read, so preferences may be missing.
        """
        deadline, readings = deadline or Deadline.never(), _Readings()
        is_question = False
        for role, text in messages:
            if role == "user" and text.strip():
                conversation = self._replay_message(
                    conversation, text.strip()[:_MAX_MESSAGE_LENGTH], deadline, readings
                )
                deadline.check()
                is_question = bool(conversation.shown)
            elif role == "assistant" and conversation.turns:
                last = conversation.turns[-1]
                # The answer to a question links to some items of a list that stays as it was.
                linked = () if is_question else self._linked_items(text)
                recommendations = RecommendationList(linked or last.recommendations.items, proven=False, compared=0)
                turn = replace(last, recommendations=recommendations, reply=text)
                conversation, is_question = replace(conversation, turns=(*conversation.turns[:-1], turn)), False
        return conversation

    def label_text(self, preferences: Preferences, label: Label) -> str:
        """The text of a label: an item by its title, an exclusion by its word, anything else by its value."""
        kind, value = label
        if kind in ("likes", "dislikes"):
            (item_index,) = self.catalog.lookup([value])
            return (
                f"{value} (withdrawn)" if item_index == WITHDRAWN else self.catalog[self.catalog.index_of(value)].title
            )
        phrases = (
            condition.excluded_phrase
            for condition in preferences.filters
            if kind == "only" and condition.where == value
        )
        excluded = next(phrases, None)
        return str(value) if excluded is None else f"no “{excluded}”"

    def _replay_message(
        self, conversation: Conversation, message: str, deadline: Deadline, readings: _Readings
    ) -> Conversation:
        intent = detect_intent(message, conversation.shown)
        if intent is not None and intent.kind in ("undo", "start over"):
            return _without_turns(conversation, intent)
        preferences = conversation.preferences
        if intent is None:
            # The items' ids and titles are all that a parser reads of a list.
            shown = tuple((item.item_id, item.title) for item in conversation.shown)
            key = (message, preferences, shown)
            if key not in readings:
                readings[key] = self._parser(message, conversation, deadline)
            preferences = readings[key]
        recommendations = RecommendationList(conversation.shown if intent else (), proven=False, compared=0)
        turn = Turn(message, preferences, recommendations, "", keeps_list=intent is not None)
        return _with_turn(conversation, turn)

    def _linked_items(self, text: str) -> tuple[Recommendation, ...]:
        titles: dict[ItemId, str] = {}
        for piece in split_item_links(text):
            if isinstance(piece, ItemLink):
                titles.setdefault(piece.item_id, piece.title)
        item_ids = list(titles)[:_MAX_LINKED_ITEMS]
        known = [
            (self.catalog[int(at)].item_id, self.catalog[int(at)].title) if at >= 0 else (item_id, titles[item_id])
            for item_id, at in zip(item_ids, self.catalog.lookup(item_ids), strict=True)
            if at != UNKNOWN
        ]
        return numbered(Recommendation(None, item_id, 0, 0.0, "named", title) for item_id, title in known)

    def _run_turn(
        self,
        conversation: Conversation,
        message: str,
        preferences: Preferences,
        on_event: OnTurnEvent,
        deadline: Deadline,
        notices: tuple[Notice, ...] = (),
    ) -> Conversation:
        on_event(preferences)
        recommendations = self._rank(conversation, preferences, deadline)
        recommendations = replace(recommendations, notices=(*notices, *recommendations.notices))
        on_event(recommendations)
        context = TurnContext(conversation, message, preferences, recommendations)
        reply, is_fallback = self._generate_reply(context, on_event, deadline)
        return _with_turn(conversation, Turn(message, preferences, recommendations, reply, is_fallback))

    def _rank(self, conversation: Conversation, preferences: Preferences, deadline: Deadline) -> RecommendationList:
        """Rank items that were not shown yet, followed by shown ones if there are too few."""
        request = TurnRequest.from_conversation(conversation, preferences, self.catalog)
        found = self._recommend(request, self._k, request.shown, deadline)
        if request.shown and (missing := self._k - len(found.items)):
            new_ids = [item.item_id for item in found.items]
            repeated = self._recommend(request, missing, new_ids, deadline, found.seconds)
            found = _concat_lists(found, repeated, self._k)
        return replace(found, notices=(*request.notices, *found.notices))

    def _recommend(
        self, request: TurnRequest, k: int, left_out: Sequence[ItemId], deadline: Deadline, elapsed: float = 0.0
    ) -> RecommendationList:
        recommendations: RecommendationList = self._recommender.recommend(
            request.history,
            k,
            exclude=[*request.excluded, *left_out],
            where=request.where,
            deadline=_remaining_seconds(deadline, self._ranking_timeout - elapsed),
        )
        return recommendations

    def _generate_reply(self, context: TurnContext, on_event: OnTurnEvent, deadline: Deadline) -> tuple[str, bool]:
        """Write the reply; if the model fails, the plain list replaces or follows its text.

        Returns:
            The reply, and whether the model failed.
        """
        pieces: list[str] = []
        listener_failed = False

        def emit(piece: str) -> None:
            nonlocal listener_failed
            pieces.append(piece)
            listener_failed = True
            on_event(piece)
            listener_failed = False

        if self._reply_generator is None or not context.recommendations.items:
            emit(format_list(context.recommendations))
            return "".join(pieces), False
        is_complete = False
        try:
            is_complete = self._reply_generator(context, emit, deadline)
        except BaseException as error:
            if listener_failed or not is_failure(error):  # the listener ends the turn
                raise
            self._failure_log.log("reply", error)
            if pieces:
                emit("\n\n")
        if not is_complete:
            emit(format_list(context.recommendations))
        return "".join(pieces), not is_complete

    def _remove_turns(self, conversation: Conversation, intent: UserIntent, on_event: OnTurnEvent) -> Conversation:
        """Undo the last turn or all turns, and show the list before them again."""
        kept, recommendations = _without_turns(conversation, intent), RecommendationList((), True, 0)
        if kept.turns:
            recommendations = without_withdrawn(kept.turns[-1].recommendations, self.catalog)
            # The reply lists the items that are left, and later messages refer to their positions in it.
            recommendations = replace(recommendations, items=numbered(recommendations.items))
            kept = replace(kept, turns=(*kept.turns[:-1], replace(kept.turns[-1], recommendations=recommendations)))
        result = "Undone." if conversation.turns else "There is nothing to undo."
        next_step = format_list(recommendations) if recommendations.items else "What are you looking for?"
        for event in (kept.preferences, recommendations, f"{result} {next_step}"):
            on_event(event)
        return kept

    def _answer_question(
        self, conversation: Conversation, message: str, intent: UserIntent, on_event: OnTurnEvent, deadline: Deadline
    ) -> Conversation:
        """Answer a question about the current list."""
        last = conversation.turns[-1]
        on_event(last.preferences)
        items, withdrawn = split_withdrawn(intent.items, self.catalog)
        answers = [format_withdrawn(item) for item in withdrawn]
        if intent.kind == "why":
            answers += [
                format_reason(item, self.explain(conversation, item.item_id, deadline=deadline).reason)
                for item in items
            ]
        elif items:
            answers.append(format_comparison(items, self.catalog))
        reply = (" " if intent.kind == "why" else "\n").join(answers)
        on_event(without_withdrawn(last.recommendations, self.catalog))
        on_event(reply)
        return _with_turn(conversation, Turn(message, last.preferences, last.recommendations, reply, keeps_list=True))


def _concat_lists(first: RecommendationList, second: RecommendationList, k: int) -> RecommendationList:
    """One list of up to k items from two that share none, with the cost, notices and failed stages of both.

    What one part was allowed says nothing about the whole, so the notice about that is made anew.
    """
    items = numbered((*first.items, *second.items))
    notices: list[Notice] = []
    for notice in (*first.notices, *second.notices):
        if notice not in notices and notice.code not in _NOTICES_OF_A_PART:
            notices.append(notice)
    if len(items) < k:
        notices.append(Notice("few_allowed", {"allowed": len(items), "k": k}))
    return RecommendationList(
        items,
        proven=False,
        compared=first.compared + second.compared,
        notices=tuple(notices),
        seconds=first.seconds + second.seconds,
        tokens=first.tokens + second.tokens,
        failed_stages=tuple(dict.fromkeys((*first.failed_stages, *second.failed_stages))),
    )


def _with_turn(conversation: Conversation, turn: Turn) -> Conversation:
    return replace(conversation, turns=(*conversation.turns, turn))


def _without_turns(conversation: Conversation, intent: UserIntent) -> Conversation:
    """Undo the last turn, or all of them."""
    return conversation.undo() if intent.kind == "undo" else replace(conversation, turns=())


def _remaining_seconds(deadline: Deadline, limit: float = math.inf) -> float | None:
    """Seconds until the deadline, at most `limit` and always above 0; None if there is no limit."""
    seconds = min(deadline.remaining(), limit)
    return None if seconds == math.inf else max(seconds, 1e-6)


def _ignore_event(event: TurnEvent) -> None: ...
