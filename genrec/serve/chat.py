"""Conversations as OpenAI-compatible chat completions, whole or streamed.

Each request carries the whole conversation, so any server can answer any turn. Source: OpenAI's API reference, "Chat
completion object" and "Chat completion chunk object"; WHATWG HTML, "Server-sent events".
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from math import isfinite
from threading import Event
from typing import Any

from genrec.chat.advisor import Advisor, TurnEvent
from genrec.chat.conversation import Conversation, Turn
from genrec.chat.plain_replies import format_list
from genrec.chat.preferences import PreferenceFilter, Preferences
from genrec.data.catalog import UNKNOWN, Catalog
from genrec.deadline import Deadline
from genrec.errors import EngineError, FilterError
from genrec.serve.chat_request import ChatRequest
from genrec.serve.chat_schemas import ChatBody, GenrecExtension, PreferencesBody
from genrec.serve.errors import ApiError
from genrec.serve.request_context import RequestContext
from genrec.serve.responses import notice_fields, to_json_bytes
from genrec.serve.service import Service
from genrec.serve.telemetry import Metrics
from genrec.types import RecommendationList

MODEL_NAME = "genrec"
_DEFAULT_K = 5
_RETRY_AFTER = 5  # seconds
_UNREAD_PARTS = "I can read only text, so I ignored these parts of your message: {}.\n\n"


@dataclass(frozen=True)
class _ExtensionEvent:
    """A part of the response field `genrec`: preferences with their labels, or a list."""

    payload: dict[str, Any]
    result: RecommendationList | None = None


_WorkerEvent = _ExtensionEvent | str | Conversation | Exception
"""An event of the worker thread: parts of the turn, then the conversation, or an error."""


class _ClientDisconnectedError(Exception):
    """The client disconnected."""


class ChatService:
    """Answers chat requests, each in a thread of its own, so that none waits for another.

    Args:
        service: the service with the recommender.
        now: seconds since 1970, for the creation time of completions.
    """

    def __init__(self, service: Service, *, now: Callable[[], float]) -> None:
        self._service, self._now = service, now
        self._pool = ThreadPoolExecutor(service.config.max_chats, thread_name_prefix="chat")
        self._active_chats = 0

    def close(self) -> None:
        """Stop, and cancel waiting requests."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def complete(self, body: ChatBody) -> dict[str, Any]:
        """The whole completion.

        Raises:
            ApiError: too many chat requests are in progress.
            InputError: a preference is invalid, or there is no user message.
        """
        builder = _CompletionBuilder(self._service.metrics, body, int(self._now()))
        async with aclosing(self._run_turn(body)) as events:
            async for event in events:
                builder.add(event)
        return builder.completion

    async def stream(self, body: ChatBody, *, on_failure: Callable[[Exception], None]) -> AsyncIterator[bytes]:
        """The completion as server-sent events.

        Waits for the first event, and until then raises as `complete` does. A later error ends the reply with the list
        as plain text.

        Args:
            body: the request.
            on_failure: receives a later error.
        """
        events = self._run_turn(body)
        first = await anext(events)
        return self._events(body, first, events, on_failure)

    async def _events(
        self,
        body: ChatBody,
        first: _WorkerEvent,
        events: AsyncGenerator[_WorkerEvent, None],
        on_failure: Callable[[Exception], None],
    ) -> AsyncIterator[bytes]:
        builder = _CompletionBuilder(self._service.metrics, body, int(self._now()))
        try:
            async with aclosing(events):
                yield _sse_event(builder.add(first))
                async for event in events:
                    yield _sse_event(builder.add(event))
        except Exception as error:  # noqa: BLE001  (passed on)
            on_failure(error)
            for chunk in builder.abort():
                yield _sse_event(chunk)
        if body.stream_options is not None and body.stream_options.include_usage:
            yield _sse_event(builder.usage_chunk)
        yield b"data: [DONE]\n\n"

    async def _run_turn(self, body: ChatBody) -> AsyncGenerator[_WorkerEvent, None]:
        if self._active_chats >= self._service.config.max_chats:
            raise ApiError.overloaded(_RETRY_AFTER)
        loop, events, disconnected = asyncio.get_running_loop(), asyncio.Queue[_WorkerEvent](), Event()
        start = self._service.clock()

        def emit(event: _WorkerEvent) -> None:
            if disconnected.is_set():
                raise _ClientDisconnectedError
            loop.call_soon_threadsafe(events.put_nowait, event)

        def work() -> None:
            try:
                emit(self._answer_turn(body, emit, self._deadline(start, disconnected)))
            except _ClientDisconnectedError:
                return
            except Exception as error:  # noqa: BLE001  (the caller raises it)
                loop.call_soon_threadsafe(events.put_nowait, error)
            except BaseException as error:  # noqa: BLE001  (it would end the event loop)
                aborted = EngineError(f"the chat turn was aborted: {error!r}")
                aborted.__cause__ = error
                loop.call_soon_threadsafe(events.put_nowait, aborted)

        self._active_chats += 1
        worker = self._pool.submit(work)
        has_text = False
        try:
            while True:
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, str) and not has_text:
                    has_text = True
                    self._service.metrics.record_first_token(self._service.clock() - start)
                yield event
                if isinstance(event, Conversation):
                    return
        finally:
            disconnected.set()
            worker.cancel()
            self._active_chats -= 1

    def _deadline(self, start: float, disconnected: Event) -> Deadline:
        """The deadline of a turn. It expires when the client disconnects, which stops the model."""
        clock = self._service.clock
        return Deadline(
            start + self._service.config.turn_timeout, lambda: float("inf") if disconnected.is_set() else clock()
        )

    def _answer_turn(self, body: ChatBody, emit: Callable[[_WorkerEvent], None], deadline: Deadline) -> Conversation:
        request, extension = ChatRequest.from_body(body), body.genrec or GenrecExtension()
        if request.background is not None:
            emit(_ExtensionEvent({"background": request.background.kind, **notice_fields(request.notices)}))
            emit(request.background.reply)
            return Conversation()
        context = self._service.state.request_context(extension.user_id, extension.history)
        # A turn uses one recommender throughout, even if items are withdrawn meanwhile.
        recommender = context.recommender
        advisor = self._service.advisor(recommender, extension.k or _DEFAULT_K)
        preface = _UNREAD_PARTS.format(", ".join(request.unread_types)) if request.unread_types else ""

        def show(event: TurnEvent) -> None:
            nonlocal preface
            match event:
                case Preferences():
                    emit(_ExtensionEvent(_preferences_payload(event, advisor)))
                case RecommendationList():
                    response = self._service.list_responses([event], recommender)[0]
                    own = notice_fields(request.notices)
                    shown = {
                        "items": response["items"],
                        "notices": response["notices"] + own["notices"],
                        "notice_details": response["notice_details"] + own["notice_details"],
                    }
                    emit(_ExtensionEvent(shown, event))
                case str():
                    emit(preface + event)
                    preface = ""

        conversation = _conversation_before(context, advisor, extension, list(request.earlier), deadline)
        if request.text is not None:
            return advisor.respond(conversation, request.text, on_event=show, deadline=deadline)
        return advisor.update_preferences(conversation, conversation.preferences, on_event=show, deadline=deadline)


