"""The table of docs/reliability.md, made by a full run of the fault tests and by nothing else."""

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BEGIN, END = "<!-- made by `make test-faults`: begin -->", "<!-- made by `make test-faults`: end -->"
FAULTS = {f"F-{number:02}" for number in (*range(2, 9), *range(10, 17), 26, 28, *range(32, 36), 37)} | {"memory"}


@dataclass(frozen=True)
class Row:
    """What one fault test saw. It stands there only if the test passed."""

    fault: str
    what: str
    evidence: str
    """How it is known that the fault happened."""
    records: int
    dead_letters: int
    repeats: int
    """Written twice into a routed topic, and recognised by the reader."""
    pause: float | None
    """The longest time without progress, in seconds."""

    def line(self) -> str:
        pause = "" if self.pause is None else f"{self.pause:.1f}"
        counts = f"{self.records:,} | {self.dead_letters:,} | {self.repeats:,}"
        return f"| {self.fault} | {self.what} | {self.evidence} | {counts} | {pause} |"


def write(page: Path, rows: Sequence[Row], seed: int, seconds: float) -> None:
    """Replace what stands between the two marks of the page. Raises ValueError when they are not there, or a fault is missing."""
    if lacking := FAULTS - {one.fault for one in rows}:
        raise ValueError(f"{page} is written by a run of all faults; {', '.join(sorted(lacking))} was not seen")
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for the table: {BEGIN} and {END}")
    total = sum(one.records for one in rows)
    made = [
        f"{time.strftime('%Y-%m-%d')}, seed {seed}, {seconds / 60:.0f} minutes, Python {platform.python_version()}: "
        f"{total:,} records.",
        "",
        "| | fault | seen by | records | dead letters | repeats recognised | longest pause, s |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
        *(one.line() for one in sorted(rows, key=lambda one: one.fault)),
    ]
    page.write_text("\n".join([before + BEGIN, *made, END + after]))
