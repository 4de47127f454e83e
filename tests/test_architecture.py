"""Architecture: import layers, what `import genrec` loads, public names, and forbidden constructs."""

import ast
import importlib
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType

import pytest
from module_state import Package, find_state

import genrec
from genrec.notices import SENTENCES

HOME = Path(genrec.__file__).parent
ROOT = Path(__file__).parent.parent

# Packages, and the modules that stand beside them, from the bottom up. Code imports only from lines above its own, or
# from its own package. Section 3 of the design says why.
LAYERS = [
    "errors notices",
    "types",
    "artifact deadline",
    "data",
    "prompting",
    "index",
    "backends",
    "decoding",
    "rankers",
    "recommender",
    "datasets pipeline settings testing",
    "cache",
    "precomputed",
    "loading",
    "batch chat evaluation store vllm_plugin",
    "serve",
    "cli",
    "__main__",
]
# Implementations of one protocol: none knows another.
SIBLINGS = {
    "backends": "openai_api transformers vllm_engine vllm_server",
    "rankers": "collaborative embedding ensemble generative lexical listwise popularity",
}
MODULES_AT_MOST = 12  # directly in genrec/, beside __init__ and __main__
PUBLIC = (
    "BlendRanker Boost Catalog CatalogIndex ChatTemplateSettings CooccurrenceRanker EmbeddingRanker FileFormat "
    "GenerativeRanker GenerativeSettings "
    "GenrecError History Interaction Interactions Item Mask Notice PopularityRanker RankRequest Ranker Recommendation "
    "RecommendationList Recommender Settings Subset Template TitleIdentifiers default_cache open_dataset open_default "
    "open_recommender read_catalog read_interactions read_template"
)
# Where the clock and the environment are read, and why there.
EDGE = {
    "cli": "the edge",
    "serve.app": "the edge",
    "serve.service": "the clock is an argument; its default is the process's own",
    "batch.run": "the clock is an argument; its default is the process's own",
    "recommender": "the clock is an argument; its default is the process's own",
    "cache": "default_cache is what the edge calls",
    "serve.state": "the clock is an argument; its default is the process's own",
    "store.event_store": "the clock is an argument; its default is the process's own",
    "datasets.pypi": "pip runs in the caller's environment",
    "vllm_plugin.processor": "vLLM makes the processor and passes it nothing of ours",
    "backends.engines": "the key of a model's server is in the environment only, so that nothing stores it",
    "backends.vllm_protocol": "vLLM's processes take settings from the environment, which is put back",
    "backends.vllm_engine": "the clock is an argument; its default is the process's own",
    "backends.openai_api": "the clock is an argument; its default is the process's own",
    "backends.api_connection": "the clock is an argument; its default is the process's own",
    "backends.api_settings": "the key of a model's server comes from the environment only, so that no file has it",
    "backends.vllm_server": "the clock is an argument; its default is the process's own",
}


def name_of(path: Path) -> str:
    """A module's path within genrec, dotted."""
    return ".".join(path.relative_to(HOME).with_suffix("").parts)


MODULES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(HOME.rglob("*.py"))}
CODE = {path: tree for path, tree in MODULES.items() if path.name != "__init__.py"}
NAMES = {name_of(path) for path in CODE}


def imports(path: Path) -> Iterator[str]:
    """Every genrec module that one imports, wherever in the file it does so."""
    for node in ast.walk(MODULES[path]):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        for dotted in found:
            parts = dotted.split(".")[1:]
            if dotted.startswith("genrec"):
                prefixes = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
                yield next((prefix for prefix in prefixes if prefix in NAMES), dotted)


def package_of(module: str) -> str:
    return module.split(".")[0]


def test_every_package_has_its_layer() -> None:
    """A package without a layer may import anything, and be imported by anyone."""
    assert sorted(" ".join(LAYERS).split()) == sorted({package_of(name) for name in NAMES})


def test_few_modules_lie_outside_packages() -> None:
    """A flat package has no map: a reader must know all of it to find one thing."""
    assert len([name for name in NAMES if "." not in name and name != "__main__"]) <= MODULES_AT_MOST


