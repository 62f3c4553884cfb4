"""What tells a router where to go on is lost: it ends and says so, writes nothing, and goes on where a person says."""

import asyncio
import random
from array import array
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from confluent_kafka.admin import AdminClient

from sluice.exits import Exit
from sluice.wiring import topic_specs
from stream.reader import Reader
from stream.topics import Topics
from tests.e2e.processes import Child, committed
from tests.faults.ledger import ROUTES, Judgement, Truth, read_truth, records_of
from tests.faults.stage import Stage, end_offsets, stage

SLUICE = ("-P", "-m", "sluice.cli")


@asynccontextmanager
async def administrator(brokers: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def sent(on: Stage, count: int, seed: int) -> None:
    """Devices have sent so many records, all acknowledged."""
    devices = await on.devices(count=count, seed=seed)
    assert await devices.ends(60) == Exit.DONE, devices.tail()


async def worked(on: Stage, count: int, seed: int) -> None:
    """Devices send `count` records, and a router has processed them and is stopped."""
    router = await on.router()
    await sent(on, count, seed=seed)
    await on.until_done()
    assert await router.stop() == Exit.DONE


async def outputs(on: Stage) -> dict[TopicPartition, int]:
    """The ends of everything that the pipeline writes."""
    topics = [*on.routed, f"{on.name}.dlq"]
    return await end_offsets(on.brokers, [TopicPartition(one, tp.partition) for one in topics for tp in on.partitions])


async def standing(on: Stage, number: int) -> tuple[list[int], object]:
    """Where the outputs of one partition end, and its committed offset."""
    ends = [at for tp, at in sorted((await outputs(on)).items()) if tp.partition == number]
    return ends, (await committed(on.brokers, on.group)).get(TopicPartition(on.raw, number))


async def refused(on: Stage, *says: str, partitions: Sequence[int] = range(3)) -> None:
    """The next router ends with 78 and says this; of these partitions nothing is written, and no offset is moved."""
    before = [await standing(on, number) for number in partitions]
    router = await on.router()
    assert await router.ends(60) == Exit.CONFIG, router.tail()
    for text in (*says, f"sluice start FILE {on.name} --from beginning|end|TIME"):
        assert text in router.output, router.tail()
    assert [await standing(on, number) for number in partitions] == before


async def told(on: Stage, place: str) -> Child:
    """`sluice start`, then a router that finishes what is there and is stopped."""
    start = await on.start("start", *SLUICE, "start", str(on.file), on.name, "--from", place)
    assert await start.ends(60) == Exit.DONE, start.tail()
    router = await on.router()
    await on.until_done()
    assert await router.stop() == Exit.DONE
    return start


async def judge_last_plan(on: Stage, known: Truth, dead_before: dict[TopicPartition, int]) -> Judgement:
    """Compare what was written since under the newest epoch with `known`: each record once, in order, none too many.

    `dead_before`: where the dead-letter topic ended before. The full judge knows of one life of the raw topic only.
    """
    repeats = 0
    for route in ROUTES:
        by_epoch: dict[int, dict[int, array[int]]] = defaultdict(lambda: defaultdict(lambda: array("q")))
        readers: dict[int, Reader] = defaultdict(Reader)
        async for partition, record in records_of(on.brokers, f"{on.name}.{route}"):
            epoch = int(dict(record.headers)["sluice-plan"].partition(b".")[0])
            origin = readers[partition].take("", partition, record)
            repeats += origin is None
            if origin is not None:
                by_epoch[partition][epoch].append(int(origin.rpartition("/")[2]))
        for tp in on.partitions:
            epochs = by_epoch[tp.partition]
            assert len(epochs) == 2, (
                f"{route}/{tp.partition}: plans of {len(epochs)} epochs, expected an old and a new one"
            )
            newest = epochs[max(epochs)]
            assert newest == known.offsets[tp.partition, route], (
                f"{route}/{tp.partition}: {len(newest)} under the new plan"
            )
    ends = await outputs(on)
    dead = sum(ends[tp] - at for tp, at in dead_before.items())
    expected = sum(len(at) for (_, place), at in known.offsets.items() if place not in ROUTES)
    assert dead == expected
    return Judgement(known.records, dead, repeats, 2)


def dead_letters(on: Stage, ends: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
    return {tp: at for tp, at in ends.items() if tp.topic == f"{on.name}.dlq"}


async def test_records_that_were_deleted_unprocessed_are_not_passed_in_silence(
    kafka: str, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    count = int(seconds(4000, 30_000))
    async with stage(tmp_path, kafka, name, partitions=3) as on:
        await worked(on, count, seed=chance.randrange(1000))
        settled = await committed(kafka, on.group)
        await sent(on, count, seed=chance.randrange(1000))
        hit = on.partitions[1]
        ends = await end_offsets(kafka, on.partitions)
        begin = (settled[hit][0] + ends[hit]) // 2
        async with administrator(kafka) as admin:
            await admin.delete_records({hit: RecordsToDelete(before_offset=begin)})
        lost = begin - settled[hit][0]
        assert lost > 0
        place = (
            f"{hit.topic}/{hit.partition} is processed up to offset {settled[hit][0]}, but its log begins at {begin}"
        )
        await refused(on, place, f"up to {lost} records", partitions=[hit.partition])
        before = dead_letters(on, await outputs(on))
        known = await read_truth(kafka, on.raw)
        await told(on, "beginning")
        found = await judge_last_plan(on, known, before)
    seen("F-32", "DeleteRecords took what was not processed", found, f"exit 78 names {lost} records; `sluice start`")


async def test_deleted_offsets_are_not_guessed(
    kafka: str, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    count = int(seconds(4000, 30_000))
    async with stage(tmp_path, kafka, name, partitions=3) as on:
        await worked(on, count, seed=chance.randrange(1000))
        groups = AdminClient({"bootstrap.servers": kafka})  # kept: without it nobody answers the future
        await asyncio.to_thread(groups.delete_consumer_groups([on.group])[on.group].result, 30)
        assert not await committed(kafka, on.group)
        await refused(on, f"{name} has no committed offset for {on.raw}/0-2")
        before = dead_letters(on, await outputs(on))
        between = await end_offsets(kafka, on.partitions)
        moment = datetime.now(UTC).isoformat()
        await sent(on, count, seed=chance.randrange(1000))
        known = await read_truth(kafka, on.raw, start={tp.partition: at for tp, at in between.items()})
        await told(on, moment)
        found = await judge_last_plan(on, known, before)
    assert found.records == count
    seen("F-33", "the group's offsets deleted", found, "exit 78; `sluice start --from TIME`: exactly from there")


async def test_a_raw_topic_that_was_made_anew_is_not_read_on(
    kafka: str, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    count = int(seconds(3000, 20_000))
    async with stage(tmp_path, kafka, name, partitions=3) as on:
        await worked(on, count, seed=chance.randrange(1000))
        router = await on.router()
        await router.says("Assigned in generation")
        ends = await outputs(on)
        async with administrator(kafka) as admin:
            await admin.delete_topics([on.raw])
            async with asyncio.timeout(20):
                while on.raw in await admin.list_topics():
                    await asyncio.sleep(0.05)
        async with Topics(on.config.kafka) as topics:
            states = {one.name: one.state for one in await topics.create(topic_specs(on.config))}
        assert states[on.raw] == "created"
        # Longer than the old one was: a router that reads on at its old position would see no error.
        await sent(on, 2 * count, seed=chance.randrange(1000))
        assert await router.ends(60) == Exit.CONFIG, router.tail()
        assert f"{on.raw} was deleted and made anew" in router.output
        assert await outputs(on) == ends, "the router read the new topic at the old position"
        await refused(on, on.raw)
        known = await read_truth(kafka, on.raw)
        await told(on, "beginning")
        found = await judge_last_plan(on, known, dead_letters(on, ends))
    seen(
        "F-34", "raw topic deleted and made anew", found, "exit 78 while it ran, and at the next start; `sluice start`"
    )
