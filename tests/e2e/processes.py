"""Processes and topics as engine tests use them: started, watched by a deadline, and never left behind."""

import asyncio
import collections
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError
from confluent_kafka.admin import AdminClient


class Child:
    """A process whose output is kept."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def output(self) -> str:
        return self.log.read_text()

    async def says(self, text: str, seconds: float = 30, times: int = 1) -> None:
        """Wait until the output has `text` so many times. Fails after `seconds`, or when the process ends before that."""
        await until(lambda: self.output.count(text) >= times or self._ended_without(text, times), seconds, self.tail)

    def _ended_without(self, text: str, times: int) -> bool:
        if self.process.returncode is not None and self.output.count(text) < times:
            raise AssertionError(f"ended with {self.process.returncode} before it said {text!r}:\n{self.tail()}")
        return False

    def tail(self) -> str:
        return self.output[-3000:]

    def kill(self) -> None:
        self.process.kill()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def stop(self, seconds: float = 20) -> int:
        """SIGTERM, and its exit code. Fails after `seconds`."""
        self.process.terminate()
        return await self.ends(seconds)

    async def ends(self, seconds: float = 30) -> int:
        try:
            return await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            raise AssertionError(f"still running after {seconds} s:\n{self.tail()}") from None


@asynccontextmanager
async def children(folder: Path) -> AsyncIterator[Callable[..., "asyncio.Future[Child]"]]:
    """`await start("a", "script.py", "argument", ...)` starts python on these; all are killed at the end.

    What they said last is shown when a test fails.
    """
    running: list[Child] = []

    async def start(name: str, *arguments: str) -> Child:
        log = folder / f"{name}.log"
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=output, stderr=output)
        running.append(Child(process, log))
        return running[-1]

    try:
        yield start  # type: ignore[misc]  # a coroutine function is what it is
    except BaseException:
        for child in running:
            print(f"{child.log.name} (process {child.process.pid}, {child.process.returncode}):\n{child.tail()}")
        raise
    finally:
        for child in running:
            if child.process.returncode is None:
                child.thaw()
                child.kill()
                await child.process.wait()


async def until(holds: Callable[[], bool], seconds: float = 30, explain: Callable[[], str] = lambda: "") -> None:
    """Wait for a condition; fails after `seconds` with what `explain` says."""
    try:
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not so after {seconds} s\n{explain()}") from None


async def produce(
    brokers: str,
    topic: str,
    records: Mapping[int, Sequence[bytes | None]],
    max_request_size: int = 1_048_576,
    timestamp: int | None = None,
) -> None:
    """Partition → values, acknowledged by all replicas. `timestamp`: of all of them, in milliseconds; now without it."""
    producer = AIOKafkaProducer(bootstrap_servers=brokers, enable_idempotence=True, max_request_size=max_request_size)
    await producer.start()
    try:
        for partition, values in records.items():
            batch = producer.create_batch()
            for value in values:
                if batch.append(timestamp=timestamp, key=b"k", value=value) is None:
                    await (await producer.send_batch(batch, topic, partition=partition))
                    batch = producer.create_batch()
                    batch.append(timestamp=timestamp, key=b"k", value=value)
            await (await producer.send_batch(batch, topic, partition=partition))
    finally:
        await producer.stop()


async def read(brokers: str, topic: str) -> dict[int, list[object]]:
    """Partition → all records that a topic holds now."""
    consumer = AIOKafkaConsumer(bootstrap_servers=brokers, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        await consumer._client._wait_on_metadata(topic)
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        found: dict[int, list[object]] = collections.defaultdict(list)
        waiting = {tp for tp in partitions if ends[tp]}
        async with asyncio.timeout(60):
            while waiting:
                for tp, records in (await consumer.getmany(timeout_ms=200)).items():
                    found[tp.partition].extend(records)
                waiting = {tp for tp in waiting if await consumer.position(tp) < ends[tp]}
        return found
    finally:
        await consumer.stop()


async def committed(brokers: str, group: str) -> dict[TopicPartition, tuple[int, str]]:
    """The committed offsets of a group, with their metadata."""
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(group)
    except GroupCoordinatorNotAvailableError:  # the first group of a new cluster: its topic is being made
        found = {}
    finally:
        await admin.close()
    return {tp: (at.offset, at.metadata) for tp, at in found.items()}


async def forget_offsets(brokers: str, group: str) -> None:
    """As Kafka does itself when a group stood idle for longer than `offsets.retention.minutes`."""
    admin = AdminClient({"bootstrap.servers": brokers})  # aiokafka's cannot
    for future in admin.delete_consumer_groups([group]).values():
        await asyncio.to_thread(future.result, 20)
    assert not await committed(brokers, group)


async def until_committed(
    brokers: str, group: str, expected: Mapping[TopicPartition, int], seconds: float = 60
) -> None:
    """Wait until the committed offsets of a group are these."""
    found: dict[TopicPartition, tuple[int, str]] = {}
    try:
        async with asyncio.timeout(seconds):
            while {tp: found.get(tp, (0, ""))[0] for tp in expected} != dict(expected):
                await asyncio.sleep(0.1)
                found = await committed(brokers, group)
    except TimeoutError:
        raise AssertionError(f"{group} is at {found} after {seconds} s, expected {dict(expected)}") from None


async def total(brokers: str, topic: str) -> int:
    """How many offsets a topic holds."""
    consumer = AIOKafkaConsumer(bootstrap_servers=brokers, enable_auto_commit=False)
    await consumer.start()
    try:
        await consumer._client._wait_on_metadata(topic)
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        return sum((await consumer.end_offsets(partitions)).values())
    finally:
        await consumer.stop()
