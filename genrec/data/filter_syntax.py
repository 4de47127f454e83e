"""The syntax of filters: from text to a parsed filter, and back. `genrec.data.filters` describes the language.

Filters are joined as parsed trees, never as text: text may hold comments, quotes and brackets.
"""

import ast
import keyword
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from genrec.errors import FilterError, InputError

ComparisonOperator = Literal["<", "<=", ">", ">="]

_MAX_LENGTH = 10_000  # characters
_MAX_DEPTH = 32
_MAX_NUMBER_BITS = 4096  # Python refuses to write much larger whole numbers in decimal
_OPERATORS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Is: "is",
    ast.IsNot: "is not",
}
_ORDERS: dict[ComparisonOperator, type[ast.cmpop]] = {"<": ast.Lt, "<=": ast.LtE, ">": ast.Gt, ">=": ast.GtE}
_MIRRORED: dict[str, ComparisonOperator] = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True)
class Comparison:
    """A comparison of one attribute with a number, such as `price <= 5`."""

    name: str
    operator: ComparisonOperator
    number: int | float


@dataclass(frozen=True)
class Filter:
    """A parsed filter. `first & second` allows the rows that both allow.

    `str` gives its text form. Filters with the same text form are equal, and the text form parses to an equal filter if
    it is at most 10,000 characters long.

    Attributes:
        text: the text form: one line, without comments and superfluous brackets.
        tree: the condition, in the nodes of Python's parser.
        source: the text that was parsed; for error messages.
    """

    text: str
    tree: ast.expr = field(compare=False, repr=False)
    source: str = field(compare=False, repr=False)

    @classmethod
    def compare(cls, comparison: Comparison) -> "Filter":
        """The filter that is one comparison.

        Raises:
            FilterError: the name of the attribute is not a Python name.
        """
        if not is_attribute_name(comparison.name):
            raise FilterError(f"attribute {comparison.name!r} cannot be named in a filter", remedy="rename the column")
        name = unicodedata.normalize("NFKC", comparison.name)  # as Python's parser does
        return _filter_of(
            ast.Compare(ast.Name(name), [_ORDERS[comparison.operator]()], [ast.Constant(comparison.number)])
        )

    @classmethod
    def without_words(cls, name: str, phrase: str) -> "Filter":
        """The filter `phrase not in words(name)`."""
        words = ast.Call(ast.Name("words"), [ast.Name(name)], [])
        return _filter_of(ast.Compare(ast.Constant(phrase), [ast.NotIn()], [words]))

    def __and__(self, other: "Filter") -> "Filter":
        """The rows that both filters allow."""
        return all_of((self, other))

    def __str__(self) -> str:
        return self.text

    @property
    def conjuncts(self) -> tuple["Filter", ...]:
        """The filters that `and` joins; the filter itself if none are joined."""
        match self.tree:
            case ast.BoolOp(ast.And(), values):
                return tuple(map(_filter_of, values))
        return (self,)

    @property
    def comparison(self) -> Comparison | None:
        """The filter as a comparison of an attribute with a number; None if it is another condition."""
        if not isinstance(self.tree, ast.Compare) or len(self.tree.ops) != 1:
            return None
        orders = {symbol: symbol for symbol in get_args(ComparisonOperator)}
        left, right, symbol = self.tree.left, self.tree.comparators[0], _OPERATORS[type(self.tree.ops[0])]
        if not isinstance(left, ast.Name):
            left, right, orders = right, left, _MIRRORED
        if symbol not in orders or not isinstance(left, ast.Name) or not isinstance(right, ast.Constant):
            return None
        number = right.value
        if not isinstance(number, int | float) or isinstance(number, bool):
            return None
        return Comparison(left.id, orders[symbol], number)


def parse_filter(text: str) -> Filter:
    """Parse a filter.

    Raises:
        FilterError: the text is not a filter; attributes and the types of values are not checked.
    """
    return _Parser(text).parse()


def all_of(filters: Iterable[Filter]) -> Filter:
    """The rows that every filter allows.

    Raises:
        InputError: there is no filter.
    """
    filters = tuple(filters)
    if not filters:
        raise InputError("there is no filter to join; pass at least one, or omit the filter to allow every item")
    return filters[0] if len(filters) == 1 else _filter_of(_join(ast.And(), [joined.tree for joined in filters]))


