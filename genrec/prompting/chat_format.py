"""A model's chat format: messages become spans, with the markup of the model's own chat template between them."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from genrec.errors import ArtifactError
from genrec.prompting.chat_template import ChatTemplate
from genrec.types import Message, Role, Span

_MAX_CACHED_SCAFFOLDS = 256
_CONTENT_PLACEHOLDER = re.compile("\ue000([0-9]+)\ue001")
_BREAK = Span("\n\n", trusted=True)


@dataclass(frozen=True)
class _Scaffold:
    """What a template writes around the contents of N messages.

    Attributes:
        order: the N messages in the order in which the template shows them.
        pieces: N + 1 texts: before, between and after these contents; the last one ends where the answer begins.
    """

    order: tuple[int, ...]
    pieces: tuple[str, ...]


class ChatFormat:
    """Formats conversations with the chat template of a model, up to the first character of the answer.

    The template never sees the messages' content. It is rendered with placeholders, once for each sequence of roles;
    what it writes around them is the scaffold, which is trusted. So no content can forge the markup.

    The answer begins where the template shows it when it renders the whole conversation, with the answer in it. Some
    templates write more there than their generation prompt has, such as an empty block of reasoning or a channel.

    Args:
        template: the model's chat template; None for a base model, whose messages become paragraphs.
        bos_token: the token that a base model's prompts begin with.
    """

    def __init__(self, template: ChatTemplate | None, *, bos_token: str) -> None:
        self._template = template
        self._bos_token = bos_token
        self._scaffolds: dict[tuple[Role, ...], _Scaffold | ArtifactError] = {}

    def spans(self, prompt: Sequence[Message]) -> list[Span]:
        """Format a prompt as spans, with the markup as trusted spans.

        If the last message is the assistant's, it is the beginning of the answer and stays open. Where the template
        rejects the roles, several system messages become one, then the system message opens the first message of the
        user, then neighbours of one role become one message.

        Raises:
            ArtifactError: the template rejects these roles, or does not show every message once and in order.
        """
        opened = bool(prompt) and prompt[-1].role == "assistant"
        turns, scaffold = self._fit(list(prompt[:-1] if opened else prompt))
        spans = [Span(scaffold.pieces[0], trusted=True)]
        for message, after in zip(scaffold.order, scaffold.pieces[1:], strict=True):
            spans += [*turns[message].spans, Span(after, trusted=True)]
        return [*spans, *prompt[-1].spans] if opened else spans

    def text_after_answer(self) -> str:
        """What the template writes after an answer; the empty string without a template.

        Raises:
            ArtifactError: the template rejects one message of the user and an answer.
        """
        return "" if self._template is None else self._split(("user", "assistant"), False)[1][-1]

    def skipped_generation_prompt(self) -> str:
        """What the generation prompt opens that the whole conversation lacks, such as `<think>`; usually nothing.

        A model whose reasoning cannot be switched off would continue there, and answer later.
        """
        if self._template is None:
            return ""
        generation = self._split(("user",), True)[1][-1]
        answer = self._scaffold(("user",)).pieces[-1]
        differing = (at for at, pair in enumerate(zip(generation, answer, strict=False)) if pair[0] != pair[1])
        return generation[next(differing, min(len(generation), len(answer))) :]

    def _fit(self, turns: list[Message]) -> tuple[list[Message], _Scaffold]:
        errors: list[ArtifactError] = []
        for candidate in _equivalent_turns(turns):
            try:
                return candidate, self._scaffold(tuple(message.role for message in candidate))
            except ArtifactError as error:
                errors.append(error)
        raise errors[0]

    def _scaffold(self, roles: tuple[Role, ...]) -> _Scaffold:
        if roles not in self._scaffolds:
            if len(self._scaffolds) >= _MAX_CACHED_SCAFFOLDS:
                self._scaffolds.clear()  # clients of an API choose the roles, so the cache must not grow with them
            try:
                self._scaffolds[roles] = self._make_scaffold(roles)
            except ArtifactError as error:
                self._scaffolds[roles] = error
        found = self._scaffolds[roles]
        if isinstance(found, ArtifactError):
            raise found
        return found

    def _make_scaffold(self, roles: tuple[Role, ...]) -> _Scaffold:
        if self._template is None:
            return _Scaffold(tuple(range(len(roles))), (self._bos_token, *("\n\n" for _ in roles)))
        answer = len(roles)
        opening: str | None = None
        try:
            order, pieces = self._split((*roles, "assistant"), False)
        except ArtifactError as error:  # some templates reject an answer at the end
            failure = error
        else:
            shown = {number for number in range(answer) if roles[number] != "system"} | {*order, answer}
            if order[-1:] != (answer,) or not _shows_once(roles, order[:-1], shown - {answer}):
                raise _disorder_error(roles)
            if len(shown) == answer + 1:
                return _Scaffold(order[:-1], pieces[:-1])
            failure = _disorder_error(roles)  # some templates show the system message only without an answer
            if order[-2:-1] == (answer - 1,):
                opening = pieces[-2]
        order, pieces = self._split(roles, True)
        if not _shows_once(roles, order, range(answer)):
            raise failure
        if opening is not None and order[-1:] == (answer - 1,):
            pieces = (*pieces[:-1], opening)
        return _Scaffold(order, pieces)

    def _split(self, roles: tuple[Role, ...], add_generation_prompt: bool) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Render placeholders: the messages that are shown, in order, and the texts before, between and after them."""
        if self._template is None:
            raise ArtifactError("the model has no chat template")
        contents = [f"\ue000{number}\ue001" for number in range(len(roles))]
        text = self._template.render(roles, contents, add_generation_prompt=add_generation_prompt)
        pieces = _CONTENT_PLACEHOLDER.split(text)
        return tuple(map(int, pieces[1::2])), tuple(pieces[::2])


def _shows_once(roles: Sequence[Role], order: Sequence[int], expected: Collection[int]) -> bool:
    """Whether the expected messages are shown once, and all but the system's in order; some templates move these."""
    if sorted(order) != sorted(expected):
        return False
    turns = [number for number in order if roles[number] != "system"]
    return turns == sorted(turns)


def _disorder_error(roles: Sequence[Role]) -> ArtifactError:
    return ArtifactError(
        f"the model's chat template does not show the messages {', '.join(roles)} once and in order",
        remedy="correct the chat template, or use a prompt template with other roles",
    )


def _equivalent_turns(turns: list[Message]) -> Iterator[list[Message]]:
    """The messages as they are, and then the same content with fewer roles."""
    yield turns
    system = [turn for turn in turns if turn.role == "system"]
    others = [turn for turn in turns if turn.role != "system"]
    if len(system) > 1:
        yield [_join(system), *others]
    if system and others and others[0].role == "user":
        others = [Message("user", _join([*system, others[0]]).spans), *others[1:]]
        yield others
    merged: list[Message] = []
    for turn in others:
        if merged and merged[-1].role == turn.role:
            merged[-1] = _join([merged[-1], turn])
        else:
            merged.append(turn)
    if len(merged) < len(others):
        yield merged


def _join(messages: Sequence[Message]) -> Message:
    spans = list(messages[0].spans)
    for message in messages[1:]:
        spans += [_BREAK, *message.spans]
    return Message(messages[0].role, tuple(spans))
