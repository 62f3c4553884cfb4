"""A worker process on the engine whose work settles out of order: what it copies it sends in order, and settles by chance.

    python -m tests.faults.scattered_worker BROKERS NAME RAW OUT SEED

Says `ahead` on stderr whenever a span settled while one before it was still in work.
"""

import argparse
import asyncio
import logging
import random
import signal
import sys

from stream.app import Worker, Workload
from stream.assignment import Partition
from stream.connection import KafkaConfig
from stream.offsets import Span
from stream.outbox import Outbox, Packed
from stream.records import RecordBatch

IN_WORK = 8
LONGEST_SECONDS = 1.0
NOTE = '{"v":1,"epoch":100}'


class Scattered:
    def __init__(self, outbox: Outbox, arguments: argparse.Namespace) -> None:
        self._outbox, self._out = outbox, arguments.out
        self._chance = random.Random(arguments.seed)

    async def work(self, partition: Partition) -> None:
        if not partition.note:
            await partition.adopt(NOTE)
        room = asyncio.Semaphore(IN_WORK)
        async with asyncio.TaskGroup() as group:
            async for batch in partition:
                await room.acquire()
                span = partition.begin(batch.end)
                await self._outbox.send(self._out, partition.number, self._outbox.pack(copy(batch)))
                group.create_task(self._settle(partition, span, batch.bytes, room))

    async def _settle(self, partition: Partition, span: Span, count: int, room: asyncio.Semaphore) -> None:
        """Later, and not in turn."""
        await asyncio.sleep(self._chance.uniform(0, LONGEST_SECONDS))
        if span.start > partition.offset:
            sys.stderr.write("ahead\n")
        partition.settle(span, NOTE, count)
        room.release()


def copy(batch: RecordBatch) -> list[Packed]:
    packed: list[Packed] = []
    for record in batch.records:
        origin = b"%s/%d/%d" % (batch.topic.encode(), batch.partition, record.offset)
        packed.append(
            (record.timestamp, record.key, record.value, [("sluice-id", origin), ("sluice-plan", b"100.aaaa")])
        )
    return packed


async def main(arguments: argparse.Namespace) -> None:
    kafka = KafkaConfig(brokers=arguments.brokers.split(","), replication=1, session_seconds=2)
    outbox = Outbox(kafka, arguments.name)
    await outbox.start()
    worker = Worker([Workload(arguments.name, [arguments.raw], Scattered(outbox, arguments).work)], kafka)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    try:
        await worker.run()
    finally:
        await outbox.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("brokers", "name", "raw", "out", "seed"):
        parser.add_argument(name)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    logging.getLogger("aiokafka").setLevel(logging.WARNING)
    asyncio.run(main(parser.parse_args()))
