"""Prompt templates: Jinja files that render to messages of trusted and untrusted spans.

A template file opens with a Jinja comment that holds its header in TOML, and writes each message as the block of
its role:

    {#
    name = "next-item"
    version = 1
    inputs = ["history", "words"]
    output = "item"
    #}
    {% block system %}...{% endblock %}
    {% block user %}{% for item in history %}{{ item.title }}{% endfor %}{% endblock %}
    {% block assistant %}{% endblock %}

What the file says is trusted, what an expression prints is not, whatever filters it went through. An assistant block
that comes last is the beginning of the answer. Templates are the operator's: the sandbox stops code, not size, so
never take one from a request.
"""

import hashlib
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
from jinja2.sandbox import ImmutableSandboxedEnvironment

from genrec.errors import TemplateError
from genrec.types import Message, Role, Span

Output = Literal["item", "text"]
Prompt = tuple[Message, ...]

_HEADER = re.compile(r"\A\s*\{#-?(.*?)-?#\}", re.DOTALL)
# What an expression of a template may run into.
_RENDER_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True)
class Template:
    """One prompt, ready to render.

    Attributes:
        name, version: as the header says; together with `fingerprint` they say which prompt a result came from.
        inputs: the variables `render` must be given.
        output: what the answer is: one catalog item, or text for a person.
        fingerprint: SHA-256 of the file's text.
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
        """Parse a template's text.

        Raises:
            TemplateError: no or a wrong header, a syntax error (line named), a variable that is no input, or a block
                that is no role.
        """
        header = _read_header(source, origin)
        environment = _SpanEnvironment()
        try:
            parsed = environment.parse(source)
            compiled = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"{origin}, line {error.lineno}: {error.message}; mend the Jinja syntax") from error
        _check_blocks(parsed, origin)
        undeclared = sorted(jinja2.meta.find_undeclared_variables(parsed) - set(header["inputs"]))
        if undeclared:
            raise TemplateError(
                f"{origin} uses {', '.join(map(repr, undeclared))}, which its header does not list under inputs "
                f"({', '.join(header['inputs'])}); declare or rename"
            )
        strange = sorted(set(compiled.blocks) - set(_ROLES))
        if strange or not compiled.blocks:
            raise TemplateError(
                f"{origin} has blocks {', '.join(map(repr, strange)) or 'none'}; "
                f"write each message as a block named {', '.join(_ROLES)}"
            )
        fingerprint = hashlib.sha256(source.encode()).hexdigest()
        return cls(**header, source=source, fingerprint=fingerprint, _compiled=compiled)

    def render(self, **values: object) -> Prompt:
        """Render every block to a message, in the order the file has them; empty messages are left out.

        Raises:
            TemplateError: an input is missing or unknown, or the template reads what a value does not have.
        """
        missing, unknown = set(self.inputs) - set(values), set(values) - set(self.inputs)
        if missing or unknown:
            wrong = "lacks " + ", ".join(sorted(missing)) if missing else "does not know " + ", ".join(sorted(unknown))
            raise TemplateError(f"template {self.name!r} {wrong}; its inputs are {', '.join(self.inputs)}")
        messages = []
        for role, block in self._compiled.blocks.items():
            try:
                spans = _strip_spans(_merge_spans(block(self._compiled.new_context(values))))
            except (jinja2.TemplateError, *_RENDER_ERRORS) as error:
                raise TemplateError(f"template {self.name!r}, block {role!r}: {error}") from error
            if spans:
                messages.append(Message(_as_role(role), spans))
        return tuple(messages)


def read_template(name: str | Path) -> Template:
    """Read a template by the name of a shipped one (see `template_names`) or by the path of a .j2 file.

    Raises:
        TemplateError: no such template, or it does not parse.
    """
    if isinstance(name, str) and name in template_names():
        source = resources.files("genrec.prompts").joinpath(f"{name}.j2").read_text(encoding="utf-8")
        return Template.from_source(source, origin=f"template {name!r}")
    path = Path(name)
    if path.suffix != ".j2" or not path.is_file():
        raise TemplateError(f"no template {str(name)!r}; name one of {', '.join(template_names())}, or a .j2 file")
    try:
        return Template.from_source(path.read_text(encoding="utf-8"), origin=f"template {path.name}")
    except UnicodeDecodeError as error:
        raise TemplateError(f"template {path.name} is not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except OSError as error:
        raise TemplateError(f"template {path.name} cannot be read: {error.strerror}; check its permissions") from error


def template_names() -> list[str]:
    """The names of the shipped templates, sorted."""
    names = (entry.name for entry in resources.files("genrec.prompts").iterdir())
    return sorted(name.removesuffix(".j2") for name in names if name.endswith(".j2"))


def one_line(text: str) -> str:
    """Text on one line: control characters, line breaks and lone surrogates as spaces, runs of spaces as one.

    Untrusted text passes through here before a prompt shows it, so that it cannot start a line of its own, and so
    that it is text a tokenizer takes.
    """
    return " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text).split())


class _Trusted(str):
    """Text that stands in the file; everything else that a block yields is untrusted, whatever made it."""

    __slots__ = ()


class _Spans(list[Any]):
    """What a macro or a captured block printed: pieces, not yet joined, so that nothing loses its origin."""

    def __str__(self) -> str:
        return "".join(map(str, _flatten(self)))


class _SpanCodeGenerator(NativeCodeGenerator):
    """Yields values as they are and the file's own text marked as such."""

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return f"environment.trusted({super()._output_const_repr(group)})"


