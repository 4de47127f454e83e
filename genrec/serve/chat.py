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

from genrec.chat.advisor import Advisor, Part, compose
from genrec.chat.conversation import Conversation, Turn, Wishes
from genrec.data.catalog import Catalog
from genrec.deadline import Deadline
from genrec.errors import EngineError, InputError
from genrec.serve.errors import RefusedError
from genrec.serve.responses import write_json
from genrec.serve.schemas import ChatBody, Extension, WishesBody
from genrec.serve.service import Service
from genrec.serve.state import Asked
from genrec.serve.telemetry import Metrics
from genrec.types import RecommendationList

MODEL = "genrec"
_K = 5
_TURN = 5  # seconds after which one of those who talk may be answered
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Shown:
    """What goes into the field `genrec`: the wishes and their chips, or a list."""

    genrec: dict[str, Any]
    answer: RecommendationList | None = None


Told = _Shown | str | Conversation | Exception
"""What the thread that answers tells: parts, and at last the conversation, or what went wrong."""


class _LeftError(Exception):
    """The client is gone."""


class Talk:
    """Answers turns, one after the other where a language model writes them.

    Args:
        service: what it is about.
        now: seconds since 1970.
    """

    def __init__(self, service: Service, *, now: Callable[[], float]) -> None:
        self._service, self._now = service, now
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="talk")
        self._inside = 0

    def close(self) -> None:
        """End, without those who wait."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def complete(self, body: ChatBody) -> dict[str, Any]:
        """The whole answer.

        Raises:
            RefusedError: too many wait.
            InputError: a wish cannot be kept, or nothing was said.
        """
        reply = _Reply(self._service.metrics, body, int(self._now()))
        async with aclosing(self._turn(body)) as parts:
            async for part in parts:
                reply.take(part)
        return reply.whole

    async def stream(self, body: ChatBody) -> AsyncIterator[bytes]:
        """The answer as server-sent events, once the first is there; until then it raises as `complete` does."""
        parts = self._turn(body)
        first = await anext(parts)
        return self._events(body, first, parts)

    async def _events(self, body: ChatBody, first: Told, parts: AsyncGenerator[Told, None]) -> AsyncIterator[bytes]:
        reply = _Reply(self._service.metrics, body, int(self._now()))
        try:
            async with aclosing(parts):
                yield _event(reply.take(first))
                async for part in parts:
                    yield _event(reply.take(part))
        except Exception:
            _LOGGER.exception("a reply ended before its time")
            for chunk in reply.give_up():
                yield _event(chunk)
        if body.stream_options is not None and body.stream_options.include_usage:
            yield _event(reply.usage)
        yield b"data: [DONE]\n\n"

    async def _turn(self, body: ChatBody) -> AsyncGenerator[Told, None]:
        if self._inside >= self._service.load.talks:
            raise RefusedError.busy(_TURN)
        loop, told, left = asyncio.get_running_loop(), asyncio.Queue[Told](), Event()
        start = self._service.clock()

        def tell(part: Told) -> None:
            if left.is_set():
                raise _LeftError
            loop.call_soon_threadsafe(told.put_nowait, part)

        def work() -> None:
            try:
                tell(self._answer(body, tell, self._deadline(start, left)))
            except _LeftError:
                return
            except Exception as error:  # noqa: BLE001  (the caller raises it)
                loop.call_soon_threadsafe(told.put_nowait, error)
            except BaseException as error:
                _LOGGER.exception("a turn broke off")
                broken = EngineError(f"a turn broke off: {error!r}")  # the loop would end of what is no Exception
                loop.call_soon_threadsafe(told.put_nowait, broken)

        self._inside += 1
        working = self._pool.submit(work)
        spoke = False
        try:
            while True:
                part = await told.get()
                if isinstance(part, Exception):
                    raise part
                if isinstance(part, str) and not spoke:
                    spoke = True
                    self._service.metrics.spoke(self._service.clock() - start)
                yield part
                if isinstance(part, Conversation):
                    return
        finally:
            left.set()
            working.cancel()
            self._inside -= 1

    def _deadline(self, start: float, left: Event) -> Deadline:
        """A turn's; it has passed for whoever is gone, so that a model does not go on for nobody."""
        clock = self._service.clock
        return Deadline(start + self._service.load.turn, lambda: float("inf") if left.is_set() else clock())

    def _answer(self, body: ChatBody, tell: Callable[[Told], None], deadline: Deadline) -> Conversation:
        asked = body.genrec or Extension()
        found = self._service.live.ask(asked.user_id, asked.history)
        # Whatever is withdrawn meanwhile, a turn names and lists what its own recommender has.
        recommender = found.recommender
        advisor = self._service.advisor(recommender, asked.k or _K)

        def show(part: Part) -> None:
            match part:
                case Wishes():
                    tell(_Shown(_wished(part, advisor)))
                case RecommendationList():
                    own = self._service.told([part], recommender)[0]
                    tell(_Shown({"items": own["items"], "notices": own["notices"]}, part))
                case str():
                    tell(part)

        before = [(one.role, one.said) for one in body.messages]
        said = before.pop()[1] if before and before[-1][0] == "user" else None
        conversation = _before(found, advisor, asked, before)
        if said is not None:
            return advisor.answer(conversation, said, on_part=show, deadline=deadline)
        if asked.wishes is None:
            raise InputError("the last message is not the user's, and no genrec.wishes say what changed; send one")
        return advisor.change(conversation, conversation.wishes, on_part=show, deadline=deadline)


