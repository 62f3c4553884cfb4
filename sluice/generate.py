"""Sends what simulated devices report: as JSON lines to a stream, or evenly in time to a Kafka topic."""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError
from aiokafka.partitioner import murmur2

from sluice.devices import Message

_TICK = 0.05
"""Seconds from one round of batches to the next: what "evenly" means."""
_ROUND = 5000
"""At most so many records in one round, so that a sender that fell behind does not take all there is at once."""


def to_stream(messages: Iterable[Message], out: BinaryIO, rate: float | None = None) -> int:
    """Write one value a line (a tombstone is an empty line), `rate` records a second or as fast as it goes; return how many.

    Odd messages are written as they are: they may be no JSON, and not UTF-8. Blocks while `out` does. Raises OSError.
    """
    count, start = 0, time.monotonic()
    for message in messages:
        if rate and (early := start + count / rate - time.monotonic()) > 0:
            out.flush()
            time.sleep(early)
        out.write((message.value or b"") + b"\n")
        count += 1
    out.flush()
    return count


async def to_topic(
    messages: Iterable[Message],
    topic: str,
    brokers: str,
    rate: float | None = None,
    *,
    progress: Callable[[int], None] = lambda count: None,
    client: Mapping[str, Any] | None = None,
) -> int:
    """Send messages to a topic, `rate` records a second or as fast as it goes, and return how many.

    A message goes to the partition that Kafka's own clients choose for its key; those of one key stay in order. When this
    returns, the brokers have acknowledged every message that was taken from `messages` (acks=all, idempotent). When it is
    cancelled or raises, the last round may be there or not. `progress` gets the number acknowledged so far after each
    round. `brokers` is host:port, comma-separated; `client` are further arguments of aiokafka's clients (security).
    Raises KafkaError.
    """
    producer = AIOKafkaProducer(
        bootstrap_servers=brokers, acks="all", enable_idempotence=True, max_batch_size=500_000, linger_ms=0,
        request_timeout_ms=10_000, **(client or {}),
    )  # fmt: skip
    await producer.start()
    try:
        partitions = len(await producer.partitions_for(topic))
        source, start, sent, places = iter(messages), time.monotonic(), 0, dict[bytes, int]()
        while True:
            due = _ROUND
            if rate:
                due = max(1, min(due, int((time.monotonic() - start + _TICK) * rate) - sent))
            by_partition: dict[int, list[Message]] = defaultdict(list)
            taken = 0
            for message in itertools.islice(source, due):
                taken += 1
                place = places.get(message.key)
                if place is None:
                    place = places[message.key] = (murmur2(message.key) & 0x7FFFFFFF) % partitions
                by_partition[place].append(message)
            async with asyncio.TaskGroup() as sending:
                for partition, chosen in by_partition.items():
                    sending.create_task(_send(producer, topic, partition, chosen))
            sent += taken
            progress(sent)
            if taken < due:
                return sent
            if rate:
                await asyncio.sleep(max(0.0, start + (sent / rate) - time.monotonic()))
    finally:
        await producer.stop()


async def references_to_topics(
    references: Mapping[str, Mapping[str, Mapping[str, Any]]], topics: Mapping[str, str], brokers: str
) -> int:
    """Write the objects of each reference table to its topic (`topics`: topic by table; others are left out); return how many.

    Acknowledged by the brokers when this returns. Raises KafkaError.
    """
    count = 0
    for table, rows in references.items():
        if table in topics:
            messages = (Message(0, key.encode(), orjson.dumps(row), "platform", None) for key, row in rows.items())
            count += await to_topic(messages, topics[table], brokers)
    return count


async def _send(producer: AIOKafkaProducer, topic: str, partition: int, messages: list[Message]) -> None:
    """One batch after the other: the next only when the one before it is acknowledged, so that order is kept."""
    waiting = iter(messages)
    message: Message | None = next(waiting)
    while message is not None:
        batch = producer.create_batch()
        now = int(time.time() * 1000)
        while message is not None and batch.append(timestamp=now, key=message.key, value=message.value) is not None:
            message = next(waiting, None)
        if batch.record_count() == 0:
            raise ValueError(f"a message for {topic} is larger than a batch: send less than 500 kB")
        batch.close()
        while True:
            try:
                acknowledged = await producer.send_batch(batch, topic, partition=partition)
                break
            except KafkaTimeoutError:
                continue  # not taken in: the same batch may be offered again
        await acknowledged
