"""Documentation: the names, commands and numbers in docs/search.md are right."""

import importlib
import importlib.util
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from eval.speed import example
from eval.speed.picture import draw_tree
from genrec import GenerativeSettings, open_dataset
from genrec.backends.base import Backend
from genrec.prompting.tokenizer import HuggingFaceTokenizer

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/search.md").read_text(encoding="utf-8")
SPANS = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL))


def test_every_path_exists() -> None:
    """Broken links make the whole page hard to trust."""
    named = [span for span in SPANS if re.fullmatch(r"[\w./-]+/[\w.-]+\.\w+", span)]
    linked = [f"docs/{link}" for link in re.findall(r"\]\(([^)#]+)\)", PAGE)]
    assert len(named) > 15
    assert linked
    assert not [path for path in [*named, *linked] if not (ROOT / path).is_file()]
    assert "(docs/search.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_name_in_the_table_of_code_exists() -> None:
    """Readers follow the table to the code."""
    table = PAGE[PAGE.index("## Where in the code") :]
    found = re.findall(r"((?:`[\w.]+`(?:, )?)+) in `([\w/]+\.py)`", table)
    assert len(found) > 15
    for names, path in found:
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        for name in re.findall(r"`([\w.]+)`", names):
            owner: object = module
            for part in name.split("."):
                assert hasattr(owner, part) or part in getattr(owner, "__annotations__", {}), f"{name} in {path}"
                owner = getattr(owner, part, None)


def test_every_setting_exists() -> None:
    """Readers copy the names of settings."""
    known = {field.name: field for field in fields(GenerativeSettings)}
    for name, value in re.findall(r'`(\w+)="(\w+)"`', PAGE):
        assert GenerativeSettings(**{name: value})
    assert {"width", "exact", "max_nodes", "prior", "fusion_weight", "memory"} <= set(known) & (
        set(SPANS) | {span.rpartition(".")[2] for span in SPANS}
    )
    assert known["strategy"].default == "candidates"
    assert known["exact"].default is True
    assert f"given up at {known['max_nodes'].default:,} tokens" in PAGE


def test_every_command_exists() -> None:
    """Readers copy commands."""
    commands = re.findall(r"python -m ([\w.]+)((?: [\w./-]+)*)", PAGE)
    assert len(commands) > 3
    for module in sorted({module for module, _ in commands}):
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True, cwd=ROOT
        )
        words = {word for other, rest in commands if other == module for word in rest.split()}
        for word in words:
            assert Path(word).suffix or word == "docs" or word in done.stdout, f"{module} knows no {word}"
    assert (
        "--svg"
        in subprocess.run(
            [sys.executable, "-m", "eval.speed.example", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout
    )


@pytest.mark.model
def test_the_example_shows_the_output_of_the_search(
    smollm2_float32: Backend, tokenizer: HuggingFaceTokenizer, cache: Path, tmp_path: Path
) -> None:
    """Numbers of an older version would explain another program."""
    catalog, _ = open_dataset("online-retail", cache)
    found = example.run(catalog, smollm2_float32, tokenizer)
    titles = [title for title in catalog.titles if title in example.TITLES]
    told = "\n".join(example.describe(found, titles))
    blocks = re.findall(r"```\n(.*?)\n```", PAGE, flags=re.DOTALL)
    shown = "\n".join(block for block in blocks if block.startswith(("row item", "prompt ")))
    number = re.compile(r"-?\d+\.\d\d")
    assert number.sub("#", " ".join(told.split())) == number.sub("#", " ".join(shown.split()))
    values = [[float(value) for value in number.findall(text)] for text in (told, shown)]
    assert values[0] == pytest.approx(values[1], abs=0.03)
    draw_tree(found, titles, tmp_path / "tree.svg")
    assert (tmp_path / "tree.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert (tmp_path / "tree.png").stat().st_size > 10_000
