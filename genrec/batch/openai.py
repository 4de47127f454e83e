"""A request in the format of OpenAI's chat completions, as far as a local model can do what it asks.

Source: OpenAI's API reference, "Create chat completion" and "Batch". What is not supported is refused, so that nobody
waits for what never comes; what changes nothing is taken.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from genrec.batch.input import is_encodable
from genrec.errors import InputError
from genrec.prompting.template import Prompt
from genrec.types import Message, Role, Span


def _check_text(text: str) -> str:
    """A text that can be written: a lone surrogate, which JSON can spell, cannot."""
    if not is_encodable(text):
        raise ValueError("Input should hold no lone surrogate")
    return text


_TokenCount = Annotated[int, Field(ge=1, lt=2**31)]
_Text = Annotated[str, AfterValidator(_check_text)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _ContentPart(_Strict):
    type: Literal["text"]
    text: _Text


class ChatMessage(_Strict):
    """One turn."""

    role: Role
    content: _Text | list[_ContentPart]

    @property
    def text(self) -> str:
        """All that is said."""
        return self.content if isinstance(self.content, str) else "\n".join(piece.text for piece in self.content)


class _NamedSchema(BaseModel):
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class _TextFormat(_Strict):
    type: Literal["text"]


class _JsonObjectFormat(_Strict):
    type: Literal["json_object"]


class _JsonSchemaFormat(_Strict):
    type: Literal["json_schema"]
    json_schema: _NamedSchema


class ChatRequest(_Strict):
    """The body of a request.

    Attributes:
        messages: what was said so far, untrusted text.
        model: what the caller calls the model.
        max_tokens, max_completion_tokens: how long the answer may be; the second name is the newer one.
        temperature, seed: how it is drawn.
        response_format: what it is held to.
    """

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    model: str | None = None
    max_tokens: _TokenCount | None = None
    max_completion_tokens: _TokenCount | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    response_format: (
        Annotated[_TextFormat | _JsonObjectFormat | _JsonSchemaFormat, Field(discriminator="type")] | None
    ) = None
    # What may be said of these, since it changes nothing.
    n: Literal[1] | None = None
    stream: Literal[False] | None = None
    top_p: Annotated[float, Field(ge=1, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None

    @property
    def prompt(self) -> Prompt:
        """The messages; none of their text can become a control token."""
        return tuple(Message(one.role, (Span(one.text, trusted=False),)) for one in self.messages)

    @property
    def token_limit(self) -> int | None:
        """How many tokens the answer may have."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def answer_schema(self) -> Mapping[str, Any] | None:
        """The JSON Schema of the answer."""
        match self.response_format:
            case _JsonSchemaFormat(json_schema=named):
                return named.schema_
            case _JsonObjectFormat():
                return {"type": "object"}
        return None


class BatchLine(_Strict):
    """A line of a batch: a request and what the caller calls it."""

    custom_id: Annotated[_Text, Field(min_length=1)]
    method: Literal["POST"] = "POST"
    url: Literal["/v1/chat/completions"] = "/v1/chat/completions"
    body: ChatRequest


def parse_batch_line(value: Mapping[str, Any]) -> BatchLine:
    """A line of a batch.

    Raises:
        InputError: it is none, or asks for what is not supported (the first such thing is named).
    """
    try:
        return BatchLine.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("list[", "lax-", "_")))
        raise InputError(f"{place}: {first['msg']}; found {first['input']!r:.80}") from error