def _before(found: Asked, advisor: Advisor, asked: Extension, messages: list[tuple[Any, str]]) -> Conversation:
    """The conversation before the last message."""
    conversation = advisor.replay(Conversation(asked.user_id, found.met, unwanted=found.unwanted), messages)
    if asked.wishes is None:
        return conversation
    wishes = _checked(asked.wishes.wishes, found.recommender.catalog)
    if not conversation.turns:
        nothing = RecommendationList((), proven=False, compared=0)
        return replace(conversation, turns=(Turn("", wishes, nothing, ""),))
    last = replace(conversation.turns[-1], wishes=wishes)
    return replace(conversation, turns=(*conversation.turns[:-1], last))


def _checked(wishes: Wishes, catalog: Catalog) -> Wishes:
    """Wishes that came from outside; items that are there no longer are left out.

    Raises:
        FilterError: a limit cannot be kept.
    """
    for limit in wishes.limits:
        catalog.where(limit.where)
    liked, disliked = (
        tuple(one for one in ids if catalog.item_ids.position(one) >= 0) for ids in (wishes.liked, wishes.disliked)
    )
    return replace(wishes, liked=liked, disliked=disliked)


def _wished(wishes: Wishes, advisor: Advisor) -> dict[str, Any]:
    chips = [{"kind": kind, "value": value, "label": advisor.name_of(kind, value)} for kind, value in wishes.chips]
    return {"wishes": WishesBody.of(wishes).model_dump(), "chips": chips}


class _Reply:
    """What was told of one turn so far, as OpenAI's objects."""

    def __init__(self, metrics: Metrics, body: ChatBody, created: int) -> None:
        self._metrics, self._name = metrics, body.model or MODEL
        self._facts = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": created, "model": self._name}
        self._text: list[str] = []
        self._told: dict[str, Any] = {}
        self._answer: RecommendationList | None = None

    def take(self, part: Told) -> dict[str, Any]:
        """The chunk that tells a part."""
        match part:
            case _Shown():
                self._told |= part.genrec
                if part.answer is None:
                    return self._chunk({"role": "assistant", "content": ""}, genrec=part.genrec)
                self._answer = part.answer
                return self._chunk({"content": ""}, genrec=part.genrec)
            case str():
                self._text.append(part)
                return self._chunk({"content": part})
            case Conversation():
                fallback = bool(part.turns) and part.turns[-1].fallback
                if fallback:
                    self._metrics.fell_back()
                self._told["fallback"] = fallback
                return self._chunk({}, finish="stop", genrec={"fallback": fallback})
        raise TypeError(f"{part!r:.80} is no part of a turn")

    def give_up(self) -> list[dict[str, Any]]:
        """The end of a reply that broke off: what is known in plain words, marked."""
        self._metrics.fell_back()
        plain = "I could not answer this; please ask again." if self._answer is None else compose(self._answer)
        self._text.append(plain)
        ended = self._chunk({}, finish="stop", genrec={"fallback": True})
        return [self._chunk({"content": ("\n\n" if len(self._text) > 1 else "") + plain}), ended]

    @property
    def whole(self) -> dict[str, Any]:
        """The completion."""
        message = {"role": "assistant", "content": "".join(self._text), "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        told = {"object": "chat.completion", "choices": [choice], "usage": self._usage, "genrec": self._told}
        return self._facts | told

    @property
    def usage(self) -> dict[str, Any]:
        """The last chunk of a stream that asked for it."""
        return self._facts | {"object": "chat.completion.chunk", "choices": [], "usage": self._usage}

    @property
    def _usage(self) -> dict[str, int]:
        """Tokens that models computed to rank, and pieces in which the reply was told."""
        read, wrote = 0 if self._answer is None else self._answer.tokens, len(self._text)
        return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, genrec: Any = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        told = {"object": "chat.completion.chunk", "choices": [choice]}
        return self._facts | told | ({} if genrec is None else {"genrec": genrec})


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + write_json(chunk) + b"\n\n"
