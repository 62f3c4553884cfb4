"""Memory is bounded: workers at full input, with a receiver that blocks again and again, stay small, flat and in their group.

It takes 20 minutes, with 5 minutes of blocking; with FAULTS=short about one minute in all.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from sluice.config import load
from sluice.local_kafka import LocalKafka
from sluice.wiring import topic_specs
from stream.topics import Topics
from tests.e2e.processes import Child, children, until
from tests.faults.conftest import SHORT
from tests.faults.ledger import Judgement

MINUTE = 3.0 if SHORT else 60.0
"""The schedule below is for 20 minutes; the short form goes through it 20 times as fast."""
BLOCKED = [(1, 2.5), (5, 6), (9, 10), (14, 15.5)]
"""From and to which minute the receiver keeps every request waiting: once in the warm-up, and again after it."""
WARM, END = 3, 20
GROWTH = 1.1
"""What a worker may grow after the warm-up. Nine seconds are none: the short form does not look at it."""
ALIKE = [((6.5, 9), (17, 20)), ((1.5, 2.5), (14.5, 15.5))]
"""Minutes early and late in which the same goes on: full input, and a receiver that blocks."""
MOST_RECORDS = 1_000_000
"""The long form delivers more than these, or it was not at full input."""
PEAK_BYTES = 300 * 1_000_000
PARTITIONS = 12
BACKLOG = 300_000
"""Records of 1 KB that the producer is ahead: far more than a worker may hold, and less than the topics keep."""
BOUNDED_TOPICS = {
    "log.retention.bytes": str(1_500_000_000 // PARTITIONS),
    "log.segment.bytes": str(16 * 1024 * 1024),
    "log.retention.check.interval.ms": "5000",
}
RAW, NAME, STREAM = "raw.memory", "memory", "http-memory"
PADDING = "x" * 960
_ORIGIN = re.compile(rb'"sluice_id":"' + RAW.encode() + rb'/(\d+)/(\d+)"')


class Receiver:
    """Takes arrays of records, and knows of each raw offset whether it came. While `open` is clear, nobody gets an answer."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.came = [bytearray() for _ in range(PARTITIONS)]
        self.records = self.waiting = self.most_waiting = 0

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.waiting += 1
        self.most_waiting = max(self.waiting, self.most_waiting) if not self.open.is_set() else self.most_waiting
        try:
            await self.open.wait()
        finally:
            self.waiting -= 1
        for partition, offset in _ORIGIN.findall(body):
            came, at = self.came[int(partition)], int(offset)
            if at >= len(came):
                came.extend(bytes(at + 100_000 - len(came)))
            self.records += not came[at]
            came[at] = 1
        return web.Response(status=204)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.router.add_post("/", self.take)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
        finally:
            self.open.set()
            await runner.cleanup()


@dataclass
class Memory:
    """Resident memory of a process, in bytes, as it was seen each second."""

    child: Child
    samples: list[tuple[float, int]] = field(default_factory=list)
    """Minute of the run, and bytes."""
    peak: int = 0

    def look(self, minute: float) -> None:
        status = Path(f"/proc/{self.child.process.pid}/status").read_text()
        resident = _kilobytes(status, "VmRSS") * 1024
        self.peak = max(self.peak, _kilobytes(status, "VmHWM") * 1024, resident)
        self.samples.append((minute, resident))

    def most(self, start: float, end: float) -> int:
        return max((size for minute, size in self.samples if start <= minute < end), default=0)


