"""Chat completion requests in OpenAI's batch format, limited to what a local model supports.

Source: OpenAI's API reference, "Create chat completion" and "Batch". Unsupported parameters are rejected; values that
have no effect are accepted.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from genrec.batch.row import InputRow
from genrec.data.ids import is_encodable
from genrec.errors import InputError, format_value
from genrec.prompting.template import Prompt
from genrec.types import Message, Role, Span


def _check_text(text: str) -> str:
    """Reject lone surrogates, which JSON can spell and UTF-8 cannot."""
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
    """One message of a conversation."""

    role: Role
    content: _Text | list[_ContentPart]

    @property
    def text(self) -> str:
        """The text of all content parts."""
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
        messages: the conversation so far; untrusted text.
        model: the caller's name of the model.
        max_tokens, max_completion_tokens: maximum length of the answer; the second name is the newer one.
        temperature, seed: sampling parameters.
        response_format: the format that the answer must have.
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
    # Accepted only with values that have no effect.
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
        return tuple(Message(message.role, (Span(message.text, trusted=False),)) for message in self.messages)

    @property
    def token_limit(self) -> int | None:
        """Maximum number of tokens in the answer; None if the request does not say."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def answer_schema(self) -> Mapping[str, Any] | None:
        """The JSON Schema of the answer; None for free text."""
        match self.response_format:
            case _JsonSchemaFormat(json_schema=named):
                return named.schema_
            case _JsonObjectFormat():
                return {"type": "object"}
        return None


class BatchLine(_Strict):
    """A line of a batch file: a request and the caller's id of it."""

    custom_id: Annotated[_Text, Field(min_length=1)]
    method: Literal["POST"] = "POST"
    url: Literal["/v1/chat/completions"] = "/v1/chat/completions"
    body: ChatRequest


def parse_batch_row(row: InputRow) -> BatchLine:
    """Validate a row of a batch file.

    Raises:
        InputError: it cannot be read, or as for `parse_batch_line`.
    """
    if row.error:
        raise InputError(row.error)
    return parse_batch_line(row.columns)


def parse_batch_line(value: Mapping[str, Any]) -> BatchLine:
    """Validate a line of a batch file.

    Raises:
        InputError: a field is missing, wrong or unsupported (the first such field is named).
    """
    try:
        return BatchLine.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        location = ".".join(str(name) for name in first["loc"] if not str(name).startswith(("list[", "lax-", "_")))
        raise InputError(f"{location}: {first['msg']}; found {format_value(first['input'])}") from error