MAX_LINES, MAX_FUNCTION_LINES = 400, 60
COMPILED = "index.kernels.numba"  # loops for a compiler; they cannot share as much as other code


def test_files_and_functions_are_short() -> None:
    """A long file holds two nouns, and a long function does two things."""
    for path, tree in MODULES.items():
        if name_of(path) == COMPILED:
            continue
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES, path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                assert length <= MAX_FUNCTION_LINES, f"{path}, line {node.lineno}: {node.name} has {length} lines"


def test_imports_point_down() -> None:
    """Layers that lean on each other cannot be changed one at a time, and a cycle cannot be changed at all."""
    level = {name: number for number, line in enumerate(LAYERS) for name in line.split()}
    for path in CODE:
        name = name_of(path)
        for other in set(imports(path)) - {name}:
            assert other in NAMES, f"{name} imports {other}, which is no module of genrec"
            own, its = package_of(name), package_of(other)
            assert own == its or level[its] < level[own], f"{name} imports {other}, which is not below it in LAYERS"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Modules in a cycle are one module in several files."""
    graph = {name_of(path): set(imports(path)) - {name_of(path)} for path in CODE}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError


def test_implementations_do_not_know_each_other() -> None:
    """A backend or a ranker must be replaceable alone."""
    for package, names in SIBLINGS.items():
        siblings = {f"{package}.{name}" for name in names.split()}
        for path in CODE:
            if name_of(path) in siblings:
                assert not set(imports(path)) & siblings - {name_of(path)}, name_of(path)


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("index.allowed_batch", "errors types data.subset"),
        (
            "index.front_coding",
            "artifact errors types index.kernels.dispatch index.kernels.numpy index.row_sorting index.row_validation",
        ),
        ("index.row_sorting", "types"),
        ("index.row_validation", "errors types"),
        (
            "index.trie",
            "errors types index.allowed_batch index.front_coding index.kernels.numpy index.row_validation",
        ),
        ("data.subset", "errors types"),
        ("decoding.constraints", "errors data.subset decoding.delimiters index.allowed_batch index.trie types"),
        (
            "decoding.search",
            "errors types decoding.beam decoding.bounds decoding.prior_penalty decoding.search_request "
            "decoding.tree_scoring data.subset index.trie backends.base",
        ),
        (
            "decoding.beam",
            "types decoding.bounds decoding.frontier decoding.node_bounds decoding.search_request "
            "decoding.tree_scoring index.allowed_batch index.kernels.numpy index.trie backends.base",
        ),
        ("decoding.search_request", "errors notices types decoding.prior_penalty data.subset index.trie backends.base"),
        (
            "decoding.node_bounds",
            "types decoding.bounds decoding.search_request index.kernels.numpy data.subset index.trie",
        ),
        ("index.kernels.numpy", "types"),
        ("prompting.chat_format", "errors types prompting.chat_template"),
        (
            "prompting.tokenizer",
            "errors notices types prompting.chat_format prompting.chat_template prompting.tokenizer_file "
            "prompting.word_prefix",
        ),
        ("backends.base", "types deadline backends.provenance"),
        (
            "backends.transformers",
            "errors types deadline backends.provenance backends.adapter backends.adapter_weights backends.base "
            "backends.masked_model backends.model_name backends.placement backends.plain_tree backends.precision "
            "backends.pretrained backends.quantization backends.quiet backends.generation backends.transformers_tree "
            "backends.windowed_tree",
        ),
        ("backends.transformers_tree", "types deadline backends.growing_cache backends.tree_arrays"),
        (
            "backends.windowed_tree",
            "types deadline backends.masked_model backends.plain_tree backends.transformers_tree backends.tree_arrays",
        ),
        ("backends.pretrained", "errors backends.model_name backends.quantization backends.quiet"),
        ("backends.encoder", "errors types backends.precision backends.pretrained"),
        ("backends.path_tree", "errors types deadline backends.tree_arrays"),
        (
            "backends.vllm_engine",
            "errors types deadline backends.provenance backends.adapter backends.base backends.model_name "
            "backends.vllm_process backends.vllm_protocol backends.path_tree backends.generation",
        ),
        ("backends.vllm_process", "errors deadline backends.precision backends.vllm_protocol backends.vllm_support"),
        ("backends.vllm_support", "errors backends.model_name"),
        (
            "backends.vllm_server",
            "errors types deadline backends.provenance backends.base backends.vllm_protocol backends.path_tree "
            "backends.generation backends.redirects",
        ),
        ("backends.redirects", "errors"),
        ("backends.generation", "errors types deadline backends.base"),
        (
            "backends.openai_api",
            "errors types deadline backends.base backends.api_connection backends.api_settings "
            "backends.openai_protocol backends.redirects prompting.message_tokenizer prompting.template",
        ),
        ("backends.api_connection", "errors deadline backends.redirects"),
        ("prompting.message_tokenizer", "notices types prompting.byte_level"),
        ("rankers.base", "types deadline errors data.subset"),
    ],
)
def test_interfaces_import_no_implementations(module: str, allowed: str) -> None:
    """Search sees token ids, never text or items; a backend knows no catalog. So each can be replaced alone."""
    (path,) = (path for path in CODE if name_of(path) == module)
    assert set(imports(path)) <= set(allowed.split())


def test_rankers_know_no_kind_of_backend() -> None:
    """A new engine must not need a new ranker."""
    for path in CODE:
        if path.parent.name == "rankers":
            kinds = {other for other in imports(path) if other.startswith("backends.")}
            assert kinds <= {"backends.base"}, name_of(path)


def loaded_by(statement: str) -> set[str]:
    script = f"import sys\n{statement}\nprint(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_a_plain_import_loads_nothing_heavy() -> None:
    """Every command line, every worker and every test pays for what `import genrec` loads."""
    heavy = {"torch", "transformers", "vllm", "httpx", "pandas", "polars", "pyarrow", "numpy", "scipy", "jinja2"}
    assert not loaded_by("import genrec") & heavy


def test_public_names_load_no_engine() -> None:
    """Rankers without a model need no torch, and must not wait for its import."""
    everything = "import genrec\nfor name in genrec.__all__: getattr(genrec, name)"
    assert not loaded_by(everything) & {"torch", "transformers", "vllm", "httpx", "pandas", "polars", "matplotlib"}


def test_public_names_are_these() -> None:
    """Public names are an interface; adding or removing one is a decision for the change log."""
    assert sorted(genrec.__all__) == sorted(PUBLIC.split())
    assert genrec.__all__ == sorted(genrec.__all__)
    for name in genrec.__all__:
        assert getattr(genrec, name).__name__ == name
        assert getattr(genrec, name).__doc__, f"{name} is public and has no docstring"
    assert set(genrec.__all__) <= set(dir(genrec))
    with pytest.raises(AttributeError, match="nothing"):
        genrec.nothing  # noqa: B018


def test_every_package_is_shipped() -> None:
    """An unlisted package is missing from the wheel only, so other tests would not notice."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in MODULES if path.name == "__init__.py"}
    assert found | {"genrec.prompts"} == set(listed)


