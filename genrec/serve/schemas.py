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

from genrec.batch.input import is_text
from genrec.chat.conversation import Limit, Wishes
from genrec.types import ItemId, Role, UserId

_MOST_ITEMS, _MOST_K, _MOST_EVENTS, _MOST_SECONDS = 10_000, 1_000, 1_000, 60.0
_LONG, _EXACT = 2**63, 2**53
_LONGEST_ID = 200


def _written(text: str) -> str:
    """A text that can be written: neither a lone surrogate, which JSON can spell, nor a null character."""
    if not is_text(text) or "\0" in text:
        raise ValueError("Input should hold no lone surrogate and no null character")
    return text


def _whole(value: object) -> object:
    """JSON knows one kind of number: 5.0 is as whole as 5, as JSON Schema has it."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT else value


def _read_id(value: object) -> ItemId:
    """One function for texts and numbers: a union tells of what it tried, not of what is wrong."""
    value = _whole(value)
    if isinstance(value, str) and 0 < len(value) <= _LONGEST_ID:
        return _written(value)
    if isinstance(value, int) and not isinstance(value, bool) and -_LONG <= value < _LONG:
        return value
    raise ValueError(f"Input should be a text of 1 to {_LONGEST_ID} characters, or a whole number of 64 bits")


_WRITTEN: dict[str, Any] = {"pattern": "^[^\\u0000]*$"}
_Checked = AfterValidator(_written)
Name = Annotated[StrictStr, Field(min_length=1, max_length=_LONGEST_ID, json_schema_extra=_WRITTEN), _Checked]
Short = Annotated[StrictStr, Field(min_length=1, max_length=100, json_schema_extra=_WRITTEN), _Checked]
Line = Annotated[StrictStr, Field(min_length=1, max_length=2000, json_schema_extra=_WRITTEN), _Checked]
Said = Annotated[StrictStr, Field(max_length=20_000, json_schema_extra=_WRITTEN), _Checked]
Words = Annotated[StrictStr, Field(min_length=1, max_length=1000, json_schema_extra=_WRITTEN), _Checked]
AnyWords = Annotated[StrictStr, Field(max_length=1000, json_schema_extra=_WRITTEN), _Checked]

_ID_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": _LONGEST_ID, **_WRITTEN},
        {"type": "integer", "format": "int64"},
    ]
}
_Whole = BeforeValidator(_whole)
Id = Annotated[ItemId, PlainValidator(_read_id), WithJsonSchema(_ID_SCHEMA)]
Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Ids = Annotated[list[Id], Field(max_length=_MOST_ITEMS)]


def _names(longest: int) -> dict[str, Any]:
    """What the names in an object may be, where pydantic tells but a part of it."""
    return {"propertyNames": {"type": "string", "minLength": 1, "maxLength": longest, **_WRITTEN}}


class Body(BaseModel):
    """What somebody sends: a field that nobody knows is a mistake that must not pass in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Fault(BaseModel):
    """Why a request was refused."""

    message: str
    type: str
    param: str | None
    code: str


class Failure(BaseModel):
    """A refusal, in OpenAI's shape."""

    error: Fault


class Ask(Body):
    """How many items, and which may be among them; see `Recommender.recommend`."""

    k: Annotated[StrictInt, Field(ge=1, le=_MOST_K, description="List length."), _Whole] = 10
    filter_seen: Annotated[bool, Field(strict=True, description="Leave out what is in the history.")] = True
    only: Ids | None = None
    exclude: Ids | None = None
    where: Annotated[Line, Field(description="A filter on attributes, such as price < 5.")] | None = None
    boost: Annotated[dict[Name, Number], Field(max_length=_MOST_K, json_schema_extra=_names(200))] | None = None
    explain: Annotated[bool, Field(strict=True)] = False
    deadline: Annotated[Number, Field(gt=0, le=_MOST_SECONDS, description="Seconds that ranking may take.")] | None = (
        None
    )
    on_unknown: Annotated[
        Literal["raise", "skip", "fallback"], Field(description="What becomes of users and items nobody knows.")
    ] = "fallback"

    @property
    def options(self) -> dict[str, Any]:
        """What `Recommender.recommend` takes by name."""
        return {name: getattr(self, name) for name in Ask.model_fields if name != "k"}


class Recommend(Ask):
    """A list for somebody: known by an id, by a history, by words, by several of these or by nothing."""

    user_id: Id | None = None
    history: Annotated[Ids, Field(description="Items met, oldest first; behind those that are known.")] = []
    words: Annotated[AnyWords, Field(description="What they say they look for.")] = ""


