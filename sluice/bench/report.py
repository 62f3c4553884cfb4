"""`sluice bench`: the figures as a table with ratios, or as JSON."""

import sys

import orjson
from rich.console import Console
from rich.table import Table

from sluice.bench import CANDIDATES, BenchFailed, run
from sluice.exits import Exit, UserError

BASELINE = "aiokafka"


def show(records: int, rounds: int, as_json: bool) -> None:
    """Measure every candidate and print the medians. Blocks for minutes; progress goes to stderr."""
    console = Console(stderr=True)
    with console.status("starting Kafka") as status:
        try:
            figures = run(list(CANDIDATES), records, rounds=rounds, progress=status.update)
        except BenchFailed as error:
            raise UserError(str(error), Exit.FAILED) from None
    if as_json:
        sys.stdout.write(orjson.dumps(figures).decode() + "\n")
        return
    base = figures[BASELINE]["cpu_us_per_record"]
    table = Table(title=f"{records:,} records of simulated devices, {rounds} rounds, medians")
    for heading in ("", "CPU us a record", f"× {BASELINE}", "records/s", "peak MB"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, one in figures.items():
        cpu = one["cpu_us_per_record"]
        row = (f"{cpu:.1f}", f"{cpu / base:.2f}", f"{one['records_per_second']:,.0f}", f"{one['peak_mb']:.0f}")
        table.add_row(name, *row)
    Console().print(table)
