"""Topics that change under the routers: partitions are added, records are compacted away."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import yaml
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from sluice.config import load
from sluice.exits import Exit
from sluice.wiring import topic_specs
from tests.e2e.processes import children, produce, read, until, until_committed
from tests.faults.stage import Progress, background, end_offsets, stage

ECHO = str(Path(__file__).parents[1] / "e2e" / "echo_worker.py")
SLUICE = ("-P", "-m", "sluice.cli")


async def test_partitions_are_added_under_load(
    kafka: str, name: str, tmp_path: Path, seconds: Callable[[float, float], float], seen: Callable[..., None],
) -> None:  # fmt: skip
    rate = seconds(400, 2000)
    async with (
        stage(tmp_path, kafka, name, partitions=4) as on,
        background(on.keep(2)),
        Progress(kafka, on.routed, 4) as progress,
    ):
        await until(lambda: sum("Assigned in generation" in child.output for child in on.running) == 2, 60)
        devices = [await on.devices(rate, seed=1)]
        await until(lambda: progress.total > 100, 60)

        # Somebody else adds one to the raw topic alone: what is sent there waits.
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
        await admin.start()
        await admin.create_partitions({on.raw: NewPartitions(5)})
        await admin.close()
        devices.append(await on.devices(rate, seed=2))
        waits = "has no partition 4 yet"
        await until(lambda: any(waits in child.output for child in on.running), 60)
        await asyncio.sleep(seconds(0, 10))
        fifth = TopicPartition(on.raw, 4)
        async with asyncio.timeout(60):
            while (await end_offsets(kafka, [fifth]))[fifth] <= 100:
                await asyncio.sleep(0.1)

        settings = yaml.safe_load(on.file.read_text())
        settings["kafka"]["partitions"] = 6
        on.file.write_text(yaml.safe_dump(settings))
        on.config = load(on.file)
        topics = await on.start("topics", *SLUICE, "topics", str(on.file))
        assert await topics.ends(60) == Exit.DONE, topics.tail()
        assert topics.output.count("4 → 6 partitions") == 4, topics.output
        assert "5 → 6 partitions" in topics.output
        devices.append(await on.devices(rate, seed=3))
        killed = on.running[0]
        on.kill(killed)
        await until(lambda: killed not in on.running and len(on.running) == 2)
        await asyncio.sleep(seconds(0, 20))

        # Every worker gets the new config, one after the other.
        for old in list(on.running):
            before = len(on.children)
            assert await old.stop() == Exit.DONE
            await until(lambda before=before: len(on.children) > before, 10)  # type: ignore[misc]  # bound as a default
            await on.children[-1].says("Assigned in generation", 60)
        for one in devices:
            await on.stop_devices(one)
        await on.until_done()
        assert not any(on.ended), f"routers ended by themselves: {on.ended}"
        found = await on.judge()
        ends = await end_offsets(kafka, on.partitions)
    assert len(ends) == 6
    assert min(ends.values()) > 100, "a partition had no load"
    assert found.records >= seconds(3000, 20_000)
    evidence = "4 → 6 partitions; waited for its counterparts, then from offset 0"
    seen("F-37", "partitions added under load, config rolled", found, evidence, progress.longest_pause())


async def test_a_raw_topic_that_would_be_compacted_is_refused(
    kafka: str, name: str, tmp_path: Path
) -> None:  # fmt: skip
    async with stage(tmp_path, kafka, name, partitions=1) as on:
        raw = next(one for one in topic_specs(on.config) if one.name == on.raw)
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
        await admin.start()
        changed = {**raw.settings, "cleanup.policy": "compact,delete"}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, on.raw, changed)])
        await admin.close()
        worker = await on.router()
        assert await worker.ends(30) == Exit.CONFIG
        said = f"{on.raw}: cleanup.policy is compact,delete, should be delete; change it with kafka-configs.sh"
        assert said in worker.output
        check = await on.start("check", *SLUICE, "check", str(on.file))
        assert await check.ends(30) != Exit.DONE
        assert "cleanup.policy is compact,delete, should be delete" in check.output


async def test_offsets_whose_records_were_compacted_away_hold_nobody_up(
    kafka: str, name: str, tmp_path: Path
) -> None:  # fmt: skip
    raw, out, partition = f"raw-{name}", f"out-{name}", 0
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    compact = {"cleanup.policy": "compact", "segment.ms": "50", "min.cleanable.dirty.ratio": "0.001"}
    await admin.create_topics([NewTopic(raw, 1, 1, topic_configs=compact), NewTopic(out, 1, 1)])
    await admin.close()
    for round_ in range(5):  # all have one key: of a closed segment the last one stays
        await produce(kafka, raw, {partition: [b"%d/%d" % (round_, n) for n in range(200)]})
        await asyncio.sleep(0.1)  # so that the next append closes the segment
    end, left = 1000, 1000
    async with asyncio.timeout(90):
        while left > 300:
            left = len((await read(kafka, raw))[partition])
    async with children(tmp_path) as start:
        worker = await start("echo", ECHO, kafka, name, raw, out)
        await until_committed(kafka, f"sluice.{name}", {TopicPartition(raw, partition): end})
        assert await worker.stop() == 0
    expected = [one.value for one in (await read(kafka, raw))[partition]]  # type: ignore[attr-defined]
    copied = [one.value for one in (await read(kafka, out))[partition]]  # type: ignore[attr-defined]
    assert copied[-len(expected) :] == expected
    assert set(expected) <= set(copied)
    assert len(copied) <= left, "no record was missing when the worker read: nothing was shown"
