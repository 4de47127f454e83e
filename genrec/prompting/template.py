"""Prompt templates: Jinja files that render to messages of trusted and untrusted spans.

A template file starts with a Jinja comment that contains a TOML header, and has one block for each message, named
after its role:

    {#
    name = "next-item"
    version = 1
    inputs = ["history", "words"]
    output = "item"
    #}
    {% block system %}...{% endblock %}
    {% block user %}{% for item in history %}{{ item.title }}{% endfor %}{% endblock %}
    {% block assistant %}{% endblock %}

The text of the file is trusted. The output of expressions is untrusted, after any filter. An assistant block at the
end is the beginning of the answer. Templates come from the operator: the sandbox blocks code but does not limit size,
so never accept a template from a request.
"""

import hashlib
import os
import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import jinja2
import jinja2.meta
from jinja2 import nodes
from jinja2.nativetypes import NativeCodeGenerator

from genrec.errors import TemplateError
from genrec.prompting.sandbox import BoundedSandbox, TemplateLimitError, bounded
from genrec.types import Message, Role, Span

Output = Literal["item", "text"]
Prompt = tuple[Message, ...]

_HEADER = re.compile(r"\A\s*\{#-?(.*?)-?#\}", re.DOTALL)
# What the expressions of a template may raise.
_RENDER_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True)
class Template:
    """A parsed prompt template.

    Attributes:
        name, version: from the header; with `fingerprint` they identify the prompt behind a result.
        inputs: the variables that `render` needs.
        output: what the model answers: one catalog item, or text.
        source: the file's text.
        fingerprint: the SHA-256 of the file's text.
    """

    name: str
    version: int
    inputs: tuple[str, ...]
    output: Output
    source: str = field(repr=False)
    fingerprint: str = field(repr=False)
    _compiled: jinja2.Template = field(repr=False, compare=False)

    @classmethod
    def from_source(cls, source: str, *, origin: str = "the template") -> "Template":
        """Parse the text of a template.

        Args:
            source: the text.
            origin: names the template in error messages.

        Raises:
            TemplateError: the header is missing or wrong, a syntax error (with its line), a variable that the header
                does not list, or a block that is not named after a role.
        """
        header = _read_header(source, origin)
        environment = _SpanEnvironment()
        try:
            parsed = environment.parse(source)
            compiled = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"{origin}, line {error.lineno}: {error.message}; correct the Jinja syntax") from error
        _check_blocks(parsed, origin)
        undeclared = sorted(jinja2.meta.find_undeclared_variables(parsed) - set(header["inputs"]))
        if undeclared:
            raise TemplateError(
                f"{origin} uses {', '.join(map(repr, undeclared))}, which its header does not list under inputs "
                f"({', '.join(header['inputs'])}); add it there or rename it"
            )
        unknown = sorted(set(compiled.blocks) - set(_ROLES))
        if unknown or not compiled.blocks:
            raise TemplateError(
                f"{origin} has blocks {', '.join(map(repr, unknown)) or 'none'}; "
                f"write each message as a block named {', '.join(_ROLES)}"
            )
        fingerprint = hashlib.sha256(source.encode()).hexdigest()
        return cls(**header, source=source, fingerprint=fingerprint, _compiled=compiled)

    def render(self, **values: object) -> Prompt:
        """Render every block to a message, in the order of the file; empty messages are left out.

        Args:
            values: one value for each input.

        Raises:
            TemplateError: an input is missing or unknown, or an expression fails.
        """
        missing, unknown = set(self.inputs) - set(values), set(values) - set(self.inputs)
        if missing or unknown:
            wrong = "lacks " + ", ".join(sorted(missing)) if missing else "has no input " + ", ".join(sorted(unknown))
            raise TemplateError(f"template {self.name!r} {wrong}; its inputs are {', '.join(self.inputs)}")
        messages = []
        for role, block in self._compiled.blocks.items():
            try:
                spans = _strip_spans(_merge_spans(block(self._compiled.new_context(bounded(values)))))
            except TemplateLimitError as error:
                problem = f"template {self.name!r}, block {role!r}, {error}"
                raise TemplateError(problem, remedy="correct its loops and macros") from error
            except (jinja2.TemplateError, *_RENDER_ERRORS) as error:
                raise TemplateError(f"template {self.name!r}, block {role!r}: {error}") from error
            if spans:
                messages.append(Message(_as_role(role), spans))
        return tuple(messages)