class _SpanEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox whose templates yield their pieces apart, so that each keeps its origin."""

    code_generator_class = _SpanCodeGenerator
    concat = staticmethod(_Spans)  # type: ignore[assignment]
    trusted = _Trusted

    def getattr(self, obj: Any, attribute: str) -> Any:
        """An item's `values` or `items` is its attribute of that name, never a method of dictionaries."""
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
    """Without white space at either end: the ends of a message are where chat templates differ."""
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
    """Blocks are rendered alone: what stands outside them would never be shown, and nested ones would be twice."""
    for node in parsed.body:
        stray: nodes.Node | None = node
        what = "something outside the blocks, which is never shown"
        if isinstance(node, nodes.Block):
            stray, what = node.find(nodes.Block), "a block inside a block"
        elif isinstance(node, nodes.Output) and all(_is_blank(part) for part in node.nodes):
            stray = None
        if stray is not None:
            raise TemplateError(f"{origin}, line {stray.lineno}: {what}; write every message as a block of its own")


def _is_blank(part: nodes.Expr) -> bool:
    return isinstance(part, nodes.TemplateData) and not part.data.strip()


def _as_role(name: str) -> Role:
    return next(role for role in _ROLES if role == name)


def _read_header(source: str, origin: str) -> Mapping[str, Any]:
    found = _HEADER.match(source)
    if not found:
        raise TemplateError(f"{origin} has no header; open the file with {{# name = ..., version = ..., ... #}}")
    try:
        header = tomllib.loads(found.group(1))
    except tomllib.TOMLDecodeError as error:
        raise TemplateError(f"{origin}: the header is not TOML: {error}") from error
    kinds = {"name": str, "version": int, "inputs": list, "output": str}
    for key, kind in kinds.items():
        if not isinstance(header.get(key), kind):
            raise TemplateError(f"{origin}: the header needs {key} ({kind.__name__}), found {header.get(key)!r}")
    if unknown := sorted(set(header) - set(kinds)):
        raise TemplateError(f"{origin}: unknown header key {unknown[0]!r}; known are {', '.join(kinds)}")
    if header["output"] not in get_args(Output):
        raise TemplateError(f"{origin}: output {header['output']!r} is none of {', '.join(get_args(Output))}")
    return {**header, "inputs": tuple(map(str, header["inputs"]))}
