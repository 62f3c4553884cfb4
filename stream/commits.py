"""Offset commits that only the owner can make: pinned to the generation and member that the data was read under.

aiokafka's own `commit()` sends whatever generation the consumer has when the request leaves, and repeats it after a
rebalance; the broker does not check who owns a partition, so such a commit can move another worker's offset. The request
here carries the pin of the read, is repeated only under that pin, and there is one of it at a time.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition, errors
from aiokafka.protocol.commit import OffsetCommitRequest

log = logging.getLogger(__name__)

FENCED = (
    errors.IllegalGenerationError,
    errors.UnknownMemberIdError,
    errors.RebalanceInProgressError,
)
UNKNOWN = (
    errors.GroupCoordinatorNotAvailableError,
    errors.NotCoordinatorForGroupError,
    errors.GroupLoadInProgressError,
    errors.RequestTimedOutError,
    errors.UnknownTopicOrPartitionError,
    errors.NotEnoughReplicasError,
    errors.NotEnoughReplicasAfterAppendError,
)
FORBIDDEN = (errors.GroupAuthorizationFailedError, errors.TopicAuthorizationFailedError)
RETRY_SECONDS = 0.1


class Fenced(Exception):
    """The group went on without this worker: what it read under this pin is somebody else's now."""


class CommitRefused(Exception):
    """The broker refuses this commit for good; the text says why."""


@dataclass(frozen=True, slots=True)
class Pin:
    """Who read the data: generation and member id of the group at the assignment."""

    generation: int
    member: str


@dataclass(frozen=True, slots=True)
class Committed:
    """A partition's committed offset and the metadata that was committed with it."""

    offset: int
    note: str


class Commits:
    """The committed offsets of one consumer group, through the coordinator of one aiokafka consumer."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._coordinator = consumer._coordinator
        self._one_at_a_time = asyncio.Lock()
        self.stored = 0
        """How many commits the brokers have stored."""

    def pin(self) -> Pin:
        """The pin of the assignment that holds now. Call it in the assignment's callback, not later."""
        return Pin(self._coordinator.generation, self._coordinator.member_id)

    async def fetch(self, partitions: list[TopicPartition]) -> dict[TopicPartition, Committed]:
        """The committed offsets; a partition without one is left out. Waits for a coordinator as long as there is none."""
        found = await self._coordinator.fetch_committed_offsets(partitions)
        return {tp: Committed(at.offset, at.metadata or "") for tp, at in found.items()}

    async def commit(self, pin: Pin, offsets: Mapping[TopicPartition, Committed]) -> None:
        """Commit under `pin`, and return when the broker has stored it.

        While the coordinator is away the answer is unknown, and the same request is sent again, with the same pin.
        Raises Fenced when the group has moved on, GroupAuthorizationFailedError or TopicAuthorizationFailedError for what
        ACLs refuse, CommitRefused for anything else that no repetition cures.
        """
        topics = defaultdict(list)
        for tp, at in offsets.items():
            topics[tp.topic].append((tp.partition, at.offset, at.note))
        async with self._one_at_a_time:
            while True:
                await self._coordinator.ensure_coordinator_known()
                request = OffsetCommitRequest(
                    self._coordinator.group_id,
                    pin.generation,
                    pin.member,
                    OffsetCommitRequest.DEFAULT_RETENTION_TIME,
                    list(topics.items()),
                )
                response = None
                # A KafkaError here: connection lost or timed out, and aiokafka has marked the coordinator dead.
                with contextlib.suppress(errors.KafkaError):
                    response = await self._coordinator._send_req(request)
                if response is not None and self._is_stored(response, pin):
                    self.stored += 1
                    return
                await asyncio.sleep(RETRY_SECONDS)

    def _is_stored(self, response: object, pin: Pin) -> bool:
        """True if every partition was stored, False to send again. Raises as `commit` does."""
        stored = True
        for topic, partitions in response.topics:  # type: ignore[attr-defined]  # aiokafka's responses are untyped
            for partition, code in partitions:
                error = errors.for_code(code)
                if error is errors.NoError:
                    continue
                if issubclass(error, FENCED):
                    if self._coordinator.generation == pin.generation:
                        self._coordinator.request_rejoin()
                    raise Fenced(f"{error.__name__} for {topic}/{partition} in generation {pin.generation}")
                if issubclass(error, FORBIDDEN):
                    raise error(topic)
                if not issubclass(error, UNKNOWN):
                    raise CommitRefused(
                        f"the broker refused the offset commit of {topic}/{partition}: {error.__name__}"
                    )
                log.info(
                    "Offset commit of %s/%s not answered for sure (%s); sending it again.",
                    topic,
                    partition,
                    error.__name__,
                )
                if issubclass(error, errors.GroupCoordinatorNotAvailableError | errors.NotCoordinatorForGroupError):
                    self._coordinator.coordinator_dead()
                stored = False
        return stored
