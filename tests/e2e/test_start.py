"""Where a pipeline begins is never guessed: at the beginning if it never wrote, at its offset, or where a person says."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import yaml
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.records_to_delete import RecordsToDelete

from sluice.config import Config, load
from sluice.keys import loaded
from sluice.start import parsed_place, set_offsets
from sluice.wiring import topic_specs, wire
from stream.assignment import Assignment
from stream.commits import Commits, Committed, Pin
from stream.group import Group
from stream.outbox import Outbox
from stream.outputs import Held, Outputs
from stream.records import Headers
from stream.topics import Topics
from tests.e2e.processes import Child, children, committed, forget_offsets, produce, read, total, until, until_committed

PARTITIONS = 2
TOLD = "sluice start FILE"


class Pipeline:
    """A pipeline of its own on the shared cluster, its topics made, and its processes."""

    def __init__(self, kafka: str, name: str, raw: str, folder: Path, start: Callable[..., Awaitable[Child]]) -> None:
        self.kafka, self.name, self.raw, self.group = kafka, name, raw, f"sluice.{name}"
        self.file = folder / "config.yaml"
        settings = {
            "kafka": {"brokers": [kafka], "partitions": PARTITIONS, "replication": 1, "session_seconds": 3},
            "metrics": {"listen": "127.0.0.1:0"},
            "pipelines": {name: {"from": raw, "schema": "usage"}},
        }
        self.file.write_text(yaml.safe_dump(settings))
        self.config: Config = load(self.file)
        self._start = start
        self._count = 0

    async def make_topics(self) -> None:
        async with Topics(self.config.kafka) as topics:
            await topics.create(topic_specs(self.config))

    async def sluice(self, *arguments: str) -> Child:
        self._count += 1
        return await self._start(f"{self._count}-{arguments[0]}", "-m", "sluice.cli", *arguments)

    async def worker(self) -> Child:
        return await self.sluice("worker", str(self.file), self.name)

    async def ended(self, *arguments: str) -> tuple[int, str]:
        """Exit code and output of a command that ends by itself."""
        child = await self.sluice(*arguments)
        return await child.ends(60), child.output

    async def start_from(self, where: str) -> tuple[int, str]:
        return await self.ended("start", str(self.file), self.name, "--from", where)

    def member(self) -> AIOKafkaConsumer:
        """A member of the pipeline's group, not started."""
        return AIOKafkaConsumer(
            self.raw, bootstrap_servers=self.kafka, group_id=self.group, enable_auto_commit=False,
            auto_offset_reset="earliest", session_timeout_ms=6000, heartbeat_interval_ms=200,
        )  # fmt: skip

    async def until_at(self, *offsets: int) -> None:
        await until_committed(self.kafka, self.group, {self.tp(p): offset for p, offset in enumerate(offsets)})

    def tp(self, partition: int) -> TopicPartition:
        return TopicPartition(self.raw, partition)

    async def make_raw_anew(self, count: int) -> None:
        """Delete the raw topic, make it again, and put `count` records into each partition."""
        async with administrator(self.kafka) as admin:
            await admin.delete_topics([self.raw])
            async with asyncio.timeout(20):
                while self.raw in await admin.list_topics():
                    await asyncio.sleep(0.05)
        await self.make_topics()
        await self.produce(count)

    async def set_offsets(self, offset: int, **note: object) -> None:
        """As a worker of ours would have left them; `note` is in the commit metadata."""
        async with Group(self.config.kafka, self.group) as group:
            at = Committed(offset, json.dumps({"v": 1} | note))
            await group.set({self.tp(p): at for p in range(PARTITIONS)})

    async def produce(self, count: int, first: int = 0, timestamp: int | None = None) -> None:
        records = {p: [b'{"id":%d}' % (1000 * p + n) for n in range(first, first + count)] for p in range(PARTITIONS)}
        await produce(self.kafka, self.raw, records, timestamp=timestamp)

    async def routed(self) -> dict[int, dict[str, list[int]]]:
        """Partition → epoch → raw offsets in `success`, in order."""
        found: dict[int, dict[str, list[int]]] = {}
        for partition, records in (await read(self.kafka, f"{self.name}.success")).items():
            for record in records:
                headers = dict(record.headers)  # type: ignore[attr-defined]
                epoch = headers["sluice-plan"].decode().partition(".")[0]
                offset = int(headers["sluice-id"].rpartition(b"/")[2])
                found.setdefault(partition, {}).setdefault(epoch, []).append(offset)
        return found


@dataclass
class Raw:
    """A record as the engine hands it to a router."""

    offset: int
    timestamp: int = 1_700_000_000_000
    key: bytes | None = None
    value: bytes | None = b'{"id":1}'
    headers: Headers = ()


class administrator:
    def __init__(self, kafka: str) -> None:
        self._admin = AIOKafkaAdminClient(bootstrap_servers=kafka)

    async def __aenter__(self) -> AIOKafkaAdminClient:
        await self._admin.start()
        return self._admin

    async def __aexit__(self, *_: object) -> None:
        await self._admin.close()