def read_template(name: str | Path) -> Template:
    """Read a shipped template by its name (see `template_names`), or a .j2 file by its path.

    Raises:
        TemplateError: the template does not exist, or does not parse.
    """
    if isinstance(name, str) and name in template_names():
        source = resources.files("genrec.prompts").joinpath(f"{name}.j2").read_text(encoding="utf-8")
        return Template.from_source(source, origin=f"template {name!r}")
    path = Path(name)
    if path.suffix != ".j2" or not os.path.isfile(path):
        raise TemplateError(f"no template {str(name)!r}; use one of {', '.join(template_names())}, or a .j2 file")
    try:
        return Template.from_source(path.read_text(encoding="utf-8"), origin=f"template {path.name}")
    except UnicodeDecodeError as error:
        raise TemplateError(f"template {path.name} is not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except OSError as error:
        raise TemplateError(f"cannot read template {path.name}: {error.strerror}; check its permissions") from error


def template_names() -> list[str]:
    """The names of the shipped templates, sorted."""
    names = (entry.name for entry in resources.files("genrec.prompts").iterdir())
    return sorted(name.removesuffix(".j2") for name in names if name.endswith(".j2"))


def one_line(text: str) -> str:
    """Put text on one line: replace control characters, line breaks and lone surrogates by spaces, and merge spaces.

    Untrusted text passes through here before it enters a prompt, so that it cannot start a new line, and so that a
    tokenizer can encode it.
    """
    return " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text).split())


class _Trusted(str):
    """Text of the template file; everything else that a block yields is untrusted."""

    __slots__ = ()


class _Spans(list[Any]):
    """The output of a macro or a captured block, in pieces that keep their origin."""

    def __str__(self) -> str:
        return "".join(map(str, _flatten(self)))


class _SpanCodeGenerator(NativeCodeGenerator):
    """Generates code that yields values unchanged, and marks the text of the file as trusted."""

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return f"environment.trusted({super()._output_const_repr(group)})"


class _SpanEnvironment(BoundedSandbox):
    """A sandbox whose templates yield their output in pieces that keep their origin."""

    code_generator_class = _SpanCodeGenerator
    concat = staticmethod(_Spans)  # type: ignore[assignment]
    trusted = _Trusted

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Read `values` or `items` of an item as its attribute, never as a method of the dictionary."""
        if isinstance(obj, dict):
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def __init__(self) -> None:
        super().__init__(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)


def _flatten(pieces: Iterable[Any]) -> Iterator[str]:
    for piece in pieces:
        if isinstance(piece, _Spans):
            yield from _flatten(piece)
        else:
            yield piece if isinstance(piece, _Trusted) else one_line(str(piece))  # StrictUndefined raises here


def _merge_spans(pieces: Iterable[Any]) -> list[Span]:
    spans: list[Span] = []
    for piece in _flatten(pieces):
        trusted = isinstance(piece, _Trusted)
        if spans and spans[-1].trusted == trusted:
            spans[-1] = Span(spans[-1].text + piece, trusted)
        elif piece:
            spans.append(Span(str(piece), trusted))
    return spans


def _strip_spans(spans: list[Span]) -> tuple[Span, ...]:
    """Strip white space at both ends, where chat templates differ."""
    sides: tuple[tuple[int, Callable[[str], str]], ...] = ((0, str.lstrip), (-1, str.rstrip))
    for end, strip in sides:
        while spans:
            text = strip(spans[end].text)
            if text:
                spans[end] = Span(text, spans[end].trusted)
                break
            spans.pop(end)
    return tuple(spans)


def _check_blocks(parsed: nodes.Template, origin: str) -> None:
    """Reject text outside blocks, which would never be rendered, and nested blocks, which would be rendered twice."""
    for node in parsed.body:
        stray: nodes.Node | None = node
        what = "content outside the blocks is never rendered"
        if isinstance(node, nodes.Block):
            stray, what = node.find(nodes.Block), "a block is nested in another block"
        elif isinstance(node, nodes.Output) and all(_is_blank(child) for child in node.nodes):
            stray = None
        if stray is not None:
            raise TemplateError(f"{origin}, line {stray.lineno}: {what}; write each message as a separate block")


def _is_blank(node: nodes.Expr) -> bool:
    return isinstance(node, nodes.TemplateData) and not node.data.strip()


def _as_role(name: str) -> Role:
    return next(role for role in _ROLES if role == name)


def _read_header(source: str, origin: str) -> Mapping[str, Any]:
    found = _HEADER.match(source)
    if not found:
        raise TemplateError(f"{origin} has no header; start the file with {{# name = ..., version = ..., ... #}}")
    try:
        header = tomllib.loads(found.group(1))
    except tomllib.TOMLDecodeError as error:
        raise TemplateError(f"{origin}: the header is not TOML: {error}; correct it") from error
    kinds = {
        "name": (str, "a text"),
        "version": (int, "a whole number"),
        "inputs": (list, "a list"),
        "output": (str, "a text"),
    }
    for key, (type_, kind) in kinds.items():
        if not isinstance(header.get(key), type_):
            raise TemplateError(f"{origin}: {key} in the header is {header.get(key)!r}; give {kind}")
    if unknown := sorted(set(header) - set(kinds)):
        raise TemplateError(f"{origin}: unknown header key {unknown[0]!r}; use only {', '.join(kinds)}")
    if header["output"] not in get_args(Output):
        raise TemplateError(f"{origin}: output is {header['output']!r}; give one of {', '.join(get_args(Output))}")
    return {**header, "inputs": tuple(map(str, header["inputs"]))}
