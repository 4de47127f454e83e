"""The rules of the house: who may import whom, what a plain import may load, and what nobody may do."""

import ast
import itertools
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import genrec

HOME = Path(genrec.__file__).parent
ROOT = Path(__file__).parent.parent

# A module imports only what stands in a line above its own: never its neighbours, never what is below. A package that
# stands here as one word is one module to the others.
LAYERS = [
    # words
    "errors types",
    # things: no model, no network
    "artifact database deadline ids lane leases record kernel.narrow kernel.plain subset template tokenizer word",
    "kernel.choice kernel.compiled mention schema",
    "trie",
    "constraint guide tensor_trie",
    "mention_constraint tensor_constraint",
    "package_index provenance table",
    "bundle dataset filter rows",
    "catalog",
    "interactions store title_lookup",
    # seams
    "json_constraint",
    "identifiers backends.base rankers.base",
    # engine
    "forest renderer",
    "search",
    "index prior",
    "shelf",
    # implementations
    "backends.adapter backends.lineage backends.packing backends.precision backends.quiet rankers.screen",
    "backends.attention backends.cache backends.vllm_tree backends.writing",
    "backends.vllm_dialect",
    "backends.encoder backends.transformers backends.vllm_engine backends.vllm_plugin backends.vllm_server",
    "rankers.blend rankers.cooccurrence rankers.embedding rankers.generative rankers.popularity",
    # use
    "bound codes conversation counting examples explain metrics pointer",
    "clause critique ladder",
    "recommender reply wish_reader",
    "advisor evaluation parts",
    "assembly batch batch_row chat_request live",
    "batch_lists batch_texts",
    # edge
    "testing",
    "serve.answer serve.failure serve.metric serve.shape",
    "serve.key serve.refusal serve.service",
    "serve.door serve.talk",
    "serve.description",
    "serve.app",
    "serve.server",
    "cli",
    "__main__",
]
PUBLIC = (
    "BlendRanker Boost Catalog CatalogIndex CooccurrenceRanker EmbeddingRanker GenerativeRanker GenerativeSettings "
    "GenrecError History Interaction Interactions Item Mask PopularityRanker RankRequest Ranker Recommendation "
    "RecommendationList Recommender Settings Subset Template TitleIdentifiers open_dataset open_default "
    "open_recommender read_catalog read_interactions read_template"
)
# Where the clock and the environment are read, and why there.
EDGE = {
    "cli": "the edge",
    "serve.app": "the edge",
    "serve.service": "the clock is an argument; its default is the process's own",
    "batch": "the clock is an argument; its default is the process's own",
    "recommender": "the clock is an argument; its default is the process's own",
    "assembly": "default_cache is what the edge calls",
    "live": "the clock is an argument; its default is the process's own",
    "store": "the clock is an argument; its default is the process's own",
    "package_index": "pip runs in the caller's environment",
    "backends.vllm_plugin": "vLLM makes the processor and passes it nothing of ours",
    "backends.vllm_dialect": "vLLM's processes take settings from the environment, which is put back",
    "backends.vllm_engine": "the clock is an argument; its default is the process's own",
    "backends.vllm_server": "the clock is an argument; its default is the process's own",
}


def name_of(path: Path) -> str:
    """A module's place in the table above: its path within genrec, dotted."""
    parts = path.relative_to(HOME).with_suffix("").parts
    return "cli" if parts[0] == "cli" else ".".join(parts)


MODULES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(HOME.rglob("*.py"))}
CODE = {path: tree for path, tree in MODULES.items() if path.name != "__init__.py" or path.parent.name == "cli"}
NAMES = {name_of(path) for path in CODE}


def imports(path: Path) -> Iterator[str]:
    """Every genrec module that one imports, wherever in the file it does so, by its place in the table."""
    for node in ast.walk(MODULES[path]):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        for dotted in found:
            parts = dotted.split(".")[1:]
            if not dotted.startswith("genrec"):
                continue
            if parts[:1] == ["cli"]:
                yield "cli"
            else:
                prefixes = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
                yield next((prefix for prefix in prefixes if prefix in NAMES), dotted)


def test_every_module_has_its_place() -> None:
    """A module that nobody placed may import anything, and be imported by anyone."""
    placed = " ".join(LAYERS).split()
    assert sorted(placed) == sorted(NAMES)


def test_nobody_imports_upward_or_sideways() -> None:
    """Floors that lean on each other cannot be changed one at a time, and a cycle cannot be changed at all."""
    level = {name: number for number, line in enumerate(LAYERS) for name in line.split()}
    for path in CODE:
        name = name_of(path)
        for other in set(imports(path)) - {name}:
            assert other in level, f"{name} imports {other}, which is no module of genrec"
            assert level[other] < level[name], f"{name} imports {other}, which does not stand above it in LAYERS"


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("trie", "artifact errors types kernel.choice kernel.plain subset"),
        ("subset", "errors types"),
        ("constraint", "errors subset tokenizer trie types"),
        ("search", "errors types forest guide kernel.plain subset trie backends.base"),
        ("kernel.plain", "types"),
        ("tokenizer", "errors types"),
        ("backends.base", "types deadline provenance"),
        (
            "backends.transformers",
            "errors types deadline provenance backends.adapter backends.attention backends.base backends.cache "
            "backends.lineage backends.packing backends.precision backends.quiet backends.writing",
        ),
        ("backends.encoder", "errors types backends.precision backends.quiet"),
        ("backends.vllm_tree", "errors types deadline backends.lineage"),
        (
            "backends.vllm_engine",
            "errors types deadline provenance backends.adapter backends.base backends.precision backends.vllm_dialect "
            "backends.vllm_tree backends.writing",
        ),
        (
            "backends.vllm_server",
            "errors types deadline provenance backends.base backends.vllm_dialect backends.vllm_tree backends.writing",
        ),
        ("backends.writing", "errors types deadline backends.base"),
        ("rankers.base", "types deadline errors subset"),
    ],
)
def test_a_seam_knows_no_more_than_it_must(module: str, allowed: str) -> None:
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
    """Whoever ranks by counting needs no torch, and does not wait for it."""
    everything = "import genrec\nfor name in genrec.__all__: getattr(genrec, name)"
    assert not loaded_by(everything) & {"torch", "transformers", "vllm", "httpx", "pandas", "polars", "matplotlib"}


