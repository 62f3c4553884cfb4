"""A commit whose answer is unknown is sent again while the group moves on: it moves no offset of the new owner."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition, errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.protocol.commit import OffsetCommitRequest

from stream.commits import Commits, Committed, Fenced
from tests.e2e.processes import until

STALE, HEIRS = 5, 20


class Unanswered:
    """The first offset commit of a consumer gets no answer until `go` is set; then `error` is what becomes of it."""

    def __init__(self, consumer: AIOKafkaConsumer, error: type[errors.KafkaError], *, arrives: bool) -> None:
        """`arrives`: the broker stores it, and only the answer is lost."""
        self._send, self._error, self._arrives = consumer._coordinator._send_req, error, arrives
        self._first = True
        self.go = asyncio.Event()
        self.sent: list[int] = []
        """The generation of each commit that went out, the unanswered one too if it arrived."""
        consumer._coordinator._send_req = self

    async def __call__(self, request: object) -> object:
        if not isinstance(request, OffsetCommitRequest):
            return await self._send(request)
        lost, self._first = self._first, False
        if not lost:
            self.sent.append(request._consumer_group_generation_id)
            return await self._send(request)
        if self._arrives:
            self.sent.append(request._consumer_group_generation_id)
            await self._send(request)
        await self.go.wait()
        raise self._error


async def member(brokers: str, topic: str) -> AIOKafkaConsumer:
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=brokers, group_id=f"group-{topic}", enable_auto_commit=False,
        auto_offset_reset="earliest", session_timeout_ms=10_000, heartbeat_interval_ms=200, rebalance_timeout_ms=10_000,
    )  # fmt: skip
    await consumer.start()
    return consumer


async def pump(consumer: AIOKafkaConsumer) -> None:
    while True:
        await consumer.getmany(timeout_ms=200)


class Group:
    """A consumer that owns two partitions, and one that joins later and takes one of them over."""

    def __init__(self, brokers: str, topic: str, owner: AIOKafkaConsumer) -> None:
        self._brokers, self._topic, self.owner = brokers, topic, owner
        self.partitions = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
        self.tasks = [asyncio.create_task(pump(owner))]
        self.heir: AIOKafkaConsumer | None = None

    async def move_on(self) -> TopicPartition:
        """The other one joins, owns a partition, and commits it: which one."""
        heir = self.heir = await member(self._brokers, self._topic)
        self.tasks.append(asyncio.create_task(pump(heir)))
        await until(lambda: len(heir.assignment()) == 1 and len(self.owner.assignment()) == 1, 30)
        (taken,) = heir.assignment()
        await heir.commit({taken: HEIRS})
        return taken

    async def committed(self, tp: TopicPartition) -> int:
        assert self.heir is not None
        return int(await self.heir.committed(tp))


@asynccontextmanager
async def group(brokers: str, topic: str) -> AsyncIterator[Group]:
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 2, 1)])
    await admin.close()
    owner = await member(brokers, topic)
    made = Group(brokers, topic, owner)
    try:
        await until(lambda: len(owner.assignment()) == 2, 30)
        yield made
    finally:
        for task in made.tasks:
            task.cancel()
        for consumer in (owner, made.heir):
            if consumer is not None:
                with contextlib.suppress(errors.KafkaError):
                    await consumer.stop()


async def begun(commit: Awaitable[None], unanswered: Unanswered) -> "asyncio.Task[None]":
    """A commit that is on its way and has no answer."""
    task = asyncio.ensure_future(commit)
    await until(lambda: not unanswered._first, 10)
    return task


@pytest.mark.parametrize("arrives", [False, True], ids=["request lost", "answer lost"])
@pytest.mark.parametrize("error", [errors.RequestTimedOutError, errors.NotCoordinatorForGroupError])
async def test_a_commit_is_repeated_under_the_pin_of_its_read_and_refused(
    kafka: str, name: str, error: type[errors.KafkaError], arrives: bool
) -> None:
    async with group(kafka, name) as of:
        commits = Commits(of.owner)
        pin = commits.pin()
        unanswered = Unanswered(of.owner, error, arrives=arrives)
        stale = await begun(commits.commit(pin, {tp: Committed(STALE, "stale") for tp in of.partitions}), unanswered)
        taken = await of.move_on()
        assert of.owner._coordinator.generation > pin.generation, "the group did not move on: nothing was shown"
        unanswered.go.set()
        with pytest.raises(Fenced, match="IllegalGeneration"):
            await asyncio.wait_for(stale, 10)
        assert unanswered.sent == [pin.generation] * (1 + arrives), "the commit was not repeated, or not under its pin"
        assert await of.committed(taken) == HEIRS


async def test_without_a_pin_the_same_commit_moves_the_offset_of_the_new_owner(kafka: str, name: str) -> None:
    """Why commits are pinned: aiokafka's own repeats under whatever generation the consumer has by then, and is believed."""
    async with group(kafka, name) as of:
        generation = of.owner._coordinator.generation
        unanswered = Unanswered(of.owner, errors.RequestTimedOutError, arrives=False)
        stale = await begun(of.owner.commit(dict.fromkeys(of.partitions, STALE)), unanswered)
        taken = await of.move_on()
        unanswered.go.set()
        await asyncio.wait_for(stale, 10)
        assert unanswered.sent[-1] > generation
        assert await of.committed(taken) == STALE
