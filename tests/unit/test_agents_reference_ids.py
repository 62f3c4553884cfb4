"""A partition that waits for an id goes on when the reference knows it, gives up in time, and ends when it is taken away."""

import asyncio
import json
import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from agents import reference_ids
from pipeline.config import PipelineConfig
from pipeline.enrichment import Awaited
from pipeline.keys import Keys
from pipeline.pipeline import Pipeline
from pipeline.references import Tables
from stream.assignment import Assignment, Partition
from stream.commits import Committed, Pin

TP = TopicPartition("raw.events", 3)
LATE = 4_111_111_111_111_111


class Waiting:
    """A pipeline that waits for ids of two references, and a partition on which it does."""

    def __init__(self, endpoints: float, sims: float) -> None:
        self.tables = Tables(live=True)
        rules = [
            {"by": f".{at}.id", "from": f"{at}s", "into": f".{at}", "on_missing": "wait", "wait_seconds": seconds}
            for at, seconds in (("endpoint", endpoints), ("sim", sims))
        ]
        config = PipelineConfig.model_validate({"from": TP.topic, "schema": "event", "enrich": rules})
        self.pipeline = Pipeline("events", config, Keys.none(), self.tables)
        self.assignment = Assignment(Pin(1, "m"), None, self._work, print, 10**9)  # type: ignore[arg-type]  # no commits
        self.went_on: list[bool] = []

    def awaited(self, *records: Any) -> list[Awaited]:
        return self.pipeline.process(
            [SimpleNamespace(value=json.dumps(one).encode(), key=None, headers=()) for one in records]
        ).awaited  # type: ignore[misc]

    def learn(self, name: str, id_: int) -> None:
        self.tables.apply(name, [SimpleNamespace(key=b"%d" % id_, value=b"{}")])

    async def start(self, *records: Any) -> asyncio.Task[None]:
        self.records = records
        self.assignment.open(TP, Committed(0, ""))
        self.partition = self.assignment.partitions[TP]
        (task,) = self.assignment._tasks
        await asyncio.sleep(0)
        return task

    async def _work(self, partition: Partition) -> None:
        awaited = self.awaited(*self.records)
        assert awaited
        self.went_on.append(await reference_ids.wait("events", partition, awaited))


async def test_goes_on_when_all_ids_are_there(caplog: pytest.LogCaptureFixture) -> None:
    on = Waiting(60, 60)
    task = await on.start({"endpoint": {"id": LATE}}, {"endpoint": {"id": 2}, "sim": {"id": 3}})
    on.learn("endpoints", LATE)
    on.learn("sims", 3)
    await asyncio.sleep(0.3)
    assert not task.done()  # one is still missing
    on.learn("endpoints", 2)
    async with asyncio.timeout(5):
        await asyncio.wait([task])
    assert on.went_on == [True]
    assert not on.awaited({"endpoint": {"id": LATE}, "sim": {"id": 3}})
    (said,) = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert said == "events: raw.events/3 waits for ids that references lack: endpoints 2, sims 1."


async def test_gives_up_each_id_when_the_patience_of_its_rule_ends(caplog: pytest.LogCaptureFixture) -> None:
    on = Waiting(0.2, 0.6)
    began = time.monotonic()
    task = await on.start({"endpoint": {"id": LATE}, "sim": {"id": 3}})
    async with asyncio.timeout(5):
        await asyncio.wait([task])
    assert 0.6 <= time.monotonic() - began < 3
    assert on.went_on == [True]
    assert not on.awaited({"endpoint": {"id": LATE}, "sim": {"id": 3}})  # the next record of that id costs nothing
    assert on.awaited({"endpoint": {"id": 4}})
    told = [one.getMessage() for one in caplog.records if "dead letters" in one.getMessage()]
    assert told == [
        "events: after 0.2 s endpoints still lacks ids: 1; their records are dead letters.",
        "events: after 0.6 s sims still lacks ids: 1; their records are dead letters.",
    ]
    assert str(LATE) not in caplog.text


async def test_the_watchdog_sees_that_it_waits_and_a_partition_that_ends_waits_no_more() -> None:
    on = Waiting(60, 60)
    task = await on.start({"endpoint": {"id": LATE}})
    steps = on.partition.steps
    async with asyncio.timeout(5):
        while on.partition.steps < steps + 2:
            await asyncio.sleep(0.01)
    on.partition.close()
    async with asyncio.timeout(5):
        await asyncio.wait([task])
    assert on.went_on == [False]
    assert on.awaited({"endpoint": {"id": LATE}})
