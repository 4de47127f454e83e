"""The chat template of a model, rendered as Transformers renders it.

Source: Transformers, "Chat templates": its environment has loop controls, the block `generation`, the filter `tojson`
and the functions `raise_exception` and `strftime_now`.
"""

import datetime
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2 import nodes
from jinja2.parser import Parser

from genrec.errors import ArtifactError, InputError, format_value
from genrec.prompting.sandbox import TemplateLimitError, UntrustedSandbox, bounded
from genrec.prompting.tokenizer_file import parse_object, read_text
from genrec.types import Role

_LISTS = ("tools", "documents")  # variables that are None without any, as in Transformers
_CONVERSATION_VARIABLES = ("messages", "add_generation_prompt")  # of the prompt that is rendered, not of the user
# What Jinja and the expressions of a template raise; a macro may call itself without end.
_RENDERING_ERRORS = (
    *(jinja2.TemplateError, TypeError, ValueError, LookupError),
    *(AttributeError, ArithmeticError, RecursionError, MemoryError),
)


@dataclass(frozen=True)
class ChatTemplateSettings:
    """How the chat template of a model is rendered.

    Attributes:
        arguments: variables of the template; `enable_thinking` is False unless it is given here.
        date: what `strftime_now` returns. It is fixed, because a prompt that changes every day empties prompt caches.
        name: which of several templates is used; by default the one that is called "default".

    Raises:
        InputError: an argument has a name that no variable can have, or a value that JSON cannot hold; or the date is
            none.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    date: datetime.date = datetime.date(2025, 1, 1)
    name: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.date, datetime.date):
            raise InputError(f"the chat template's date is {format_value(self.date, 60)}; give a datetime.date")
        for name, value in self.arguments.items():
            if not (isinstance(name, str) and name.isidentifier()) or name in _CONVERSATION_VARIABLES:
                reason = "is set by the prompt" if name in _CONVERSATION_VARIABLES else "is not a variable name"
                raise InputError(
                    f"chat template argument {format_value(name, 60)} {reason}; name a variable of the model's chat "
                    "template, such as enable_thinking"
                )
            try:
                json.dumps(value, allow_nan=False, ensure_ascii=False, sort_keys=True).encode()
            except (TypeError, ValueError, RecursionError) as error:
                raise InputError(
                    f"chat template argument {name} is {format_value(value, 60)}: {error}; give text, a number, true, "
                    "false, null, or a list or object of these"
                ) from error


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: the Jinja source.
        special_tokens: variables such as `bos_token`.
        settings: see `ChatTemplateSettings`.

    Attributes:
        fingerprint: identifies what is rendered: the source, the variables that it reads, and the date if it shows one.
        ignored_arguments: arguments of the settings that the source does not read.

    Raises:
        ArtifactError: the source is not a template.
    """

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], settings: ChatTemplateSettings | None = None
    ) -> None:
        self._source, self._settings = source, settings or ChatTemplateSettings()
        self._variables = {
            **dict.fromkeys(_LISTS),
            "enable_thinking": False,
            **special_tokens,
            **self._settings.arguments,
        }
        environment = UntrustedSandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        try:
            # Without the names of globals, so before `strftime_now` is one.
            self._names = jinja2.meta.find_undeclared_variables(environment.parse(source))
            environment.globals["raise_exception"] = _raise_exception
            environment.globals["strftime_now"] = self._strftime
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ArtifactError(
                f"the model's chat template is not valid: {error}; correct chat_template.jinja, or fetch the model "
                "again"
            ) from error

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of what is rendered."""
        read: dict[str, Any] = {name: self._variables[name] for name in self._names & self._variables.keys()}
        if "strftime_now" in self._names:
            read["strftime_now"] = self._settings.date.isoformat()
        return hashlib.sha256(json.dumps([self._source, read], sort_keys=True).encode()).hexdigest()

    @property
    def ignored_arguments(self) -> list[str]:
        """The arguments that the source does not read, in alphabetical order."""
        return sorted(self._settings.arguments.keys() - self._names)

    def render(self, roles: Sequence[Role], contents: Sequence[str], *, add_generation_prompt: bool) -> str:
        """Render messages as Transformers does.

        Content that the template does not show as text is given as a list with one text part. A template for tools that
        fails without any gets empty lists.

        Raises:
            ArtifactError: the template rejects the messages; the message has the template's own reason.
        """
        texts: list[str] = []
        errors: list[ArtifactError] = []
        in_parts = [[{"type": "text", "text": content}] for content in contents]
        empty_lists: dict[str, Any] = {name: [] for name in _LISTS if self._variables[name] is None}
        for shaped, lists in ((contents, {}), (in_parts, {}), (contents, empty_lists)):
            try:
                texts.append(self._render(roles, shaped, {**lists, "add_generation_prompt": add_generation_prompt}))
            except ArtifactError as error:
                errors.append(error)
            else:
                if all(content in texts[-1] for content in contents):
                    break
        if not texts:
            raise errors[0]
        return max(texts, key=lambda text: sum(content in text for content in contents))

    def _render(self, roles: Sequence[Role], contents: Sequence[object], options: Mapping[str, Any]) -> str:
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        try:
            return self._template.render(bounded({**self._variables, "messages": messages, **options}))
        except TemplateLimitError as error:
            raise ArtifactError(
                f"the model's chat template {error}; correct the chat template, or fetch the model again"
            ) from error
        except _RENDERING_ERRORS as error:
            remedy = "correct the chat template, or use a prompt template with other roles"
            if self._settings.arguments:
                remedy = f"change the chat template arguments {', '.join(self._settings.arguments)}, or {remedy}"
            reason = " ".join(str(error).split())
            raise ArtifactError(
                f"the model's chat template rejects the roles {', '.join(roles)}: {reason}; {remedy}"
            ) from error

    def _strftime(self, pattern: str) -> str:
        return datetime.datetime.combine(self._settings.date, datetime.time()).strftime(pattern)


def read_chat_template(directory: Path, config: Mapping[str, Any], name: str | None) -> str | None:
    """The source of the chat template in a model's folder; None if it has none.

    Args:
        directory: has `chat_template.jinja`, `chat_template.json` or `additional_chat_templates/NAME.jinja`, or none.
        config: the content of `tokenizer_config.json`, whose `chat_template` is one template or a list with names.
        name: which of several templates is wanted; None for "default".

    Raises:
        ArtifactError: a file cannot be read, or several templates exist and none has the name.
    """
    templates = _listed_templates(config.get("chat_template") or [], "tokenizer_config.json")
    if (file := directory / "chat_template.json").is_file():
        content = parse_object(read_text(file), file.name).get("chat_template")
        templates |= _listed_templates(content, file.name)
    for file in sorted((directory / "additional_chat_templates").glob("*.jinja")):
        templates[file.stem] = read_text(file)
    if (file := directory / "chat_template.jinja").is_file():
        templates["default"] = read_text(file)
    if not templates and name is None:
        return None
    wanted = name or ("default" if len(templates) > 1 else next(iter(templates)))
    if wanted not in templates:
        names = ", ".join(sorted(templates)) or "none"
        raise ArtifactError(
            f"{directory} has no chat template {wanted!r} (it has {names}); set the name of the chat template"
        )
    return templates[wanted]


def _listed_templates(content: Any, file: str) -> dict[str, str]:
    """Templates by name: one text is the default; several are a list of objects, or an object.

    Raises:
        ArtifactError: the content has another form.
    """
    if isinstance(content, str):
        return {"default": content}
    try:
        templates = content if isinstance(content, dict) else {one["name"]: one["template"] for one in content}
    except (LookupError, TypeError):
        templates = {"": None}
    if not all(isinstance(text, str) for pair in templates.items() for text in pair):
        raise ArtifactError(
            f"chat_template in {file} is {format_value(content)}, neither a text nor texts with names",
            remedy="correct it, or fetch the model again",
        )
    return templates


class _GenerationBlock(jinja2.ext.Extension):
    """The block `generation`, which marks an answer for training; here it shows its content."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Parse the block to its content, in a scope of its own as in Transformers."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_show"), [], [], body).set_lineno(line)

    def _show(self, caller: Callable[[], str]) -> str:
        return caller()


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the escapes for HTML that Jinja's own filter writes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> str:
    raise jinja2.TemplateError(message)
