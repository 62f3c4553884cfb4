"""What aiokafka has fetched, taken batch by batch: under whose assignment, how much, and without waiting in between."""

import asyncio
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import FetchError, FetchResult
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError, TopicAuthorizationFailedError

from stream.assignment import Assignment, Partition
from stream.connection import KafkaConfig
from stream.permissions import Need, NotAllowed, Operation
from stream.records import BATCH_BYTES, BATCH_RECORDS, Record, RecordBatch
from stream.unpacking import Unpacking, keep_answers

WAIT_SECONDS = 0.1
SHORT_WAIT_SECONDS = 0.02
"""The same while a partition waits for memory: 50 fetches a second of those that are idle, for as long as it does."""
FETCH_BYTES = 1024 * 1024
"""Of one partition, in one fetch."""
RESPONSE_BYTES = 8 * 1024 * 1024
"""The largest answer of a broker, which is in memory twice while aiokafka takes it apart. A batch that is larger comes whole."""
FETCHED_BYTES = 16 * 1024 * 1024
"""What aiokafka holds undecoded, of all partitions together: with many of them each gets less than FETCH_BYTES."""


def check_fetching(consumer: AIOKafkaConsumer) -> None:
    """Raises what has ended aiokafka's fetching, which it keeps to itself."""
    if consumer._fetcher._fetch_task.done():
        consumer._fetcher._fetch_task.result()
        raise RuntimeError("aiokafka's fetcher has ended by itself")


class Fetches:
    """The fetcher of one started aiokafka consumer. Its own `fetched_records` awaits between looking and taking; an assignment
    may end in between, and what was taken is then missing in the next.
    """

    def __init__(self, consumer: AIOKafkaConsumer, kafka: KafkaConfig) -> None:
        keep_answers()
        self._fetcher = consumer._fetcher
        self._subscription = consumer._subscription
        self._kafka = kafka

    def context(self) -> Any:
        """While it is open the member does not count as idle when nothing comes."""
        return self._subscription.fetch_context()

    def share(self, partitions: int) -> None:
        """So many partitions are fetched from now."""
        self._fetcher._max_partition_fetch_bytes = min(FETCH_BYTES, FETCHED_BYTES // max(1, partitions))

    async def wait(self, assignment: Assignment, hungry: list[TopicPartition]) -> None:
        """Until something of these partitions is fetched or memory is released, at most WAIT_SECONDS.

        Raises KafkaError when topics or the group may not be read.
        """
        # A partition that waits for memory is left out of the fetches, and what it wants next waits for the one that is
        # under way: there is one at a time to a broker, and if all others are idle it takes as long as it may.
        wait = WAIT_SECONDS if len(hungry) == len(assignment.partitions) else SHORT_WAIT_SECONDS
        self._fetcher._fetch_max_wait_ms = int(wait * 1000)
        if any(tp in self._fetcher._records for tp in hungry):
            return
        assignment.relief.clear()
        waiter, relief = self._fetcher._create_fetch_waiter(), asyncio.ensure_future(assignment.relief.wait())
        try:
            await asyncio.wait([waiter, relief], timeout=WAIT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if waiter.done():
                waiter.result()
        finally:
            relief.cancel()
            waiter.cancel()

    def take(self, partition: Partition) -> RecordBatch | None:
        """What is fetched of a partition; None for nothing. At most BATCH_RECORDS, and one record beyond BATCH_BYTES: what was
        fetched may be a hundred times as large, unpacked.

        Raises Hole, NotAllowed, Unreadable for a batch, and KafkaError for a partition that cannot be read.
        """
        tp = partition.tp
        fetched = self._fetcher._records.get(tp)
        if isinstance(fetched, FetchError):
            self.drop(tp)
            if isinstance(fetched._error, NoOffsetForPartitionError):
                return None  # said before it was chosen where the partition goes on
            if isinstance(fetched._error, TopicAuthorizationFailedError):
                raise NotAllowed(self._kafka, [Need("topic", tp.topic, Operation.READ)])
            fetched.check_raise()
        if not isinstance(fetched, FetchResult) or fetched._partition_records is None:
            self._fetcher._records.pop(tp, None)
            return None
        position = self._state(tp)
        start = position.position
        if not isinstance(fetched._partition_records, Unpacking):
            fetched._partition_records = Unpacking(fetched._partition_records)
        records = _some(fetched, tp)
        if not fetched.has_more():
            self.drop(tp)
        return partition.fetched(records, start, position.position)

    def out_of_range(self, tp: TopicPartition) -> bool:
        """Whether the last fetch of a partition failed because its log does not hold the offset."""
        fetched = self._fetcher._records.get(tp)
        return isinstance(fetched, FetchError) and isinstance(fetched._error, OffsetOutOfRangeError)

    def drop(self, tp: TopicPartition) -> None:
        """Forget what was fetched of a partition; aiokafka fetches it anew from its position."""
        self._fetcher._records.pop(tp, None)
        self._fetcher._notify(self._fetcher._wait_consume_future)

    def read_to(self, tp: TopicPartition) -> int | None:
        """The offset that is fetched next, None before it is known."""
        state = self._state(tp)
        position: int | None = state.position if state is not None and state.has_valid_position else None
        return position

    def stable_end(self, tp: TopicPartition) -> int | None:
        """Where the partition ended at its last fetch, open transactions left out; None before the first."""
        state = self._state(tp)
        end: int | None = state.lso if state is not None else None
        return end

    def last_answer(self, tp: TopicPartition) -> float | None:
        """The time of the last answer to a fetch of this partition, with or without records; None before the first."""
        state = self._state(tp)
        answered: float | None = state.timestamp if state is not None else None
        return answered

    def _state(self, tp: TopicPartition) -> Any:
        assignment = self._subscription.subscription.assignment
        return assignment.state_value(tp) if assignment is not None else None


def _some(fetched: FetchResult, tp: TopicPartition) -> list[Record]:
    """The next records, at most BATCH_RECORDS; fetched on to behind them."""
    if not fetched.check_assignment(tp):
        return []
    records: list[Record] = fetched._partition_records.take(BATCH_RECORDS, BATCH_BYTES)
    fetched._update_position()
    if not fetched._partition_records.more():
        fetched._partition_records = None
    return records
