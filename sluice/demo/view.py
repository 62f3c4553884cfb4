"""What the demo shows while it runs, and the ledger at its end."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sluice.demo.flow import Reading
from sluice.demo.ledger import ROUTES, Ledger

LINE_SECONDS = 3.0


@dataclass
class Picture:
    """All that is shown."""

    phase: str = "Starting"
    total: int = 0
    """Records that the devices will have sent."""
    reading: Reading = field(default_factory=Reading)
    rates: Mapping[str, float] = field(default_factory=dict)
    """By pipeline and stream: settled records a second."""
    kills: int = 0
    restarts: int = 0
    workers: int = 0


class View(Protocol):
    """Shows the picture. Use as a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, picture: Picture) -> None:
        """Show this now. Does not block."""
        ...


def view_for(as_json: bool) -> View:
    """A live table on a terminal; else a line every few seconds, on stderr."""
    console = Console()
    return LiveView(console) if console.is_terminal and not as_json else LineView()


class LineView:
    """One line for each new phase, and every few seconds."""

    def __init__(self) -> None:
        self._phase, self._next = "", 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, picture: Picture) -> None:
        now = time.monotonic()
        if picture.phase == self._phase and now < self._next:
            return
        self._phase, self._next = picture.phase, now + LINE_SECONDS
        waiting = sum(picture.reading.lag.values())
        figures = (
            f": {picture.reading.sent:,} of {picture.total:,} sent, {waiting:,} still to be routed or delivered"
            if picture.total
            else ""
        )
        killed = f", {picture.kills} workers killed" if picture.kills else ""
        again = f", {picture.restarts} workers failed and started again" if picture.restarts else ""
        sys.stderr.write(f"{picture.phase}{figures}{killed}{again}\n")
        sys.stderr.flush()


class LiveView:
    """A progress bar, a table of the pipelines and one of the streams, drawn anew twice a second."""

    def __init__(self, console: Console) -> None:
        self._live = Live(Text("Starting"), console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, picture: Picture) -> None:
        self._live.update(drawn(picture))


def drawn(picture: Picture) -> RenderableType:
    """The picture as a terminal shows it."""
    head = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=max(1, picture.total), completed=picture.reading.sent, width=36)
    head.add_row(Text(picture.phase, style="bold"), bar, f"{picture.reading.sent:,} of {picture.total:,} records sent")
    workers = Text(f"{picture.workers} workers")
    if picture.kills:
        workers.append(f", {picture.kills} killed", "red")
    if picture.restarts:
        workers.append(f", {picture.restarts} failed and started again", "bold red")
    return Group(head, _pipelines(picture), _streams(picture), workers)


def _pipelines(picture: Picture) -> Table:
    table = _table("pipeline", "in", "a second", *ROUTES, "dead letters", "waiting")
    for name in [one for one in picture.reading.lag if f"{one}.success" in picture.reading.on_topics]:
        routes = [f"{picture.reading.on_topics.get(f'{name}.{route}', 0):,}" for route in ROUTES]
        table.add_row(
            name,
            f"{picture.reading.settled[name]:,}",
            f"{picture.rates.get(name, 0):,.0f}",
            *routes,
            f"{picture.reading.on_topics.get(f'{name}.dlq', 0):,}",
            f"{picture.reading.lag[name]:,}",
        )
    return table


def _streams(picture: Picture) -> Table:
    table = _table("stream", "done with", "a second", "dead letters", "waiting")
    for name in [one for one in picture.reading.lag if f"{one}.success" not in picture.reading.on_topics]:
        table.add_row(
            name,
            f"{picture.reading.settled[name]:,}",
            f"{picture.rates.get(name, 0):,.0f}",
            f"{picture.reading.on_topics.get(f'{name}.dlq', 0):,}",
            f"{picture.reading.lag[name]:,}",
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", min_width=22 if not number else 7)
    return table


def print_ledger(ledger: Ledger, console: Console) -> None:
    """The tables, and one sentence that says it all."""
    pipelines = _table("pipeline", "in", *ROUTES, "dead letters")
    for name, counts in ledger.pipelines.items():
        pipelines.add_row(name, *(f"{counts[key]:,}" for key in ("in", *ROUTES, "dead_letters")))
    streams = _table("stream", "expected", "delivered", "missing", "duplicates", "in clear")
    for name, counts in ledger.streams.items():
        bad = counts["missing"] or counts["clear_card_fields"]
        streams.add_row(name, *(f"{value:,}" for value in counts.values()), style="red" if bad else "")
    console.print(pipelines, Text(), streams, Text(), sep="\n")
    for problem in ledger.problems:
        console.print(Text(f"✗ {problem}", style="red"))
    console.print(Text(sentence(ledger), style="bold green" if ledger.ok else "bold red"))


def sentence(ledger: Ledger) -> str:
    """The outcome in one sentence."""
    speed = f"{ledger.records:,} records in, {ledger.records / max(ledger.seconds, 0.1):,.0f} a second"
    killed = f" {ledger.kills} workers were killed." if ledger.kills else ""
    if ledger.ok:
        return f"{speed}; nothing is missing; no card field in clear.{killed}"
    return f"{speed}; the ledger does not balance: see above.{killed}"
