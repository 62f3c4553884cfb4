"""`sluice bench`: the figures as a table with ratios, or as JSON."""

import logging
import sys
from collections.abc import Sequence

import orjson
from rich.console import Console
from rich.table import Table

from sluice.bench import CANDIDATES, LATENCY, NAMES, REFERENCE, WORKERS, BenchFailed, Rounds, medians, ratios, run
from sluice.exits import Exit, UserError


def show(names: Sequence[str], records: int, rounds: int, as_json: bool) -> None:
    """Measure these, or everything, and print the medians. Blocks for minutes; progress goes to stderr."""
    console = Console(stderr=True)
    logging.getLogger("aiokafka").setLevel(logging.ERROR)  # a topic that was just made refuses its first batches
    with console.status("starting Kafka") as status:
        try:
            figures = run(names or NAMES, records, rounds=rounds, progress=status.update)
        except BenchFailed as error:
            raise UserError(str(error), Exit.FAILED) from None
    if as_json:
        sys.stdout.write(orjson.dumps(medians(figures)).decode() + "\n")
        return
    out = Console()
    out.print(_table(figures, f"{records:,} records of simulated devices, {rounds} rounds, medians"))
    for line in _remarks(medians(figures)):
        out.print(line)


def _table(figures: Rounds, title: str) -> Table:
    table = Table(title=title)
    for heading in ("", "CPU us a record", "× by hand (all rounds)", "records/s", "peak MB"):
        table.add_column(heading, justify="left" if not heading else "right")
    compared = ratios(figures)
    for name, one in medians(figures).items():
        against = ""
        if name in compared:
            ratio = compared[name]
            against = f"{ratio.median:.2f} × {CANDIDATES[name].baseline} ({ratio.lowest:.2f}-{ratio.highest:.2f})"
        rate, peak = f"{one['records_per_second']:,.0f}", f"{one['peak_mb']:.0f}"
        title = f"{name} ({one['records']:,.0f} endpoints)" if name == REFERENCE else name
        table.add_row(title, f"{one['cpu_us_per_record']:.1f}", against, rate, peak)
    return table


def _remarks(figures: dict[str, dict[str, float]]) -> list[str]:
    remarks = []
    if any(name in WORKERS for name in figures):
        remarks.append(
            "workers-N: N routers on 4 partitions of one topic, beside the broker on this machine; CPU of all."
        )
    if LATENCY in figures:
        one = figures[LATENCY]
        remarks.append(
            f"latency: raw to routed at {one['records_per_second']:,.0f} records/s, half of what comes through one worker with "
            "sender, broker and reader on the same machine: "
            f"p50 {one['p50_ms']:.1f} ms, p99 {one['p99_ms']:.1f} ms."
        )
    if REFERENCE in figures:
        one = figures[REFERENCE]
        remarks.append(
            f"reference: a router's process that reads {one['records']:,.0f} endpoints from Kafka: {one['seconds']:.1f} s, "
            f"{one['peak_mb']:.0f} MB at most, with the program itself."
        )
    return remarks
