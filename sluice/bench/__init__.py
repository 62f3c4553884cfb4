"""CPU, throughput and memory of the router and of others that do the same work, on one broker in one run.

A candidate is a program of its own that takes `--brokers`, `--topic` and `--count`, works on that many records of that topic
and writes one JSON line: `cpu_us_per_record` (all its threads), `records_per_second` (wall clock) and `peak_mb` (RSS).
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import orjson

from sluice.bench.load import load
from sluice.local_kafka import kafka

TIME_LIMIT = 900
"""Seconds after which a candidate's round has failed."""


class Candidate(NamedTuple):
    """`module` is what `python -m` runs. `share` of the records is enough for one that is slow: costs are for a record."""

    module: str
    share: float = 1.0


CANDIDATES: Mapping[str, Candidate] = {
    "router": Candidate("sluice.bench.router"),
    "stock-faust": Candidate("sluice.bench.stock_faust", share=0.1),
    "aiokafka": Candidate("sluice.bench.bare_aiokafka"),
}


class BenchFailed(Exception):
    """A candidate ended without figures. The text ends in what it wrote last."""


def run(
    names: Sequence[str],
    count: int = 300_000,
    *,
    rounds: int = 3,
    mix: str = "devices",
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, dict[str, float]]:
    """Measure these candidates over `count` records: the median of each figure over `rounds` rounds, all candidates in each.

    `mix` is one of `load.MIXES`. `progress` is told each step. The broker is a local one (or that of KAFKA_BROKERS, whose
    topics `bench-*` then stay). Blocks for minutes. Raises BenchFailed, Missing, BrokerFailed, KafkaError; ValueError for a
    name that is unknown.
    """
    if unknown := [name for name in names if name not in CANDIDATES]:
        raise ValueError(f"no candidate is called {', '.join(unknown)}: there are {', '.join(CANDIDATES)}")
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    directory = tempfile.TemporaryDirectory(prefix="sluice-bench-")
    with directory as path, kafka(Path(path) / "kafka", optimise=True) as brokers:
        topic = Path(path).name.removeprefix("sluice-")
        progress(f"loading {count} records")
        asyncio.run(load(brokers, topic, count, mix))
        for number in range(1, rounds + 1):
            for name in names:
                progress(f"round {number} of {rounds}: {name}")
                figures[name].append(_measure(name, brokers, topic, count))
    return {
        name: {figure: statistics.median(each[figure] for each in measured) for figure in measured[0]}
        for name, measured in figures.items()
    }


def _measure(name: str, brokers: str, topic: str, count: int) -> dict[str, float]:
    candidate = CANDIDATES[name]
    command = [sys.executable, "-m", candidate.module, "--brokers", brokers, "--topic", topic]
    command += ["--count", str(max(1, int(count * candidate.share)))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)  # noqa: S603  ours
    except subprocess.TimeoutExpired as late:
        raise BenchFailed(f"{name} was not done after {TIME_LIMIT} s: try fewer records (--count)") from late
    try:
        result: dict[str, float] = orjson.loads(done.stdout.splitlines()[-1])
    except (IndexError, orjson.JSONDecodeError):
        last = "\n".join(done.stderr.splitlines()[-10:])
        raise BenchFailed(f"{name} ended with {done.returncode} and without figures:\n{last}") from None
    return result
