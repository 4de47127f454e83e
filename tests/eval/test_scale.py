"""What a run over very many rows would take is arithmetic over what was measured, and nothing else."""

import re
from pathlib import Path

import pytest

from eval.scale import RATES, estimate, table

ROOT = Path(__file__).parents[2]


def test_the_page_shows_what_the_command_prints() -> None:
    """A figure that no command prints cannot be checked, nor made again for other prices."""
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    shown = list(table(1e8, 12, {"CPU core": 0.05, "H200": 4.0}))
    assert "\n".join(shown) in page


@pytest.mark.parametrize("rate", RATES, ids=lambda rate: rate.workload)
def test_every_rate_stands_among_what_was_measured(rate) -> None:  # type: ignore[no-untyped-def]
    """Hours that are computed from a rate that nobody measured are a wish."""
    results = (ROOT / "eval" / "RESULTS.md").read_text(encoding="utf-8")
    rows = re.findall(rf"^\| {rate.row} \|.*$", results, re.MULTILINE)
    assert rows
    # As it stands there, or as the seconds of one row on two cores.
    written = {f"{rate.rows:g}", f"{1e3 / rate.rows / 2:.3g}"}
    assert any(number in row for row in rows for number in written), rows


def test_half_the_rate_takes_twice_the_hours() -> None:
    """Of machines one too few is a run that is not over in the morning."""
    rate = RATES[0]
    own = estimate(rate, rate.rows * 3600 * 24.5, 12, 2.0)
    assert (own.machine_hours, own.workers, own.cost) == (24.5, 3, 49.0)
