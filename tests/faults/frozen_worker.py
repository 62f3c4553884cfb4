"""The echo worker, of which one stage freezes once a file is there: what the watchdog's tests look at.

    python -m tests.faults.frozen_worker BROKERS NAME RAW OUT STAGE FILE [--limit SECONDS]

Prints `status ADDRESS` once /live answers. Stages: loop, fetch, hand_over (to work that waits for batches by the clock, as
forwarders do), work, commit; `sink`: waits and tries again while the file is there.
"""

import argparse
import asyncio
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator

from agents.collector import LOOK_SECONDS
from stream.app import Worker, Workload
from stream.assignment import Partition
from stream.connection import KafkaConfig
from stream.outbox import Outbox, Packed
from stream.records import RecordBatch
from stream.status import StatusServer
from tests.e2e.echo_worker import Echo


class Frozen(Echo):
    async def work(self, partition: Partition) -> None:
        await super().work(Watched(partition, self.arguments))  # type: ignore[arg-type]  # as good as a partition

    def copy(self, batch: RecordBatch) -> list[Packed]:
        if self.arguments.stage == "loop" and self.arguments.file.exists():
            freezes_the_loop()
        return super().copy(batch)


class Watched:
    """A partition whose next batch never comes to the work, or only when the destination is back."""

    def __init__(self, partition: Partition, arguments: argparse.Namespace) -> None:
        self._partition, self._arguments = partition, arguments

    def __getattr__(self, name: str) -> Any:
        return getattr(self._partition, name)

    async def __aiter__(self) -> Any:
        async for batch in self._by_the_clock():
            if self._arguments.stage == "work" and self._arguments.file.exists() and batch.partition == 0:
                await freezes_the_work()
            while self._arguments.stage == "sink" and self._arguments.file.exists():
                await self._partition.pause(0.5)
            yield batch

    async def _by_the_clock(self) -> AsyncIterator[RecordBatch]:
        while True:
            try:
                batch = await self._partition.next(LOOK_SECONDS)
            except TimeoutError:
                continue
            if batch is None:
                return
            yield batch


def freezes_the_loop() -> None:
    time.sleep(3600)


async def freezes_the_work() -> None:
    await asyncio.Event().wait()


def freeze_fetches(frozen: Callable[[], bool]) -> None:
    fetch = Fetcher._proc_fetch_request

    async def freezes_the_fetch(self: Any, *arguments: Any) -> Any:
        if frozen():
            await asyncio.Event().wait()
        return await fetch(self, *arguments)

    Fetcher._proc_fetch_request = freezes_the_fetch


def freeze_commits(frozen: Callable[[], bool]) -> None:
    send = GroupCoordinator._send_req

    async def freezes_the_commit(self: Any, request: Any) -> Any:
        if frozen() and "Commit" in type(request).__name__:
            await asyncio.Event().wait()
        return await send(self, request)

    GroupCoordinator._send_req = freezes_the_commit


def freeze_the_hand_over(frozen: Callable[[], bool]) -> None:
    deliver = Partition.deliver

    def loses(self: Partition, batch: RecordBatch) -> None:
        if not frozen():
            deliver(self, batch)

    Partition.deliver = loses  # type: ignore[method-assign]  # this is the fault


async def main(arguments: argparse.Namespace) -> None:
    kafka = KafkaConfig(brokers=arguments.brokers.split(","), replication=1, session_seconds=2)
    outbox = Outbox(kafka, arguments.name)
    await outbox.start()
    work = Frozen(outbox, arguments).work
    workload = Workload(arguments.name, [arguments.raw], work, outputs=[arguments.out])
    worker = Worker([workload], kafka, stuck_seconds=arguments.limit)
    status = StatusServer("127.0.0.1:0", worker.ready, worker.live, lambda: None)
    await status.start()
    print(f"status {status.address}", flush=True)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    try:
        await worker.run()
    finally:
        await outbox.stop()
    print("stopped", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("brokers", "name", "raw", "out", "stage"):
        parser.add_argument(name)
    parser.add_argument("file", type=Path)
    parser.add_argument("--limit", type=float, default=4.0)
    parser.set_defaults(fail_at=None, slow=0.0)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    arguments = parser.parse_args()
    if arguments.stage == "fetch":
        freeze_fetches(arguments.file.exists)
    if arguments.stage == "hand_over":
        freeze_the_hand_over(arguments.file.exists)
    if arguments.stage == "commit":
        freeze_commits(arguments.file.exists)
    asyncio.run(main(arguments))
