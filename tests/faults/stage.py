"""What a fault happens on: a pipeline with its topics, router processes, devices that send, and a look at its progress."""

import asyncio
import contextlib
import itertools
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from sluice.config import Config, load
from sluice.demo.configuration import CARD_FIELDS, key_name, write_keys
from sluice.wiring import topic_specs
from stream.topics import Topics
from tests.e2e.processes import Child, committed, until
from tests.faults.ledger import ROUTES, Judgement, Truth, judge

WORKER = ("-P", "-m", "sluice.cli", "worker")
DEVICES = ("-m", "tests.faults.devices")
ROOT = Path(__file__).resolve().parents[2]


class Stage:
    """One pipeline, `name`, from raw topic to ledger. Made by `stage(...)`."""

    def __init__(self, folder: Path, brokers: str, name: str, settings: dict[str, Any]) -> None:
        """`brokers`: how the tests reach the cluster; the workers may go another way (`settings["kafka"]["brokers"]`)."""
        self.folder, self.brokers, self.name = folder, brokers, name
        self.raw = f"raw-{name}"
        self.group = f"sluice.{name}"
        self.file = folder / f"{name}.yaml"
        self.keys = write_keys(folder / f"{name}-keys.yaml")
        settings["keys"] = {"provider": "file", "path": f"{name}-keys.yaml"}
        self.file.write_text(yaml.safe_dump(settings))
        self.config: Config = load(self.file)
        self.children: list[Child] = []
        self.ended: list[int] = []
        """Exit codes of routers that ended though nobody had told them to."""
        self.acknowledged = 0
        """How many records devices had acknowledged that were stopped."""
        self._killed: set[Child] = set()
        self._number = 0

    @property
    def routed(self) -> list[str]:
        return [f"{self.name}.{route}" for route in ROUTES]

    @property
    def partitions(self) -> list[TopicPartition]:
        return [TopicPartition(self.raw, number) for number in range(self.config.kafka.partitions)]

    # Processes

    async def start(self, title: str, *arguments: str) -> Child:
        """A python process, killed when the stage ends."""
        log = self.folder / f"{title}.log"
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, stdout=output, stderr=output, cwd=ROOT
            )
        self.children.append(Child(process, log))
        return self.children[-1]

    async def router(self, *command: str) -> Child:
        """Another router process; it has not joined yet. `command` in place of `sluice worker`."""
        self._number += 1
        return await self.start(f"router-{self._number}", *(command or WORKER), str(self.file), self.name)

    async def devices(
        self, rate: float | None = None, *, count: int | None = None, seed: int = 1, size: int = 0
    ) -> Child:
        """Devices that send `rate` records a second (or as fast as it goes) until `stop_devices`, or `count` of them."""
        self._number += 1
        more = [f"--rate={rate}"] if rate else []
        more += [f"--count={count}"] if count else []
        arguments = [f"--brokers={self.brokers}", f"--topic={self.raw}", f"--seed={seed}", f"--bytes={size}", *more]
        return await self.start(f"devices-{self._number}", *DEVICES, *arguments)

    async def stop_devices(self, devices: Child, seconds: float = 60) -> int:
        """How many records they had acknowledged in the end."""
        if devices.process.returncode is None:
            devices.process.terminate()
        assert await devices.ends(seconds) == 0, devices.tail()
        count = int(devices.output.rpartition("sent ")[2])
        self.acknowledged += count
        return count

    def kill(self, child: Child) -> None:
        """kill -9, on purpose."""
        self._killed.add(child)
        child.thaw()
        child.kill()

    async def keep(self, count: int, command: Callable[[], Sequence[str]] = tuple) -> None:
        """Run `count` routers until cancelled; who ends is replaced at once, as a supervisor would.

        `command` says in place of which command the next one is run; none is `sluice worker`.
        """
        running: dict[asyncio.Task[int], Child] = {}
        self.running: list[Child] = []
        while True:
            while len(running) < count:
                child = await self.router(*command())
                running[asyncio.create_task(child.process.wait())] = child
                self.running.append(child)
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                child = running.pop(one)
                self.running.remove(child)
                if child not in self._killed:
                    self.ended.append(one.result())

    # Progress

    async def settled(self, brokers: str | None = None) -> int:
        """The sum of the committed offsets of the raw topic, by way of `brokers` if given."""
        found = await committed(brokers or self.brokers, self.group)
        return sum(at for tp, (at, _) in found.items() if tp.topic == self.raw)

    async def until_done(self, seconds: float = 120) -> None:
        """Wait until the committed offset of every partition is at its end. Fails after `seconds`."""
        ends = await end_offsets(self.brokers, self.partitions)
        deadline = time.monotonic() + seconds
        while True:
            found = await committed(self.brokers, self.group)
            behind = {
                tp: (found.get(tp, (0, ""))[0], end) for tp, end in ends.items() if found.get(tp, (0, ""))[0] < end
            }
            if not behind:
                return
            if time.monotonic() > deadline:
                tails = "\n".join(f"--- {one.log.name}\n{one.tail()[-1500:]}" for one in self.children[-4:])
                raise AssertionError(f"not done after {seconds} s: committed, end {behind}\n{tails}")
            await asyncio.sleep(0.2)

    async def judge(self, known: Truth | None = None) -> Judgement:
        logs = {child.log for child in self.children}
        found = await judge(self.brokers, self.name, self.raw, self.keys, logs, known)
        assert found.records >= self.acknowledged, "the raw topic lacks records that were acknowledged"
        return found

    async def stop(self) -> None:
        for child in self.children:
            if child.process.returncode is None:
                child.thaw()
                child.kill()
                await child.process.wait()


