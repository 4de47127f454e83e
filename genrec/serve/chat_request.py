"""A chat completion request as the conversation it carries, and what of it is not read."""

from dataclasses import dataclass

from genrec.errors import InputError
from genrec.notices import Notice
from genrec.serve.background_turns import BackgroundTurn, recognize_background_turn, strip_documents
from genrec.serve.chat_schemas import ChatBody, ChatMessage
from genrec.serve.errors import ApiError
from genrec.serve.openai_parameters import ignored_parameters
from genrec.types import Role

_UNREAD_ROLES = ("system", "developer", "tool", "function")


@dataclass(frozen=True)
class ChatRequest:
    """What a request says.

    Attributes:
        earlier: role and text of the messages before the last one of the user, without background turns.
        text: the last message, if the user has written it; None if there is none.
        unread_types: types of the parts of the last message that are not text.
        background: the background turn that the request is; None if the user is waiting for the answer.
        notices: what the request contains that has no effect.
    """

    earlier: tuple[tuple[Role, str], ...]
    text: str | None
    unread_types: tuple[str, ...]
    background: BackgroundTurn | None
    notices: tuple[Notice, ...]

    @classmethod
    def from_body(cls, body: ChatBody) -> "ChatRequest":
        """Read a request.

        Raises:
            ApiError: a parameter demands what a reply does not have, or the last message has no text.
            InputError: the last message is not from the user, and there are no preferences.
        """
        background = _background_turn(body)
        parameters = dict(body.other_parameters)
        if background is not None:
            parameters.pop("response_format", None)  # it is honoured
        notices = _notices(body, ignored_parameters(parameters))
        messages = _conversation(body.messages)
        last = body.messages[-1] if body.messages and body.messages[-1].role == "user" else None
        if last is None or background is not None:
            if background is None and (body.genrec is None or body.genrec.wishes is None):
                raise InputError("the last message is not from the user and genrec.wishes is missing; send one of them")
            return cls(tuple(messages), None, (), background, notices)
        if last.unread_types and not last.text.strip():
            place = f"messages.{len(body.messages) - 1}.content"
            message = f"{place} has only parts of type {', '.join(last.unread_types)}; only text is read, so send text"
            raise ApiError(400, message, "invalid_value", param=place, reason="unsupported_content")
        return cls(tuple(messages[:-1]), messages[-1][1], last.unread_types, None, notices)


def _background_turn(body: ChatBody) -> BackgroundTurn | None:
    """The background turn that the last message is; some clients send it as a system prompt alone."""
    system = "\n".join(message.text for message in body.messages if message.role in ("system", "developer"))
    response_format = body.other_parameters.get("response_format")
    if not any(message.role == "user" for message in body.messages):
        return recognize_background_turn(system, response_format=response_format)
    if (last := body.messages[-1]).role != "user":
        return None
    return recognize_background_turn(last.text, system=system, response_format=response_format)


def _conversation(messages: list[ChatMessage]) -> list[tuple[Role, str]]:
    """Role and text of the messages of user and assistant, without earlier background turns and their answers."""
    conversation: list[tuple[Role, str]] = []
    in_background = False
    for position, message in enumerate(messages):
        if message.role == "user":
            is_last = position == len(messages) - 1
            in_background = not is_last and recognize_background_turn(message.text) is not None
        if not in_background and message.role in ("user", "assistant"):
            text = strip_documents(message.text) if message.role == "user" else message.text
            conversation.append((message.role, text))
    return conversation


def _notices(body: ChatBody, parameters: list[str]) -> tuple[Notice, ...]:
    roles = [role for role in _UNREAD_ROLES if any(message.role == role for message in body.messages)]
    types = sorted({kind for message in body.messages if message.role == "user" for kind in message.unread_types})
    found = (
        Notice("parameters_ignored", {"names": parameters}),
        Notice("messages_ignored", {"roles": roles}),
        Notice("parts_ignored", {"types": types}),
    )
    return tuple(notice for notice in found if any(notice.fields.values()))
