"""A process that stands still ends by itself, with exit code 70 and its stacks in the log, and loses nothing."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import aiohttp
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.e2e.processes import Child, children, committed, produce, until_committed
from tests.e2e.test_engine import PARTITIONS, WORKER, every_record_once, values
from tests.faults.ledger import Judgement

FROZEN = ("-m", "tests.faults.frozen_worker")
SOON = 25
"""Seconds in which a process with that limit has ended, on a machine that does many other things."""


async def make(brokers: str, *topics: str) -> None:
    """Topics of PARTITIONS partitions."""
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        made = await admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in topics])
        assert all(error[1] == 0 for error in made.topic_errors), made.topic_errors
    finally:
        await admin.close()


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
    kafka: str, name: str, tmp_path: Path, seen: Callable[..., None]
) -> None:
    expected = values(600)

    async def freeze(stage: str, said: str) -> int:
        group, raw, out = (f"{kind}{name}-{stage}" for kind in ("", "raw-", "out-"))
        await make(kafka, raw, out)
        await produce(kafka, raw, {p: some[:300] for p, some in expected.items()})
        file = tmp_path / stage
        worker = await start(stage, *FROZEN, kafka, group, raw, out, stage, str(file))
        await until_committed(kafka, f"sluice.{group}", ends(raw, 300))
        file.touch()
        await produce(kafka, raw, {p: some[300:] for p, some in expected.items()})
        await until_not_live(worker)
        assert worker.process.returncode is None, f"{stage}: it had ended before /live said so"
        assert await worker.ends(SOON) == 70
        assert said in worker.output
        assert f"freezes_the_{stage}" in worker.output.partition("Where it stood")[2] or stage == "hand_over"
        assert b'"pad"'.decode() not in worker.output
        assert "In work: raw-" in worker.output or stage in ("fetch", "hand_over", "commit")
        if stage != "fetch":  # with some partitions the others were done
            done = await committed(kafka, f"sluice.{group}")
            assert any(offset < 600 for offset, _ in done.values()), "everything was done: nothing was shown"
        heir = await start(f"{stage}-heir", WORKER, kafka, group, raw, out)
        await until_committed(kafka, f"sluice.{group}", ends(raw, 600))
        assert await heir.stop() == 0
        return await every_record_once(kafka, out, expected)

    async with children(tmp_path) as start:
        repeats = await asyncio.gather(
            freeze("loop", "the event loop has not turned for 4 s"),
            freeze("fetch", "fetch of raw-"),
            freeze("hand_over", ": hand-over of raw-"),
            freeze("work", "/0, offsets 300 to 599"),
            freeze("commit", ": commit has not got on for 4 s"),
        )
    found = Judgement(len(repeats) * 600 * PARTITIONS, 0, sum(repeats), 1)
    seen(
        "F-26",
        "event loop, fetch, hand-over, work or commit frozen",
        found,
        f"{len(repeats)} processes ended with 70, /live failed",
    )
