"""A worker process on the engine whose work is to copy: what engine tests kill, freeze and stop.

    python echo_worker.py BROKERS NAME RAW OUT [--fail-at OFFSET] [--slow SECONDS]

Prints `assigned N` whenever it gets N partitions, and `stopped` at a clean end.
"""

import argparse
import asyncio
import logging
import signal
import sys

from stream.app import Worker, Workload
from stream.assignment import Partition
from stream.connection import KafkaConfig
from stream.outbox import Outbox, Packed
from stream.records import RecordBatch


class Echo:
    def __init__(self, outbox: Outbox, arguments: argparse.Namespace) -> None:
        self.outbox = outbox
        self.arguments = arguments

    async def work(self, partition: Partition) -> None:
        print(f"assigned {partition.number}", flush=True)
        if not partition.note:
            await partition.adopt('{"v":1,"epoch":100}')
        async for batch in partition:
            span = partition.begin(batch.end)
            await self.outbox.send(self.arguments.out, partition.number, self.outbox.pack(self.copy(batch)))
            await asyncio.sleep(self.arguments.slow)
            partition.settle(span, partition.note, batch.bytes)

    def copy(self, batch: RecordBatch) -> list[Packed]:
        packed: list[Packed] = []
        for record in batch.records:
            if self.arguments.fail_at is not None and record.offset >= self.arguments.fail_at:
                raise ZeroDivisionError("the test's own fault")
            origin = b"%s/%d/%d" % (batch.topic.encode(), batch.partition, record.offset)
            headers = [("sluice-id", origin), ("sluice-plan", b"100.aaaa")]
            packed.append((record.timestamp, record.key, record.value, headers))
        return packed


async def main(arguments: argparse.Namespace) -> None:
    kafka = KafkaConfig(brokers=arguments.brokers.split(","), replication=1, session_seconds=arguments.session)
    outbox = Outbox(kafka, arguments.name)
    await outbox.start()
    worker = Worker([Workload(arguments.name, [arguments.raw], Echo(outbox, arguments).work)], kafka)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    try:
        await worker.run()
    finally:
        await outbox.stop()
    print("stopped", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("brokers", "name", "raw", "out"):
        parser.add_argument(name)
    parser.add_argument("--fail-at", type=int)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--session", type=float, default=3.0)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    logging.getLogger("aiokafka").setLevel(logging.WARNING)
    asyncio.run(main(parser.parse_args()))
