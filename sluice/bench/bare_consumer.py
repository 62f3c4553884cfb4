"""Reading without any framework, and doing nothing: a loop of `getmany` that commits. What `consume-only` is measured against."""

import asyncio
import os
import time

from aiokafka import AIOKafkaConsumer

from sluice.bench.meter import Meter, arguments, tune_gc


async def run(brokers: str, topic: str, count: int) -> None:
    """Read the first `count` records of `topic`, and report."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=brokers,
        group_id=f"{topic}.aiokafka-consume.{os.getpid()}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=100,
    )
    await consumer.start()
    meter, taken, last_commit = Meter(count), 0, time.monotonic()
    tune_gc()
    while taken < count:
        fetched = await consumer.getmany(timeout_ms=1000)
        if fetched:
            meter.first_record()
        taken += sum(map(len, fetched.values()))
        if time.monotonic() - last_commit > 1:
            await consumer.commit()
            last_commit = time.monotonic()
    await consumer.commit()
    meter.count = taken
    meter.report()
    await consumer.stop()


if __name__ == "__main__":
    _given = arguments(__doc__)
    asyncio.run(run(_given.brokers, _given.topic, _given.count))