def is_attribute_name(name: str) -> bool:
    """Whether a filter can name a column."""
    return name.isidentifier() and not keyword.iskeyword(name)


class _Parser:
    """Parses one text into the nodes of Python's parser, reduced to those of the filter language.

    Nested `and` and `or` are flattened, signed numbers are constants, and tuples and sets of values are lists.
    """

    def __init__(self, text: str) -> None:
        self._source = text

    def parse(self) -> Filter:
        if len(self._source) > _MAX_LENGTH:
            self._source, length = f"{self._source[:40]}...", len(self._source)
            raise self._error(
                f"it is {length:,} characters long, but at most {_MAX_LENGTH:,} are allowed",
                "pass ids as an allow-list",
            )
        text = self._source.strip()
        if not text:
            raise self._error("it is empty", "omit it to allow every item")
        return replace(_filter_of(self._condition(self._read_tree(text), 0)), source=self._source)

    def _read_tree(self, text: str) -> ast.expr:
        try:
            return ast.parse(text, mode="eval").body
        except SyntaxError as error:
            if (tree := _read_lines(text)) is not None:
                return tree
            rest = (error.text or "")[(error.offset or 1) - 1 :].strip()
            at = f" near {rest[:20]!r}" if rest else ""
            raise self._error(
                f"it does not parse{at} ({error.msg})", "write a condition such as: price < 5 and title != 'x'"
            ) from error
        except (ValueError, RecursionError, MemoryError) as error:
            raise self._error(f"it does not parse ({str(error) or 'nested too deeply'})", "simplify it") from error

    def _condition(self, node: ast.expr, depth: int) -> ast.expr:
        if depth > _MAX_DEPTH:
            raise self._error(f"it is nested more than {_MAX_DEPTH} levels deep", "write it with fewer levels")
        match node:
            case ast.BoolOp(joint, values):
                # Filters can be joined at any depth, so an outer `and` is not a level.
                inner = depth if depth == 0 and isinstance(joint, ast.And) else depth + 1
                return _join(joint, [self._condition(value, inner) for value in values])
            case ast.UnaryOp(ast.Not(), operand):
                return ast.UnaryOp(ast.Not(), self._condition(operand, depth + 1))
            case ast.Compare(left, ops, comparators):
                sides = [left, *comparators]
                for first, op, second in zip(sides, ops, sides[1:], strict=False):
                    self._check_comparison(first, op, second)
                first, *others = map(self._side, sides)
                return ast.Compare(first, ops, others)
            case ast.Name():
                return self._side(node)
        raise self._error(f"{self._excerpt(node)} is not a condition", "use comparisons, in, is None, and, or, not")

    def _check_comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> None:
        if isinstance(op, ast.In | ast.NotIn):
            self._check_membership(left, right)
        elif isinstance(op, ast.Is | ast.IsNot):
            if not isinstance(left, ast.Name) or not isinstance(right, ast.Constant) or right.value is not None:
                raise self._error("is and is not only test whether an attribute is None", "use == or !=")
        elif not isinstance(left, ast.Name) and not isinstance(right, ast.Name):
            raise self._error(
                f"{self._excerpt(left)} and {self._excerpt(right)} are compared, but neither is an attribute",
                "compare an attribute with a value",
            )
        else:
            for side in (left, right):
                if not isinstance(side, ast.Name):
                    self._literal(side)

    def _check_membership(self, left: ast.expr, right: ast.expr) -> None:
        match right:
            case ast.List() | ast.Tuple() | ast.Set():
                if not isinstance(left, ast.Name):
                    raise self._error(f"{self._excerpt(left)} is not an attribute", "write an attribute before in")
                return
            case ast.Call(ast.Name("words"), [ast.Name()], []) | ast.Name():
                self._literal(left)
                return
            case ast.Call():
                raise self._error(
                    f"{self._excerpt(right)} is not an attribute", "for whole words write: 'art' in words(title)"
                )
        raise self._error(
            f"{self._excerpt(right)} is neither an attribute nor a list of values",
            "write a condition such as: genre in ['Horror']",
        )

    def _side(self, node: ast.expr) -> ast.expr:
        """One side of a comparison that was checked."""
        match node:
            case ast.Name(name):
                if keyword.iskeyword(name):  # Python's parser normalises names to NFKC, after it has read keywords
                    raise self._error(f"{name!r} is a word of the language, not an attribute", "rename the column")
                return ast.Name(name)
            case ast.List(elements) | ast.Tuple(elements) | ast.Set(elements):
                return ast.List([ast.Constant(self._literal(element)) for element in elements])
            case ast.Call(_, [ast.Name() as name]):
                return ast.Call(ast.Name("words"), [self._side(name)], [])
            case ast.Constant(None):
                return ast.Constant(None)
        return ast.Constant(self._literal(node))

    def _literal(self, node: ast.expr) -> Any:
        """The value of a literal: text, a number, True or False."""
        sign, number = 1, node
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            sign, number = (-1 if isinstance(node.op, ast.USub) else 1), node.operand
            if not isinstance(number, ast.Constant) or type(number.value) not in (int, float):
                raise self._error(f"{self._excerpt(number)} is not a number, so it takes no sign", "remove the sign")
        match number:
            case ast.Constant(None):
                raise self._error("nothing is equal to None", "write is None or is not None")
            case ast.Constant(bool() | str() as value):
                return value
            case ast.Constant(int() as value) if value.bit_length() > _MAX_NUMBER_BITS:
                raise self._error(f"{self._excerpt(node)} is too large a number", "write a smaller one")
            case ast.Constant(int() | float() as value):
                return sign * value
        hint = "write attributes alone on one side" if isinstance(node, ast.Name) else "use one of these"
        raise self._error(f"{self._excerpt(node)} is neither text in quotes, a number, True nor False", hint)

    def _excerpt(self, node: ast.expr) -> str:
        segment = ast.get_source_segment(self._source.strip(), node) or type(node).__name__
        return repr(segment if len(segment) <= 60 else segment[:57] + "...")

    def _error(self, problem: str, remedy: str) -> FilterError:
        return FilterError(f"filter {self._source!r}: {problem}", remedy=remedy)