def test_public_names_are_these() -> None:
    """What is public is promised: a name that comes or goes is a decision, and the change log says so."""
    assert sorted(genrec.__all__) == sorted(PUBLIC.split())
    assert genrec.__all__ == sorted(genrec.__all__)
    for name in genrec.__all__:
        assert getattr(genrec, name).__name__ == name
        assert getattr(genrec, name).__doc__, f"{name} is public and says nothing of itself"
    assert set(genrec.__all__) <= set(dir(genrec))
    with pytest.raises(AttributeError, match="module 'genrec' has no attribute 'nothing'"):
        genrec.nothing  # noqa: B018


def test_every_package_is_shipped() -> None:
    """Packages are listed by name; one that is not listed is missing from the wheel only, where nobody looks."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in MODULES if path.name == "__init__.py"}
    assert found | {"genrec.prompts"} == set(listed)


MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
MAKERS = {"list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter", "OrderedDict", "WeakValueDictionary"}
CHANGERS = {"append", "add", "update", "setdefault", "pop", "popitem", "clear", "extend", "insert", "remove", "discard"}


def is_mutable(value: ast.expr | None) -> bool:
    made = isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] in MAKERS
    return made or isinstance(value, MUTABLE)


def assigned(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [ast.unparse(target) for target in targets]


def test_no_module_holds_state() -> None:
    """State in a module is shared by threads, tests and requests that never heard of each other."""
    for path, tree in MODULES.items():
        tables = {
            name
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign) and is_mutable(node.value)
            for name in assigned(node)
        }
        assert all(name.isupper() or name == "__all__" for name in tables), f"{path}: {tables} look like variables"
        for node in ast.walk(tree):
            where = f"{path}, line {getattr(node, 'lineno', 0)}"
            assert not isinstance(node, ast.Global), f"{where}: a global is changed"
            if isinstance(node, ast.Call):
                changed = isinstance(node.func, ast.Attribute) and node.func.attr in CHANGERS
                assert not (changed and ast.unparse(node.func.value) in tables), f"{where}: a table is changed"  # type: ignore[attr-defined]
            if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
                assert ast.unparse(node.value) not in tables, f"{where}: a table is changed"
            if isinstance(node, ast.FunctionDef):
                kept = {ast.unparse(one).split("(")[0].split(".")[-1] for one in node.decorator_list}
                assert not kept & {"cache", "lru_cache"}, f"{where}: a cache that nobody empties"
            if isinstance(node, ast.ClassDef):
                shared = [line for line in node.body if isinstance(line, ast.Assign) and is_mutable(line.value)]
                assert not shared, f"{where}: all objects of {node.name} would share one"


def test_only_the_command_line_prints() -> None:
    """A library that writes to its caller's terminal breaks pipes, servers and tests."""
    for path, tree in MODULES.items():
        prints = [node for node in calls(tree) if ast.unparse(node.func) in ("print", "sys.stdout.write")]
        assert not prints or name_of(path) in ("cli", "__main__"), path


def test_only_the_edge_reads_the_clock_or_the_environment() -> None:
    """A result that depends on either cannot be repeated, or tested, without them."""
    readings = ("os.environ", "os.getenv", "time.time", "time.perf_counter", "time.monotonic", "datetime.now")
    for path, tree in MODULES.items():
        found = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & set(readings)
        assert not found or name_of(path) in EDGE, f"{path} reads {found}"


def test_nothing_is_unpickled() -> None:
    """Reading a file must never run what somebody put into it."""
    for path, tree in MODULES.items():
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} | {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }
        assert not modules & {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}, path
        for node in calls(tree):
            called = ast.unparse(node.func)
            assert called not in ("torch.load", "np.load", "numpy.load", "eval", "exec"), path
            if called.endswith(".from_pretrained") and called.startswith("AutoModel"):
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert keywords.get("use_safetensors") == "True", f"{path}: weights may come as a pickle"
                assert "trust_remote_code" not in keywords, f"{path}: a model may bring code"


def test_recipes_and_measurements_use_public_names() -> None:
    """What finetune and eval need of genrec, its users need too."""
    for path in itertools.chain((ROOT / "eval").rglob("*.py"), (ROOT / "finetune").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("genrec"):
                names = [*str(node.module).split("."), *(alias.name for alias in node.names)]
                assert not any(name.startswith("_") for name in names), f"{path}, line {node.lineno}"


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
