"""What README.md and the pages of docs name: links, files, classes, imports, commands and options."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from genrec.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path: path.read_text(encoding="utf-8") for path in PAGES}
README_MAX_LINES = 150
PAGE_NAMES = [str(path.relative_to(ROOT)) for path in PAGES]


def text_of(page: str) -> str:
    return TEXTS[ROOT / page]


def without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that a Markdown renderer makes of headings."""
    headings = re.findall(r"^#+ (.+)$", without_fences(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_one_page() -> None:
    """What does not fit on one page is not read; it belongs in docs."""
    assert len(text_of("README.md").splitlines()) <= README_MAX_LINES


def test_every_page_can_be_reached() -> None:
    """A page that nothing links to is not found."""
    reached: set[Path] = set()
    queue = [ROOT / "README.md"]
    while queue:
        path = queue.pop()
        if path in TEXTS and path not in reached:
            reached.add(path)
            links = re.findall(r"\]\(([^)\s#]+)", TEXTS[path])
            queue += [(path.parent / link).resolve() for link in links]
    assert not sorted(set(PAGES) - reached)


@pytest.mark.parametrize("page", PAGE_NAMES)
def test_every_link_leads_somewhere(page: str) -> None:
    """A broken link ends a reader's search."""
    path = ROOT / page
    text = without_fences(text_of(page))
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'<img src="([^"]+)"', text)
    local = [link for link in links if "://" not in link and not link.startswith("#item=")]
    for link in local:
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{page} links to {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page} links to {link}"


@pytest.mark.parametrize("page", PAGE_NAMES)
def test_every_named_file_is_there(page: str) -> None:
    """A reader who follows a path must find the file."""
    named = re.findall(r"`((?:genrec|tests|prompts|eval|finetune|docs)/[\w./*-]*)`", without_fences(text_of(page)))
    assert not [path for path in named if not list(ROOT.glob(path.rstrip("/")))]


@pytest.mark.parametrize("page", PAGE_NAMES)
def test_python_samples_import_public_names(page: str) -> None:
    """A sample that is copied must run, and must not depend on which module holds a name."""
    for sample in re.findall(r"^```python\n(.*?)^```", text_of(page), flags=re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(sample)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("genrec"):
                assert (node.module or "").count(".") <= 1, f"{page}: {node.module} is not public"
                module = importlib.import_module(str(node.module))
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)], page


def test_every_new_name_can_be_imported() -> None:
    """A table of renames that names what is not there is worse than none."""
    rows = re.findall(r"`from (genrec[\w.]*) import (\w+)`", text_of("docs/renames.md"))
    assert len(rows) > 30
    assert not [(module, name) for module, name in rows if not hasattr(importlib.import_module(module), name)]


def test_the_architecture_names_classes_of_their_files() -> None:
    """A reader who opens the file must find the name in it."""
    page = text_of("docs/architecture.md")
    pairs = re.findall(r"((?:`[\w.]+`(?:, )?)+) (?:in|\||of) ((?:`genrec/[\w/]+\.py`(?:, )?)+)", page)
    assert len(pairs) > 40
    for names, files in pairs:
        source = "\n".join((ROOT / file).read_text(encoding="utf-8") for file in re.findall(r"`([^`]+)`", files))
        for name in re.findall(r"`([\w.]+)`", names):
            last = name.rpartition(".")[2]
            assert re.search(rf"^\s*(?:class|def|async def) {last}\b|^{last} = ", source, flags=re.MULTILINE), (
                f"{name} in {files}"
            )


def options_of(command: typer.core.TyperGroup, words: list[str]) -> set[str] | None:
    """The options of a command that a line of a page starts with; None if there is no such command."""
    current: object = command
    while isinstance(current, typer.core.TyperGroup) and words:
        current = current.commands.get(words.pop(0))
    if current is None:
        return None
    parameters = getattr(current, "params", [])
    return {name for own in parameters for name in (*own.opts, *own.secondary_opts)} | {"--help", "--version", "-h"}


@pytest.mark.parametrize("page", PAGE_NAMES)
def test_every_command_and_option_exists(page: str) -> None:
    """A command that is copied from a page must be accepted."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    fences = re.findall(r"^```\n(.*?)^```", text_of(page), flags=re.DOTALL | re.MULTILINE)
    shown = "\n".join([*fences, *re.findall(r"`(genrec [^`\n]+)`", without_fences(text_of(page)))])
    for line in re.findall(r"(?:^|[ /|])genrec ((?:[a-z-]+).*)$", shown.replace("\\\n", " "), flags=re.MULTILINE):
        line = re.sub(r"'[^']*'", "VALUE", line.partition(" #")[0].rstrip())
        words = line.split()
        if words[0] not in group.commands:
            continue  # prose or output
        options = options_of(group, words)
        assert options is not None, f"{page}: genrec {line}"
        used = {word for word in words if word.startswith("--")}
        assert used <= options, f"{page}: genrec {line}"


def test_every_make_target_exists() -> None:
    """`make` says "no rule" and nothing about what to do instead."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for page, text in TEXTS.items():
        named = set(re.findall(r"`make ([a-z-]+)", text)) | set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE))
        assert named <= targets, page


def test_every_module_that_is_run_exists() -> None:
    """`python -m` of a module that was moved fails with nothing to go on."""
    named = {
        name for text in TEXTS.values() for name in re.findall(r"python -m ((?:eval|finetune|genrec)[\w.]*)", text)
    }
    script = "import importlib.util, sys\nprint([n for n in sys.argv[1:] if importlib.util.find_spec(n) is None])"
    done = subprocess.run(
        [sys.executable, "-c", script, *sorted(named)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
