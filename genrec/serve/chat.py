"""A conversation as OpenAI's chat completions: messages in, a reply out, whole or as it is written.

Everything that a conversation is arrives with each request, so any server can answer any turn. Source: OpenAI's API
reference, "Chat completion object" and "Chat completion chunk object"; server-sent events are those of WHATWG's HTML.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from threading import Event
from typing import Any

from genrec.chat.advisor import Advisor, TurnEvent, format_list
from genrec.chat.conversation import Conversation, Preferences, Turn
from genrec.data.catalog import Catalog
from genrec.deadline import Deadline
from genrec.errors import EngineError, InputError
from genrec.serve.errors import ApiError
from genrec.serve.responses import to_json_bytes
from genrec.serve.schemas import ChatBody, GenrecExtension, PreferencesBody
from genrec.serve.service import Service
from genrec.serve.state import RequestContext
from genrec.serve.telemetry import Metrics
from genrec.types import RecommendationList

MODEL_NAME = "genrec"
_DEFAULT_K = 5
_RETRY_AFTER = 5  # seconds after which one of those who talk may be answered
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class _ExtensionEvent:
    """What goes into the field `payload`: the wishes and their chips, or a list."""

    payload: dict[str, Any]
    result: RecommendationList | None = None


_WorkerEvent = _ExtensionEvent | str | Conversation | Exception
"""What the thread that answers tells: parts, and at last the conversation, or what went wrong."""


class _ClientDisconnectedError(Exception):
    """The client is gone."""


class ChatService:
    """Answers turns, one after the other where a language model writes them.

    Args:
        service: what it is about.
        now: seconds since 1970.
    """

    def __init__(self, service: Service, *, now: Callable[[], float]) -> None:
        self._service, self._now = service, now
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="talk")
        self._active_chats = 0

    def close(self) -> None:
        """End, without those who wait."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def complete(self, body: ChatBody) -> dict[str, Any]:
        """The whole answer.

        Raises:
            RefusedError: too many wait.
            InputError: a wish cannot be kept, or nothing was said.
        """
        reply = _CompletionBuilder(self._service.metrics, body, int(self._now()))
        async with aclosing(self._run_turn(body)) as parts:
            async for part in parts:
                reply.add(part)
        return reply.completion

    async def stream(self, body: ChatBody) -> AsyncIterator[bytes]:
        """The answer as server-sent events, once the first is there; until then it raises as `complete` does."""
        parts = self._run_turn(body)
        first = await anext(parts)
        return self._events(body, first, parts)

    async def _events(
        self, body: ChatBody, first: _WorkerEvent, parts: AsyncGenerator[_WorkerEvent, None]
    ) -> AsyncIterator[bytes]:
        reply = _CompletionBuilder(self._service.metrics, body, int(self._now()))
        try:
            async with aclosing(parts):
                yield _sse_event(reply.add(first))
                async for part in parts:
                    yield _sse_event(reply.add(part))
        except Exception:
            _LOGGER.exception("a reply ended before its time")
            for chunk in reply.abort():
                yield _sse_event(chunk)
        if body.stream_options is not None and body.stream_options.include_usage:
            yield _sse_event(reply.usage_chunk)
        yield b"data: [DONE]\n\n"

    async def _run_turn(self, body: ChatBody) -> AsyncGenerator[_WorkerEvent, None]:
        if self._active_chats >= self._service.config.max_chats:
            raise ApiError.overloaded(_RETRY_AFTER)
        loop, told, left = asyncio.get_running_loop(), asyncio.Queue[_WorkerEvent](), Event()
        start = self._service.clock()

        def tell(part: _WorkerEvent) -> None:
            if left.is_set():
                raise _ClientDisconnectedError
            loop.call_soon_threadsafe(told.put_nowait, part)

        def work() -> None:
            try:
                tell(self._answer_turn(body, tell, self._deadline(start, left)))
            except _ClientDisconnectedError:
                return
            except Exception as error:  # noqa: BLE001  (the caller raises it)
                loop.call_soon_threadsafe(told.put_nowait, error)
            except BaseException as error:
                _LOGGER.exception("a turn broke off")
                broken = EngineError(f"a turn broke off: {error!r}")  # the loop would end of what is no Exception
                loop.call_soon_threadsafe(told.put_nowait, broken)

        self._active_chats += 1
        working = self._pool.submit(work)
        spoke = False
        try:
            while True:
                part = await told.get()
                if isinstance(part, Exception):
                    raise part
                if isinstance(part, str) and not spoke:
                    spoke = True
                    self._service.metrics.record_first_token(self._service.clock() - start)
                yield part
                if isinstance(part, Conversation):
                    return
        finally:
            left.set()
            working.cancel()
            self._active_chats -= 1

    def _deadline(self, start: float, disconnected: Event) -> Deadline:
        """A turn's; it has passed for whoever is gone, so that a model does not go on for nobody."""
        clock = self._service.clock
        return Deadline(
            start + self._service.config.turn_timeout, lambda: float("inf") if disconnected.is_set() else clock()
        )

    def _answer_turn(self, body: ChatBody, emit: Callable[[_WorkerEvent], None], deadline: Deadline) -> Conversation:
        asked = body.genrec or GenrecExtension()
        found = self._service.state.request_context(asked.user_id, asked.history)
        # Whatever is withdrawn meanwhile, a turn names and lists what its own recommender has.
        recommender = found.recommender
        advisor = self._service.advisor(recommender, asked.k or _DEFAULT_K)

        def show(part: TurnEvent) -> None:
            match part:
                case Preferences():
                    emit(_ExtensionEvent(_preferences_payload(part, advisor)))
                case RecommendationList():
                    own = self._service.list_responses([part], recommender)[0]
                    emit(_ExtensionEvent({name: own[name] for name in ("items", "notices", "notice_details")}, part))
                case str():
                    emit(part)

        before = [(one.role, one.text) for one in body.messages]
        said = before.pop()[1] if before and before[-1][0] == "user" else None
        conversation = _conversation_before(found, advisor, asked, before)
        if said is not None:
            return advisor.respond(conversation, said, on_event=show, deadline=deadline)
        if asked.wishes is None:
            raise InputError("the last message is not the user's, and no genrec.wishes say what changed; send one")
        return advisor.update_preferences(conversation, conversation.preferences, on_event=show, deadline=deadline)