def _kilobytes(status: str, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    assert found is not None, "the worker has ended"
    return int(found[1])


def _settings(bootstrap: str, url: str) -> dict[str, object]:
    http = {"url": url, "allow_http": True, "allow_private": ["127.0.0.0/8"], "seconds": 1}
    return {
        "kafka": {"brokers": [bootstrap], "partitions": PARTITIONS, "replication": 1, "session_seconds": 10},
        "metrics": {"listen": "127.0.0.1:0"},
        "pipelines": {NAME: {"from": RAW, "schema": "event"}},
        "streams": {STREAM: {"from": [f"{NAME}.success"], "http": http}},
    }


async def _make_topics(file: Path) -> None:
    config = load(file)
    async with Topics(config.kafka) as topics:
        await topics.create(topic_specs(config))


async def _begins(bootstrap: str) -> list[int]:
    """Where the log of each raw partition begins."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        found = await consumer.beginning_offsets([TopicPartition(RAW, number) for number in range(PARTITIONS)])
        return list(found.values())
    finally:
        await consumer.stop()


async def _produce(bootstrap: str, receiver: Receiver, produced: list[int], enough: asyncio.Event) -> None:
    """Until it is `enough`, keep the raw topic BACKLOG records ahead of what was delivered. `produced` counts by partition what
    is acknowledged."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, max_batch_size=600_000)
    await producer.start()
    try:
        while not enough.is_set():
            for partition in range(PARTITIONS):
                while sum(produced) - receiver.records > BACKLOG and not enough.is_set():
                    await asyncio.sleep(0.05)
                batch, count = producer.create_batch(), 0
                while batch.append(
                    timestamp=None, key=b"k", value=b'{"id":%d,"description":"%b"}' % (count, PADDING.encode())
                ):
                    count += 1
                await (await producer.send_batch(batch, RAW, partition=partition))
                produced[partition] += count
    finally:
        await producer.stop()


async def test_workers_stay_small_and_flat_while_a_receiver_blocks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seen: Callable[..., None]
) -> None:
    kafka = LocalKafka(tmp_path / "kafka", properties=BOUNDED_TOPICS)
    await asyncio.to_thread(kafka.start)
    receiver = Receiver()
    try:
        async with receiver.serving() as url, children(tmp_path) as start:
            file = tmp_path / "config.yaml"
            file.write_text(yaml.safe_dump(_settings(kafka.bootstrap, url)))
            await _make_topics(file)
            workers = {one: await start(one, "-m", "sluice.cli", "worker", str(file), one) for one in (NAME, STREAM)}
            for worker in workers.values():
                await worker.says("Assigned in generation")
            produced, enough = [0] * PARTITIONS, asyncio.Event()
            producing = asyncio.create_task(_produce(kafka.bootstrap, receiver, produced, enough))
            memories = {one: Memory(worker) for one, worker in workers.items()}
            with capsys.disabled():
                await _run_the_schedule(receiver, memories, produced, producing)
            enough.set()
            await producing  # cancelled, it might leave records that are there and not counted
            await until(
                lambda: receiver.records >= sum(produced), 180, lambda: f"{receiver.records} of {sum(produced)} came"
            )
            missing = [
                sum(not one for one in came[:count]) for came, count in zip(receiver.came, produced, strict=True)
            ]
            assert missing == [0] * PARTITIONS
            assert receiver.records == sum(produced)
            begins = await _begins(kafka.bootstrap)
            for worker in workers.values():
                assert worker.output.count("Assigned in generation") == 1, "it left its group, or lost its place in it"
                assert await worker.stop() == 0
    finally:
        await asyncio.to_thread(kafka.stop)
    assert receiver.most_waiting >= PARTITIONS // 2, "the receiver blocked hardly anybody"
    evidence = [
        f"{name} at most {memory.peak / 1e6:.0f} MB, {memory.most(0, WARM) / 1e6:.0f} MB in the first {WARM} minutes and "
        f"{memory.most(WARM, END) / 1e6:.0f} MB after them"
        for name, memory in memories.items()
    ]
    print("; ".join(evidence))
    for memory in memories.values():
        assert memory.peak < PEAK_BYTES
        assert SHORT or memory.most(WARM, END) < GROWTH * memory.most(0, WARM)
        for early, late in ALIKE:
            assert SHORT or memory.most(*late) < GROWTH * memory.most(*early)
    assert SHORT or receiver.records > MOST_RECORDS
    assert SHORT or min(begins) > 0, "retention took nothing: the topics were not bounded"
    what = f"{END} minutes at full input, the HTTP receiver blocks for 5" if not SHORT else "a minute of the same"
    seen("memory", what, Judgement(receiver.records, 0, 0, 1), "; ".join(evidence))


async def _run_the_schedule(
    receiver: Receiver, memories: dict[str, Memory], produced: list[int], producing: "asyncio.Task[None]"
) -> None:
    """Block and release the receiver, look at memory each second, and say how it stands once a minute."""
    began, said = time.monotonic(), -1
    while (minute := (time.monotonic() - began) / MINUTE) < END:
        if producing.done():
            producing.result()
        if any(start <= minute < end for start, end in BLOCKED):
            receiver.open.clear()
        else:
            receiver.open.set()
        for memory in memories.values():
            memory.look(minute)
        if int(minute) != said:
            said = int(minute)
            sizes = ", ".join(f"{name} {memory.samples[-1][1] / 1e6:.0f} MB" for name, memory in memories.items())
            blocked = "" if receiver.open.is_set() else ", blocked"
            print(f"minute {said}: {sizes}; {receiver.records:,} of {sum(produced):,} delivered{blocked}", flush=True)
        await asyncio.sleep(MINUTE / 60)
    receiver.open.set()
