"""What a user installs is what is tested here."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_of_genrec_is_shipped() -> None:
    """A package that is not listed works in the checkout and is missing from every wheel."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {".".join(init.parent.relative_to(ROOT).parts) for init in (ROOT / "genrec").rglob("__init__.py")}
    assert set(setuptools["packages"]) == found | {"genrec.prompts"}
    assert setuptools["package-dir"]["genrec.prompts"] == "prompts"


def test_every_file_of_the_page_is_shipped() -> None:
    """A style or a script that stays in the checkout leaves a bare page to everybody who installs."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    serve = ROOT / "genrec" / "serve"
    shipped = {path for pattern in setuptools["package-data"]["genrec.serve"] for path in serve.glob(pattern)}
    assert shipped >= {path for path in serve.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}


def test_every_extra_has_floors() -> None:
    """Without floors a resolver may pick a release of years ago, silently."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [one for extra in project["optional-dependencies"].values() for one in extra]
    assert all(">=" in requirement for requirement in [*project["dependencies"], *extras])