def _conversation_before(
    context: RequestContext,
    advisor: Advisor,
    extension: GenrecExtension,
    messages: list[tuple[Any, str]],
    deadline: Deadline,
) -> Conversation:
    """The conversation before the last message."""
    conversation = advisor.replay(
        Conversation(extension.user_id, context.history_item_ids, excluded=context.excluded_item_ids),
        messages,
        deadline=deadline,
    )
    if extension.wishes is None:
        return conversation
    preferences = _parse_preferences(extension.wishes, context.recommender.catalog)
    if not conversation.turns:
        empty = RecommendationList((), proven=False, compared=0)
        return replace(conversation, turns=(Turn("", preferences, empty, ""),))
    last = replace(conversation.turns[-1], preferences=preferences)
    return replace(conversation, turns=(*conversation.turns[:-1], last))


def _parse_preferences(body: PreferencesBody, catalog: Catalog) -> Preferences:
    """The preferences of a request, without items that the catalog does not know; the advisor ignores withdrawn ones.

    Raises:
        ApiError: a limit is not a valid filter; the error names its field.
    """
    filters = []
    for position, limit in enumerate(body.limits):
        try:
            filters.append(PreferenceFilter.from_condition(limit.about, limit.where))
            catalog.where(filters[-1].condition)
        except FilterError as error:
            param = f"genrec.wishes.limits.{position}.where"
            raise ApiError(400, f"{param}: {error}", "invalid_value", param=param, reason=error.code) from error
    liked, disliked = (
        tuple(item_id for item_id, at in zip(item_ids, catalog.lookup(item_ids), strict=True) if at != UNKNOWN)
        for item_ids in (body.liked, body.disliked)
    )
    return Preferences(liked, disliked, tuple(body.words), tuple(filters))


