"""Request and response schemas of lists, events and items. Limits apply to one request, not to stored data.

Those of conversations are in `genrec.serve.chat_schemas`.
"""

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

from genrec.batch.row import is_encodable
from genrec.data.ids import whole_number
from genrec.serve.responses import NoticeDetail
from genrec.types import ItemId, UserId

_MAX_ITEM_IDS, _MAX_K, _MAX_EVENTS, _MAX_DEADLINE = 10_000, 1_000, 1_000, 60.0
_MAX_SECONDS, _MIN_MICROSECONDS = 1e12, 1e14
_INT64_LIMIT = 2**63
_MAX_ID_LENGTH = 200


def _check_text(text: str) -> str:
    """Reject lone surrogates, which JSON can contain but UTF-8 cannot, and null characters."""
    if not is_encodable(text) or "\0" in text:
        raise ValueError("Input should not contain lone surrogates or null characters")
    return text


def _check_seconds(seconds: float) -> float:
    """Reject times of the far future, which are seconds in another unit."""
    if abs(seconds) <= _MAX_SECONDS:
        return seconds
    unit, factor = ("microseconds", 1_000_000) if abs(seconds) >= _MIN_MICROSECONDS else ("milliseconds", 1_000)
    raise ValueError(f"Input should be seconds since 1970, but looks like {unit}; divide it by {factor:,}")


def _parse_id(value: object) -> ItemId:
    """Validate an id. One function for both types, because the errors of a union are hard to read."""
    value = whole_number(value)
    if isinstance(value, str) and 0 < len(value) <= _MAX_ID_LENGTH:
        return _check_text(value)
    if isinstance(value, int) and not isinstance(value, bool) and -_INT64_LIMIT <= value < _INT64_LIMIT:
        return value
    raise ValueError(f"Input should be text of 1 to {_MAX_ID_LENGTH} characters, or a 64-bit integer")


_TEXT_SCHEMA: dict[str, Any] = {"pattern": "^[^\\u0000]*$"}
_TextCheck = AfterValidator(_check_text)
Name = Annotated[StrictStr, Field(min_length=1, max_length=_MAX_ID_LENGTH, json_schema_extra=_TEXT_SCHEMA), _TextCheck]
ShortText = Annotated[StrictStr, Field(min_length=1, max_length=100, json_schema_extra=_TEXT_SCHEMA), _TextCheck]
LongText = Annotated[StrictStr, Field(min_length=1, max_length=2000, json_schema_extra=_TEXT_SCHEMA), _TextCheck]
MessageText = Annotated[StrictStr, Field(json_schema_extra=_TEXT_SCHEMA), _TextCheck]
QueryText = Annotated[StrictStr, Field(min_length=1, max_length=1000, json_schema_extra=_TEXT_SCHEMA), _TextCheck]
OptionalQueryText = Annotated[StrictStr, Field(max_length=1000, json_schema_extra=_TEXT_SCHEMA), _TextCheck]

_ID_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": _MAX_ID_LENGTH, **_TEXT_SCHEMA},
        {"type": "integer", "format": "int64"},
    ]
}
IntegralFloat = BeforeValidator(whole_number)
Id = Annotated[ItemId, PlainValidator(_parse_id), WithJsonSchema(_ID_SCHEMA)]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False, strict=True)]
ItemIds = Annotated[list[Id], Field(max_length=_MAX_ITEM_IDS)]


def _property_names(max_length: int) -> dict[str, Any]:
    """The JSON schema of the property names of an object; pydantic generates only a part of it."""
    return {"propertyNames": {"type": "string", "minLength": 1, "maxLength": max_length, **_TEXT_SCHEMA}}


class Body(BaseModel):
    """A request body; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorDetail(BaseModel):
    """The reason of an error."""

    message: str
    type: str
    param: str | None
    code: str
    reason: str | None = None


class ErrorResponse(BaseModel):
    """An error in the format of OpenAI's API."""

    error: ErrorDetail


