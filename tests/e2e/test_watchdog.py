"""A process that stands still ends by itself, with exit code 70 and its stacks in the log, and loses nothing; one that only waits
for others does not end."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from sluice.local_kafka import LocalKafka
from tests.e2e.processes import Child, children, committed, produce, until_committed
from tests.e2e.test_engine import PARTITIONS, WORKER, every_record_once, values

FROZEN = str(Path(__file__).with_name("frozen_worker.py"))
LIMIT = 4
SOON = 25
"""Seconds in which a process with that limit has ended, on a machine that does many other things."""
NewTopics = Callable[..., Awaitable[None]]
Names = Callable[[str], str]


def ends(raw: str, count: int) -> dict[TopicPartition, int]:
    return {TopicPartition(raw, p): count for p in range(PARTITIONS)}


async def until_not_live(child: Child) -> None:
    """Wait until /live says no, or nothing at all."""
    address = child.output.partition("status ")[2].split()[0]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.7)) as session, asyncio.timeout(SOON):
        while True:
            try:
                async with session.get(f"http://{address}/live") as answer:
                    if answer.status != 200:
                        return
            except TimeoutError:
                return
            await asyncio.sleep(0.1)


async def test_a_stage_that_freezes_ends_the_process_and_a_successor_does_everything(
    kafka: str, topic_name: Names, new_topics: NewTopics, tmp_path: Path
) -> None:
    expected = values(600)

    async def freeze(stage: str, said: str) -> None:
        raw, out, group = topic_name("raw"), topic_name("out"), topic_name(f"frozen-{stage}")
        await new_topics(raw, out, partitions=PARTITIONS)
        await produce(kafka, raw, {p: some[:300] for p, some in expected.items()})
        file = tmp_path / stage
        worker = await start(stage, FROZEN, kafka, group, raw, out, stage, str(file))
        await until_committed(kafka, f"sluice.{group}", ends(raw, 300))
        file.touch()
        await produce(kafka, raw, {p: some[300:] for p, some in expected.items()})
        await until_not_live(worker)
        assert worker.process.returncode is None, f"{stage}: it had ended before /live said so"
        assert await worker.ends(SOON) == 70
        assert said in worker.output
        assert f"freezes_the_{stage}" in worker.output.partition("Where it stood")[2]
        assert b'"pad"'.decode() not in worker.output
        assert "In work: raw-" in worker.output or stage in ("fetch", "commit")
        if stage != "fetch":  # with some partitions the others were done
            done = await committed(kafka, f"sluice.{group}")
            assert any(offset < 600 for offset, _ in done.values()), "everything was done: nothing was shown"
        heir = await start(f"{stage}-heir", WORKER, kafka, group, raw, out)
        await until_committed(kafka, f"sluice.{group}", ends(raw, 600))
        assert await heir.stop() == 0
        await every_record_once(kafka, out, expected)

    async with children(tmp_path) as start:
        await asyncio.gather(
            freeze("loop", "the event loop has not turned for 4 s"),
            freeze("fetch", "fetch of raw-"),
            freeze("work", "/0, offsets 300 to 599"),
            freeze("commit", ": commit has not got on for 4 s"),
        )


async def test_a_destination_that_is_down_and_a_process_that_was_frozen_are_not_stuck(
    kafka: str, topic_name: Names, new_topics: NewTopics, tmp_path: Path
) -> None:
    expected = values(300)

    async def wait(stage: str) -> None:
        raw, out, group = topic_name("raw"), topic_name("out"), topic_name(f"waits-{stage}")
        await new_topics(raw, out, partitions=PARTITIONS)
        file = tmp_path / stage
        file.touch()
        worker = await start(stage, FROZEN, kafka, group, raw, out, stage, str(file))
        await worker.says("Assigned in generation")
        await produce(kafka, raw, expected)
        if stage == "stopped":
            await until_committed(kafka, f"sluice.{group}", ends(raw, 300))
            worker.freeze()
        await asyncio.sleep(2 * LIMIT)  # it is a time that must pass, with nothing happening
        if stage == "stopped":
            worker.thaw()
            await produce(kafka, raw, expected)
        file.unlink()
        await until_committed(kafka, f"sluice.{group}", ends(raw, 600 if stage == "stopped" else 300))
        assert "Stuck" not in worker.output
        assert await worker.stop() == 0

    async with children(tmp_path) as start:
        await asyncio.gather(wait("sink"), wait("stopped"))


async def test_brokers_that_do_not_answer_are_said_to_be_out_and_the_process_waits(tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "kafka") as cluster:
        admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in ("raw", "out")])
        await admin.close()
        await produce(cluster.bootstrap, "raw", values(300))
        async with children(tmp_path) as start:
            worker = await start("w", FROZEN, cluster.bootstrap, "g", "raw", "out", "none", str(tmp_path / "none"))
            await until_committed(cluster.bootstrap, "sluice.g", ends("raw", 300))
            cluster.pause(0)
            try:
                await worker.says("no broker answers", seconds=60)
                await asyncio.sleep(LIMIT)
            finally:
                cluster.resume(0)
            await produce(cluster.bootstrap, "raw", values(300))
            await until_committed(cluster.bootstrap, "sluice.g", ends("raw", 600))
            assert "Stuck" not in worker.output
            assert await worker.stop() == 0
