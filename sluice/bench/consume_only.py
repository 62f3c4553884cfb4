"""The engine alone: each batch is begun and settled at once, and committed. What Faust, offsets and memory accounts cost."""

import asyncio
import os

from sluice.bench.meter import Meter, arguments, tune_gc
from stream.app import Worker, Workload
from stream.assignment import Partition
from stream.connection import KafkaConfig


async def run(brokers: str, topic: str, count: int) -> None:
    """Read the first `count` records of `topic`, and report when they are settled and committed."""
    meter, settled = Meter(count), 0

    async def work(partition: Partition) -> None:
        nonlocal settled
        async for batch in partition:
            meter.first_record()
            partition.settle(partition.begin(batch.end), "", batch.bytes)
            settled += len(batch)
            if settled >= count:
                worker.stop()

    kafka = KafkaConfig(brokers=brokers.split(","), replication=1)
    worker = Worker([Workload(f"{topic}-consume-only-{os.getpid()}", [topic], work)], kafka)
    tune_gc()
    await worker.run()
    meter.count = settled
    meter.report()


if __name__ == "__main__":
    _given = arguments(__doc__)
    asyncio.run(run(_given.brokers, _given.topic, _given.count))