PACKAGE = Package.from_modules(MODULES.values())


def test_no_module_holds_state() -> None:
    """State in a module or class is shared by threads, tests and requests that never heard of each other."""
    found = [f"{path}, {problem}" for path, tree in MODULES.items() for problem in find_state(tree, PACKAGE)]
    assert found == []


HELD = [
    "seen = []",
    "seen: dict[str, int] = {}",
    "if True:\n    seen = {}",
    "try:\n    seen = set()\nexcept OSError:\n    pass",
    "_LOCK, seen = 1, threading.Lock()",
    "_registry = Registry()",
    "seen = None or {}",
    "SEEN = {}\ndef add(key):\n    SEEN[key] = 1",
    "SEEN: list[int] = []\ndef add(key):\n    SEEN.append(key)",
    "SEEN = ({}, {})\ndef add(key):\n    SEEN[0][key] = 1",
    "SEEN = set()\ndef add(key):\n    global SEEN\n    SEEN = SEEN | {key}",
    "from genrec.elsewhere import TABLE\ndef add(key):\n    TABLE.update(key)",
    "class Ranker:\n    seen = {}",
    "class Ranker:\n    seen: dict[str, int] = {}",
    "class Ranker:\n    _seen: ClassVar[dict[str, int]] = {}",
    "class Ranker:\n    _seen: ClassVar = defaultdict(list)",
    "class Body(BaseModel):\n    _seen: ClassVar[list[str]] = []",
    "class Ranker:\n    count = 0\n    @classmethod\n    def add(cls):\n        cls.count += 1",
    "class Ranker:\n    def add(self):\n        type(self).count = 1",
    "class Ranker:\n    def add(self):\n        self.__class__.seen[1] = 1",
    "class Ranker:\n    pass\ndef add():\n    Ranker.seen = 1",
    "class Ranker:\n    pass\ndef add():\n    setattr(Ranker, 'seen', 1)",
    "def add(key, seen=[]):\n    pass",
    "def add(key, *, seen=dict()):\n    pass",
    "add = lambda key, seen={}: seen",
    "async def add(key, seen=set()):\n    pass",
    "def add(key):\n    add.seen = key",
    "def add(key):\n    globals()['seen'] = key",
    "@lru_cache\ndef read(user):\n    pass",
    "@functools.lru_cache(maxsize=None)\ndef read(user):\n    pass",
    "from functools import cache as memo\n@memo\ndef read(user):\n    pass",
    "read = functools.cache(open_user)",
    "class Ranker:\n    @functools.cache\n    def read(self, user):\n        pass",
]
NOT_HELD = [
    "NAMES = ['a', 'b']\nprint(NAMES[0])",
    "_SIZES: Mapping[str, int] = MappingProxyType({'a': 1})",
    "class Point:\n    x: int\n    names: list[str] = field(default_factory=list)",
    "class Body(BaseModel):\n    names: list[str] = []",
    "class Ranker:\n    source: ClassVar[str] = 'a'\n    def __init__(self):\n        self.seen = {}",
    "def add(key):\n    seen = {}\n    seen[key] = 1",
    "class Ranker:\n    @cached_property\n    def seen(self):\n        return {}",
]


