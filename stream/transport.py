"""Faust on batches: a Faust transport driver (`kafkabatch://`) whose events are record batches.

Stock Faust hands over one record at a time (160-210 us each), acknowledges records whose agent failed, and commits by
a rule that can pass unfinished ones. This driver keeps Faust's app, agents, conductor and rebalance protocol, and
replaces how records come in (`RecordBatch`, one fetch of one partition) and how offsets go out (`Assignment`). It runs
aiokafka in the app's own event loop: handing every batch from thread to thread costs more than the loop's share of the
work, and a loop that is stuck should lose its membership rather than keep it by a heartbeat from another thread.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import faust
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.consumer.fetcher import FetchError, FetchResult
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import (
    ConsumerStoppedError,
    GroupAuthorizationFailedError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
)
from faust.exceptions import ConsumerNotStarted
from faust.transport import consumer as faust_consumer
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as stock_driver
from faust.types import TP, ConsumerMessage
from mode import Service

from stream.assignment import Assignment, Partition, Work, WorkFailed
from stream.commits import Commits, Committed, Fenced
from stream.connection import KafkaConfig
from stream.notes import parsed
from stream.permissions import Need, NotAllowed, Operation
from stream.records import RecordBatch
from stream.requests import REQUEST_SECONDS, give_joins_time, pace_metadata
from stream.starting import NeedsStart, OffsetsGone, Starts, TopicMadeAnew
from stream.topic_ids import topic_ids

log = logging.getLogger(__name__)

SCHEME = "kafkabatch"
FETCH_WAIT_SECONDS = 0.1
SHORT_WAIT_SECONDS = 0.02
"""The same while a partition waits for memory: 50 fetches a second of those that are idle, for as long as it does."""
FETCH_BYTES = 1024 * 1024
"""Of one partition, in one fetch."""
RESPONSE_BYTES = 8 * 1024 * 1024
"""The largest answer of a broker, which is in memory twice while aiokafka takes it apart. A batch that is larger comes whole."""
FETCHED_BYTES = 16 * 1024 * 1024
"""What aiokafka holds undecoded, of all partitions together: with many of them each gets less than FETCH_BYTES."""
BATCH_RECORDS = 2000
COMMIT_SECONDS = 1.0
RETRY_SECONDS = 0.2
DRAIN_SECONDS = 10.0
LEAVE_SECONDS = 2.0
FAULT_SECONDS = 1.0
IDENTITY_SECONDS = 5.0
"""How often it is asked whether the topics are still the ones that were assigned."""


class BatchSchema(faust.Schema):  # type: ignore[misc]  # Faust is not typed for --strict
    """Marks a topic as batch-native: the event's value is a `Fetched`, as it is."""

    def loads_key(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> None:
        return None

    def loads_value(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> Any:
        return message.value


@dataclass(frozen=True, slots=True)
class Fetched:
    """What an agent gets as an event: a batch, and the partition under whose assignment it was read."""

    partition: Partition
    batch: RecordBatch


@dataclass(frozen=True, slots=True)
class Feed:
    """What an app of this driver needs beyond Faust's settings. Set as `app.feed` before the app starts."""

    name: str
    """Of the pipeline or stream."""
    kafka: KafkaConfig
    work: Work
    crash: Callable[[BaseException], None]
    budget_bytes: int
    starts: Starts


class Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """aiokafka's rebalance callbacks, passed on to the Faust app in the order that it expects."""

    def __init__(self, consumer: "Consumer") -> None:
        self._consumer = consumer

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> Awaitable[None]:
        self._consumer.rebalancing_begins()
        return self._consumer.revoked({TP(*tp) for tp in revoked})

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        await self._consumer.assigned({TP(*tp) for tp in assigned})


class Consumer(faust_consumer.Consumer):  # type: ignore[misc]  # Faust is not typed for --strict
    """Faust's consumer over one aiokafka consumer in the same event loop, with offsets of our own."""

    logger = log
    consumer_stopped_errors: ClassVar[tuple[type[BaseException], ...]] = (ConsumerStoppedError,)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._feed: Feed = self.app.feed
        self.current: Assignment | None = None
        """The assignment that holds now, None between two."""
        self.joined = False
        """Whether this worker is a member of its group with an assignment, empty or not."""
        self._rebalancing = False
        self._aiokafka: AIOKafkaConsumer | None = None
        self._draining: asyncio.Task[None] | None = None
        self._opened = asyncio.Event()
        self._topic_ids: dict[str, str] = {}
        """Of each topic, the id under which this process has read it first."""

    async def on_start(self) -> None:
        feed = self._feed
        session = int(feed.kafka.session_seconds * 1000)
        rebalance = max(session, int(DRAIN_SECONDS * 2000))
        kafka = AIOKafkaConsumer(
            **feed.kafka.client_arguments(),
            group_id=self.app.conf.id,
            client_id=self.app.conf.id,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            session_timeout_ms=session,
            heartbeat_interval_ms=min(3000, session // 10),
            rebalance_timeout_ms=rebalance,
            request_timeout_ms=int(REQUEST_SECONDS * 1000),
            # A member that fetches nothing for this long leaves its group for good; members that stand by are wanted.
            max_poll_interval_ms=2_000_000_000,
            fetch_max_wait_ms=int(FETCH_WAIT_SECONDS * 1000),
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_bytes=RESPONSE_BYTES,
            metadata_max_age_ms=10_000,
        )
        await kafka.start()
        pace_metadata(kafka._client)
        give_joins_time(kafka, rebalance / 1000 + REQUEST_SECONDS)
        self._aiokafka = kafka
        self._commits = Commits(kafka)

    async def on_stop(self) -> None:
        """Drain, commit and leave the group. Faust has stopped the flow of batches by now."""
        await self._drain()
        await self.leave()

    async def leave(self) -> None:
        """Leave the group, so that others take over at once; without waiting long, as nobody answers during a rebalance."""
        self.joined = False
        if self.current is not None:
            self.current.abandon("this worker leaves")
        if self._aiokafka is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._kafka.stop()

    @Service.task  # type: ignore[untyped-decorator]
    async def _listen_for_faults(self) -> None:
        """aiokafka keeps what ends its own tasks to itself until somebody polls: then a worker would stand idle for ever."""
        while not self.should_stop:
            await asyncio.sleep(FAULT_SECONDS)
            if self._aiokafka is not None:
                try:
                    self._kafka._coordinator.check_errors()
                    if self._kafka._fetcher._fetch_task.done():
                        self._kafka._fetcher._fetch_task.result()
                        raise RuntimeError("aiokafka's fetcher has ended by itself")
                except GroupAuthorizationFailedError:
                    self._feed.crash(NotAllowed(self._feed.kafka, [Need("group", self.app.conf.id, Operation.READ)]))
                except Exception as error:
                    self._feed.crash(error)

    @property
    def _kafka(self) -> AIOKafkaConsumer:
        assert self._aiokafka is not None, "the consumer is used before it was started"
        return self._aiokafka

    # Rebalance

    def rebalancing_begins(self) -> None:
        self._rebalancing = True
        self.app.on_rebalance_start()

    async def revoked(self, revoked: set[TP]) -> None:
        try:
            await self._drain()
        except Exception as error:  # aiokafka would log it and go on
            self._feed.crash(error)
        self.joined = False
        await self.on_partitions_revoked(revoked)

    async def assigned(self, assigned: set[TP]) -> None:
        self._pin = self._commits.pin()
        self._rebalancing = False
        self.app.consumer_generation_id = self._pin.generation
        await self.on_partitions_assigned(assigned, self._pin.generation)
        if not assigned:  # Faust seeks nothing then
            self.joined = True
            log.info("Assigned in generation %s: %s.", self._pin.generation, describe([]))

    async def _drain(self) -> None:
        """End the present assignment; or wait for the end of one that a rebalance is draining already."""
        assignment, self.current = self.current, None
        self._opened.clear()
        if assignment is not None:
            self._draining = asyncio.create_task(assignment.drain(DRAIN_SECONDS))
        if self._draining is not None:
            await asyncio.shield(self._draining)

    async def perform_seek(self) -> None:
        """Faust calls this when the streams of a new assignment may flow: every partition is put where it goes on."""
        partitions = [TopicPartition(*tp) for tp in self.assignment()]
        pin = self._pin
        try:
            places = await self._places(partitions)
        except NeedsStart as error:
            if not self._rebalancing and pin == self._pin:
                self._feed.crash(error)
            return
        if self._rebalancing or pin != self._pin:
            return  # the group has gone on meanwhile, and this is called again
        # From here on nothing is awaited: the positions and the assignment that reads from them change together.
        feed = self._feed
        if self.current is not None:
            self.current.abandon("a new one begins")
        assignment = Assignment(pin, self._commits, feed.work, feed.crash, feed.budget_bytes)
        self._kafka._fetcher._max_partition_fetch_bytes = min(FETCH_BYTES, FETCHED_BYTES // max(1, len(partitions)))
        for tp, at in places.items():
            self._kafka.seek(tp, at.offset)
            assignment.open(tp, at, self._topic_ids.get(tp.topic, ""))
        self.current = assignment
        self.joined = True
        self._opened.set()
        log.info("Assigned in generation %s: %s.", pin.generation, describe(partitions))

    async def _places(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Committed]:
        """Where each partition goes on: at its committed offset, or where `Feed.starts` says. Raises NeedsStart."""
        while True:
            places = await self._commits.fetch(list(partitions))
            await self._must_be_the_same_topics(places)
            fresh = [tp for tp in partitions if tp not in places]
            by_hand = {tp: at.offset for tp, at in places.items() if parsed(at.note).v == 0}
            if not fresh and not by_hand:
                return places
            begins = await self._kafka.beginning_offsets(fresh) if fresh else {}
            try:
                starts = await self._feed.starts(begins, by_hand)
            except NeedsStart:
                if await self._commits.fetch(fresh):
                    continue  # what was found was written meanwhile, by another owner who has committed before it wrote
                raise
            return places | {tp: Committed(begin, "") for tp, begin in begins.items()} | dict(starts)

    async def _must_be_the_same_topics(self, places: Mapping[TopicPartition, Committed]) -> None:
        """Raises TopicMadeAnew when a topic is not the one that this process, or whoever committed, has read. Asks until a
        broker answers."""
        while True:
            try:
                found = await topic_ids(self._kafka._client, self._kafka.subscription())
                break
            except KafkaError:
                await asyncio.sleep(RETRY_SECONDS)
        for topic, number in found.items():
            self._topic_ids.setdefault(topic, number)
        anew = {topic for topic, number in found.items() if number != self._topic_ids[topic]}
        for tp, at in places.items():
            before = parsed(at.note).id
            if before and before != found.get(tp.topic, before):
                anew.add(tp.topic)
        if anew:
            raise TopicMadeAnew(anew, self._feed.name)

    @Service.task  # type: ignore[untyped-decorator]
    async def _watch_topics(self) -> None:
        """A topic that is made anew under a running worker may have grown past its position already: reading on would skip
        what is before it, without an error from anywhere."""
        while not self.should_stop:
            await asyncio.sleep(IDENTITY_SECONDS)
            if self._aiokafka is not None and self._topic_ids:
                try:
                    await self._must_be_the_same_topics({})
                except NeedsStart as error:
                    self._feed.crash(error)

    # Records in

    async def _drain_messages(self, fetcher: Any) -> None:
        """Faust's fetcher runs this: batches go from aiokafka through Faust's conductor to the agent's stream."""
        with self._kafka._subscription.fetch_context():  # else the member counts as idle when nothing comes
            while not (self.should_stop or fetcher.should_stop):
                assignment = self.current
                if assignment is None or assignment.ended:
                    self._opened.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.2):
                            await self._opened.wait()
                    continue
                hungry = assignment.hungry()
                await self._until_fetched(assignment, hungry)
                for tp in hungry:
                    if _is_out_of_range(self._kafka._fetcher._records.get(tp)):
                        await self._out_of_range(tp)
                        break
                    # Nothing may be awaited between this and the taking: what is taken under an assignment that is gone is
                    # missing in the one that came after it.
                    if assignment.ended or assignment is not self.current:
                        break
                    partition = assignment.partitions[tp]
                    try:
                        batch = self._take(partition)
                    except Exception as error:
                        raise WorkFailed(partition.in_work(), error) from None
                    if batch is not None:
                        await self.callback(self._to_message(TP(*tp), Fetched(partition, batch)))

    async def _out_of_range(self, tp: TopicPartition) -> None:
        """End the process for an offset that the log does not hold, naming every partition of the assignment where that is so.

        A leader that was just elected may say it of an offset that it will soon have: then the partition is fetched again.
        """
        assignment = self.current
        self._drop_fetched(tp)
        if assignment is None or assignment.ended:
            return
        tps = list(assignment.partitions)
        begins, ends = await self._kafka.beginning_offsets(tps), await self._kafka.end_offsets(tps)
        places = {tp: one.fetched_to for tp, one in assignment.partitions.items()}
        gone = {tp: (at, begins[tp], ends[tp]) for tp, at in places.items() if not begins[tp] <= at <= ends[tp]}
        if gone:
            self._feed.crash(OffsetsGone(gone, self._feed.name))

    def _drop_fetched(self, tp: TopicPartition) -> None:
        """Forget what was fetched of a partition; aiokafka fetches it anew from its position."""
        fetcher = self._kafka._fetcher
        fetcher._records.pop(tp, None)
        fetcher._notify(fetcher._wait_consume_future)

    async def _until_fetched(self, assignment: Assignment, hungry: list[TopicPartition]) -> None:
        """Wait until something of these partitions is fetched or memory is released, at most FETCH_WAIT_SECONDS."""
        fetcher = self._kafka._fetcher
        # A partition that waits for memory is left out of the fetches, and what it wants next waits for the one that is
        # under way: there is one at a time to a broker, and if all others are idle it takes as long as it may.
        wait = FETCH_WAIT_SECONDS if len(hungry) == len(assignment.partitions) else SHORT_WAIT_SECONDS
        fetcher._fetch_max_wait_ms = int(wait * 1000)
        if any(tp in fetcher._records for tp in hungry):
            return
        assignment.relief.clear()
        waiter, relief = fetcher._create_fetch_waiter(), asyncio.ensure_future(assignment.relief.wait())
        try:
            await asyncio.wait([waiter, relief], timeout=FETCH_WAIT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if waiter.done():
                waiter.result()  # raises when topics or the group may not be read
        finally:
            relief.cancel()
            waiter.cancel()

    def _take(self, partition: Partition) -> RecordBatch | None:
        """What aiokafka has fetched of a partition, at most BATCH_RECORDS of it. The same as its `fetched_records`, but for one
        partition, and without awaiting.

        Raises Hole, and KafkaError for a partition that cannot be read.
        """
        fetcher, tp = self._kafka._fetcher, partition.tp
        fetched = fetcher._records.get(tp)
        if isinstance(fetched, FetchError):
            self._drop_fetched(tp)
            if isinstance(fetched._error, NoOffsetForPartitionError):
                return None  # said before `perform_seek` chose the offset
            if isinstance(fetched._error, TopicAuthorizationFailedError):
                raise NotAllowed(self._feed.kafka, [Need("topic", tp.topic, Operation.READ)])
            fetched.check_raise()
        if not isinstance(fetched, FetchResult) or fetched._partition_records is None:
            fetcher._records.pop(tp, None)
            return None
        # Without this each record is copied into a frozen dataclass, for a sixth of what a record costs in all.
        fetched._partition_records._consumer_record = _as_it_is
        position = self._kafka._subscription.subscription.assignment.state_value(tp)
        start = position.position
        records = fetched.getall(BATCH_RECORDS)
        if not fetched.has_more():
            self._drop_fetched(tp)
        return partition.fetched(records, start, position.position)

    def _to_message(self, tp: TP, fetched: Fetched) -> ConsumerMessage:
        last = fetched.batch.records[-1]
        return ConsumerMessage(
            tp.topic, tp.partition, last.offset, last.timestamp / 1000, 0, None, None, fetched, None, 0,
            fetched.batch.bytes, tp, generation_id=self.app.consumer_generation_id,
        )  # fmt: skip

    # Offsets out

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Called by Faust's own timer: commits what has settled, under the pin of the assignment it was read in."""
        assignment = self.current
        if assignment is None or assignment.ended:
            return False
        try:
            await assignment.commit()
        except Fenced as fenced:
            log.warning("This worker no longer owns its partitions: %s.", fenced)
            return False
        except Exception as error:
            self._feed.crash(error)
        return True

    async def _commit(self, offsets: Any) -> bool:
        raise AssertionError("Faust's own commit was called; offsets are committed by stream.assignment alone")

    def lags(self) -> Mapping[TopicPartition, int]:
        """For each partition, how many offsets lie between its first unsettled one and the log's (stable) end.

        Transaction markers behind the last record count as settled once they were read past.
        """
        if self.current is None or self.current.ended:
            return {}
        lags = {}
        for tp, partition in self.current.partitions.items():
            state = self._kafka._subscription.subscription.assignment.state_value(tp)
            settled = partition.offset
            if partition.idle and state is not None and state.has_valid_position:
                settled = max(settled, state.position)
            end = (state.lso if state is not None else None) or settled
            lags[tp] = max(0, end - settled)
        return lags

    # Signs of life

    @property
    def generation(self) -> int | None:
        """The group's generation as this member knows it; -1 while it is no member, None before it has connected."""
        return self._aiokafka._coordinator.generation if self._aiokafka is not None else None

    @property
    def commits_answered(self) -> int:
        return self._commits.answered

    def last_fetch(self, tp: TopicPartition) -> float | None:
        """The time of the last answer to a fetch of this partition, with or without records; None before the first."""
        assignment = self._kafka._subscription.subscription.assignment
        state = assignment.state_value(tp) if assignment is not None else None
        return state.timestamp if state is not None else None

    # What else Faust asks of a consumer

    async def subscribe(self, topics: Iterable[str]) -> None:
        self._kafka.subscribe(topics=sorted(topics), listener=Listener(self))

    def assignment(self) -> set[TP]:
        if self._aiokafka is None:
            raise ConsumerNotStarted("stopped before it was started")
        return {TP(*tp) for tp in self._kafka.assignment()}

    async def seek_to_committed(self) -> Mapping[TP, int]:
        raise AssertionError("positions are set by perform_seek alone")

    async def seek_wait(self, partitions: Any) -> None:
        raise AssertionError("positions are set by perform_seek alone")

    async def _seek(self, partition: TP, offset: int) -> None:
        raise AssertionError("positions are set by perform_seek alone")

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:  # noqa: ASYNC109  # Faust's signature
        raise AssertionError("batches are read by _drain_messages alone")

    async def position(self, tp: TP) -> int | None:
        raise AssertionError("nothing here has tables")

    def highwater(self, tp: TP) -> int | None:
        raise AssertionError("nothing here has tables")

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        raise AssertionError("nothing here has tables")

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        raise AssertionError("nothing here has tables")

    def topic_partitions(self, topic: str) -> int | None:
        raise AssertionError("nothing here has tables")

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        raise AssertionError("partitions are kept, never chosen by key")

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    async def create_topic(self, topic: str, *args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"topics are made by `sluice topics` alone, and Faust asked for {topic}")

    async def verify_all_partitions_active(self) -> None:
        """Faust's livelock detector reads state that this driver does not keep."""


def _as_it_is(_: TopicPartition, record: Any) -> Any:
    """The parser's own record: it has offset, timestamp, key, value and headers, and is made anew for each record."""
    return record


def _is_out_of_range(fetched: Any) -> bool:
    return isinstance(fetched, FetchError) and isinstance(fetched._error, OffsetOutOfRangeError)


class Transport(stock_driver.Transport):  # type: ignore[misc]  # Faust is not typed for --strict
    """The driver that Faust makes for `kafkabatch://` addresses."""

    Consumer: ClassVar[type] = Consumer
    driver_version = f"batch-{stock_driver.Transport.driver_version}"


def register() -> None:
    """Make `kafkabatch://` known to Faust. Harmless to call again."""
    TRANSPORTS.aliases[SCHEME] = f"{__name__}:Transport"


def describe(partitions: Iterable[TopicPartition]) -> str:
    """`raw.events/0-3,7`-like text for log lines; "nothing (standing by)" for none."""
    by_topic: dict[str, list[int]] = {}
    for tp in sorted(partitions):
        by_topic.setdefault(tp.topic, []).append(tp.partition)
    return ", ".join(f"{topic} {numbers}" for topic, numbers in by_topic.items()) or "nothing (standing by)"
