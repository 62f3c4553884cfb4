"""The work without any framework: what an expert would write on aiokafka for speed, and what the router is measured against.

Partition and order are kept, offsets are committed up to what is acknowledged. It has no schema, card gate, headers, dead letters
or metrics, keeps to the client's public methods, and one bad record ends it.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import ConsumerRecord

from agents.router import PIECE_RECORDS
from sluice.bench.joins import join_each, read_references
from sluice.bench.load import make_topics
from sluice.bench.meter import Meter, arguments, tune_gc
from sluice.bench.work import ROUTES, transform_batch

Work = Callable[[list[bytes]], Iterable[tuple[int, dict[str, Any]]]]
"""Makes of the values of a batch the records that go out, in order, each with the index of its route."""


async def run(brokers: str, topic: str, count: int, pipeline: str) -> None:
    """Work on the first `count` records of `topic`, and report."""
    work: Work = transform_batch
    if pipeline == "data-streamer":
        work = partial(join_each, references=await read_references(brokers, topic))
    outputs = [f"{topic}.aiokafka.{route}" for route in ROUTES]
    await make_topics(brokers, outputs)
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=brokers,
        group_id=f"{topic}.aiokafka.{os.getpid()}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=512 * 1024,
        fetch_max_wait_ms=100,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=brokers, acks="all", enable_idempotence=True, max_batch_size=1_000_000, linger_ms=0
    )
    await consumer.start()
    await producer.start()
    meter, slots = Meter(count), asyncio.Semaphore(8)
    committable: dict[TopicPartition, int] = {}
    taken, last_commit, settling = 0, time.monotonic(), set[asyncio.Task[None]]()

    async def settle(partition: TopicPartition, end: int, sent: list[asyncio.Future[object]]) -> None:
        await asyncio.gather(*sent)
        committable[partition] = max(end, committable.get(partition, 0))
        slots.release()

    tune_gc()
    while taken < count:
        fetched = await consumer.getmany(timeout_ms=1000)
        for partition, records in fetched.items():
            meter.first_record()
            await slots.acquire()
            sent = []
            for route, batch in _batches(producer, records, work):
                batch.close()
                sent.append(await producer.send_batch(batch, outputs[route], partition=partition.partition))
            task = asyncio.create_task(settle(partition, records[-1].offset + 1, sent))
            settling.add(task)
            task.add_done_callback(settling.discard)
            taken += len(records)
        if committable and time.monotonic() - last_commit > 1:
            offsets, committable = committable, {}
            await consumer.commit(offsets)
            last_commit = time.monotonic()
    await asyncio.gather(*settling)
    meter.count = taken
    meter.report()
    await consumer.stop()
    await producer.stop()


def _batches(
    producer: AIOKafkaProducer, records: list[ConsumerRecord[bytes, bytes]], work: Work
) -> list[tuple[int, BatchBuilder]]:
    """The records as they go out, by route, in order; a new batch where one is full."""
    full: list[tuple[int, BatchBuilder]] = []
    current: list[BatchBuilder | None] = [None] * len(ROUTES)
    dumps = orjson.dumps
    for start in range(0, len(records), PIECE_RECORDS):  # what stays in the processor's cache costs less
        piece = records[start : start + PIECE_RECORDS]
        for record, (route, result) in zip(piece, work([record.value for record in piece]), strict=True):
            value, batch = dumps(result), current[route]
            if batch is None:
                batch = current[route] = producer.create_batch()
            if batch.append(timestamp=record.timestamp, key=record.key, value=value) is None:
                full.append((route, batch))
                batch = current[route] = producer.create_batch()
                batch.append(timestamp=record.timestamp, key=record.key, value=value)
    return full + [(route, batch) for route, batch in enumerate(current) if batch is not None]


if __name__ == "__main__":
    _given = arguments(__doc__, pipeline=("workshop", "data-streamer"))
    asyncio.run(run(_given.brokers, _given.topic, _given.count, _given.pipeline))