@pytest.mark.parametrize(("sources", "expected"), [(HELD, True), (NOT_HELD, False)], ids=["held", "not held"])
def test_every_form_of_module_state_is_seen(sources: list[str], expected: bool) -> None:
    """A form that the law above does not see is where the next state will be."""
    others = ast.parse("TABLE = {}\nclass Registry: ...\nclass Base(BaseModel): ...")
    for source in sources:
        tree = ast.parse(source)
        assert bool(find_state(tree, Package.from_modules([tree, others]))) == expected, source


def test_only_the_command_line_prints() -> None:
    """A library that writes to its caller's terminal breaks pipes, servers and tests."""
    for path, tree in MODULES.items():
        prints = [node for node in calls(tree) if ast.unparse(node.func) in ("print", "sys.stdout.write")]
        assert not prints or package_of(name_of(path)) in ("cli", "__main__"), path


def test_only_the_edge_reads_the_clock_or_the_environment() -> None:
    """A result that depends on either cannot be repeated, or tested, without them."""
    readings = ("os.environ", "os.getenv", "time.time", "time.perf_counter", "time.monotonic", "datetime.now")
    for path, tree in MODULES.items():
        found = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & set(readings)
        assert not found or {name_of(path), package_of(name_of(path))} & set(EDGE), f"{path} reads {found}"


def test_nothing_is_unpickled() -> None:
    """Reading a file must never execute code from it."""
    for path, tree in MODULES.items():
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} | {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }
        assert not modules & {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}, path
        for node in calls(tree):
            called = ast.unparse(node.func)
            assert called not in ("torch.load", "np.load", "numpy.load", "eval", "exec"), path


