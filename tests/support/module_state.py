"""Finds state in modules and classes, which threads, tests and requests that never heard of each other would share."""

import ast
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

_MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp)
_MAKER_NAMES = (
    "list dict set bytearray defaultdict deque Counter OrderedDict ChainMap SimpleNamespace WeakKeyDictionary "
    "WeakValueDictionary WeakSet Lock RLock Condition Event Semaphore BoundedSemaphore local ContextVar Queue "
    "LifoQueue PriorityQueue SimpleQueue Random default_rng RandomState count cycle iter open LRUCache TTLCache "
    "copy deepcopy"
)
_CHANGER_NAMES = (
    "append add update setdefault pop popitem clear extend insert remove discard appendleft popleft sort reverse "
    "difference_update intersection_update symmetric_difference_update __setitem__ __delitem__ move_to_end"
)
_MAKERS, _CHANGERS = set(_MAKER_NAMES.split()), set(_CHANGER_NAMES.split())
_CACHES = {"cache", "lru_cache", "cached"}
_VALUE_BASES = {"Enum", "StrEnum", "IntEnum", "NamedTuple", "Protocol", "TypedDict"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_SCOPES = (*_FUNCTIONS, ast.ClassDef)


@dataclass(frozen=True)
class Package:
    """What the modules of a package define.

    Attributes:
        stateful: names of classes whose objects can change: all but frozen dataclasses, enumerations and the like.
        models: names of pydantic models, which copy a mutable default for each object.
        tables: names of the lists, dictionaries and other objects of modules that could be changed.
    """

    stateful: frozenset[str]
    models: frozenset[str]
    tables: frozenset[str]

    @classmethod
    def from_modules(cls, modules: Iterable[ast.Module]) -> "Package":
        """Read the modules of a package."""
        modules = list(modules)
        classes = [node for tree in modules for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        bases = {node.name: {_last(base) for base in node.bases} for node in classes}
        models = {"BaseModel"}
        while more := {name for name, own in bases.items() if own & models} - models:
            models |= more
        stateful = frozenset(
            node.name
            for node in classes
            if not any("frozen=True" in ast.unparse(one) for one in node.decorator_list)
            and not bases[node.name] & _VALUE_BASES
        )
        return cls(stateful, frozenset(models), frozenset(name for tree in modules for name in _tables(tree, stateful)))


def find_state(tree: ast.Module, package: Package) -> list[str]:
    """Describe every place where a module holds or changes state of a module, a class or a function.

    Tables in capitals are constants, as long as nothing changes them.
    """
    own = _tables(tree, package.stateful)
    found = [
        f"line {line}: {name} is a variable of the module"
        for name, line in own.items()
        if not name.strip("_").isupper() and name != "__all__"
    ]
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    shared = set(own) | {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    shared |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    shared |= {
        alias.asname or alias.name
        for node in imports
        for alias in node.names
        if alias.name in package.tables | package.stateful | package.models
    }
    for node in ast.walk(tree):
        problems = [*_held_state(node, package), *_changes(node, shared), *_caches(node, _cache_names(imports))]
        found += [f"line {getattr(node, 'lineno', 0)}: {problem}" for problem in problems]
    return found


def _held_state(node: ast.AST, package: Package) -> Iterator[str]:
    """State in the defaults of a function, or in the body of a class."""
    if isinstance(node, _FUNCTIONS):
        defaults = [*node.args.defaults, *node.args.kw_defaults]
        if any(_is_mutable(default, package.stateful) for default in defaults):
            yield "all calls would share a default"
    if isinstance(node, ast.ClassDef):
        for statement in node.body:
            copied = isinstance(statement, ast.AnnAssign) and "ClassVar" not in ast.unparse(statement.annotation)
            if not (copied and node.name in package.models):
                yield from (
                    f"all objects of {node.name} would share {name}"
                    for name, _ in _held_by([statement], package.stateful)
                )


def _changes(node: ast.AST, shared: set[str]) -> Iterator[str]:
    """Changes of what `shared` names: tables, classes and functions."""
    if isinstance(node, ast.Global):
        yield f"the module's {', '.join(node.names)} is changed"
    if isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(node.ctx, ast.Load):
        yield from _owner(node.value, shared)
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        yield from _owner(node.target, shared)
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGERS:
            yield from _owner(node.func.value, shared)
        if _last(node.func) in ("setattr", "delattr") and node.args:
            yield from _owner(node.args[0], shared)
        if _last(node.func) == "globals":
            yield "the module's names are reached as a table"


def _caches(node: ast.AST, caches: set[str]) -> Iterator[str]:
    """Caches of functions, which hold what users passed for as long as the process lives."""
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else []
    called = [node.func] if isinstance(node, ast.Call) else []
    if any(_last(one) in caches for one in (*decorators, *called)):
        yield "a cache of the process, which is never emptied"


def _owner(owner: ast.expr, shared: set[str]) -> Iterator[str]:
    """What is changed, if that belongs to a table, a class or a function, however deep inside."""
    while True:
        text = ast.unparse(owner)
        if text in shared or text in ("cls", "self.__class__", "type(self)"):
            yield f"{text} is changed"
        if not isinstance(owner, ast.Attribute | ast.Subscript):
            return
        owner = owner.value


def _tables(tree: ast.Module, stateful: Collection[str]) -> dict[str, int]:
    """The names that a module gives to objects that can be changed, with their lines."""
    return dict(_held_by(tree.body, stateful))


def _held_by(body: list[ast.stmt], stateful: Collection[str]) -> Iterator[tuple[str, int]]:
    """The assignments of mutable objects in the body of a module or class, also inside of `if`, `try` and `with`."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, _SCOPES):
            continue
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
            targets = [node.target]
        if targets and _is_mutable(getattr(node, "value", None), stateful):
            yield from ((ast.unparse(target), getattr(node, "lineno", 0)) for target in targets)
        waiting += ast.iter_child_nodes(node)


def _is_mutable(value: ast.AST | None, stateful: Collection[str]) -> bool:
    if isinstance(value, ast.IfExp):
        return _is_mutable(value.body, stateful) or _is_mutable(value.orelse, stateful)
    if isinstance(value, ast.BoolOp):
        return any(_is_mutable(one, stateful) for one in value.values)
    if isinstance(value, ast.Tuple):
        return any(_is_mutable(one, stateful) for one in value.elts)
    if isinstance(value, ast.BinOp):
        return _is_mutable(value.left, stateful) or _is_mutable(value.right, stateful)
    made = isinstance(value, ast.Call) and (_last(value.func) in _MAKERS or _last(value.func) in stateful)
    return made or isinstance(value, _MUTABLE)


def _cache_names(imports: Iterable[ast.ImportFrom]) -> set[str]:
    """What a module calls the caches of functools and cachetools."""
    found = set(_CACHES)
    for node in imports:
        if node.module in ("functools", "cachetools"):
            found |= {alias.asname or alias.name for alias in node.names if alias.name in _CACHES}
    return found


def _last(node: ast.expr) -> str:
    """The last name of a dotted name or of a call of one."""
    while isinstance(node, ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return ast.unparse(node).split(".")[-1]
