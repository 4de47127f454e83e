"""Request schemas of conversations: OpenAI's chat completions, and genrec's preferences."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from genrec.chat.preferences import Preferences
from genrec.serve.schemas import Body, Id, IntegralFloat, LongText, MessageText, Name, QueryText
from genrec.types import Role


class LimitBody(Body):
    """A filter; see `genrec.chat.preferences.PreferenceFilter`."""

    about: LongText
    where: LongText


class PreferencesBody(Body):
    """Preferences; see `genrec.chat.preferences.Preferences`. They grow with a conversation, as its messages do."""

    liked: list[Id] = Field(default=[])
    disliked: list[Id] = Field(default=[])
    words: Annotated[list[QueryText], Field(max_length=10)] = Field(default=[])
    limits: Annotated[list[LimitBody], Field(max_length=1000)] = Field(default=[])

    @classmethod
    def from_preferences(cls, preferences: Preferences) -> "PreferencesBody":
        """Preferences as a body, without validation."""
        limits = [
            LimitBody.model_construct(about=condition.key, where=condition.where) for condition in preferences.filters
        ]
        return cls.model_construct(
            liked=list(preferences.liked),
            disliked=list(preferences.disliked),
            words=list(preferences.words),
            limits=limits,
        )


class GenrecExtension(Body):
    """Fields in addition to OpenAI's API.

    `wishes` are the preferences before the last message; without them, preferences are parsed from all messages. If the
    last message is not from the user, `wishes` are an edit by hand, and the response is a new list.
    """

    user_id: Id | None = None
    history: Annotated[list[Id], Field(max_length=1000)] = Field(default=[])
    wishes: PreferencesBody | None = None
    k: Annotated[StrictInt, Field(ge=1, le=50), IntegralFloat] | None = None


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: MessageText


class UnreadPart(BaseModel):
    """A part of a message that is not read."""

    type: Literal["image_url", "input_audio", "file", "refusal"]


ContentPart = Annotated[TextPart | UnreadPart, Field(discriminator="type")]


class ChatMessage(BaseModel):
    """A message; only the text of the user and the assistant is read."""

    role: Role | Literal["developer", "tool", "function"]
    content: MessageText | list[ContentPart] | None = None

    @property
    def text(self) -> str:
        """The text of all parts."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if isinstance(part, TextPart))
        return self.content or ""

    @property
    def unread_types(self) -> tuple[str, ...]:
        """The types of the parts that are not text."""
        parts = self.content if isinstance(self.content, list) else []
        return tuple(dict.fromkeys(part.type for part in parts if isinstance(part, UnreadPart)))


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = None


class ChatBody(BaseModel):
    """A chat completion request of OpenAI's API.

    Clients send the whole conversation with each message, so only the size of the body limits it. Other parameters are
    ignored, and named in `genrec.notices` of the answer; `genrec.serve.openai_parameters` lists those that are refused.

    Source: OpenAI's API reference, "Create chat completion".
    """

    model_config = ConfigDict(extra="allow")

    model: Name | None = None
    messages: list[ChatMessage]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[Literal[1], IntegralFloat] | None = None
    genrec: GenrecExtension | None = None

    @property
    def other_parameters(self) -> dict[str, Any]:
        """The parameters without a field of their own."""
        options = {} if self.stream_options is None else self.stream_options.model_extra or {}
        return {**(self.model_extra or {}), **{f"stream_options.{name}": value for name, value in options.items()}}
