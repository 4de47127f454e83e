"""Estimates of very large runs are computed from measured rates only."""

import re
from pathlib import Path

import pytest

from eval.scale import RATES, estimate, table

ROOT = Path(__file__).parents[2]


def test_page_shows_the_printed_table() -> None:
    """A figure that no command prints cannot be checked, or recomputed for other prices."""
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    shown = list(table(1e8, 12, {"CPU core": 0.05, "H200": 4.0}))
    assert "\n".join(shown) in page


@pytest.mark.parametrize("rate", RATES, ids=lambda rate: rate.workload)
def test_every_rate_is_in_the_results(rate) -> None:  # type: ignore[no-untyped-def]
    """An estimate from a rate that was not measured is a guess."""
    results = (ROOT / "eval" / "RESULTS.md").read_text(encoding="utf-8")
    rows = re.findall(rf"^\| {rate.row} \|.*$", results, re.MULTILINE)
    assert rows
    # As rows per second, or as milliseconds per row on two cores.
    written = {f"{rate.rows:g}", f"{1e3 / rate.rows / 2:.3g}"}
    assert any(number in row for row in rows for number in written), rows


def test_half_the_rate_takes_twice_the_hours() -> None:
    """With one machine too few, the run does not finish in time."""
    rate = RATES[0]
    own = estimate(rate, rate.rows * 3600 * 24.5, 12, 2.0)
    assert (own.machine_hours, own.workers, own.cost) == (24.5, 3, 49.0)
