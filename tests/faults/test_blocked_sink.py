"""A receiver that takes nothing for minutes: buffers fill up, nothing is dropped, nobody leaves, memory is bounded."""

import asyncio
import re
import time
from array import array
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from aiokafka import TopicPartition

from stream.app import BUDGET_BYTES
from tests.e2e.processes import Child, committed, until
from tests.faults.ledger import ROUTES, read_truth
from tests.faults.stage import WORKER, Progress, Stage, end_offsets, stage

MOST_BYTES = 300_000_000
"""What a worker may have in memory."""
RECORD_BYTES = 3000
"""Large enough to fill the buffers in the short form too."""
_ORIGIN = re.compile(rb'"sluice_id":"[^"]*/(\d+)/(\d+)"')


class Receiver:
    """Takes arrays of records while it is `open`; else every other request waits for an answer, and the others get 503."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.firsts: dict[int, array[int]] = defaultdict(lambda: array("q"))
        """By raw partition, the offsets in the order in which they came first."""
        self._known: dict[int, set[int]] = defaultdict(set)
        self.requests = self.hung = self.refused = self.repeats = 0

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests += 1
        if not self.open.is_set():
            if self.requests % 2:
                self.refused += 1
                return web.Response(status=503)
            self.hung += 1
            await self.open.wait()
        for partition, offset in _ORIGIN.findall(body):
            known, at = self._known[int(partition)], int(offset)
            if at in known:
                self.repeats += 1
            else:
                known.add(at)
                self.firsts[int(partition)].append(at)
        return web.Response(status=204)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.router.add_post("/", self.take)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
        finally:
            self.open.set()
            await runner.cleanup()


def most_resident(child: Child) -> int:
    """Bytes of memory that a process had at most, as the kernel counts."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{child.process.pid}/status").read_text())
    assert found is not None, f"it has ended:\n{child.tail()}"
    return int(found[1]) * 1024


async def delivered(on: Stage, stream: str, seconds: float) -> None:
    """Wait until a stream has delivered all that is routed. Fails after `seconds`."""
    partitions = [TopicPartition(topic, tp.partition) for topic in on.routed for tp in on.partitions]
    ends = await end_offsets(on.brokers, partitions)
    async with asyncio.timeout(seconds):
        while True:
            found = await committed(on.brokers, f"sluice.{stream}")
            if all(found.get(tp, (0, ""))[0] >= end for tp, end in ends.items()):
                return
            await asyncio.sleep(0.2)


async def test_a_receiver_that_blocks_costs_neither_records_nor_memory_nor_membership(
    kafka: str, name: str, tmp_path: Path, seconds: Callable[[float, float], float], seen: Callable[..., None],
) -> None:  # fmt: skip
    receiver, sink = Receiver(), f"http-{name}"
    rate, blocked = seconds(1600, 800), seconds(15, 310)
    async with receiver.serving() as url:
        http = {"url": url, "allow_http": True, "allow_private": ["127.0.0.0/8"], "seconds": 1, "timeout_seconds": 5}
        streams = {sink: {"from": [f"{name}.{route}" for route in ROUTES], "http": http}}
        async with stage(tmp_path, kafka, name, streams=streams) as on, Progress(kafka, on.routed, 6) as progress:
            workers = [await on.router(), await on.start("stream", *WORKER, str(on.file), sink)]
            for worker in workers:
                await worker.says("Assigned in generation", 60)
            devices = await on.devices(rate, size=RECORD_BYTES)
            await until(lambda: bool(receiver.firsts), 60)
            receiver.open.clear()
            at_begin, end = progress.total, time.monotonic() + blocked
            while time.monotonic() < end or (progress.total - at_begin) * RECORD_BYTES < BUDGET_BYTES:
                await asyncio.sleep(0.5)
                assert time.monotonic() < end + 60, "not enough was routed to fill the buffers"
            held_back, taken = progress.total - at_begin, sum(map(len, receiver.firsts.values()))
            receiver.open.set()
            released = time.monotonic()
            await until(lambda: sum(map(len, receiver.firsts.values())) > taken, 60)
            pause = time.monotonic() - released
            await on.stop_devices(devices)
            await on.until_done()
            await delivered(on, sink, 180)
            peaks = [most_resident(worker) for worker in workers]
            for worker in workers:
                assert worker.output.count("Assigned in generation") == 1, "it left its group, or lost its place in it"
                assert await worker.stop() == 0
        known = await read_truth(kafka, on.raw)
        found = await on.judge(known)
    for partition in range(6):
        for route in ROUTES:
            of_route = known.offsets[partition, route]
            wanted = set(of_route)
            came = array("q", (at for at in receiver.firsts[partition] if at in wanted))
            assert came == of_route, f"{route}/{partition}: {len(came)} of {len(of_route)} came, or not in their order"
    assert receiver.hung > 1
    assert receiver.refused > 1
    assert found.records >= 20_000
    assert max(peaks) <= MOST_BYTES, f"router, stream: {peaks}"
    evidence = (
        f"{receiver.hung} requests unanswered, {receiver.refused} refused, {held_back:,} records held back; at most "
        f"{peaks[0] / 1e6:.0f} MB the router, {peaks[1] / 1e6:.0f} MB the stream's worker"
    )
    seen("F-05", f"HTTP receiver blocks for {blocked:.0f} s at full input", found, evidence, pause)
