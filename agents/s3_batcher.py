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
        self._chain = sink.chain()
        self._where = hashlib.sha256(orjson.dumps(where)).hexdigest()[:16]
        self._schema = schema
        self._links: dict[tuple[str, int], Intent] = {}

    async def starts(self, offsets: Mapping[TopicPartition, int | None]) -> Mapping[TopicPartition, Committed]:
        """The `Starts` of a chain: a partition without an offset goes on at its last link, which may be unfinished.

        Raises Unavailable when the bucket does not answer for 60 s: a start elsewhere would not be on the chain.
        """
        fresh = [tp for tp, offset in offsets.items() if offset is None]
        links = await asyncio.gather(*(self._last_link(tp) for tp in fresh))
        return {tp: Committed(link.start, "") for tp, link in zip(fresh, links, strict=True) if link is not None}

    async def _last_link(self, tp: TopicPartition) -> Intent | None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return await self._chain.last(tp.topic, tp.partition)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_SECONDS)

    async def next(self, partition: Partition, collector: Collector, start: int) -> Cut | None:
        """The cut of the link at `start`, decided now if it was not yet. Raises Conflict for a link that cannot be right."""
        topic, number = partition.topic, partition.number
        try:
            link = await self._patiently(partition, lambda: self._chain.find(topic, number, start))
            if link is not None:
                self._must_be_ours(link)
                collector.read_from(link.seen)
                cut = await collector.cut(start, link.end)
            elif (cut := await collector.cut(start)) is not None:
                intent = self._intent(partition, cut)
                link = await self._patiently(partition, lambda: self._chain.claim(intent))
                if link.end != cut.end:  # another worker decided first
                    collector.put_back(cut, link.seen)
                    cut = await collector.cut(start, link.end)
        except _Ended:
            return None
        if cut is not None and link is not None:
            self._links[topic, number] = link
        return cut

    def _must_be_ours(self, link: Intent) -> None:
        """A link is redone as it was decided; under other conditions it would hold other records."""
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

    def _intent(self, partition: Partition, cut: Cut) -> Intent:
        config = self._config
        return Intent(
            topic=partition.topic, partition=partition.number, start=cut.start, end=cut.end, seen=cut.seen,
            format=config.format, compression=config.compression, prefix=config.prefix, where=self._where,
            schema=self._schema,
        )  # fmt: skip

    async def write(self, delivery: Delivery) -> Sequence[Verdict]:
        """As `S3Sink.write`, in the layout of the link."""
        return await self._sink.write_as(delivery, self._links[delivery.topic, delivery.partition].layout)

    async def check(self) -> Sequence[Finding]:
        return await self._sink.check()

    async def close(self) -> None:
        await self._sink.close()
