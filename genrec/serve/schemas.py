"""What goes over the wire, checked before anything sees it. Lengths are limits of one request, not of what is kept."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)

from genrec.batch.input import is_encodable
from genrec.chat.conversation import PreferenceFilter, Preferences
from genrec.types import ItemId, Role, UserId

_MAX_ITEM_IDS, _MAX_K, _MAX_EVENTS, _MAX_DEADLINE = 10_000, 1_000, 1_000, 60.0
_INT64_LIMIT, _MAX_EXACT_FLOAT = 2**63, 2**53
_MAX_ID_LENGTH = 200


def _check_text(text: str) -> str:
    """A text that can be written: neither a lone surrogate, which JSON can spell, nor a null character."""
    if not is_encodable(text) or "\0" in text:
        raise ValueError("Input should hold no lone surrogate and no null character")
    return text


def _integral_float_to_int(value: object) -> object:
    """JSON knows one kind of number: 5.0 is as whole as 5, as JSON Schema has it."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= _MAX_EXACT_FLOAT else value


def _parse_id(value: object) -> ItemId:
    """One function for texts and numbers: a union tells of what it tried, not of what is wrong."""
    value = _integral_float_to_int(value)
    if isinstance(value, str) and 0 < len(value) <= _MAX_ID_LENGTH:
        return _check_text(value)
    if isinstance(value, int) and not isinstance(value, bool) and -_INT64_LIMIT <= value < _INT64_LIMIT:
        return value
    raise ValueError(f"Input should be a text of 1 to {_MAX_ID_LENGTH} characters, or a whole number of 64 bits")


_TEXT_SCHEMA: dict[str, Any] = {"pattern": "^[^\\u0000]*$"}
_TextCheck = AfterValidator(_check_text)
Name = Annotated[StrictStr, Field(min_length=1, max_length=_MAX_ID_LENGTH, json_schema_extra=_TEXT_SCHEMA), _TextCheck]
ShortText = Annotated[StrictStr, Field(min_length=1, max_length=100, json_schema_extra=_TEXT_SCHEMA), _TextCheck]
LongText = Annotated[StrictStr, Field(min_length=1, max_length=2000, json_schema_extra=_TEXT_SCHEMA), _TextCheck]
MessageText = Annotated[StrictStr, Field(max_length=20_000, json_schema_extra=_TEXT_SCHEMA), _TextCheck]
QueryText = Annotated[StrictStr, Field(min_length=1, max_length=1000, json_schema_extra=_TEXT_SCHEMA), _TextCheck]
OptionalQueryText = Annotated[StrictStr, Field(max_length=1000, json_schema_extra=_TEXT_SCHEMA), _TextCheck]

_ID_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": _MAX_ID_LENGTH, **_TEXT_SCHEMA},
        {"type": "integer", "format": "int64"},
    ]
}
_IntegralFloat = BeforeValidator(_integral_float_to_int)
Id = Annotated[ItemId, PlainValidator(_parse_id), WithJsonSchema(_ID_SCHEMA)]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False, strict=True)]
ItemIds = Annotated[list[Id], Field(max_length=_MAX_ITEM_IDS)]


def _property_names(max_length: int) -> dict[str, Any]:
    """What the names in an object may be, where pydantic tells but a part of it."""
    return {"propertyNames": {"type": "string", "minLength": 1, "maxLength": max_length, **_TEXT_SCHEMA}}


class Body(BaseModel):
    """What somebody sends: a field that nobody knows is a mistake that must not pass in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorDetail(BaseModel):
    """Why a request was refused."""

    message: str
    type: str
    param: str | None
    code: str
    reason: str | None = None


class ErrorResponse(BaseModel):
    """A refusal, in OpenAI's shape."""

    error: ErrorDetail


class RecommendOptions(Body):
    """How many items, and which may be among them; see `Recommender.recommend`."""

    k: Annotated[StrictInt, Field(ge=1, le=_MAX_K, description="List length."), _IntegralFloat] = 10
    filter_seen: Annotated[bool, Field(strict=True, description="Leave out what is in the history.")] = True
    only: ItemIds | None = None
    exclude: ItemIds | None = None
    where: Annotated[LongText, Field(description="A filter on attributes, such as price < 5.")] | None = None
    boost: (
        Annotated[dict[Name, FiniteFloat], Field(max_length=_MAX_K, json_schema_extra=_property_names(200))] | None
    ) = None
    explain: Annotated[bool, Field(strict=True)] = False
    deadline: (
        Annotated[FiniteFloat, Field(gt=0, le=_MAX_DEADLINE, description="Seconds that ranking may take.")] | None
    ) = None
    on_unknown: Annotated[
        Literal["raise", "skip", "fallback"], Field(description="What becomes of users and items nobody knows.")
    ] = "fallback"

    @property
    def options(self) -> dict[str, Any]:
        """What `Recommender.recommend` takes by name."""
        return {name: getattr(self, name) for name in RecommendOptions.model_fields if name != "k"}


class RecommendBody(RecommendOptions):
    """A list for somebody: known by an id, by a history, by words, by several of these or by nothing."""

    user_id: Id | None = None
    history: Annotated[ItemIds, Field(description="Items met, oldest first; behind those that are known.")] = []
    words: Annotated[OptionalQueryText, Field(description="What they say they look for.")] = ""