@pytest.fixture
async def pipeline(kafka: str, topic_name: Callable[[str], str], tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with children(tmp_path) as start:
        one = Pipeline(kafka, topic_name("usage"), topic_name("raw"), tmp_path, start)
        await one.make_topics()
        yield one


AHEAD = 4_000_000_000
"""An epoch drawn by a clock that was ahead: the next one must lie above it, though `now` does not."""


async def test_without_its_offsets_it_ends_and_goes_on_exactly_where_it_is_told(pipeline: Pipeline) -> None:
    between = datetime.now(UTC) - timedelta(minutes=10)  # recent: retention goes by the records' timestamps
    moment = int(between.timestamp() * 1000)
    await pipeline.produce(20, timestamp=moment - 30_000)
    await pipeline.produce(20, first=20, timestamp=moment + 30_000)
    await pipeline.set_offsets(0, epoch=AHEAD)
    worker = await pipeline.worker()
    await pipeline.until_at(40, 40)
    before = await committed(pipeline.kafka, pipeline.group)
    code, said = await pipeline.start_from("beginning")
    assert code == 1
    assert "stop all of them first" in said
    assert await committed(pipeline.kafka, pipeline.group) == before, "a refused start moved an offset"
    assert await worker.stop() == 0
    await forget_offsets(pipeline.kafka, pipeline.group)

    code, said = await pipeline.ended("worker", str(pipeline.file), pipeline.name)
    assert code == 78
    assert said.count(f"{pipeline.raw}/0-1") == 1, "not all partitions are named in one message"
    assert f"{TOLD} {pipeline.name} --from beginning|end|TIME" in said
    assert not await committed(pipeline.kafka, pipeline.group)

    code, said = await pipeline.start_from(between.astimezone(timezone(timedelta(hours=1))).isoformat())
    assert code == 0, said
    assert f"{pipeline.raw}/0-1: none → 20" in said
    assert "new plan" in said
    async with administrator(pipeline.kafka) as admin:
        await admin.create_partitions({pipeline.raw: NewPartitions(PARTITIONS + 1)})
    await pipeline.make_topics()
    await produce(pipeline.kafka, pipeline.raw, {PARTITIONS: [b'{"id":1}', b'{"id":2}']})
    worker = await pipeline.worker()
    await pipeline.until_at(40, 40, 2)
    assert await worker.stop() == 0
    routed = await pipeline.routed()
    for number in range(PARTITIONS):
        assert routed[number] == {str(AHEAD): list(range(40)), str(AHEAD + 1): list(range(20, 40))}
    assert list(routed[PARTITIONS].values()) == [[0, 1]], "a grown partition begins by itself, at its beginning"


async def test_places_before_the_first_and_after_the_last_record(pipeline: Pipeline) -> None:
    await pipeline.produce(5)
    for where, offset in (("2000-01-01", 0), ("2999-01-01", 5), ("beginning", 0), ("end", 5)):
        _, after = await set_offsets(pipeline.config, pipeline.name, parsed_place(where))
        assert after == {pipeline.tp(p): Committed(offset, "") for p in range(PARTITIONS)}
        found = await committed(pipeline.kafka, pipeline.group)
        assert found == {pipeline.tp(p): (offset, "") for p in range(PARTITIONS)}


async def test_what_the_outputs_show_decides_and_what_they_cannot_show_counts_as_written(pipeline: Pipeline) -> None:
    success, dead = f"{pipeline.name}.success", f"{pipeline.name}.dlq"
    outputs = Outputs(pipeline.config.kafka, [success, dead])
    tps = [pipeline.tp(p) for p in range(PARTITIONS + 1)]  # the last has no counterpart yet
    assert await outputs.held(tps) == dict.fromkeys(tps, Held())
    await produce(pipeline.kafka, success, {0: [b"by somebody else"] * 1000, 1: [b"by somebody else"]})
    assert await outputs.held(tps) == dict.fromkeys(tps, Held())
    outbox = Outbox(pipeline.config.kafka, "test")
    await outbox.start()
    ours = [("sluice-id", f"{pipeline.raw}/0/7".encode()), ("sluice-plan", b"99.abc")]
    other = [("sluice-id", f"{pipeline.raw}/0/8".encode()), ("sluice-plan", b"100.abc")]  # of another partition
    await outbox.send(success, 0, outbox.pack([(0, None, b"{}", ours)]))
    await outbox.send(success, 1, outbox.pack([(0, None, b"{}", other)]))
    await outbox.stop()
    assert await outputs.held(tps) == {tps[0]: Held("records", 99), tps[1]: Held(), tps[2]: Held()}
    async with administrator(pipeline.kafka) as admin:
        await admin.delete_records({TopicPartition(success, 1): RecordsToDelete(before_offset=2)})
    assert (await outputs.held(tps))[tps[1]] == Held("offsets whose records retention took")


async def test_records_that_were_deleted_before_they_were_processed_end_it(pipeline: Pipeline) -> None:
    await pipeline.produce(60)
    await pipeline.set_offsets(10, epoch=1)
    async with administrator(pipeline.kafka) as admin:
        await admin.delete_records({pipeline.tp(0): RecordsToDelete(before_offset=40)})
    code, said = await pipeline.ended("worker", str(pipeline.file), pipeline.name)
    assert code == 78
    assert f"{pipeline.raw}/0 is processed up to offset 10, but its log begins at 40" in said
    assert "up to 30 records" in said
    assert f"{TOLD} {pipeline.name}" in said
    assert (await committed(pipeline.kafka, pipeline.group))[pipeline.tp(0)][0] == 10
    code, said = await pipeline.start_from("beginning")
    assert f"{pipeline.raw}/0: 10 → 40" in said
    assert f"{pipeline.raw}/1: " in said


async def test_a_raw_topic_made_anew_ends_the_worker_that_runs_and_the_next_one(pipeline: Pipeline) -> None:
    await pipeline.produce(10)
    worker = await pipeline.worker()
    await pipeline.until_at(10, 10)
    old = json.loads((await committed(pipeline.kafka, pipeline.group))[pipeline.tp(0)][1])
    assert old["id"]
    await pipeline.make_raw_anew(200)  # longer than the old position: reading on there raises no error anywhere
    assert await worker.ends(40) == 78
    assert f"{pipeline.raw} was deleted and made anew" in worker.output
    assert f"{TOLD} {pipeline.name}" in worker.output
    await pipeline.set_offsets(10, **old)  # an offset that outlived its topic, as a commit that comes late leaves it
    code, said = await pipeline.ended("worker", str(pipeline.file), pipeline.name)
    assert code == 78
    assert f"{pipeline.raw} was deleted and made anew" in said
    assert (await committed(pipeline.kafka, pipeline.group))[pipeline.tp(0)][0] == 10


async def test_a_mistyped_name_and_a_missing_topic_say_what_to_do(pipeline: Pipeline) -> None:
    code, said = await pipeline.ended("start", str(pipeline.file), pipeline.name + "x", "--from", "end")
    assert (code, f"did you mean {pipeline.name}?" in said) == (64, True)
    async with administrator(pipeline.kafka) as admin:
        await admin.delete_topics([pipeline.raw])
    code, said = await pipeline.start_from("end")
    assert (code, f"{pipeline.raw}; make them with `sluice topics FILE`" in said) == (78, True)


async def test_of_routers_that_start_at_once_and_are_killed_one_epoch_holds_in_each_partition(
    pipeline: Pipeline,
) -> None:
    count = 3000
    await pipeline.produce(count)
    workers = await asyncio.gather(*(pipeline.worker() for _ in range(3)))
    kills = 0
    while kills < 2:
        await until(lambda: any(map(_has_just_drawn, workers)), 60)
        victim = next(filter(_has_just_drawn, workers))
        victim.kill()  # it has committed an epoch, and is writing under it
        await victim.ends()
        kills += 1
        if len(await committed(pipeline.kafka, pipeline.group)) == PARTITIONS:
            break  # every partition has its epoch: nobody draws one any more
    workers.append(await pipeline.worker())
    assert kills, "nobody was killed after it drew an epoch: the test proved nothing"
    await pipeline.until_at(*[count] * PARTITIONS)
    found = await committed(pipeline.kafka, pipeline.group)
    for number, plans in (await pipeline.routed()).items():
        assert list(plans) == [str(json.loads(found[pipeline.tp(number)][1])["epoch"])]
        assert sorted(set(plans.popitem()[1])) == list(range(count))


def _has_just_drawn(worker: Child) -> bool:
    return worker.process.returncode is None and "begins under epoch" in worker.output


async def test_a_router_that_is_fenced_before_its_epoch_is_committed_has_written_nothing(pipeline: Pipeline) -> None:
    outbox = Outbox(pipeline.config.kafka, "test")
    router = wire(pipeline.config, [pipeline.name], outbox, loaded(pipeline.config)).workloads[0]
    crashes: list[BaseException] = []

    async def begin(consumer: AIOKafkaConsumer, pin: Pin) -> Assignment:
        assignment = Assignment(pin, Commits(consumer), router.work, crashes.append, 1_000_000)
        assignment.open(pipeline.tp(0), Committed(0, ""))
        partition = assignment.partitions[pipeline.tp(0)]
        batch = partition.fetched([Raw(0)], 0, 1)
        assert batch is not None
        partition.deliver(batch)
        return assignment

    await outbox.start()
    old, new = pipeline.member(), pipeline.member()
    try:
        await old.start()
        pin = Commits(old).pin()
        await new.start()
        await until(lambda: old._coordinator.generation > pin.generation, 20)
        fenced = await begin(old, pin)
        await until(lambda: fenced.ended, 20)
        assert await total(pipeline.kafka, f"{pipeline.name}.success") == 0
        assert await committed(pipeline.kafka, pipeline.group) == {}
        owner = await begin(new, Commits(new).pin())
        partition = owner.partitions[pipeline.tp(0)]
        await until(lambda: partition.idle, 20)
        assert await total(pipeline.kafka, f"{pipeline.name}.success") == 1, "the owner, with the same work, writes"
        owner.abandon("the test is over")
    finally:
        await old.stop()
        await new.stop()
        await outbox.stop()
    assert not crashes
