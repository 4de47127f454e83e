"""Replace an adapter only if the new one ranks no worse: python -m finetune.promote NEW PLACE CONFIG.

`eval.rank` measures both on the users of CONFIG, whose last items neither may have been trained on. If the mean of the
first metric did not fall, NEW is copied to PLACE.versions, and PLACE atomically becomes a link to the copy; earlier
versions are kept. The exit status is 0. If the metric fell, nothing changes, and the exit status is 3. If PLACE does
not exist yet, NEW must be no worse than the model without an adapter.
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
from genrec.backends import inspect_adapter
from genrec.errors import GenrecError, MismatchError
from genrec.evaluation import Interval, difference_interval
from genrec.settings import LANGUAGE_MODEL

_EXIT_WORSE = 3


@dataclass(frozen=True)
class AdapterComparison:
    """The ranking of a new and an old adapter on the same users.

    Attributes:
        metric: its name.
        old, new: the means over users, times 100.
        difference: the mean difference and its confidence interval, times 100.
    """

    metric: str
    old: float
    new: float
    difference: Interval

    @property
    def passed(self) -> bool:
        """Whether the mean did not fall."""
        return self.difference.value >= 0


def compare_adapters(
    new: Path, old: Path | None, config: Config, results_folder: Path, *, data: Path | None = None
) -> AdapterComparison:
    """Measure two adapters on the same users.

    Args:
        new: the folder of the new adapter.
        old: the folder of the old adapter; None for the model without one.
        config: the users and metrics; its rankers are ignored.
        results_folder: where results are written.
        data: the folder that contains games and beauty.

    Raises:
        MismatchError: the new adapter was trained with another template than that of `config`.
    """
    template = read_template(config.template).fingerprint
    provenance = inspect_adapter(new, base=LANGUAGE_MODEL).provenance
    if provenance is not None and provenance.template != template:
        raise MismatchError(
            f"{new} was trained with another template than {config.template!r}; choose a config with its template"
        )
    rankers = {"new": _ranker(new, config), "old": _ranker(old, config)}
    comparison = Config.model_validate({**config.model_dump(), "rankers": rankers})
    measure(comparison, results_folder, data=data, users=None)
    tables, metric = read_run(results_folder).tables, comparison.metrics[0]
    values = {name: 100 * tables[name][metric].to_numpy() for name in rankers}
    difference = difference_interval(values["new"], values["old"], seed=config.seed)
    return AdapterComparison(metric, float(values["old"].mean()), float(values["new"].mean()), difference)


def _read_config(config: str) -> Config:
    """Read the users and metrics of a comparison."""
    return read_toml(Config, config, CONFIGS, label="config", documented_in="eval/config.py")[1]


def _ranker(adapter: Path | None, config: Config) -> dict[str, Any]:
    """The configuration of a ranker with an adapter, in the settings of its training."""
    settings: dict[str, Any] = {"strategy": "exhaustive"} if config.protocol == "candidates" else {}
    provenance = None if adapter is None else inspect_adapter(adapter, base=LANGUAGE_MODEL).provenance
    if provenance is not None:
        settings |= {name: provenance.config[name] for name in ("prior", "max_history", "history_step")}
    return {"kind": "generative", "adapter": None if adapter is None else str(adapter), "settings": settings}


def promote(new: Path, target: Path) -> None:
    """Make `target` a link to a copy of an adapter, atomically; earlier versions stay in `target`.versions."""
    store = target.with_name(f"{target.name}.versions")
    store.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", dir=store) as temporary:
        copy, link = Path(temporary) / "copy", Path(temporary) / "link"
        shutil.copytree(new, copy)
        version = store / inspect_adapter(copy, base=LANGUAGE_MODEL).name.replace("copy", "adapter")
        if not version.exists():
            os.replace(copy, version)
        if target.is_dir() and not target.is_symlink():
            os.replace(target, store / "before")
        link.symlink_to(version.relative_to(target.parent))
        os.replace(link, target)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, compare the adapters, and promote the new one if it ranks no worse."""
    parser = argparse.ArgumentParser(prog="python -m finetune.promote", description=__doc__)
    parser.add_argument("new", type=Path, metavar="NEW", help="the folder of the new adapter")
    parser.add_argument("place", type=Path, metavar="PLACE", help="the folder of the serving adapter")
    parser.add_argument("config", metavar="CONFIG", help="users and metrics: a name in eval/configs, or a .toml file")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the folder that contains games and beauty")
    own = parser.parse_args(arguments)
    try:
        with TemporaryDirectory() as folder:
            old = own.place if own.place.exists() else None
            comparison = compare_adapters(own.new, old, _read_config(own.config), Path(folder) / "run", data=own.data)
        change = f"{comparison.old:.2f} before, {comparison.new:.2f} now, difference {comparison.difference}"
        print(f"{comparison.metric}: {change}")
        if not comparison.passed:
            print(f"{own.new} ranks worse; {own.place} is unchanged")
            sys.exit(_EXIT_WORSE)
        promote(own.new, own.place)
        print(f"{own.place} is now a copy of {own.new}")
    except (GenrecError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