def _read_lines(text: str) -> ast.expr | None:
    """Parse a condition over several lines, which Python allows in brackets only; None if it does not parse."""
    try:
        tree = ast.parse(f"(\n{text}\n)", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if tree.lineno == 1:  # the text closes the bracket that it did not open
        return None
    return ast.increment_lineno(tree, -1)


def _join(op: ast.boolop, values: Iterable[ast.expr]) -> ast.expr:
    """Conditions joined by `and` or `or`, without nesting one in the same one."""
    flat: list[ast.expr] = []
    for value in values:
        flat += value.values if isinstance(value, ast.BoolOp) and type(value.op) is type(op) else [value]
    return ast.BoolOp(op, flat)


def _filter_of(tree: ast.expr) -> Filter:
    text = _write(tree)
    return Filter(text, tree, text)


def _write(node: ast.expr) -> str:
    """The text form of a condition or of a side of a comparison."""
    match node:
        case ast.BoolOp(op, values):
            return (" and " if isinstance(op, ast.And) else " or ").join(map(_write_operand, values))
        case ast.UnaryOp(_, operand):
            return f"not {_write_operand(operand)}"
        case ast.Compare(left, ops, comparators):
            pairs = zip(ops, comparators, strict=True)
            return " ".join([_write(left), *(f"{_OPERATORS[type(op)]} {_write(side)}" for op, side in pairs)])
        case ast.Name(name):
            return name
        case ast.List(elements):
            return f"[{', '.join(map(_write, elements))}]"
        case ast.Call(_, [argument]):
            return f"words({_write(argument)})"
        case ast.Constant(value):
            return repr(value).replace("inf", "1e999") if isinstance(value, float) else repr(value)
    raise TypeError(f"{node!r} is not a node of a filter")


def _write_operand(node: ast.expr) -> str:
    return f"({_write(node)})" if isinstance(node, ast.BoolOp) else _write(node)
