"""Jinja's sandbox with bounds: a template that loops without end, or builds endless text, ends with an error."""

from collections.abc import Sized
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS = 100_000
"""Turns of loops, calls of macros and numbers of ranges in one rendering; a chat template takes a few a message."""

MAX_SIZE = 1_000_000
"""Characters or elements of a value that an operator builds, and bits of a power."""

_STEPS = "steps taken"  # a variable that no template can name


class TemplateLimitError(jinja2.TemplateRuntimeError):
    """A rendering takes too many steps, or builds too large a value; the message continues "the template"."""


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """A sandbox that counts the steps of a rendering, which begins with `bounded` variables."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.globals["range"] = _bounded_range

    def count_step(self, context: Context) -> bool:
        """Count a step; True, so that it can stand in a condition.

        Raises:
            TemplateLimitError: it is one too many.
        """
        context.parent[_STEPS].take(1)
        return True

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        parsed = super()._parse(source, name, filename)
        for loop in parsed.find_all(nodes.For):
            if loop.test is not None:
                loop.test = nodes.And(_counting_call(loop), loop.test, lineno=loop.lineno)
        bodies = [loop.body for loop in parsed.find_all(nodes.For)]
        for body in [*bodies, *(macro.body for macro in parsed.find_all(nodes.Macro))]:
            body.insert(0, nodes.ExprStmt(_counting_call(parsed), lineno=parsed.lineno))
        return parsed


class UntrustedSandbox(BoundedSandbox):
    """A bounded sandbox for templates of others, whose operators build no endless values."""

    intercepted_binops = frozenset({"+", "*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right`.

        Raises:
            TemplateLimitError: the value would be too large.
        """
        sizes = [len(value) if isinstance(value, Sized) else abs(value) for value in (left, right)]
        if operator == "**":
            too_large = isinstance(left, int) and left.bit_length() * sizes[1] > MAX_SIZE
        elif any(isinstance(value, Sized) for value in (left, right)):
            too_large = (sizes[0] * sizes[1] if operator == "*" else sizes[0] + sizes[1]) > MAX_SIZE
        else:
            too_large = False
        if too_large:
            raise _size_error()
        return super().call_binop(context, operator, left, right)

    def join_texts(self, *values: object) -> str:
        """The operator `~`.

        Raises:
            TemplateLimitError: the text is too long.
        """
        texts = [str(value) for value in values]
        if sum(map(len, texts)) > MAX_SIZE:
            raise _size_error()
        return "".join(texts)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        parsed: nodes.Template = _ConcatenationBounds().visit(super()._parse(source, name, filename))
        return parsed


def bounded(variables: dict[str, Any]) -> dict[str, Any]:
    """The variables of one rendering, with its count of steps."""
    return {**variables, _STEPS: _Steps()}


class _Steps:
    """The steps of one rendering that are left."""

    def __init__(self) -> None:
        self._left = MAX_STEPS

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise TemplateLimitError(
                f"takes more than {MAX_STEPS:,} steps (turns of loops and calls of macros), perhaps without end"
            )


@jinja2.pass_context
def _bounded_range(context: Context, *arguments: int) -> range:
    numbers = range(*arguments)
    # A slice, because `len` fails on a range of more numbers than an index can hold.
    context.parent[_STEPS].take(len(numbers[: MAX_STEPS + 1]))
    return numbers


class _ConcatenationBounds(NodeTransformer):
    """Replaces the operator `~`, which Jinja does not let a sandbox intercept."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802  (Jinja's name)
        self.generic_visit(node)
        method = nodes.EnvironmentAttribute("join_texts", lineno=node.lineno)
        return nodes.Call(method, node.nodes, [], None, None, lineno=node.lineno)


def _counting_call(node: nodes.Node) -> nodes.Call:
    method = nodes.EnvironmentAttribute("count_step", lineno=node.lineno)
    return nodes.Call(method, [nodes.ContextReference(lineno=node.lineno)], [], None, None, lineno=node.lineno)


def _size_error() -> TemplateLimitError:
    return TemplateLimitError(f"builds a value of more than {MAX_SIZE:,} characters, elements or bits")
