"""The runner delivers every record of a partition in order, once it can, and settles nothing before that."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from aiokafka import TopicPartition

from agents.collector import Collector, Cut, Limits
from agents.delivery import Forwarder
from sinks.contract import DELIVERED, Conflict, Delivery, Finding, Verdict
from stream.assignment import Assignment, InWork, Partition, WorkFailed
from stream.commits import Committed, Pin
from stream.records import Headers, Record

TP = TopicPartition("events.success", 3)
SECOND = 1.0


@dataclass
class Stored:
    offset: int
    value: bytes | None = b'{"a":1}'
    timestamp: int = 1_700_000_000_000
    key: bytes | None = None
    headers: Headers = field(default_factory=list)

    def __post_init__(self) -> None:
        self.headers = [("sluice-id", b"raw/3/%d" % self.offset), ("sluice-plan", b"100.aaaa")]


class FakeCommits:
    async def commit(self, pin: Pin, offsets: Mapping[TopicPartition, Committed]) -> None:
        pass


class ScriptedSink:
    """Answers each write by `answer(delivery, attempt)`; keeps what it acknowledged."""

    def __init__(self, answer: Callable[[Delivery, int], Sequence[Verdict]]) -> None:
        self.answer = answer
        self.writes: list[Delivery] = []
        self.taken: list[int] = []

    async def write(self, delivery: Delivery) -> Sequence[Verdict]:
        verdicts = self.answer(delivery, len(self.writes))
        self.writes.append(delivery)
        pairs = zip(delivery.records, verdicts, strict=True)
        self.taken.extend(record.offset for record, verdict in pairs if verdict == DELIVERED)
        return verdicts

    async def check(self) -> Sequence[Finding]:
        return []

    async def close(self) -> None:
        pass


class UpTo:
    """Cuts that were decided beforehand: up to `end`, then by the limits."""

    def __init__(self, end: int) -> None:
        self.end = end

    async def next(self, partition: Partition, collector: Collector, start: int) -> Cut | None:
        return await collector.cut(start, self.end if start < self.end else None)


class FakeDesk:
    def __init__(self) -> None:
        self.letters: list[tuple[int, str]] = []

    async def send(self, topic: str, partition: int, letters: Sequence[tuple[Record, Exception]], stage: str) -> None:
        self.letters.extend((record.offset, str(refused)) for record, refused in letters)


def everything(delivery: Delivery, _: int) -> Sequence[Verdict]:
    return [DELIVERED] * len(delivery.records)


class Bench:
    """One forwarder at work on one partition."""

    def __init__(self, sink: ScriptedSink, limits: Limits, budget_bytes: int = 10**9) -> None:
        self.sink = sink
        self.desk = FakeDesk()
        self.crashes: list[BaseException] = []
        self.fetched_to = 0
        self.forwarder = Forwarder("test", sink, limits, self.desk)  # type: ignore[arg-type]  # a fake desk
        self.assignment = Assignment(Pin(1, "m"), FakeCommits(), self.forwarder.work, self.crashes.append, budget_bytes)  # type: ignore[arg-type]

    def start(self) -> Partition:
        self.assignment.open(TP, Committed(0, ""))
        return self.assignment.partitions[TP]

    def feed(self, offsets: Sequence[int]) -> None:
        self.deliver([Stored(offset) for offset in offsets])

    def deliver(self, records: Sequence[Stored]) -> None:
        partition = self.assignment.partitions[TP]
        batch = partition.fetched(records, self.fetched_to, records[-1].offset + 1)
        self.fetched_to = records[-1].offset + 1
        assert batch is not None
        partition.deliver(batch)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                assert not self.crashes, self.crashes
                await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.pauses.FIRST_SECONDS", 0.001)


async def test_records_are_cut_by_count_and_each_cut_is_delivered_whole() -> None:
    bench = Bench(ScriptedSink(everything), Limits(4, 10**6, 60))
    partition = bench.start()
    bench.feed(range(10))
    await bench.until(lambda: partition.offset == 8)
    assert [(one.start, one.end) for one in bench.sink.writes] == [(0, 4), (4, 8)]
    bench.feed([10, 15])  # offsets 11-14 hold no record
    await bench.until(lambda: partition.offset == 16)
    assert (bench.sink.writes[-1].start, bench.sink.writes[-1].end) == (8, 16)
    assert bench.sink.taken == [*range(10), 10, 15]
    await bench.assignment.drain(1)


async def test_records_are_cut_by_bytes() -> None:
    bench = Bench(ScriptedSink(everything), Limits(1000, 20, 60))  # a value has 7 bytes
    partition = bench.start()
    bench.feed(range(7))
    await bench.until(lambda: partition.offset == 6)
    assert [len(one.records) for one in bench.sink.writes] == [3, 3]
    await bench.assignment.drain(1)


async def test_records_are_cut_by_time() -> None:
    bench = Bench(ScriptedSink(everything), Limits(1000, 10**6, 0.05))
    partition = bench.start()
    bench.feed([0, 1])
    await bench.until(lambda: partition.offset == 2)
    assert bench.sink.taken == [0, 1]
    await bench.assignment.drain(1)


async def test_what_a_cut_left_over_is_delivered_in_time_though_nothing_else_comes() -> None:
    bench = Bench(ScriptedSink(everything), Limits(4, 10**6, 0.05))
    partition = bench.start()
    bench.feed(range(6))
    await bench.until(lambda: partition.offset == 6)
    assert [len(one.records) for one in bench.sink.writes] == [4, 2]
    await bench.assignment.drain(1)


async def test_a_cut_ends_when_its_records_take_all_the_memory_there_is() -> None:
    bench = Bench(ScriptedSink(everything), Limits(10**6, 10**9, 60), budget_bytes=2000)
    partition = bench.start()
    bench.feed(range(10))  # some 300 bytes each
    assert not partition.fed
    await bench.until(lambda: partition.offset == 10)
    assert partition.fed
    await bench.assignment.drain(1)


async def test_a_cut_that_was_decided_before_is_fetched_whole_though_it_takes_more_than_there_is() -> None:
    bench = Bench(ScriptedSink(everything), Limits(10**6, 10**9, 60), budget_bytes=2000)
    bench.forwarder = Forwarder("test", bench.sink, Limits(1, 1, 60), bench.desk, cuts=UpTo(20))  # type: ignore[arg-type]
    bench.assignment._work = bench.forwarder.work
    partition = bench.start()
    for first in (0, 10):
        await bench.until(lambda: partition.fed)
        bench.feed(range(first, first + 10))
    await bench.until(lambda: partition.offset == 20)
    assert [(one.start, one.end, len(one.records)) for one in bench.sink.writes] == [(0, 20, 20)]
    await bench.assignment.drain(1)


@pytest.mark.parametrize("seed", range(5))
async def test_nothing_is_lost_doubled_or_settled_early_by_a_sink_that_fails_at_random(seed: int) -> None:
    chance = random.Random(seed)

    def moody(delivery: Delivery, _: int) -> Sequence[Verdict]:
        assert partition.offset <= delivery.records[0].offset, "settled before it was delivered"
        return [chance.choice([DELIVERED, Verdict("again", "throttled")]) for _ in delivery.records]

    bench = Bench(ScriptedSink(moody), Limits(5, 10**6, 0.01))
    partition = bench.start()
    for first in range(0, 60, 6):
        bench.feed(range(first, first + 6))
    await bench.until(lambda: partition.offset == 60)
    assert sorted(bench.sink.taken) == list(range(60))
    assert partition.held_bytes == 0
    await bench.assignment.drain(1)


async def test_a_refused_record_alone_goes_to_the_dead_letters() -> None:
    def picky(delivery: Delivery, _: int) -> Sequence[Verdict]:
        return [Verdict("refused", "too-large") if one.offset == 2 else DELIVERED for one in delivery.records]

    bench = Bench(ScriptedSink(picky), Limits(4, 10**6, 60))
    partition = bench.start()
    bench.feed(range(4))
    await bench.until(lambda: partition.offset == 4)
    assert bench.sink.taken == [0, 1, 3]
    assert bench.desk.letters == [(2, "too-large-for-sink")]
    await bench.assignment.drain(1)


async def test_repeats_of_the_router_are_not_delivered_again() -> None:
    bench = Bench(ScriptedSink(everything), Limits(3, 10**6, 0.02))
    partition = bench.start()
    repeats = [Stored(3), Stored(4), Stored(5)]
    for record, raw in zip(repeats, (1, 2, 3), strict=True):
        record.headers = [("sluice-id", b"raw/3/%d" % raw), ("sluice-plan", b"100.aaaa")]
    bench.feed(range(3))
    bench.deliver(repeats)
    await bench.until(lambda: partition.offset == 6)
    assert [one.origin for write in bench.sink.writes for one in write.records] == [f"raw/3/{n}" for n in range(4)]
    await bench.assignment.drain(1)


async def test_a_conflict_halts_the_partition_and_settles_nothing() -> None:
    def conflicting(delivery: Delivery, attempt: int) -> Sequence[Verdict]:
        raise Conflict("s3://b/k holds other records")

    bench = Bench(ScriptedSink(conflicting), Limits(1, 10**6, 60))
    partition = bench.start()
    bench.feed([0])
    await bench.until(lambda: len(bench.sink.writes) == 0 and partition.unsettled_seconds(1e12) > 0)
    await bench.assignment.drain(0.2)
    assert partition.offset == 0
    assert not bench.crashes


async def test_an_unexpected_exception_of_a_sink_crashes_the_worker_uncommitted() -> None:
    def broken(delivery: Delivery, attempt: int) -> Sequence[Verdict]:
        raise ZeroDivisionError

    bench = Bench(ScriptedSink(broken), Limits(1, 10**6, 60))
    partition = bench.start()
    bench.feed([0])
    async with asyncio.timeout(5):
        while not bench.crashes:
            await asyncio.sleep(0.001)
    failed = bench.crashes[0]
    assert isinstance(failed, WorkFailed)
    assert isinstance(failed.exceptions[0], ZeroDivisionError)
    assert failed.at == InWork(partition.topic, partition.number, 0, 1)
    assert partition.offset == 0


async def test_a_drain_ends_soon_though_the_sink_is_down_and_settles_nothing_of_it() -> None:
    def down(delivery: Delivery, attempt: int) -> Sequence[Verdict]:
        return [Verdict("again", "unreachable", after=30.0)] * len(delivery.records)

    bench = Bench(ScriptedSink(down), Limits(1, 10**6, 60))
    partition = bench.start()
    bench.feed([0, 1])
    await bench.until(lambda: len(bench.sink.writes) == 1)
    async with asyncio.timeout(2):
        await bench.assignment.drain(10)
    assert partition.offset == 0
