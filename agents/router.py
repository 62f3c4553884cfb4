"""The router: raw topic in; success, fail, unmatched and dead letters out, in the same partition and order."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence, Set
from itertools import compress
from typing import NamedTuple

from aiokafka import TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder

from agents import reference_ids
from agents.dead_letters import DeadLetterDesk
from agents.key_outage import until_usable
from agents.schema_ids import SchemaIds
from pipeline.dead_letters import retry_headers
from pipeline.enrichment import Awaited
from pipeline.keys import Keys
from pipeline.pipeline import Pipeline, Processed
from schemas.refused import Refused
from stream import metrics
from stream.assignment import Partition
from stream.commits import Committed
from stream.connection import KafkaConfig
from stream.notes import Note, parsed
from stream.offsets import Span
from stream.outbox import Outbox
from stream.outputs import Outputs
from stream.reader import ID_HEADER, OWN_HEADERS, PLAN_HEADER
from stream.records import Headers, Record, RecordBatch
from stream.starting import NoOffset

log = logging.getLogger(__name__)

PIECE_RECORDS = 400
"""So many are worked on at a time: what they become on the way stays in the processor's cache, and heartbeats, commits and
acknowledgements do not have to wait for a whole batch. Fewer would pay more for what is done once for all of them."""
OWN = 2
"""How many headers a record gets."""
COUNTERPART_SECONDS = 5.0


class _Outgoing(NamedTuple):
    """What a batch led to, to be sent."""

    routed: dict[str, list[BatchBuilder]]
    letters: list[tuple[Record, Refused]]
    counts: list[Processed]
    """What is counted once for all of it: a batch whose partition is given away is worked on again elsewhere."""
    held_bytes: int
    oldest: int
    """Timestamp of the first record, in milliseconds."""


class _Lacking(NamedTuple):
    """What a batch needs that is not known yet: schemas by id, and entries of references."""

    schemas: frozenset[int]
    entries: Sequence[Awaited]


class Router:
    """What a worker does with the partitions of one pipeline's raw topic.

    A batch is settled when every record it led to is acknowledged: first its dead letters, then its routed records. The next
    batch is processed while this one waits for its acknowledgement, and sent after it.
    """

    def __init__(
        self,
        name: str,
        kafka: KafkaConfig,
        pipeline: Pipeline,
        outbox: Outbox,
        dead_letters: DeadLetterDesk,
        schema_ids: SchemaIds,
        keys: Keys,
    ) -> None:
        self._name = name
        self._kafka = kafka
        self._pipeline = pipeline
        self._outbox = outbox
        self._dead_letters = dead_letters
        self._schema_ids = schema_ids
        self._keys = keys
        self._plan_hash = pipeline.plan_hash()
        self._topics = {route: f"{name}.{route}" for route in pipeline.routes}
        self._last_epochs: dict[TopicPartition, int] = {}
        self._turn = asyncio.Lock()
        """One piece of all partitions in a turn of the event loop: heartbeats, commits and acknowledgements come in between."""

    @property
    def outputs(self) -> list[str]:
        """The topics that this pipeline writes."""
        return [*self._topics.values(), self._dead_letters.topic]

    async def starts(
        self, fresh: Mapping[TopicPartition, int], by_hand: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, Committed]:
        """The `Starts` of a pipeline: at the beginning where it never wrote, where an operator says, and else nowhere.

        Raises NoOffset for partitions without an offset whose records stand in the outputs.
        """
        held = await Outputs(self._kafka, self.outputs).held([*fresh, *by_hand])
        if lost := {tp: held[tp].written for tp in fresh if held[tp].written}:
            raise NoOffset(lost, self._name)
        self._last_epochs |= {tp: one.last_epoch for tp, one in held.items()}
        return {}

    async def work(self, partition: Partition) -> None:
        """Runs from the assignment of a partition to its end. Raises ProduceRefused and KeysAway: the process ends."""
        if not await self._until_counterparts(partition):
            return
        note, plan = await self._adopt_plan(partition)
        partition.settle_gaps()
        async with asyncio.TaskGroup() as group:
            sending: asyncio.Task[None] | None = None
            async for batch in partition:
                span = partition.begin(batch.end)
                outgoing = await self._process(partition, batch, plan)
                if outgoing is None:
                    return
                del batch  # what is packed takes its place in memory
                if sending is not None:
                    await sending
                sending = group.create_task(self._send(partition, span, outgoing, note))
                del outgoing

    async def _until_counterparts(self, partition: Partition) -> bool:
        """Wait until every topic that this pipeline writes has the partition. False when it was given away meanwhile."""
        for topic in self.outputs:
            while not await self._outbox.has_partition(topic, partition.number):
                log.warning("%s has no partition %d yet; grow it with `sluice topics FILE`.", topic, partition.number)
                if not await partition.pause(COUNTERPART_SECONDS):
                    return False
        return True

    async def _adopt_plan(self, partition: Partition) -> tuple[str, bytes]:
        """The commit metadata and the `sluice-plan` of this partition.

        The epoch is drawn where no offset of ours was committed, and is committed before anything is produced under it: of
        two routers that start at once, one is fenced and never writes. It is above every epoch that the outputs show, even
        within one second or with a clock that went back: a reader drops what it has seen under the same plan.
        """
        epoch = parsed(partition.note).epoch
        drawn = epoch is None
        if epoch is None:
            epoch = max(int(time.time()), self._last_epochs.get(partition.tp, 0) + 1)
        note = Note(v=1, epoch=epoch, id=partition.topic_id).text()
        if drawn:
            await partition.adopt(note)
            log.info("%s: %s/%d begins under epoch %d.", self._name, partition.topic, partition.number, epoch)
        return note, f"{epoch}.{self._plan_hash}".encode()

    async def _process(self, partition: Partition, batch: RecordBatch, plan: bytes) -> _Outgoing | None:
        """What a batch leads to. None when the partition was given away while something was waited for."""
        outgoing = _Outgoing({}, [], [], batch.bytes, batch.records[0].timestamp)
        for start in range(0, len(batch), PIECE_RECORDS):
            piece = batch.records[start : start + PIECE_RECORDS]
            if not await until_usable(self._keys, partition.pause):
                return None
            while lacking := await self._in_turn(batch, piece, plan, outgoing):
                if not await self._wait(partition, lacking):
                    return None
        self._count(batch, outgoing.counts)
        return outgoing

    async def _in_turn(
        self, batch: RecordBatch, piece: Sequence[Record], plan: bytes, outgoing: _Outgoing
    ) -> _Lacking | None:
        async with self._turn:
            lacking = self._add(batch, piece, plan, outgoing)
            await asyncio.sleep(0)
        return lacking

    async def _wait(self, partition: Partition, lacking: _Lacking) -> bool:
        """Until what a batch lacks is there or given up. False when the partition was given away meanwhile."""
        if lacking.schemas:
            there = await self._schema_ids.learn(partition, lacking.schemas)
        else:
            there = await reference_ids.wait(self._name, partition, lacking.entries)
        return there and await until_usable(self._keys, partition.pause)  # keys may have reached their limit meanwhile

    def _add(
        self,
        batch: RecordBatch,
        piece: Sequence[Record],
        plan: bytes,
        outgoing: _Outgoing,
        undelivered: Set[int] = frozenset(),
    ) -> _Lacking | None:
        """Process a piece of a batch, pack what is routed behind what is there, and add its dead letters and what fits no topic.
        Or say what it has to wait for first, and add nothing."""
        processed = self._pipeline.process(piece, batch.partition, undelivered)
        if self._pipeline.writers.wanted or processed.awaited:
            return _Lacking(frozenset(self._pipeline.writers.wanted), processed.awaited)
        records = [piece[position] for position in processed.positions]
        keys = [record.key for record in records]
        headers = _headers(batch, records, plan)
        routes = processed.routes
        too_large = self._too_large(keys, processed.values, headers)
        for late in too_large:
            routes[late] = ""
        large = {records[late].offset: records[late] for late in too_large}  # once for all its routes
        if self._pipeline.forget(large.keys()):
            return self._add(batch, piece, plan, outgoing, large.keys())
        outgoing.letters.extend((piece[position], refused) for position, refused in processed.dead)
        outgoing.letters.extend((record, Refused("too-large", "")) for record in large.values())
        packed = list(zip([record.timestamp for record in records], keys, processed.values, headers, strict=True))
        for route in self._topics:
            if some := list(compress(packed, [taken == route for taken in routes])):
                outgoing.routed[route] = self._outbox.pack(some, outgoing.routed.get(route, ()))
        processed.positions, processed.routes, processed.values, processed.dead = (), [], [], []  # all that is large
        outgoing.counts.append(processed)
        return None

    def _too_large(
        self, keys: Sequence[bytes | None], values: Sequence[bytes], headers: Sequence[Headers]
    ) -> list[int]:
        """Which records fit no topic."""
        longest = max(map(len, values), default=0) + max(map(len, filter(None, keys)), default=0)
        if longest <= self._outbox.max_record_bytes // 2 and max(map(len, headers), default=0) <= OWN:
            return []  # mostly one look at them all is enough
        fits = map(self._outbox.fits, keys, values, headers)
        return [at for at, one in enumerate(fits) if not one]

    async def _send(self, partition: Partition, span: Span, outgoing: _Outgoing, note: str) -> None:
        await self._dead_letters.send(partition.topic, partition.number, outgoing.letters, stage="pipeline")
        async with asyncio.TaskGroup() as group:
            for route, batches in outgoing.routed.items():
                group.create_task(self._outbox.send(self._topics[route], partition.number, batches))
        partition.settle(span, note, outgoing.held_bytes)
        for route, batches in outgoing.routed.items():
            metrics.RECORDS_OUT.labels(self._name, route).inc(sum(one.record_count() for one in batches))
        age = time.time() - outgoing.oldest / 1000
        metrics.END_TO_END_SECONDS.labels(self._name).observe(max(0.0, age))

    def _count(self, batch: RecordBatch, counts: Sequence[Processed]) -> None:
        metrics.RECORDS_IN.labels(self._name).inc(len(batch))
        for one in counts:
            for kind, count in one.drift.items():
                metrics.DRIFT.labels(self._name, kind).inc(count)
            for reference, count in one.unknown.items():
                metrics.UNKNOWN_REFERENCES.labels(self._name, reference).inc(count)
            for stage, count in one.left_out.items():
                metrics.LEFT_OUT.labels(self._name, stage).inc(count)
            if one.cards:
                metrics.CARDS_IN_CLEAR.labels(self._name).inc(one.cards)
            if one.unlike:
                metrics.UNLIKE.labels(self._name).inc(one.unlike)


def _headers(batch: RecordBatch, records: Sequence[Record], plan: bytes) -> list[list[tuple[str, bytes]]]:
    """Of each record of a batch: what came with it, then its `sluice-id` and `sluice-plan`."""
    origin, plan_header = b"%s/%d/%%d" % (batch.topic.encode(), batch.partition), (PLAN_HEADER, plan)
    headers = [[(ID_HEADER, origin % record.offset), plan_header] for record in records]
    for at, record in enumerate(records):
        if record.headers:
            others = [one for one in record.headers if not one[0].startswith(OWN_HEADERS)]
            if len(others) < len(record.headers):
                others += retry_headers(record.headers, batch.topic, batch.partition)
            headers[at] = others + headers[at]
    return headers
