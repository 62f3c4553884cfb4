"""Upstream transactions: what was aborted is never routed, one that is open holds up its partition and no other."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from sluice.devices import Message
from tests.e2e.processes import committed, until
from tests.faults.devices import messages
from tests.faults.stage import Progress, Stage, background, end_offsets, stage
from tests.faults.test_killed_workers import kills

MIXED, ABORTED, MARKERS = (0, 1, 2, 4), 3, 5
"""The partitions: those with all that there is, one whose every record is aborted, one that begins with a lone marker."""
HELD = MIXED[0]
"""The partition that the long transactions are on."""


class Upstream:
    """One transactional producer of device records."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, source: Iterator[Message]) -> None:
        self._producer, self._topic, self._source = producer, topic, source
        self.commits = self.aborts = 0

    async def begin(self, partitions: Sequence[int], count: int) -> int:
        """`count` records to each partition, in a transaction that stays open. Returns the offset of the last batch."""
        if not self._producer._txn_manager.is_in_transaction():
            await self._producer.begin_transaction()
        for partition in partitions:
            batch = self._producer.create_batch()
            for _ in range(count):
                one = next(self._source)
                batch.append(timestamp=int(time.time() * 1000), key=one.key, value=one.value)
            sent = await (await self._producer.send_batch(batch, self._topic, partition=partition))
        return int(sent.offset)

    async def end(self, *, commit: bool) -> None:
        if commit:
            await self._producer.commit_transaction()
            self.commits += 1
        else:
            await self._producer.abort_transaction()
            self.aborts += 1

    async def run(self, chance: random.Random) -> None:
        """Commit and abort until cancelled, a few hundred records at a time; an open transaction is ended."""
        while True:
            commit = chance.random() < 0.6
            partitions = chance.sample(MIXED, chance.randint(1, 3))
            try:
                for _ in range(chance.randint(1, 3)):
                    await self.begin(partitions if commit else [*partitions, ABORTED], chance.randint(10, 80))
                    await asyncio.sleep(chance.uniform(0.02, 0.1))
            finally:
                await asyncio.shield(self.end(commit=commit))


@asynccontextmanager
async def upstream(on: Stage, title: str, seed: int) -> AsyncIterator[Upstream]:
    producer = AIOKafkaProducer(
        bootstrap_servers=on.brokers, transactional_id=f"{on.raw}-{title}", max_batch_size=500_000
    )
    await producer.start()
    try:
        yield Upstream(producer, on.raw, messages(seed, lambda: False))
    finally:
        await producer.stop()


async def stable_end(on: Stage, partition: int) -> int:
    """The last stable offset: where a reader of committed records has to stop."""
    consumer = AIOKafkaConsumer(bootstrap_servers=on.brokers, isolation_level="read_committed", group_id=None)
    await consumer.start()
    try:
        tp = TopicPartition(on.raw, partition)
        return int((await consumer.end_offsets([tp]))[tp])
    finally:
        await consumer.stop()


async def delete_to(on: Stage, offsets: dict[TopicPartition, int]) -> None:
    """DeleteRecords: what lies before these offsets is gone."""
    admin = AIOKafkaAdminClient(bootstrap_servers=on.brokers)
    await admin.start()
    try:
        await admin.delete_records({tp: RecordsToDelete(before_offset=at) for tp, at in offsets.items()})
    finally:
        await admin.close()


async def settled_to(on: Stage, partition: int) -> int:
    return (await committed(on.brokers, on.group)).get(TopicPartition(on.raw, partition), (0, ""))[0]


async def hold_open(on: Stage, one: Upstream, progress: Progress, seconds: float, *, commit: bool) -> None:
    """Keep a transaction open for so long: its partition waits at the stable end, the others go on.

    They go on once a router is there again: one may have been killed just before, and its session has to run out.
    """
    opened = await one.begin([HELD], 100)
    before = progress.total
    begun = time.monotonic()
    while time.monotonic() < begun + seconds or progress.total <= before + 100:
        assert time.monotonic() < begun + seconds + 30, "other partitions were held up"
        await asyncio.sleep(0.2)
        assert await settled_to(on, HELD) <= opened, "what is not committed was read"
    assert await stable_end(on, HELD) == opened
    assert (await end_offsets(on.brokers, on.partitions))[TopicPartition(on.raw, HELD)] > opened + 100
    await one.end(commit=commit)


async def test_only_what_was_committed_is_routed_while_routers_are_killed(
    kafka: str, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    async with contextlib.AsyncExitStack() as stack:
        on = await stack.enter_async_context(stage(tmp_path, kafka, name))
        first, second, long = [
            await stack.enter_async_context(upstream(on, title, chance.randrange(1000)))
            for title in ("first", "second", "long")
        ]
        await first.begin([MARKERS], 50)
        await first.end(commit=True)
        marker = TopicPartition(on.raw, MARKERS)
        await delete_to(on, {marker: (await end_offsets(kafka, [marker]))[marker] - 1})

        async with background(on.keep(2)), Progress(kafka, on.routed, len(on.partitions)) as progress:
            await until(lambda: any("Assigned in generation" in child.output for child in on.running), 60)
            async with background(first.run(chance)), background(second.run(chance)):
                counted = 0
                for commit in (True, False):
                    await hold_open(on, long, progress, seconds(2, 15), commit=commit)
                    counted += await kills(on, chance, seconds(3, 30), lambda: chance.uniform(1, seconds(1.5, 4)))
            # The last that comes is aborted, so that every partition ends without a committed record.
            await long.begin([*MIXED, ABORTED], 10)
            await long.end(commit=False)
            await on.until_done()
        assert not on.ended, f"routers ended by themselves: {on.ended}"
        commits, aborts = (sum(getattr(one, what) for one in (first, second, long)) for what in ("commits", "aborts"))
        ends = await end_offsets(kafka, on.partitions)
        assert ends[TopicPartition(on.raw, ABORTED)] > 100
        found = await on.judge()
        unread = sum(ends.values()) - ends[marker] - found.records

        # Retention passes what was aborted as it does all else: that is no reason to refuse the next start.
        await delete_to(on, ends)
        router = await on.router()
        await router.says("Assigned in generation")
        await first.begin([*MIXED, ABORTED, MARKERS], 20)
        await first.end(commit=True)
        await on.until_done()
        assert await router.stop() == 0
    assert counted >= 2
    assert min(commits, aborts) > 10
    assert unread > aborts * 10
    assert found.records >= seconds(2000, 20_000)
    evidence = f"{commits} commits, {aborts} aborts ({unread:,} records aborted or markers), {counted} kills"
    seen("F-35", "upstream transactions, some held open, kill -9 in between", found, evidence, progress.longest_pause())
