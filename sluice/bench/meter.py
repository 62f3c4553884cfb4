"""What a candidate's process costs from its first record in to its last record acknowledged; and what all candidates share."""

import argparse
import gc
import re
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import orjson


class Meter:
    """CPU time of all threads of this process, wall time and peak memory (RSS) for `count` records."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._wall: float | None = None
        self._cpu = 0.0

    def first_record(self) -> None:
        """Call when records come in; only the first call counts."""
        if self._wall is None:
            self._wall, self._cpu = time.perf_counter(), time.process_time()

    def report(self, **more: float) -> None:
        """Call once, when the last record is acknowledged: writes one JSON line to stdout, with `more` figures."""
        assert self._wall is not None
        report(self.count, time.process_time() - self._cpu, time.perf_counter() - self._wall, **more)


def report(count: int, cpu: float, wall: float, **more: float) -> None:
    """Write what `count` records cost, in seconds, as one JSON line to stdout, with `more` figures."""
    figures = {
        "cpu_us_per_record": round(cpu / count * 1e6, 2),
        "records_per_second": round(count / wall),
        "peak_mb": round(_peak_kilobytes() / 1024, 1),
        **more,
    }
    out = sys.__stdout__  # Faust's worker puts its log in place of sys.stdout
    assert out is not None
    out.write(orjson.dumps(figures).decode() + "\n")
    out.flush()


def _peak_kilobytes() -> int:
    """The most memory that this program has had resident. What getrusage says may be that of the process which started it."""
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    return int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def arguments(description: str | None, **choices: Sequence[str]) -> argparse.Namespace:
    """`--brokers`, `--topic` and `--count` of a candidate that is run as a program, and an option for each of the `choices`, the
    first of which stands where none is given."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--brokers", required=True, help="host:port, comma-separated")
    parser.add_argument("--topic", required=True, help="where the input is; outputs are TOPIC.NAME.ROUTE")
    parser.add_argument("--count", required=True, type=int, help="how many records to work on")
    for name, possible in choices.items():
        parser.add_argument(f"--{name}", choices=possible, default=possible[0])
    return parser.parse_args()


def tune_gc() -> None:
    """The garbage collector as the router has it, for every candidate: most of what a batch makes dies with it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
