"""The way out: one idempotent producer, and at most one unacknowledged batch for each topic partition.

A record stands in a routed partition only after all that belong before it. That needs more than an idempotent producer:
aiokafka sends the batch behind a refused one, and the broker takes it. So the next batch of a partition is offered only when
the one before is acknowledged, and a refused batch is an error that ends the process.
"""

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence, Set
from functools import partial
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    KafkaTimeoutError,
    TopicAuthorizationFailedError,
    UnknownError,
    UnknownTopicOrPartitionError,
)
from aiokafka.producer.message_accumulator import BatchBuilder, MessageAccumulator
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from stream.connection import KafkaConfig
from stream.permissions import Need, NotAllowed, Operation
from stream.records import Headers
from stream.requests import REQUEST_SECONDS, pace_metadata, write_batches_once

log = logging.getLogger(__name__)

Packed = tuple[int, bytes | None, bytes | None, Headers]
"""A record to send: timestamp in milliseconds, key, value, headers."""
BATCH_BYTES = 1_000_000
"""A produce batch closes here: below the 1 MiB that brokers and topics take by default."""
BATCH_OVERHEAD = 1024
"""Room for the batch's own header, so that a record that fits the limit fits in its batch too."""
REQUEST_BYTES = 8 * 1024 * 1024
"""Of one request to a broker, or one batch if that is larger. aiokafka puts a batch of each partition that the broker leads into
it, whatever that comes to; a broker closes the connection on more than `socket.request.max.bytes` (100 MiB), every time anew."""
CLOSE_SECONDS = 3
"""For closing connections: after a drain nothing is unacknowledged, and after a crash nothing more is wanted."""


class ProduceRefused(Exception):
    """A broker refuses a batch for good. Nothing behind it was sent, nothing of it is committed."""

    def __init__(self, tp: TopicPartition, error: KafkaError) -> None:
        what = "Compare the topic with what the config needs (`sluice topics FILE --compare`), and see that it may be written."
        if isinstance(error, UnknownError):
            what = "It is a fault of the broker's own, such as too little memory or a full disk: its log says which."
        super().__init__(f"{tp.topic}/{tp.partition} does not take what is sent to it: {type(error).__name__}. {what}")