class Search(Recommend):
    """A list for words."""

    words: Annotated[Words, Field(description="What is looked for.")]


class Related(Ask):
    """A list beside one item."""

    item_id: Id


class EventBody(Body):
    """Somebody did something with an item."""

    user_id: Id
    item_id: Id
    timestamp: (
        Annotated[Number, Field(ge=-1e12, le=1e12, description="Seconds since 1970; now if left out.")] | None
    ) = None
    event: Short | None = None
    weight: Annotated[
        Number,
        Field(
            ge=-1e6,
            le=1e6,
            description="Above 0: they met the item. 0 or less: taken back, and not recommended until a later event.",
        ),
    ] = 1.0
    event_id: Annotated[Name, Field(description="The same id again is not counted again.")] | None = None


class EventsBody(Body):
    """Events, kept all or none."""

    events: Annotated[list[EventBody], Field(min_length=1, max_length=_MOST_EVENTS)]


class Kept(BaseModel):
    """How many events were new."""

    added: int


class Met(BaseModel):
    """An item of a history."""

    item_id: ItemId
    title: str


class HistoryAnswer(BaseModel):
    """What somebody met, oldest first, as it is shown to rankers."""

    user_id: UserId
    items: list[Met]


class Forgotten(BaseModel):
    """What was removed of somebody, by where it was kept."""

    user_id: UserId
    removed: dict[str, int]


Attribute = StrictStr | StrictInt | Number | bool | None | list[StrictStr]


class ItemBody(Body):
    """An item by its title and other columns."""

    title: Line
    attributes: Annotated[dict[Short, Attribute], Field(max_length=100, json_schema_extra=_names(100))] = {}


class NamedItem(ItemBody):
    """An item with its id."""

    item_id: Id


class ItemsBody(Body):
    """Items to add, or to put in the place of those of the same ids."""

    items: Annotated[list[NamedItem], Field(min_length=1, max_length=_MOST_EVENTS)]


class ItemAnswer(BaseModel):
    """An item as the catalog has it."""

    item_id: ItemId
    title: str
    attributes: dict[str, Any]


class ItemsAnswer(BaseModel):
    """Some items in the catalog's order, and how many there are."""

    items: list[ItemAnswer]
    total: int


class CatalogAnswer(BaseModel):
    """How many items the catalog has after a change, which the next request sees."""

    total: int


class LimitBody(Body):
    """A limit, see `genrec.chat.conversation.Limit`."""

    about: Line
    where: Line


class WishesBody(Body):
    """Wishes, see `genrec.chat.conversation.Wishes`."""

    liked: Annotated[list[Id], Field(max_length=100)] = []
    disliked: Annotated[list[Id], Field(max_length=1000)] = []
    words: Annotated[list[Words], Field(max_length=10)] = []
    limits: Annotated[list[LimitBody], Field(max_length=50)] = []

    @property
    def wishes(self) -> Wishes:
        """As a value."""
        limits = tuple(Limit(own.about, own.where) for own in self.limits)
        return Wishes(tuple(self.liked), tuple(self.disliked), tuple(self.words), limits)

    @classmethod
    def of(cls, wishes: Wishes) -> "WishesBody":
        """As a body, unchecked: they were checked when they were read."""
        limits = [LimitBody.model_construct(about=own.about, where=own.where) for own in wishes.limits]
        return cls.model_construct(
            liked=list(wishes.liked), disliked=list(wishes.disliked), words=list(wishes.words), limits=limits
        )


class Extension(Body):
    """What genrec takes beside what OpenAI's API has.

    Without `wishes` these are read from all messages. With them they are what was wished before the last message; where
    that is the assistant's, or there is none, they were corrected by hand, and a new list is the answer.
    """

    user_id: Id | None = None
    history: Annotated[list[Id], Field(max_length=1000)] = []
    wishes: WishesBody | None = None
    k: Annotated[StrictInt, Field(ge=1, le=50), _Whole] | None = None


class Piece(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: Said


class ChatMessage(BaseModel):
    """One turn; only what persons and the assistant said is read."""

    role: Role | Literal["developer", "tool"]
    content: Said | Annotated[list[Piece], Field(max_length=100)] | None = None

    @property
    def said(self) -> str:
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
    n: Annotated[Literal[1], _Whole] | None = None
    genrec: Extension | None = None