PUBLIC_MODULES = {
    "artifact",
    "cache",
    "deadline",
    "errors",
    "loading",
    "notices",
    "pipeline",
    "settings",
    "testing",
    "types",
}


def public_imports(source: str) -> Iterator[tuple[str, str]]:
    """Every name that a piece of code imports from genrec, with the module that it names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "genrec":
            yield from ((str(node.module), alias.name) for alias in node.names)


def is_public(module: str, name: str) -> bool:
    parts = module.split(".")
    if len(parts) == 2 and parts[1] in PUBLIC_MODULES:
        return not name.startswith("_")
    return len(parts) <= 2 and name in importlib.import_module(module).__all__


def test_recipes_and_measurements_use_public_names() -> None:
    """What finetune and eval need, users need too, so it must be in genrec, one of its packages, or a public module."""
    for path in itertools.chain((ROOT / "eval").rglob("*.py"), (ROOT / "finetune").rglob("*.py")):
        for module, name in public_imports(path.read_text(encoding="utf-8")):
            assert is_public(module, name), f"{path} imports {name} from {module}"


def test_samples_in_the_documentation_use_public_names() -> None:
    """Samples are copied, so their imports must stay valid in the next release."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "finetune" / "README.md"]
    for page in pages:
        for sample in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for module, name in public_imports(sample):
                assert is_public(module, name), f"{page.name} imports {name} from {module}"


@pytest.mark.parametrize("package", sorted(path.parent.name for path in HOME.glob("*/__init__.pyi")))
def test_everything_a_package_exports_is_there_and_documented(package: str) -> None:
    """A stub is believed by type checkers: a name in it that does not exist fails at the first use only."""
    module = importlib.import_module(f"genrec.{package}")
    assert module.__all__
    for name in module.__all__:
        if package == "vllm_plugin" and find_spec("vllm") is None and name == "CatalogLogitsProcessor":
            continue
        value = getattr(module, name)
        assert not isinstance(value, type | FunctionType) or value.__doc__, f"genrec.{package}.{name} has no docstring"


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


GENREC_ERRORS = {node.name for node in ast.walk(MODULES[HOME / "errors.py"]) if isinstance(node, ast.ClassDef)}
TEXT_METHODS = {
    "partition",
    "rpartition",
    "split",
    "rsplit",
    "startswith",
    "endswith",
    "replace",
    "find",
    "removesuffix",
}


def test_no_code_reads_a_sentence_of_ours() -> None:
    """A sentence that code parses cannot be improved without breaking that code; errors and notices carry codes."""
    for path, tree in MODULES.items():
        for handler in (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name):
            caught = {name.id for name in ast.walk(handler.type or handler) if isinstance(name, ast.Name)}
            if not caught & GENREC_ERRORS:  # a message of a library, which has no code
                continue
            texts = {
                f"str({handler.name})",
                f"{handler.name}.args[0]",
                f"{handler.name}.problem",
                f"{handler.name}.remedy",
            }
            for node in ast.walk(handler):
                where = f"{path}, line {getattr(node, 'lineno', 0)}: a message is parsed"
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    parsed = node.func.attr in TEXT_METHODS and ast.unparse(node.func.value) in texts
                    by_pattern = node.func.attr in ("match", "search", "fullmatch", "sub", "findall", "finditer")
                    assert not parsed, where
                    assert not (by_pattern and texts & {ast.unparse(argument) for argument in node.args}), where
                if isinstance(node, ast.Compare) and any(isinstance(one, ast.In | ast.NotIn) for one in node.ops):
                    assert not texts & {ast.unparse(one) for one in node.comparators}, where


def test_notices_are_made_of_codes() -> None:
    """A notice whose code is not in the table has no sentence, and an unused code is dead."""
    made = {
        node.args[0].value
        for tree in MODULES.values()
        for node in calls(tree)
        if ast.unparse(node.func) == "Notice" and node.args and isinstance(node.args[0], ast.Constant)
    }
    assert made <= set(SENTENCES)
    assert set(SENTENCES) - made <= {"unknown_user", "unknown_user_skipped"}  # chosen by a condition
