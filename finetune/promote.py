"""Let an adapter take the place of another only if it ranks no worse: python -m finetune.promote NEW PLACE CONFIG.

Both are measured by `eval.rank` on the people of CONFIG, whose last items neither may have been trained on. If the mean
of the first metric did not fall, NEW is copied beside PLACE, into PLACE.versions, and PLACE becomes a link to it, at
once; what served before stays there. The exit status is 0. If it fell, nothing is changed; the exit status is 3. Where
nothing stands at PLACE yet, NEW has to be no worse than the model without an adapter.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from eval.compare import read_run
from eval.config import CONFIG_DIR as CONFIGS
from eval.config import Config, read_toml
from eval.rank import measure
from genrec import read_template
from genrec.backends.adapter import inspect_adapter
from genrec.errors import GenrecError, MismatchError
from genrec.evaluation.intervals import Interval, difference_interval
from genrec.settings import LANGUAGE_MODEL

_EXIT_WORSE = 3  # the exit status


@dataclass(frozen=True)
class AdapterComparison:
    """How much better the new adapter ranks: `difference` is the mean over people of a metric, times 100."""

    metric: str
    old: float
    new: float
    difference: Interval

    @property
    def passed(self) -> bool:
        """Whether the ranking did not fall."""
        return self.difference.value >= 0


def compare_adapters(
    new: Path, old: Path | None, config: Config, results_folder: Path, *, data: Path | None = None
) -> AdapterComparison:
    """Measure two adapters on the same people.

    Args:
        new: an adapter's folder.
        old: another one's; None for the model without one.
        config: who is asked, and for what; its rankers are not.
        results_folder: where answers are kept.
        data: a folder that holds games and beauty.
    """
    template = read_template(config.template).fingerprint
    facts = inspect_adapter(new, base=LANGUAGE_MODEL).provenance
    if facts is not None and facts.template != template:
        raise MismatchError(
            f"{new} was trained behind another template than {config.template!r}; name a config with its"
        )
    rankers = {"new": _ranker(new, config), "old": _ranker(old, config)}
    whole = Config.model_validate({**config.model_dump(), "rankers": rankers})
    measure(whole, results_folder, data=data, users=None)
    tables, metric = read_run(results_folder).tables, whole.metrics[0]
    values = {name: 100 * tables[name][metric].to_numpy() for name in rankers}
    difference = difference_interval(values["new"], values["old"], seed=config.seed)
    return AdapterComparison(metric, float(values["old"].mean()), float(values["new"].mean()), difference)


def _read_config(config: str) -> Config:
    """Who is asked; rankers may be missing."""
    return read_toml(Config, config, CONFIGS, label="config", documented_in="eval/config.py")[1]


def _ranker(adapter: Path | None, config: Config) -> dict[str, Any]:
    """An adapter as it was trained to serve."""
    settings: dict[str, Any] = {"strategy": "exhaustive"} if config.protocol == "candidates" else {}
    facts = None if adapter is None else inspect_adapter(adapter, base=LANGUAGE_MODEL).provenance
    if facts is not None:
        settings |= {name: facts.config[name] for name in ("prior", "max_history", "history_step")}
    return {"kind": "generative", "adapter": None if adapter is None else str(adapter), "settings": settings}


def promote(new: Path, target: Path) -> None:
    """Make `target` a link to a copy of an adapter, at once; what it was before stays in `target`.versions."""
    store = target.with_name(f"{target.name}.versions")
    store.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", dir=store) as aside:
        copy, link = Path(aside) / "copy", Path(aside) / "link"
        shutil.copytree(new, copy)
        version = store / inspect_adapter(copy, base=LANGUAGE_MODEL).name.replace("copy", "adapter")
        if not version.exists():
            os.replace(copy, version)
        if target.is_dir() and not target.is_symlink():
            os.replace(target, store / "before")
        link.symlink_to(version.relative_to(target.parent))
        os.replace(link, target)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, measure, and promote or not."""
    parser = argparse.ArgumentParser(prog="python -m finetune.promote", description=__doc__)
    parser.add_argument("new", type=Path, metavar="NEW", help="the folder of an adapter that was trained")
    parser.add_argument("place", type=Path, metavar="PLACE", help="the folder of the adapter that serves")
    parser.add_argument("config", metavar="CONFIG", help="who is asked: a name in eval/configs, or a .toml file")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder that holds games and beauty")
    own = parser.parse_args(arguments)
    try:
        with TemporaryDirectory() as folder:
            old = own.place if own.place.exists() else None
            verdict = compare_adapters(own.new, old, _read_config(own.config), Path(folder) / "run", data=own.data)
        print(f"{verdict.metric}: {verdict.old:.2f} before, {verdict.new:.2f} now, difference {verdict.difference}")
        if not verdict.passed:
            print(f"{own.new} ranks worse; {own.place} stays as it is")
            sys.exit(_EXIT_WORSE)
        promote(own.new, own.place)
        print(f"{own.place} is a copy of {own.new} from now on")
    except (GenrecError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
