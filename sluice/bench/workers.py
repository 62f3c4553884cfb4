"""Real `sluice worker` processes under load: what several of them take a second, and how long a record is under way.

They share the machine with the broker, and with the sender and the reader where there are any. Reads /proc: on Linux only.
"""

import asyncio
import contextlib
import itertools
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import yaml
from aiokafka import AIOKafkaConsumer, TopicPartition

from sluice.bench.load import PARTITIONS
from sluice.bench.router import make_keys, settings
from sluice.config import load
from sluice.wiring import topic_specs
from stream.topics import Topics

START_SECONDS = 60
DONE_SECONDS = 300
WARM_SECONDS = 3.0
MEASURED_SECONDS = 10.0
FLOOD_SECONDS = 8.0
_ASSIGNED = re.compile(r"Assigned in generation (\d+)")
_numbers = itertools.count()


class WorkersFailed(Exception):
    """Workers did not start or finish in time. The text ends in what they wrote last."""


class _Used(NamedTuple):
    """CPU seconds of processes since they started."""

    cpu: float
    peak_mb: float


class _Workers:
    """Some `sluice worker` processes of one pipeline of their own, on topics of their own."""

    def __init__(self, brokers: str, folder: Path, count: int) -> None:
        self.name = f"bench-{os.getpid()}-{next(_numbers)}"
        self.raw = f"raw.{self.name}"
        self.brokers, self._count = brokers, count
        self._file = folder / f"{self.name}.yaml"
        self._logs = [folder / f"{self.name}-{number}.log" for number in range(count)]
        self._processes: list[asyncio.subprocess.Process] = []
        self._file.write_text(yaml.safe_dump(settings(brokers, self.raw, self.name, make_keys(folder))))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["_Workers"]:
        """From the assignment of all partitions on. Raises WorkersFailed."""
        config = load(self._file)
        async with Topics(config.kafka) as topics:
            await topics.create(topic_specs(config))
        self.routed = [
            TopicPartition(f"{self.name}.{route}", number)
            for route in config.pipelines[self.name].route_names()
            for number in range(PARTITIONS)
        ]
        try:
            for log in self._logs:
                with log.open("wb") as output:
                    process = await asyncio.create_subprocess_exec(
                        sys.executable, "-m", "sluice.cli", "worker", str(self._file), self.name,
                        stdout=output, stderr=output,
                    )  # fmt: skip
                self._processes.append(process)
            await self._until_assigned()
            yield self
        finally:
            for process in self._processes:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    async def _until_assigned(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            said = [log.read_text() for log in self._logs]
            newest = [found[-1] if (found := _ASSIGNED.findall(one)) else "" for one in said]
            if "" not in newest and len(set(newest)) == 1:
                return
            if time.monotonic() > deadline or any(one.returncode is not None for one in self._processes):
                raise WorkersFailed(f"{self._count} workers are not at work:\n" + "\n".join(one[-500:] for one in said))
            await asyncio.sleep(0.05)

    def signal(self, number: int) -> None:
        for process in self._processes:
            process.send_signal(number)

    def used(self) -> _Used:
        """CPU of all together, and the largest peak of memory of one."""
        cpu, peak = 0.0, 0.0
        for process in self._processes:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            cpu += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            status = Path(f"/proc/{process.pid}/status").read_text()
            found = re.search(r"VmHWM:\s+(\d+)", status)
            peak = max(peak, int(found[1]) / 1024 if found else 0.0)
        return _Used(cpu, peak)


async def throughput(brokers: str, workers: int, count: int) -> dict[str, float]:
    """So many workers on `count` records that wait for them: CPU of all, wall-clock rate, largest peak. Raises WorkersFailed.

    The workers are frozen while the records are sent, so that they begin together and the sender does not share the machine.
    """
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        async with _Workers(brokers, Path(folder), workers).running() as these, _consumer(brokers) as consumer:
            these.signal(signal.SIGSTOP)
            await _send(these, count, None)
            before, start = these.used(), time.monotonic()
            these.signal(signal.SIGCONT)
            while sum((await consumer.end_offsets(these.routed)).values()) < count:
                if time.monotonic() - start > DONE_SECONDS:
                    raise WorkersFailed(f"{workers} workers were not done with {count} records in {DONE_SECONDS} s")
                await asyncio.sleep(0.02)
            wall, after = time.monotonic() - start, these.used()
    return _figures(count, before, after, wall)


async def latency(brokers: str) -> dict[str, float]:
    """From the making of a raw record to its arrival at a reader of the routed topics, at half load: half of what comes through
    when the sender sends as fast as it can, on the same machine.

    One worker; sender and reader are processes of their own. The usual figures, with `p50_ms` and `p99_ms`. Timestamps are
    whole milliseconds. Raises WorkersFailed.
    """
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        async with _Workers(brokers, Path(folder), 1).running() as worker, _consumer(brokers) as reader:
            reader.assign(worker.routed)
            await reader.seek_to_end()
            rate = await _most(worker, reader) / 2
            sending = asyncio.create_task(_send(worker, int(rate * (WARM_SECONDS + MEASURED_SECONDS)), rate))
            if not await reader.getmany(timeout_ms=START_SECONDS * 1000):
                raise WorkersFailed("nothing arrived on the routed topics")
            await _read(reader, WARM_SECONDS)
            before, start = worker.used(), time.monotonic()
            took = await _read(reader, MEASURED_SECONDS - WARM_SECONDS / 2)
            wall, after = time.monotonic() - start, worker.used()
            await sending
    if not took:
        raise WorkersFailed("the routed topics ran dry before the end: the sender did not keep the rate")
    took.sort()
    named = {f"p{percent}_ms": round(took[len(took) * percent // 100], 1) for percent in (50, 99)}
    return _figures(len(took), before, after, wall) | named


async def _most(worker: _Workers, reader: AIOKafkaConsumer) -> float:
    """Records a second that come through at full input. Returns when all that was sent has come through."""
    flood = asyncio.create_task(_send(worker, 1_000_000_000, None))
    try:
        if not await reader.getmany(timeout_ms=START_SECONDS * 1000):
            raise WorkersFailed("nothing arrived on the routed topics")
        await _read(reader, WARM_SECONDS)
        start = time.monotonic()
        came = len(await _read(reader, FLOOD_SECONDS))
        took = time.monotonic() - start
    finally:
        flood.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await flood
    while await reader.getmany(timeout_ms=2000):
        pass
    return came / took


async def _read(reader: AIOKafkaConsumer, seconds: float) -> list[float]:
    """How old each record was, in milliseconds, that came within `seconds`."""
    took: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        fetched = await reader.getmany(timeout_ms=100)
        now = time.time() * 1000
        for records in fetched.values():
            took += [now - record.timestamp for record in records]
    return took


async def _send(workers: _Workers, count: int, rate: float | None) -> None:
    command = ["-m", "sluice.bench.steady", "--brokers", workers.brokers, "--topic", workers.raw, "--count", str(count)]
    command += ["--rate", str(rate)] if rate else []
    sender = await asyncio.create_subprocess_exec(sys.executable, *command)
    try:
        if await sender.wait():
            raise WorkersFailed("the sender of the records failed")
    finally:
        if sender.returncode is None:
            sender.kill()


@contextlib.asynccontextmanager
async def _consumer(brokers: str) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(bootstrap_servers=brokers, enable_auto_commit=False, fetch_max_wait_ms=100)
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


def _figures(count: int, before: _Used, after: _Used, wall: float) -> dict[str, float]:
    return {
        "cpu_us_per_record": round((after.cpu - before.cpu) / count * 1e6, 2),
        "records_per_second": round(count / wall),
        "peak_mb": round(after.peak_mb, 1),
    }