def _conversation_before(
    context: RequestContext, advisor: Advisor, extension: GenrecExtension, messages: list[tuple[Any, str]]
) -> Conversation:
    """The conversation before the last message."""
    conversation = advisor.replay(
        Conversation(extension.user_id, context.history_item_ids, excluded=context.excluded_item_ids), messages
    )
    if extension.wishes is None:
        return conversation
    wishes = _validate_preferences(extension.wishes.preferences, context.recommender.catalog)
    if not conversation.turns:
        nothing = RecommendationList((), proven=False, compared=0)
        return replace(conversation, turns=(Turn("", wishes, nothing, ""),))
    last = replace(conversation.turns[-1], preferences=wishes)
    return replace(conversation, turns=(*conversation.turns[:-1], last))


def _validate_preferences(preferences: Preferences, catalog: Catalog) -> Preferences:
    """Wishes that came from outside; items that are there no longer are left out.

    Raises:
        FilterError: a limit cannot be kept.
    """
    for limit in preferences.filters:
        catalog.where(limit.where)
    liked, disliked = (
        tuple(one for one in ids if catalog.item_ids.position(one) >= 0)
        for ids in (preferences.liked, preferences.disliked)
    )
    return replace(preferences, liked=liked, disliked=disliked)


def _preferences_payload(preferences: Preferences, advisor: Advisor) -> dict[str, Any]:
    chips = [
        {"kind": kind, "value": value, "label": advisor.label_text(kind, value)} for kind, value in preferences.labels
    ]
    return {"wishes": PreferencesBody.from_preferences(preferences).model_dump(), "chips": chips}


class _CompletionBuilder:
    """What was told of one turn so far, as OpenAI's objects."""

    def __init__(self, metrics: Metrics, body: ChatBody, created: int) -> None:
        self._metrics, self._model_name = metrics, body.model or MODEL_NAME
        self._header = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": created, "model": self._model_name}
        self._text: list[str] = []
        self._extension: dict[str, Any] = {}
        self._result: RecommendationList | None = None

    def add(self, event: _WorkerEvent) -> dict[str, Any]:
        """The chunk that tells a part."""
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
        raise TypeError(f"{event!r:.80} is no part of a turn")

    def abort(self) -> list[dict[str, Any]]:
        """The end of a reply that broke off: what is known in plain words, marked."""
        self._metrics.record_fallback()
        plain = "I could not answer this; please ask again." if self._result is None else format_list(self._result)
        self._text.append(plain)
        ended = self._chunk({}, finish="stop", genrec={"fallback": True})
        return [self._chunk({"content": ("\n\n" if len(self._text) > 1 else "") + plain}), ended]

    @property
    def completion(self) -> dict[str, Any]:
        """The completion."""
        message = {"role": "assistant", "content": "".join(self._text), "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        told = {"object": "chat.completion", "choices": [choice], "usage": self._token_usage, "genrec": self._extension}
        return self._header | told

    @property
    def usage_chunk(self) -> dict[str, Any]:
        """The last chunk of a stream that asked for it."""
        return self._header | {"object": "chat.completion.chunk", "choices": [], "usage": self._token_usage}

    @property
    def _token_usage(self) -> dict[str, int]:
        """Tokens that models computed to rank, and pieces in which the reply was told."""
        read, wrote = 0 if self._result is None else self._result.tokens, len(self._text)
        return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, genrec: Any = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        told = {"object": "chat.completion.chunk", "choices": [choice]}
        return self._header | told | ({} if genrec is None else {"genrec": genrec})


def _sse_event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + to_json_bytes(chunk) + b"\n\n"
