"""A model's chat format: messages become spans, with the markup of the model's own chat template between them."""

import re
from collections.abc import Sequence

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from genrec.errors import ArtifactError
from genrec.types import Message, Role, Span

_MAX_CACHED_SCAFFOLDS = 256
_CONTENT_PLACEHOLDER = re.compile("\ue000([0-9]+)\ue001")


class ChatFormat:
    """Formats conversations with the chat template of a model.

    The template never sees the messages' content. It is rendered with placeholders, once for each sequence of roles;
    what it writes around them is the scaffold, which is trusted. So no content can forge the markup.

    Args:
        template: the Jinja source of the model's chat template; None for a base model, whose messages become
            paragraphs.
        bos_token, eos_token: the tokens that a template may write at the start and the end.
    """

    def __init__(self, template: str | None, *, bos_token: str, eos_token: str) -> None:
        self._template = template
        self._special_tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._scaffolds: dict[tuple[Role, ...], tuple[str, ...]] = {}

    def spans(self, prompt: Sequence[Message]) -> list[Span]:
        """Format a prompt as spans, with the markup as trusted spans.

        If the last message is the assistant's, it is the beginning of the answer and stays open.

        Raises:
            ArtifactError: the template rejects these roles, or does not show every message once and in order.
        """
        opened = bool(prompt) and prompt[-1].role == "assistant"
        turns = prompt[:-1] if opened else prompt
        try:
            scaffold = self._scaffold(tuple(message.role for message in turns))
        except ArtifactError:
            if len(turns) < 2 or turns[0].role != "system":
                raise
            # Some chat formats have no system role: the system message then opens the first message of the user.
            both = (*turns[0].spans, Span("\n\n", trusted=True), *turns[1].spans)
            turns = [Message(turns[1].role, both), *turns[2:]]
            scaffold = self._scaffold(tuple(message.role for message in turns))
        spans = [Span(scaffold[0], trusted=True)]
        for message, after in zip(turns, scaffold[1:], strict=True):
            spans += [*message.spans, Span(after, trusted=True)]
        return [*spans, *prompt[-1].spans] if opened else spans

    def text_after_answer(self) -> str:
        """What the template writes after an answer; the empty string without a template."""
        if self._template is None:
            return ""
        return self._render_scaffold(("user", "assistant"), add_generation_prompt=False)[-1]

    def _scaffold(self, roles: tuple[Role, ...]) -> tuple[str, ...]:
        """What the template writes before, between and after the contents of messages with these roles."""
        if roles not in self._scaffolds:
            if len(self._scaffolds) >= _MAX_CACHED_SCAFFOLDS:
                self._scaffolds.clear()  # clients of an API choose the roles, so the cache must not grow with them
            self._scaffolds[roles] = self._render_scaffold(roles)
        return self._scaffolds[roles]

    def _render_scaffold(self, roles: tuple[Role, ...], *, add_generation_prompt: bool = True) -> tuple[str, ...]:
        if self._template is None:
            return (self._special_tokens["bos_token"], *("\n\n" for _ in roles))
        contents = [f"\ue000{number}\ue001" for number in range(len(roles))]
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _raise_exception
        try:
            text = environment.from_string(self._template).render(
                messages=messages, add_generation_prompt=add_generation_prompt, **self._special_tokens
            )
        except jinja2.TemplateError as error:
            raise ArtifactError(
                f"the model's chat template rejects the roles {', '.join(roles)}: {error}; "
                "use a prompt template with other roles"
            ) from error
        pieces = _CONTENT_PLACEHOLDER.split(text)
        if pieces[1::2] != [str(number) for number in range(len(roles))]:
            raise ArtifactError(
                f"the model's chat template does not show the messages {', '.join(roles)} once and in order; "
                "use a prompt template with other roles"
            )
        return tuple(pieces[::2])


def _raise_exception(message: str) -> str:
    raise jinja2.TemplateError(message)