class SearchBody(RecommendBody):
    """A list for words."""

    words: Annotated[QueryText, Field(description="What is looked for.")]


class RelatedBody(RecommendOptions):
    """A list beside one item."""

    item_id: Id


class EventBody(Body):
    """Somebody did something with an item."""

    user_id: Id
    item_id: Id
    timestamp: (
        Annotated[FiniteFloat, Field(ge=-1e12, le=1e12, description="Seconds since 1970; now if left out.")] | None
    ) = None
    event: ShortText | None = None
    weight: Annotated[
        FiniteFloat,
        Field(
            ge=-1e6,
            le=1e6,
            description="Above 0: they met the item. 0 or less: taken back, and not recommended until a later event.",
        ),
    ] = 1.0
    event_id: Annotated[Name, Field(description="The same id again is not counted again.")] | None = None


class EventsBody(Body):
    """Events, kept all or none."""

    events: Annotated[list[EventBody], Field(min_length=1, max_length=_MAX_EVENTS)]


class EventsResponse(BaseModel):
    """How many events were new."""

    added: int


class HistoryItem(BaseModel):
    """An item of a history."""

    item_id: ItemId
    title: str


class HistoryResponse(BaseModel):
    """What somebody met, oldest first, as it is shown to rankers."""

    user_id: UserId
    items: list[HistoryItem]


class ForgetResponse(BaseModel):
    """What was removed of somebody, by where it was kept."""

    user_id: UserId
    removed: dict[str, int]


Attribute = StrictStr | StrictInt | FiniteFloat | bool | None | list[StrictStr]


class ItemBody(Body):
    """An item by its title and other columns."""

    title: LongText
    attributes: Annotated[
        dict[ShortText, Attribute], Field(max_length=100, json_schema_extra=_property_names(100))
    ] = {}


class ItemWithId(ItemBody):
    """An item with its id."""

    item_id: Id


class ItemsBody(Body):
    """Items to add, or to put in the place of those of the same ids."""

    items: Annotated[list[ItemWithId], Field(min_length=1, max_length=_MAX_EVENTS)]


class ItemResponse(BaseModel):
    """An item as the catalog has it."""

    item_id: ItemId
    title: str
    attributes: dict[str, Any]


class ItemsResponse(BaseModel):
    """Some items in the catalog's order, and how many there are."""

    items: list[ItemResponse]
    total: int


class CatalogResponse(BaseModel):
    """How many items the catalog has after a change, which the next request sees."""

    total: int


class LimitBody(Body):
    """A limit, see `genrec.chat.conversation.PreferenceFilter`."""

    about: LongText
    where: LongText


class PreferencesBody(Body):
    """Wishes, see `genrec.chat.conversation.Preferences`."""

    liked: Annotated[list[Id], Field(max_length=100)] = []
    disliked: Annotated[list[Id], Field(max_length=1000)] = []
    words: Annotated[list[QueryText], Field(max_length=10)] = []
    limits: Annotated[list[LimitBody], Field(max_length=50)] = []

    @property
    def preferences(self) -> Preferences:
        """As a value."""
        limits = tuple(PreferenceFilter(own.about, own.where) for own in self.limits)
        return Preferences(tuple(self.liked), tuple(self.disliked), tuple(self.words), limits)

    @classmethod
    def from_preferences(cls, preferences: Preferences) -> "PreferencesBody":
        """As a body, unchecked: they were checked when they were read."""
        limits = [LimitBody.model_construct(about=own.key, where=own.where) for own in preferences.filters]
        return cls.model_construct(
            liked=list(preferences.liked),
            disliked=list(preferences.disliked),
            words=list(preferences.words),
            limits=limits,
        )


class GenrecExtension(Body):
    """What genrec takes beside what OpenAI's API has.

    Without `wishes` these are read from all messages. With them they are what was wished before the last message; where
    that is the assistant's, or there is none, they were corrected by hand, and a new list is the answer.
    """

    user_id: Id | None = None
    history: Annotated[list[Id], Field(max_length=1000)] = []
    wishes: PreferencesBody | None = None
    k: Annotated[StrictInt, Field(ge=1, le=50), _IntegralFloat] | None = None


class ContentPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: MessageText


class ChatMessage(BaseModel):
    """One turn; only what persons and the assistant said is read."""

    role: Role | Literal["developer", "tool"]
    content: MessageText | Annotated[list[ContentPart], Field(max_length=100)] | None = None

    @property
    def text(self) -> str:
        """All of it."""
        if isinstance(self.content, list):
            return "\n".join(piece.text for piece in self.content)
        return self.content or ""


class StreamOptions(BaseModel):
    """What a stream tells beside the text."""

    include_usage: bool | None = None


class ChatBody(BaseModel):
    """OpenAI's chat completion. How the text is drawn is decided here, so other fields change nothing and are taken.

    Source: OpenAI's API reference, "Create chat completion".
    """

    model: Name | None = None
    messages: Annotated[list[ChatMessage], Field(max_length=200)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[Literal[1], _IntegralFloat] | None = None
    genrec: GenrecExtension | None = None
