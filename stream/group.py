"""The committed offsets of a consumer group that nobody works in: read, and set by hand.

A commit with generation -1 and no member id is taken only while the group has no members
(https://kafka.apache.org/protocol#The_Messages_OffsetCommit), so it cannot move the offset of a worker.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition, errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.commit import OffsetCommitRequest

from stream.commits import Committed
from stream.connection import KafkaConfig

EMPTY = ("Empty", "Dead")
"""The states of a group without members; Dead is one that is not known."""
TRY_SECONDS = 20.0
AWAY = (
    errors.GroupCoordinatorNotAvailableError,
    errors.NotCoordinatorForGroupError,
    errors.GroupLoadInProgressError,
)
Answer = TypeVar("Answer")


class Busy(Exception):
    """The group has members."""


class Group:
    """A consumer group from outside. Use as an async context manager; entering raises KafkaConnectionError.

    Every method may block for TRY_SECONDS while the group's coordinator is away, and raises KafkaError then.
    """

    def __init__(self, kafka: KafkaConfig, group: str) -> None:
        self._kafka = kafka
        self._group = group

    async def __aenter__(self) -> "Group":
        arguments = self._kafka.client_arguments()
        self._admin = AIOKafkaAdminClient(**arguments, request_timeout_ms=20_000)
        self._consumer = AIOKafkaConsumer(
            **arguments, enable_auto_commit=False, isolation_level="read_committed", request_timeout_ms=20_000
        )
        await self._admin.start()
        try:
            await self._consumer.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()
        await self._admin.close()

    async def partitions(self, topics: Sequence[str]) -> dict[str, list[TopicPartition]]:
        """Topic → its partitions, of those topics that are there."""
        described = await self._admin.describe_topics()  # of all: a request that names topics may make them
        found = {
            one["topic"]: sorted(TopicPartition(one["topic"], part["partition"]) for part in one["partitions"])
            for one in described
            if one["topic"] in topics and one["error_code"] == 0
        }
        for topic in found:
            await self._consumer._client._wait_on_metadata(topic)
        return found

    async def members(self) -> int:
        """How many members the group has. Raises KafkaError."""

        async def describe() -> int:
            answer = await self._admin.describe_consumer_groups([self._group])
            code, _, state, _, _, members, *_ = answer[0].groups[0]
            if code:
                raise errors.for_code(code)(f"the group {self._group} is not described")
            return 0 if state in EMPTY else len(members)

        return await self._ask(describe)

    async def committed(self) -> dict[TopicPartition, Committed]:
        """The offsets that are committed now."""
        found = await self._ask(lambda: self._admin.list_consumer_group_offsets(self._group))
        return {tp: Committed(at.offset, at.metadata or "") for tp, at in found.items() if at.offset >= 0}

    async def beginnings(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offset of each log."""
        return dict(await self._consumer.beginning_offsets(list(partitions)))

    async def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """One past the last offset that a reader of committed records gets to."""
        return dict(await self._consumer.end_offsets(list(partitions)))

    async def at(self, partitions: Sequence[TopicPartition], milliseconds: int) -> dict[TopicPartition, int]:
        """The offset of the first record whose timestamp is at or after a time (since 1970, UTC); the end where there is none."""
        found = await self._consumer.offsets_for_times(dict.fromkeys(partitions, milliseconds))
        ends = await self.ends(partitions)
        return {tp: found[tp].offset if found.get(tp) else ends[tp] for tp in partitions}

    async def set(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        """Commit these offsets, all in one request. Raises KafkaError, and Busy, with nothing changed, when the group has
        members."""
        topics = defaultdict(list)
        for tp, at in offsets.items():
            topics[tp.topic].append((tp.partition, at.offset, at.note))

        async def commit() -> None:
            node = await self._admin.find_coordinator(self._group)
            request = OffsetCommitRequest(
                self._group,
                OffsetCommitRequest.DEFAULT_GENERATION_ID,
                "",
                OffsetCommitRequest.DEFAULT_RETENTION_TIME,
                list(topics.items()),
            )
            answer = await self._admin._send_request(request, node)
            for topic, partitions in answer.topics:
                for partition, code in partitions:
                    error = errors.for_code(code)
                    if error in (errors.UnknownMemberIdError, errors.RebalanceInProgressError):
                        raise Busy
                    if error is not errors.NoError:
                        raise error(f"the offset of {topic}/{partition} is not set")

        await self._ask(commit)

    @staticmethod
    async def _ask(ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer of the group's coordinator; asked again while there is none, at most for TRY_SECONDS."""
        deadline = asyncio.get_running_loop().time() + TRY_SECONDS
        while True:
            try:
                return await ask()
            except AWAY:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.2)
