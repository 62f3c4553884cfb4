"""The S3 batcher: each record of a routed partition in exactly one object, by a chain of intents in the bucket."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import orjson
from aiokafka import TopicPartition

from agents.collector import Collector, Cut, Limits
from agents.pauses import Pauses
from sinks.aws import Unavailable
from sinks.contract import Conflict, Delivery, Finding, Verdict
from sinks.s3 import S3Config, S3Sink
from sinks.s3_chain import Intent
from stream import metrics
from stream.assignment import Partition
from stream.commits import Committed
from stream.notes import Note, parsed
from stream.starting import NeedsStart, TopicMadeAnew, named

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
START_SECONDS = 60.0
LINK_SECONDS = 600.0
"""More than looking for a link, or claiming one, takes."""
Answer = TypeVar("Answer")


class _Ended(Exception):
    """The partition ended while the bucket was asked."""


def limits(config: S3Config) -> Limits:
    rotate = config.rotate
    return Limits(rotate.records, int(rotate.megabytes * 1_000_000), rotate.seconds)


class ChainedS3:
    """The S3 sink with the chain in front of it: decides each cut in the bucket before anything of it is written.

    The order of the steps is the proof (docs/delivery.md): look for the link at the start, else cut and claim it; write the
    object that the link names; only then is the cut settled, and its end committed. Whoever redoes a link after a crash
    finds the same start, end, layout and readers' numbers, and so writes the same records.
    """

    def __init__(self, name: str, sink: S3Sink, config: S3Config, where: object, schema: str) -> None:
        """`name` is the stream's. `where`: its conditions as plain data. `schema`: `event/v4`, the version that records are
        read with."""
        self._name = name
        self._sink = sink
        self._config = config
        self._epochs = sink.epochs()
        self._where = hashlib.sha256(orjson.dumps(where)).hexdigest()[:16]
        self._schema = schema
        self._links: dict[tuple[str, int], Intent] = {}

    async def starts(
        self, fresh: Mapping[TopicPartition, int], by_hand: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, Committed]:
        """The `Starts` of a chain: without an offset, a partition goes on at the last link of the newest epoch in the bucket,
        which may be unfinished, or where that epoch begins.

        Raises NeedsStart for an offset that is set by other tools, as it is on no chain; Unavailable when the bucket does not
        answer for 60 s.
        """
        if by_hand:
            raise NeedsStart(
                f"the offsets of {named(by_hand)} were not set by {self._name} or `sluice start`, and lie on no chain of"
                " intents in the bucket",
                self._name,
            )
        if not fresh:
            return {}
        epoch = await self._until_answered(self._epochs.newest)
        beginning = await self._until_answered(lambda: self._epochs.beginning(epoch))
        note = Note(v=1, epoch=epoch).text() if epoch else ""
        chain = self._epochs.chain(epoch)

        async def place(tp: TopicPartition) -> int:
            link = await self._until_answered(lambda: chain.last(tp.topic, tp.partition))
            return beginning.at(tp.topic, tp.partition, fresh[tp]) if link is None else link.start

        places = await asyncio.gather(*map(place, fresh))
        return {tp: Committed(at, note) for tp, at in zip(fresh, places, strict=True)}

    @staticmethod
    async def _until_answered(ask: Callable[[], Awaitable[Answer]]) -> Answer:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return await ask()
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_SECONDS)

    async def next(self, partition: Partition, collector: Collector, start: int) -> Cut | None:
        """The cut of the link at `start`, decided now if it was not yet. Raises Conflict for a link that cannot be right,
        and TopicMadeAnew for one of another topic."""
        topic, number = partition.topic, partition.number
        epoch = parsed(partition.note).epoch or 0
        chain = self._epochs.chain(epoch)
        try:
            link = await self._patiently(partition, lambda: chain.find(topic, number, start))
            if link is not None:
                self._must_be_ours(partition, link)
                collector.read_from(link.seen)
                cut = await collector.cut(start, link.end)
            elif (cut := await collector.cut(start)) is not None:
                intent = self._intent(partition, cut, epoch)
                link = await self._patiently(partition, lambda: chain.claim(intent))
                if link.end != cut.end:  # another worker decided first
                    collector.put_back(cut, link.seen)
                    cut = await collector.cut(start, link.end)
        except _Ended:
            return None
        if cut is not None and link is not None:
            self._links[topic, number] = link
        return cut

    def _must_be_ours(self, partition: Partition, link: Intent) -> None:
        """A link is redone as it was decided; under other conditions, or of another topic, it would hold other records."""
        if link.topic_id and partition.topic_id and link.topic_id != partition.topic_id:
            raise TopicMadeAnew([link.topic], self._name)
        if link.where != self._where:
            raise Conflict(
                f"{link.topic}/{link.partition} from {link.start} was cut under another `where` and is not finished; go back to "
                "that `where` until it is, then change it again"
            )

    async def _patiently(self, partition: Partition, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask the bucket until it answers: nothing is written before a link is decided."""
        pauses = Pauses()
        while True:
            partition.expect(LINK_SECONDS)
            try:
                return await ask()
            except Unavailable as error:
                metrics.DELIVERY_FAILURES.labels(self._name, error.reason).inc()
                if pauses.worth_saying():
                    log.warning("%s: the bucket does not answer for %s/%d (%s); trying again.", self._name,
                                partition.topic, partition.number, error.reason)  # fmt: skip
                if not await partition.pause(pauses.next()):
                    raise _Ended from None

    def _intent(self, partition: Partition, cut: Cut, epoch: int) -> Intent:
        config = self._config
        return Intent(
            topic=partition.topic, partition=partition.number, start=cut.start, end=cut.end, seen=cut.seen,
            format=config.format, compression=config.compression, prefix=self._epochs.objects(epoch),
            where=self._where, schema=self._schema, topic_id=partition.topic_id,
        )  # fmt: skip

    async def write(self, delivery: Delivery) -> Sequence[Verdict]:
        """As `S3Sink.write`, in the layout of the link."""
        return await self._sink.write_as(delivery, self._links[delivery.topic, delivery.partition].layout)

    async def check(self) -> Sequence[Finding]:
        return await self._sink.check()

    async def close(self) -> None:
        await self._sink.close()
