"""A conversation about recommendations, as an immutable value.

`genrec.chat.advisor.Advisor` takes a conversation and returns it with one more turn.
"""

from dataclasses import dataclass, replace

from genrec.chat.preferences import Preferences
from genrec.types import ItemId, Recommendation, RecommendationList, UserId


@dataclass(frozen=True)
class Turn:
    """A user's message and the reply to it.

    Attributes:
        message: the user's message; empty if the user edited preferences instead.
        preferences: the preferences after the message.
        recommendations: the list recommended under these preferences.
        reply: the reply in Markdown; it names items by the links of `genrec.chat.item_links`.
        is_fallback_reply: the language model failed to write the reply, so it is the plain list.
        keeps_list: the message was a question about the previous list and changed nothing.
    """

    message: str
    preferences: Preferences
    recommendations: RecommendationList
    reply: str
    is_fallback_reply: bool = False
    keeps_list: bool = False


@dataclass(frozen=True)
class Conversation:
    """The turns so far, and what was known about the user before them.

    Attributes:
        user_id: the caller's id; None for an unknown user.
        history: item ids from before the conversation, oldest first.
        turns: oldest first.
        excluded: item ids that must never be recommended.
    """

    user_id: UserId | None = None
    history: tuple[ItemId, ...] = ()
    turns: tuple[Turn, ...] = ()
    excluded: tuple[ItemId, ...] = ()

    @property
    def preferences(self) -> Preferences:
        """The preferences after the last turn."""
        return self.turns[-1].preferences if self.turns else Preferences()

    @property
    def shown(self) -> tuple[Recommendation, ...]:
        """The items recommended last, best first."""
        return self.turns[-1].recommendations.items if self.turns else ()

    def undo(self) -> "Conversation":
        """Remove the last turn that was not a question, and the questions after it; empty after the first turn."""
        kept = len(self.turns)
        while kept and self.turns[kept - 1].keeps_list:
            kept -= 1
        return replace(self, turns=self.turns[: max(kept - 1, 0)])


@dataclass(frozen=True)
class TurnContext:
    """Everything about a turn except its reply, which is written from it.

    Attributes:
        conversation: the conversation before the turn.
        message: the user's message.
        preferences: the preferences after it.
        recommendations: the list to reply with.
    """

    conversation: Conversation
    message: str
    preferences: Preferences
    recommendations: RecommendationList