@asynccontextmanager
async def stage(
    folder: Path,
    brokers: str,
    name: str,
    *,
    partitions: int = 6,
    replication: int = 1,
    session: float = 3,
    worker_brokers: str | None = None,
    kafka: Mapping[str, Any] | None = None,
    streams: Mapping[str, Any] | None = None,
) -> AsyncIterator[Stage]:
    """A stage with its topics made. `kafka` and `streams` are added to the config's sections."""
    settings = {
        "kafka": {"brokers": brokers.split(","), "partitions": partitions, "replication": replication,
                  "session_seconds": session, **(kafka or {})},
        "metrics": {"listen": "127.0.0.1:0"},
        "pipelines": {name: pipeline(f"raw-{name}")},
        "streams": dict(streams or {}),
    }  # fmt: skip
    made = Stage(folder, brokers, name, settings)
    async with Topics(made.config.kafka) as topics:
        states = await topics.create(topic_specs(made.config))
        assert all(one.state == "created" for one in states), states
    if worker_brokers:
        settings["kafka"]["brokers"] = worker_brokers.split(",")  # type: ignore[index]  # a dict, as it stands above
        made.file.write_text(yaml.safe_dump(settings))
    try:
        yield made
    finally:
        await made.stop()


def pipeline(raw: str) -> dict[str, Any]:
    """The pipeline whose rules the oracle knows."""
    sold = {"field": ".transaction.total_price", "op": "greater_or_equal", "value": 0}
    return {
        "from": raw,
        "schema": "event",
        "drop": [".buffer"],
        "routes": {
            "success": [{"field": ".transaction.result", "op": "equal", "value": True}, sold],
            "fail": [{"field": ".transaction.result", "op": "equal", "value": False}, dict(sold)],
        },
        "encrypt": [
            {"field": f".transaction.cc.{field}", "key": key_name(field), "algorithm": "AES-256-CFB",
             "iv_field": f".transaction.cc.{field}_iv"}
            for field in CARD_FIELDS
        ],
    }  # fmt: skip


class Progress:
    """Watches the routed topics grow, in the background: how long was the longest time without growth?"""

    def __init__(self, brokers: str, topics: Sequence[str], partitions: int) -> None:
        self._brokers = brokers
        self._partitions = [TopicPartition(topic, number) for topic in topics for number in range(partitions)]
        self.samples: list[tuple[float, int]] = []
        """time.monotonic() at which a total was first seen, and the total."""

    async def __aenter__(self) -> "Progress":
        self._task = asyncio.create_task(self._watch())
        await until(lambda: bool(self.samples) or self._task.done(), 30)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    @property
    def total(self) -> int:
        """Records (and markers) in the routed topics when they were last looked at."""
        return self.samples[-1][1]

    def longest_pause(self, since: float | None = None) -> float:
        """Seconds between two growths; with `since` (time.monotonic()) only from there on, and to the present."""
        times = [at for at, _ in self.samples]
        if since is not None:
            times = [since, *(at for at in times if at > since), time.monotonic()]
        return max((after - before for before, after in itertools.pairwise(times)), default=0.0)

    async def _watch(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._brokers, enable_auto_commit=False, request_timeout_ms=3000, metadata_max_age_ms=2000
        )
        await consumer.start()
        try:
            while True:
                with contextlib.suppress(KafkaError):
                    total = sum((await consumer.end_offsets(self._partitions)).values())
                    if not self.samples or total > self.samples[-1][1]:
                        self.samples.append((time.monotonic(), total))
                await asyncio.sleep(0.1)
        finally:
            await consumer.stop()


async def end_offsets(brokers: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
    """The log's end of each partition; for what transactions wrote, behind their last marker."""
    consumer = AIOKafkaConsumer(bootstrap_servers=brokers, enable_auto_commit=False)
    await consumer.start()
    try:
        found: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
        return found
    finally:
        await consumer.stop()


@asynccontextmanager
async def background(coroutine: Any) -> AsyncIterator["asyncio.Task[Any]"]:
    """A task beside the test; what it raises, the test raises."""
    task = asyncio.create_task(coroutine)
    try:
        yield task
    finally:
        if task.done():
            task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
