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
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import faust
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import ConsumerStoppedError, GroupAuthorizationFailedError
from faust.exceptions import ConsumerNotStarted
from faust.transport import consumer as faust_consumer
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as stock_driver
from faust.types import TP, ConsumerMessage
from mode import Service

from stream import fetches
from stream.assignment import Assignment, InWork, Partition, Work, WorkFailed
from stream.commits import Commits, Fenced
from stream.connection import KafkaConfig
from stream.fetches import Fetches, check_fetching
from stream.permissions import Need, NotAllowed, Operation
from stream.places import Places
from stream.receiving import join_answers_once
from stream.records import RecordBatch
from stream.requests import REQUEST_SECONDS, give_joins_time, pace_metadata
from stream.starting import NeedsStart, Starts
from stream.unpacking import Unreadable

log = logging.getLogger(__name__)

SCHEME = "kafkabatch"
COMMIT_SECONDS = 1.0
DRAIN_SECONDS = 10.0
LEAVE_SECONDS = 2.0
FAULT_SECONDS = 1.0
UNREADABLE_SECONDS = 0.05
"""How often it is looked whether all that is before an unreadable batch is committed."""
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
        self.placing = False
        """Whether it is being found out where the partitions of a new assignment go on."""
        self._rebalancing = False
        self._aiokafka: AIOKafkaConsumer | None = None
        self._draining: asyncio.Task[None] | None = None
        self._opened = asyncio.Event()

    async def on_start(self) -> None:
        feed = self._feed
        session = int(feed.kafka.session_seconds * 1000)
        rebalance = max(session, int(DRAIN_SECONDS * 2000))
        join_answers_once()
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
            fetch_max_wait_ms=int(fetches.WAIT_SECONDS * 1000),
            max_partition_fetch_bytes=fetches.FETCH_BYTES,
            fetch_max_bytes=fetches.RESPONSE_BYTES,
            metadata_max_age_ms=10_000,
        )
        await kafka.start()
        pace_metadata(kafka._client)
        give_joins_time(kafka, rebalance / 1000 + REQUEST_SECONDS)
        self._aiokafka = kafka
        self._commits = Commits(kafka)
        self._fetches = Fetches(kafka, feed.kafka)
        self._places = Places(feed.name, kafka, self._commits, feed.starts)

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
            if self._aiokafka is not None and not self.should_stop:  # stopping ends these tasks in order
                try:
                    self._kafka._coordinator.check_errors()
                    check_fetching(self._kafka)
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
        self.placing = True
        try:
            places = await self._places.of(partitions)
        except NeedsStart as error:
            if not self._rebalancing and pin == self._pin:
                self._feed.crash(error)
            return
        finally:
            self.placing = False
        if self._rebalancing or pin != self._pin:
            return  # the group has gone on meanwhile, and this is called again
        # From here on nothing is awaited: the positions and the assignment that reads from them change together.
        feed = self._feed
        if self.current is not None:
            self.current.abandon("a new one begins")
        assignment = Assignment(pin, self._commits, feed.work, feed.crash, feed.budget_bytes)
        self._fetches.share(len(partitions))
        for tp, at in places.items():
            self._kafka.seek(tp, at.offset)
            assignment.open(tp, at, self._places.topic_ids.get(tp.topic, ""))
        self.current = assignment
        self.joined = True
        self._opened.set()
        # Faust lets the flow go on after this and empties all queues then; nothing of this assignment may be in them.
        self.app.flow_control.suspend()
        log.info("Assigned in generation %s: %s.", pin.generation, describe(partitions))

    @Service.task  # type: ignore[untyped-decorator]
    async def _watch_topics(self) -> None:
        while not self.should_stop:
            await asyncio.sleep(IDENTITY_SECONDS)
            if self._aiokafka is not None and self._places.topic_ids and not self.should_stop:
                try:
                    await self._places.look_at_topics({})
                except NeedsStart as error:
                    self._feed.crash(error)

    # Records in

    async def _drain_messages(self, fetcher: Any) -> None:
        """Faust's fetcher runs this: batches go from aiokafka through Faust's conductor to the agent's stream."""
        with self._fetches.context():
            while not (self.should_stop or fetcher.should_stop):
                assignment = self.current
                if assignment is None or assignment.ended:
                    self._opened.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.2):
                            await self._opened.wait()
                    continue
                hungry = assignment.hungry()
                await self._fetches.wait(assignment, hungry)
                unreadable = False
                for tp in hungry:
                    if self._fetches.out_of_range(tp):
                        await self._out_of_range(tp)
                        break
                    # Nothing may be awaited between this and the taking: what is taken under an assignment that is gone is
                    # missing in the one that came after it.
                    if assignment.ended or assignment is not self.current:
                        break
                    partition = assignment.partitions[tp]
                    try:
                        batch = self._fetches.take(partition)
                    except Unreadable as fault:
                        if partition.idle and partition.uncommitted() is None:
                            at = InWork(tp.topic, tp.partition, fault.start, fault.end)
                            raise WorkFailed(at, fault.error) from None
                        unreadable = True  # first what is before it is settled and committed
                        continue
                    except Exception as error:
                        raise WorkFailed(partition.in_work(), error) from None
                    if batch is not None:
                        await self.callback(self._to_message(TP(*tp), Fetched(partition, batch)))
                if unreadable:
                    await asyncio.sleep(UNREADABLE_SECONDS)

    async def _out_of_range(self, tp: TopicPartition) -> None:
        """End the process for an offset that the log does not hold; or fetch again, if it does."""
        assignment = self.current
        self._fetches.drop(tp)
        if assignment is None or assignment.ended:
            return
        try:
            await self._places.look_at_offsets(assignment)
        except NeedsStart as error:
            if assignment is self.current:
                self._feed.crash(error)

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
            settled = partition.offset
            if partition.idle:
                settled = max(settled, self._fetches.read_to(tp) or 0)
            lags[tp] = max(0, (self._fetches.stable_end(tp) or settled) - settled)
        return lags

    # Signs of life

    @property
    def draining(self) -> bool:
        """Whether an assignment is about to end."""
        return self._draining is not None and not self._draining.done()

    @property
    def generation(self) -> int | None:
        """The group's generation as this member knows it; -1 while it is no member, None before it has connected."""
        return self._aiokafka._coordinator.generation if self._aiokafka is not None else None

    @property
    def commits_stored(self) -> int:
        return self._commits.stored

    def last_fetch(self, tp: TopicPartition) -> float | None:
        """See `Fetches.last_answer`."""
        return self._fetches.last_answer(tp)

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