def _preferences_payload(preferences: Preferences, advisor: Advisor) -> dict[str, Any]:
    filters = {own.where: own for own in preferences.filters}
    labels = []
    for kind, value in preferences.labels:
        own = filters.get(str(value)) if kind == "only" else None
        text = advisor.label_text(preferences, (kind, value))
        labels.append({"kind": kind, "value": value, "label": text} | ({} if own is None else _filter_fields(own)))
    return {"wishes": PreferencesBody.from_preferences(preferences).model_dump(), "chips": labels}


def _filter_fields(own: PreferenceFilter) -> dict[str, Any]:
    """What a filter says, for clients that word it themselves; nothing for a filter of another kind."""
    if own.bound is not None and isfinite(own.bound.amount):
        return {"bound": {"operator": own.bound.operator, "amount": own.bound.amount}}
    return {} if own.excluded_phrase is None else {"excluded": own.excluded_phrase}


class _CompletionBuilder:
    """Builds a completion, or its chunks, from the events of one turn."""

    def __init__(self, metrics: Metrics, body: ChatBody, created: int) -> None:
        self._metrics, self._model_name = metrics, body.model or MODEL_NAME
        self._header = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": created, "model": self._model_name}
        self._text: list[str] = []
        self._extension: dict[str, Any] = {}
        self._result: RecommendationList | None = None

    def add(self, event: _WorkerEvent) -> dict[str, Any]:
        """Add an event and return its chunk."""
        match event:
            case _ExtensionEvent():
                self._extension |= event.payload
                if event.result is None:
                    return self._chunk({"role": "assistant", "content": ""}, genrec=event.payload)
                self._result = event.result
                return self._chunk({"content": ""}, genrec=event.payload)
            case str():
                self._text.append(event)
                return self._chunk({"content": event})
            case Conversation():
                fallback = bool(event.turns) and event.turns[-1].is_fallback_reply
                if fallback:
                    self._metrics.record_fallback()
                self._extension["fallback"] = fallback
                return self._chunk({}, finish="stop", genrec={"fallback": fallback})
        raise TypeError(f"{event!r:.80} is not an event of a turn")

    def abort(self) -> list[dict[str, Any]]:
        """The last chunks of an aborted reply: the list as plain text, marked as a fallback."""
        self._metrics.record_fallback()
        text = (
            "Sorry, I could not answer this. Please try again." if self._result is None else format_list(self._result)
        )
        self._text.append(text)
        end = self._chunk({}, finish="stop", genrec={"fallback": True})
        return [self._chunk({"content": ("\n\n" if len(self._text) > 1 else "") + text}), end]

    @property
    def completion(self) -> dict[str, Any]:
        """The whole completion object."""
        message = {"role": "assistant", "content": "".join(self._text), "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        completion = {"object": "chat.completion", "choices": [choice], "usage": self._token_usage}
        return self._header | completion | {"genrec": self._extension}

    @property
    def usage_chunk(self) -> dict[str, Any]:
        """The last chunk of a stream with `include_usage`."""
        return self._header | {"object": "chat.completion.chunk", "choices": [], "usage": self._token_usage}

    @property
    def _token_usage(self) -> dict[str, int]:
        """Tokens that models computed for ranking, and the number of text pieces of the reply."""
        prompt, completion = 0 if self._result is None else self._result.tokens, len(self._text)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, genrec: Any = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        chunk = {"object": "chat.completion.chunk", "choices": [choice]}
        return self._header | chunk | ({} if genrec is None else {"genrec": genrec})


def _sse_event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + to_json_bytes(chunk) + b"\n\n"
