"""The router: raw topic in; success, fail, unmatched and dead letters out, in the same partition and order."""

import asyncio
import logging
import time
from collections.abc import Sequence

import orjson
from aiokafka.producer.message_accumulator import BatchBuilder

from agents.dead_letters import DeadLetterDesk
from pipeline.pipeline import Pipeline, Processed
from schemas.refused import Refused
from stream import metrics
from stream.assignment import Partition
from stream.offsets import Span
from stream.outbox import Outbox, Packed
from stream.reader import ID_HEADER, PLAN_HEADER
from stream.records import RecordBatch

log = logging.getLogger(__name__)

OWN_HEADERS = "sluice-"
USUAL_HEADERS = 2
COUNTERPART_SECONDS = 5.0


class Router:
    """What a worker does with the partitions of one pipeline's raw topic.

    A batch is settled when every record it led to is acknowledged: first its dead letters, then its routed records. The next
    batch is processed while this one waits for its acknowledgement, and sent after it.
    """

    def __init__(self, name: str, pipeline: Pipeline, outbox: Outbox, dead_letters: DeadLetterDesk) -> None:
        self._name = name
        self._pipeline = pipeline
        self._outbox = outbox
        self._dead_letters = dead_letters
        self._plan_hash = pipeline.plan_hash()
        self._topics = {route: f"{name}.{route}" for route in pipeline.routes}

    async def work(self, partition: Partition) -> None:
        """Runs from the assignment of a partition to its end. Raises ProduceRefused: the process ends."""
        if not await self._until_counterparts(partition):
            return
        note, plan = await self._adopt_plan(partition)
        async with asyncio.TaskGroup() as group:
            sending: asyncio.Task[None] | None = None
            async for batch in partition:
                span = partition.begin(batch.end)
                processed = self._pipeline.process(batch.records)
                packed, dead = self._pack(batch, processed, plan)
                self._count(batch, processed)
                if sending is not None:
                    await sending
                sending = group.create_task(self._send(partition, batch, span, packed, dead, note))

    async def _until_counterparts(self, partition: Partition) -> bool:
        """Wait until every topic that this pipeline writes has the partition. False when it was given away meanwhile."""
        for topic in (*self._topics.values(), self._dead_letters.topic):
            while not await self._outbox.has_partition(topic, partition.number):
                log.warning("%s has no partition %d yet; grow it with `sluice topics FILE`.", topic, partition.number)
                if not await partition.pause(COUNTERPART_SECONDS):
                    return False
        return True

    async def _adopt_plan(self, partition: Partition) -> tuple[str, bytes]:
        """The commit metadata and the `sluice-plan` of this partition.

        The epoch is drawn where no offset of ours was committed, and is committed before anything is produced under it: of
        two routers that start at once, one is fenced and never writes.
        """
        epoch = orjson.loads(partition.note).get("epoch") if partition.note else None
        if epoch is None:
            epoch = int(time.time())
            await partition.adopt(orjson.dumps({"v": 1, "epoch": epoch}).decode())
        return partition.note, f"{epoch}.{self._plan_hash}".encode()

    def _pack(
        self, batch: RecordBatch, processed: Processed, plan: bytes
    ) -> tuple[dict[str, list[BatchBuilder]], list[tuple[int, Refused]]]:
        """The produce batches of each route, and the dead letters with those added that fit no topic."""
        origin = b"%s/%d/%%d" % (batch.topic.encode(), batch.partition)
        largest = self._outbox.max_record_bytes // 2
        records, dead, plan_header = batch.records, list(processed.dead), (PLAN_HEADER, plan)
        routed: dict[str, list[Packed]] = {route: [] for route in self._topics}
        for position, route, value in zip(processed.positions, processed.routes, processed.values, strict=True):
            record = records[position]
            headers: list[tuple[str, bytes]] = [(ID_HEADER, origin % record.offset), plan_header]
            if record.headers:
                headers = [*(one for one in record.headers if not one[0].startswith(OWN_HEADERS)), *headers]
            size = len(value) + len(record.key or b"")
            if (size > largest or len(headers) > USUAL_HEADERS) and not self._outbox.fits(record.key, value, headers):
                dead.append((position, Refused("too-large", "")))
                continue
            routed[route].append((record.timestamp, record.key, value, headers))
        return {route: self._outbox.pack(packed) for route, packed in routed.items() if packed}, dead

    async def _send(
        self,
        partition: Partition,
        batch: RecordBatch,
        span: Span,
        packed: dict[str, list[BatchBuilder]],
        dead: Sequence[tuple[int, Refused]],
        note: str,
    ) -> None:
        letters = [(batch.records[position], refused) for position, refused in dead]
        await self._dead_letters.send(batch.topic, batch.partition, letters, stage="pipeline")
        counts = {route: sum(one.record_count() for one in batches) for route, batches in packed.items()}
        async with asyncio.TaskGroup() as group:
            for route, batches in packed.items():
                group.create_task(self._outbox.send(self._topics[route], partition.number, batches))
        partition.settle(span, note, batch.bytes)
        for route, count in counts.items():
            metrics.RECORDS_OUT.labels(self._name, route).inc(count)
        age = time.time() - batch.records[0].timestamp / 1000
        metrics.END_TO_END_SECONDS.labels(self._name).observe(max(0.0, age))

    def _count(self, batch: RecordBatch, processed: Processed) -> None:
        metrics.RECORDS_IN.labels(self._name).inc(len(batch))
        for kind, count in processed.drift.items():
            metrics.DRIFT.labels(self._name, kind).inc(count)
        for reference, count in processed.unknown.items():
            metrics.UNKNOWN_REFERENCES.labels(self._name, reference).inc(count)