class ListOptions(Body):
    """Options of a list; see `Recommender.recommend`."""

    k: Annotated[StrictInt, Field(ge=1, le=_MAX_K, description="List length."), IntegralFloat] = 10
    filter_seen: Annotated[bool, Field(strict=True, description="Exclude the items in the history.")] = True
    only: Annotated[ItemIds, Field(description="Recommend only these items.")] | None = None
    exclude: Annotated[ItemIds, Field(description="Never recommend these items.")] | None = None
    where: Annotated[LongText, Field(description="A filter on item attributes, such as price < 5.")] | None = None
    boost: (
        Annotated[
            dict[Name, FiniteFloat],
            Field(
                max_length=_MAX_K,
                json_schema_extra=_property_names(200),
                description="A number by item id, added to the item's score.",
            ),
        ]
        | None
    ) = None
    explain: Annotated[bool, Field(strict=True, description="Return the history items that drove each item.")] = False
    deadline: Annotated[FiniteFloat, Field(gt=0, le=_MAX_DEADLINE, description="Deadline in seconds.")] | None = None
    on_unknown: Annotated[
        Literal["raise", "skip", "fallback"], Field(description="How to handle unknown users and items.")
    ] = "fallback"

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of `Recommender.recommend`."""
        return {name: getattr(self, name) for name in ListOptions.model_fields if name != "k"}


class RecommendBody(ListOptions):
    """A list for a user id, a history, a description, any combination of these, or none."""

    user_id: Id | None = None
    history: Annotated[
        ItemIds, Field(description="Items the user has seen, oldest first; appended to the stored history.")
    ] = []
    words: Annotated[OptionalQueryText, Field(description="A description of what the user wants.")] = ""


class SearchBody(RecommendBody):
    """A list for a text query."""

    words: Annotated[QueryText, Field(description="The search query.")]


class RelatedBody(ListOptions):
    """A list of items related to one item."""

    item_id: Id


class EventBody(Body):
    """An interaction of a user with an item."""

    user_id: Id
    item_id: Id
    timestamp: (
        Annotated[
            FiniteFloat,
            AfterValidator(_check_seconds),
            Field(
                description="Seconds since 1970; default: now.",
                json_schema_extra={"minimum": -_MAX_SECONDS, "maximum": _MAX_SECONDS},
            ),
        ]
        | None
    ) = None
    event: ShortText | None = None
    weight: Annotated[
        FiniteFloat,
        Field(
            ge=-1e6,
            le=1e6,
            description="Above 0: add the item to the history. Otherwise: remove and exclude it until a later event.",
        ),
    ] = 1.0
    event_id: Annotated[Name, Field(description="Idempotency key: a known id of the same user is ignored.")] | None = (
        None
    )


class EventsBody(Body):
    """Events to store, all or none."""

    events: Annotated[list[EventBody], Field(min_length=1, max_length=_MAX_EVENTS)]


class EventsResponse(BaseModel):
    """The number of new events; notices as in a list."""

    added: int
    notices: list[str]
    notice_details: list[NoticeDetail]


class HistoryItem(BaseModel):
    """An item in a history."""

    item_id: ItemId
    title: str


class HistoryResponse(BaseModel):
    """A user's history, oldest first, as rankers get it."""

    user_id: UserId
    items: list[HistoryItem]


class ForgetResponse(BaseModel):
    """The number of deleted rows by table and column."""

    user_id: UserId
    removed: dict[str, int]


Attribute = StrictStr | StrictInt | FiniteFloat | bool | None | list[StrictStr]


class ItemBody(Body):
    """An item without its id."""

    title: LongText
    attributes: Annotated[
        dict[ShortText, Attribute], Field(max_length=100, json_schema_extra=_property_names(100))
    ] = {}


class ItemWithId(ItemBody):
    """An item."""

    item_id: Id


class ItemsBody(Body):
    """Items to add, or to replace the items with the same ids."""

    items: Annotated[list[ItemWithId], Field(min_length=1, max_length=_MAX_EVENTS)]


class ItemResponse(BaseModel):
    """An item of the catalog."""

    item_id: ItemId
    title: str
    attributes: dict[str, Any]


class ItemsResponse(BaseModel):
    """A page of items in catalog order, and the size of the catalog."""

    items: list[ItemResponse]
    total: int


class CatalogResponse(BaseModel):
    """The size of the catalog after a change."""

    total: int