class Outbox:
    """Batches to topics, in order, each acknowledged by all in-sync replicas."""

    def __init__(self, kafka: KafkaConfig, client_id: str) -> None:
        self._kafka = kafka
        self._client_id = client_id
        self._producer: AIOKafkaProducer | None = None
        self._turns: dict[TopicPartition, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._unacknowledged: dict[TopicPartition, asyncio.Future[object]] = {}
        self.max_record_bytes = kafka.max_message_bytes - BATCH_OVERHEAD

    async def start(self) -> None:
        """Connect. Raises KafkaConnectionError when no broker answers."""
        producer = AIOKafkaProducer(
            **self._kafka.client_arguments(),
            client_id=self._client_id,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=min(BATCH_BYTES, self.max_record_bytes),
            max_request_size=self._kafka.max_message_bytes + BATCH_OVERHEAD,
            compression_type=None if self._kafka.compression == "none" else self._kafka.compression,
            request_timeout_ms=int(REQUEST_SECONDS * 1000),
            metadata_max_age_ms=30_000,
        )
        # A batch that waits for a leader would be failed after `request_timeout_ms`, though it may stand in the log already and
        # its sequence number is taken: nothing could be sent to that partition any more.
        producer._message_accumulator._batch_ttl = math.inf
        write_batches_once()
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        _bound_requests(producer._message_accumulator)
        pace_metadata(producer.client)
        producer._txn_manager.increment_sequence_number = partial(
            _next_sequence, producer._txn_manager._sequence_numbers
        )
        self._producer = producer

    async def stop(self) -> None:
        """Give up what is unacknowledged and close. Does not wait for an unreachable broker longer than CLOSE_SECONDS."""
        if self._producer is None:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._producer.stop()
        except TimeoutError:
            log.warning(
                "The producer did not close within %s s; what it had not sent will be sent again by the next owner.",
                CLOSE_SECONDS,
            )

    def pack(self, records: Iterable[Packed], behind: Sequence[BatchBuilder] = ()) -> list[BatchBuilder]:
        """Records, in order, as batches to send: these with the records behind them. Each record must fit (`fits`)."""
        producer = self._started
        batches = [*behind] or [producer.create_batch()]
        builder = batches[-1]
        append, count = builder._builder.append, builder._relative_offset
        for timestamp, key, value, headers in records:
            # Without the public method's own checks and copies, which cost as much as the append itself.
            if append(count, timestamp, key, value, headers) is None:
                builder._relative_offset = count
                builder = producer.create_batch()
                batches.append(builder)
                append, count = builder._builder.append, 0
                append(count, timestamp, key, value, headers)
            count += 1
        builder._relative_offset = count
        return batches

    def fits(self, key: bytes | None, value: bytes | None, headers: Headers) -> bool:
        """Whether a record is small enough for the topics that Sluice makes (`kafka.max_message_bytes`)."""
        size: int = DefaultRecordBatchBuilder.estimate_size_in_bytes(key, value, headers)
        return size <= self.max_record_bytes

    async def send(self, topic: str, partition: int, batches: Sequence[BatchBuilder]) -> None:
        """Send batches to one topic partition in order, each after the one before is acknowledged; return after the last.

        Cancelled, what was handed over already may still arrive; the next send to that partition waits for it. Raises
        ProduceRefused when the broker refuses a batch, NotAllowed when ACLs do: nothing behind it was sent, and the process has
        to end.
        """
        tp = TopicPartition(topic, partition)
        async with self._turns[tp]:
            try:
                if (before := self._unacknowledged.get(tp)) is not None:
                    await self._acknowledged(tp, before)  # of a send that was cancelled, or that was refused: for good
                for batch in batches:
                    batch.close()
                    future = self._unacknowledged[tp] = await self._offer(tp, batch)
                    await self._acknowledged(tp, future)
            except (TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
                raise NotAllowed(self._kafka, [Need("topic", topic, Operation.WRITE)]) from None
            except KafkaError as error:
                if type(error) is KafkaError and error.__cause__ is not None:
                    raise  # no broker's word: aiokafka's wrapping of a fault of its own, or of ours
                raise ProduceRefused(tp, error) from error

    async def has_partition(self, topic: str, partition: int) -> bool:
        """Whether a topic has this partition by now. Asks the brokers if it had not when they were last asked."""
        client = self._started.client
        await client._wait_on_metadata(topic)
        if partition not in (client.cluster.partitions_for_topic(topic) or ()):
            await client.force_metadata_update()
        return partition in (client.cluster.partitions_for_topic(topic) or ())

    async def _acknowledged(self, tp: TopicPartition, future: asyncio.Future[object]) -> None:
        """Wait as long as it takes, but not for a topic that is gone. Raises KafkaError for what is refused."""
        while not future.done():
            await asyncio.wait([future], timeout=REQUEST_SECONDS)
            if not future.done() and not await self.has_partition(tp.topic, tp.partition):
                raise UnknownTopicOrPartitionError
        future.result()

    @property
    def _started(self) -> AIOKafkaProducer:
        assert self._producer is not None, "the outbox is used before it was started"
        return self._producer

    async def _offer(self, tp: TopicPartition, batch: BatchBuilder) -> asyncio.Future[object]:
        while True:
            try:
                future: asyncio.Future[object] = await self._started.send_batch(batch, tp.topic, partition=tp.partition)
                return future
            except KafkaTimeoutError:  # not taken in: the partition has no leader, or a batch is stuck before it
                log.warning("%s/%s takes no batch at present; offering it again.", tp.topic, tp.partition)


def _next_sequence(numbers: dict[TopicPartition, int], tp: TopicPartition, count: int) -> None:
    """Count on, from the largest number to 0 as Java's client does. aiokafka goes to negative ones, which brokers refuse."""
    numbers[tp] = (numbers[tp] + count) % 2**31


def _bound_requests(accumulator: MessageAccumulator) -> None:
    """Let no request to a broker hold more than REQUEST_BYTES of batches; the others wait for the next one, in their order."""
    drain = accumulator.drain_by_nodes

    def drain_some(ignore_nodes: Collection[int], muted_partitions: Set[TopicPartition] = frozenset()) -> Any:
        sizes: dict[int | None, int] = defaultdict(int)
        late = set()
        for tp, batches in accumulator._batches.items():
            if tp in muted_partitions:
                continue
            leader, size = accumulator._cluster.leader_for_partition(tp), batches[0]._builder.size()
            if sizes[leader] and sizes[leader] + size > REQUEST_BYTES:
                late.add(tp)
            else:
                sizes[leader] += size
        return drain(ignore_nodes=ignore_nodes, muted_partitions=muted_partitions | late)

    accumulator.drain_by_nodes = drain_some
