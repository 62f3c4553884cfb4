"""A partition that has all the load is as fast among idle ones as alone, though its memory is full most of the time."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from stream.app import Worker, Workload
from stream.assignment import Partition
from stream.connection import KafkaConfig
from tests.e2e.processes import produce

RECORDS = 20_000
RECORD_BYTES = 1000
IDLE = 12
SHARE_BYTES = 500_000
"""Less than one fetch: each batch has to settle before the next is taken."""
WORK_SECONDS = 0.01


async def _seconds(kafka: str, topic: str, partitions: int) -> float:
    """How long a worker takes for what is in partition 0, from the first batch to the last."""
    began: list[float] = []
    done = 0

    async def work(partition: Partition) -> None:
        nonlocal done
        async for batch in partition:
            began.append(time.monotonic())
            span = partition.begin(batch.end)
            await asyncio.sleep(WORK_SECONDS)
            partition.settle(span, "", batch.bytes)
            done += len(batch)
            if done == RECORDS:
                worker.stop()

    config = KafkaConfig(brokers=[kafka], replication=1)
    worker = Worker([Workload(topic, [topic], work)], config, SHARE_BYTES * partitions)
    async with asyncio.timeout(60):
        await worker.run()
    assert done == RECORDS
    assert len(began) > 10, "so few batches show nothing"
    return began[-1] - began[0]


async def test_a_hot_partition_is_not_slowed_by_idle_ones(
    kafka: str, topic_name: Callable[[str], str], new_topics: Callable[..., Awaitable[None]]
) -> None:
    took = {}
    for partitions in (1, 1 + IDLE):
        await new_topics(topic := topic_name("hot"), partitions=partitions)
        await produce(kafka, topic, {0: [b"x" * RECORD_BYTES] * RECORDS})
        took[partitions] = await _seconds(kafka, topic, partitions)
    # Each wait for a long poll of the idle ones would add 0.1 s to a batch that takes a few hundredths.
    assert took[1 + IDLE] < 2.5 * took[1], took
