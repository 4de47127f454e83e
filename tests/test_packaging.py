"""Packaging: wheels contain everything that the tests use."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_of_genrec_is_shipped() -> None:
    """An unlisted package works in the checkout and is missing from every wheel."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {".".join(init.parent.relative_to(ROOT).parts) for init in (ROOT / "genrec").rglob("__init__.py")}
    assert set(setuptools["packages"]) == found | {"genrec.prompts"}
    assert setuptools["package-dir"]["genrec.prompts"] == "prompts"


def test_every_file_of_the_web_page_is_shipped() -> None:
    """Without its styles and scripts the installed page is broken."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    serve = ROOT / "genrec" / "serve"
    shipped = {path for pattern in setuptools["package-data"]["genrec.serve"] for path in serve.glob(pattern)}
    assert shipped >= {
        path for path in serve.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyi", ".pyc")
    }


def test_every_dependency_has_a_minimum_version() -> None:
    """Without minimum versions a resolver may silently choose a release that is years old."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [one for extra in project["optional-dependencies"].values() for one in extra]
    assert all(">=" in requirement for requirement in [*project["dependencies"], *extras])
