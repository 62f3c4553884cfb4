"""CPU, throughput, memory and latency of the router and of others that do the same work, on one broker in one run.

A candidate is a program of its own that takes `--brokers`, `--topic` and `--count`, works on that many records of that topic
and writes one JSON line: `cpu_us_per_record` (all its threads), `records_per_second` (wall clock) and `peak_mb` (RSS).
The other rows are of real workers (`workers.py`), and of a process that loads a reference of ENTRIES endpoints, however many
records the others work on.
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import orjson

from sluice.bench.load import load, load_endpoints
from sluice.bench.workers import WorkersFailed, latency, throughput
from sluice.local_kafka import kafka

TIME_LIMIT = 900
"""Seconds after which a candidate's round has failed."""


class Candidate(NamedTuple):
    """`module` is what `python -m` runs, with `more`. `share` of the records is enough for one that is slow: costs are for a
    record."""

    module: str
    baseline: str | None = None
    """The candidate that does the same by hand."""
    share: float = 1.0
    more: tuple[str, ...] = ()
    mix: str = "devices"
    """What its input is: one of `load.MIXES`."""


CANDIDATES: Mapping[str, Candidate] = {
    "router": Candidate("sluice.bench.router", "aiokafka"),
    "stock-faust": Candidate("sluice.bench.stock_faust", "aiokafka", share=0.1),
    "aiokafka": Candidate("sluice.bench.bare_aiokafka"),
    "data-streamer": Candidate(
        "sluice.bench.router", "aiokafka-joins", more=("--pipeline", "data-streamer"), mix="platform"
    ),
    "aiokafka-joins": Candidate("sluice.bench.bare_aiokafka", more=("--pipeline", "data-streamer"), mix="platform"),
    "consume-only": Candidate("sluice.bench.consume_only", "aiokafka-consume"),
    "aiokafka-consume": Candidate("sluice.bench.bare_consumer"),
    "gate": Candidate("sluice.bench.stages", share=0.2, more=("--what", "gate")),
    "cfb-field": Candidate("sluice.bench.stages", more=("--what", "cfb")),
    "gcm-field": Candidate("sluice.bench.stages", more=("--what", "gcm")),
    **{
        f"{what}-{subject}": Candidate(
            "sluice.bench.codecs", f"orjson-{subject}" if what != "orjson" else None, share,
            ("--what", what, "--subject", subject),
        )
        for subject in ("event", "usage")
        for what, share in (("codec", 1.0), ("orjson", 1.0), ("fastavro", 0.01))
    },
}  # fmt: skip
WORKERS = {"workers-1": 1, "workers-2": 2, "workers-4": 4}
LATENCY = "latency"
REFERENCE = "reference"
ENTRIES = 1_000_000
NAMES = (*CANDIDATES, *WORKERS, LATENCY, REFERENCE)
Rounds = dict[str, list[dict[str, float]]]
"""Name → its figures in each round."""


class BenchFailed(Exception):
    """A candidate ended without figures. The text ends in what it wrote last."""


class Ratio(NamedTuple):
    """CPU of a candidate against that of its baseline in the same round: the middle of all rounds, and how far they lie apart."""

    median: float
    lowest: float
    highest: float


def run(
    names: Sequence[str],
    count: int = 300_000,
    *,
    rounds: int = 3,
    progress: Callable[[str], None] = lambda text: None,
) -> Rounds:
    """Measure these (of NAMES) over `count` records. All candidates stand in each round, in turns forwards and backwards, so that
    a machine that grows busier treats them alike; workers, latency and reference are measured once, after that.

    `progress` is told each step. The broker is a local one (or that of KAFKA_BROKERS, whose topics `bench-*` then stay). Blocks
    for minutes. Raises BenchFailed, Missing, BrokerFailed, KafkaError; ValueError for a name that is unknown.
    """
    if unknown := [name for name in names if name not in NAMES]:
        raise ValueError(f"nothing is called {', '.join(unknown)}: there are {', '.join(NAMES)}")
    candidates = [name for name in CANDIDATES if name in names]
    figures: Rounds = {name: [] for name in candidates}
    directory = tempfile.TemporaryDirectory(prefix="sluice-bench-")
    with directory as path, kafka(Path(path) / "kafka", optimise=True) as brokers:
        topic = Path(path).name.removeprefix("sluice-")
        for mix in dict.fromkeys(CANDIDATES[name].mix for name in candidates):
            progress(f"loading {count} records ({mix})")
            asyncio.run(load(brokers, f"{topic}-{mix}", count, mix))
        for number in range(1, rounds + 1):
            for name in candidates if number % 2 else reversed(candidates):
                progress(f"round {number} of {rounds}: {name}")
                candidate = CANDIDATES[name]
                share = max(1, int(count * candidate.share))
                figures[name].append(_measure(name, candidate, brokers, f"{topic}-{candidate.mix}", share))
        try:
            figures |= _of_workers([name for name in NAMES if name in names], brokers, count, progress)
        except WorkersFailed as error:
            raise BenchFailed(str(error)) from None
        if REFERENCE in names:
            figures[REFERENCE] = [_of_reference(brokers, f"{topic}-endpoints", progress)]
    return figures


def _of_reference(brokers: str, topic: str, progress: Callable[[str], None]) -> dict[str, float]:
    progress(f"{REFERENCE}: writing {ENTRIES:,} endpoints")
    asyncio.run(load_endpoints(brokers, topic, ENTRIES))
    progress(f"{REFERENCE}: loading {ENTRIES:,} endpoints")
    return _measure(REFERENCE, Candidate("sluice.bench.reference"), brokers, topic, ENTRIES)


def _of_workers(names: Iterable[str], brokers: str, count: int, progress: Callable[[str], None]) -> Rounds:
    figures: Rounds = {}
    for name in names:
        if name in WORKERS:
            progress(f"{name}: real workers on {count} records")
            figures[name] = [asyncio.run(throughput(brokers, WORKERS[name], count))]
        elif name == LATENCY:
            progress(f"{name}: at half of what comes through at full input")
            figures[name] = [asyncio.run(latency(brokers))]
    return figures


def medians(figures: Rounds) -> dict[str, dict[str, float]]:
    """The median of each figure over the rounds."""
    return {
        name: {figure: statistics.median(each[figure] for each in measured) for figure in measured[0]}
        for name, measured in figures.items()
    }


def ratios(figures: Rounds) -> dict[str, Ratio]:
    """Of each candidate whose baseline was measured too."""
    found = {}
    for name, measured in figures.items():
        baseline = CANDIDATES[name].baseline if name in CANDIDATES else None
        if baseline in figures:
            pairs = zip(measured, figures[baseline], strict=True)
            each = [one["cpu_us_per_record"] / base["cpu_us_per_record"] for one, base in pairs]
            found[name] = Ratio(statistics.median(each), min(each), max(each))
    return found


def _measure(name: str, candidate: Candidate, brokers: str, topic: str, count: int) -> dict[str, float]:
    command = [sys.executable, "-m", candidate.module, "--brokers", brokers, "--topic", topic]
    command += ["--count", str(count), *candidate.more]
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
