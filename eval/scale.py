"""Time and cost of very large batch runs, computed from measured rates.

    python -m eval.scale --rows 1e8 --hours 12 --core-price 0.05 --gpu-price 4

prints the table of docs/scale.md. Prices are arguments; the rates are those of `RATES`, each with its row in
`eval/RESULTS.md`. Workers share only the folder, so the time is inversely proportional to their number.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Machine = Literal["CPU core", "H200"]


@dataclass(frozen=True)
class MeasuredRate:
    """The measured rate of one worker.

    Attributes:
        workload: what is computed for each row.
        machine: the machine of one worker.
        rows: rows per second.
        row: the row in eval/RESULTS.md.
    """

    workload: str
    machine: Machine
    rows: float
    row: str


RATES = (
    MeasuredRate("list by embedding, 3,659 items", "CPU core", 1030.0, "B1"),
    MeasuredRate("list by embedding, 1,000,000 items", "CPU core", 12.63, "C16"),
    MeasuredRate("50 candidates by a 135M model", "CPU core", 1.0, "B4"),
    MeasuredRate("text of 40 tokens by a 135M model", "CPU core", 3.4, "B5"),
    MeasuredRate("beams of width 50, 1.7B model in vLLM, 1,000,000 items", "H200", 3.13, "G4"),
    MeasuredRate("list of 50 written by a 1.7B model in vLLM", "H200", 11.6, "G4"),
)


@dataclass(frozen=True)
class Estimate:
    """The resources that a run needs.

    Attributes:
        rate: the measured rate.
        machine_hours: summed over all workers.
        workers: number of workers that finish in time.
        cost: price of the machine hours.
    """

    rate: MeasuredRate
    machine_hours: float
    workers: int
    cost: float


def estimate(rate: MeasuredRate, rows: float, hours: float, price: float) -> Estimate:
    """The resources of a run over `rows` rows within `hours` hours; `price` is that of a machine hour."""
    machine_hours = rows / rate.rows / 3600
    return Estimate(rate, machine_hours, math.ceil(machine_hours / hours), machine_hours * price)


def table(rows: float, hours: float, prices: dict[Machine, float]) -> Iterator[str]:
    """Lines of the Markdown table."""
    yield f"| workload | worker | rows/s | machine hours | workers for {hours:g} h | cost |"
    yield "|---|---|---|---|---|---|"
    for rate in RATES:
        own = estimate(rate, rows, hours, prices[rate.machine])
        yield (
            f"| {rate.workload} | {rate.machine} | {rate.rows:g} ({rate.row}) | {own.machine_hours:,.0f} "
            f"| {own.workers:,} | {own.cost:,.0f} |"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m eval.scale", description=__doc__)
    parser.add_argument("--rows", type=float, default=1e8, metavar="N")
    parser.add_argument("--hours", type=float, default=12.0, metavar="H", help="time limit of the run in hours")
    parser.add_argument("--core-price", type=float, default=0.05, metavar="P", help="price of a CPU core for an hour")
    parser.add_argument("--gpu-price", type=float, default=4.0, metavar="P", help="price of a GPU for an hour")
    own = parser.parse_args(arguments)
    for name in ("rows", "hours", "core_price", "gpu_price"):
        if not 0 < getattr(own, name) < math.inf:
            parser.error(f"--{name.replace('_', '-')} is {getattr(own, name)}; give a number above 0")
    print("\n".join(table(own.rows, own.hours, {"CPU core": own.core_price, "H200": own.gpu_price})))


if __name__ == "__main__":
    main()
