"""The runner around every sink: it reads, cuts, delivers, retries, counts and commits, once, for all of them."""

import logging
import time
from collections.abc import Sequence
from typing import Protocol

from agents.collector import Collector, Cut, Limits, Project, Where
from agents.dead_letters import DeadLetterDesk
from agents.pauses import LONGEST_SECONDS, Pauses
from schemas.refused import Reason, Refused
from sinks.contract import Conflict, Delivery, Sink, Verdict
from stream import metrics
from stream.assignment import Partition
from stream.reader import Reader

log = logging.getLogger(__name__)

SINK_SECONDS = 600.0
"""More than one call of any sink takes: each of its requests has a time-out, and there may be many of them."""
NEVER_SENT = "behind"
"""The verdict on a record that waits behind a failed one of its key: no failure of its own."""
SINK_REFUSALS: dict[str, Reason] = {"too-large": "too-large-for-sink", "rejected": "rejected-by-sink"}
"""The reason of a stream's dead letter, by what its sink said."""


class Cuts(Protocol):
    """Where one delivery ends and the next begins, decided so that whoever comes next decides the same."""

    async def next(self, partition: Partition, collector: Collector, start: int) -> Cut | None:
        """The cut to deliver from `start`; None when the partition has ended."""
        ...


class PlainCuts:
    """A cut is wherever the limits put it: after a crash it may lie elsewhere, and records are delivered again."""

    async def next(self, partition: Partition, collector: Collector, start: int) -> Cut | None:
        return await collector.cut(start)


class Forwarder:
    """What a worker does with the partitions of one stream's topics.

    A cut is settled when the sink has acknowledged every record of it, or its dead letter is acknowledged. While the sink is
    down, the partition's records wait here and in Kafka; nothing is dropped, and the worker stays in its group.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        limits: Limits,
        dead_letters: DeadLetterDesk,
        where: Where | None = None,
        cuts: Cuts | None = None,
        project: Project | None = None,
    ) -> None:
        self._name = name
        self._sink = sink
        self._limits = limits
        self._dead_letters = dead_letters
        self._where = where
        self._cuts = cuts or PlainCuts()
        self._project = project

    async def work(self, partition: Partition) -> None:
        """Runs from the assignment of a partition to its end."""
        reader = Reader(partition.note, partition.topic_id)
        collector = Collector(partition, reader, self._limits, self._where, self._project)
        try:
            while (cut := await self._cuts.next(partition, collector, partition.offset)) is not None:
                span = partition.begin(cut.end)
                if not await self._deliver(partition, cut):
                    return
                partition.settle(span, reader.note(), cut.held_bytes)
                metrics.REPEATS.labels(self._name).inc(cut.repeats)
                del cut  # or its records stay in memory until there is another
        except Conflict as conflict:
            await self._halt(partition, conflict)

    async def _deliver(self, partition: Partition, cut: Cut) -> bool:
        """Offer the cut until nothing of it is left. False when the partition ended before that."""
        waiting = list(range(len(cut.outgoing)))
        began = time.monotonic()
        pauses = Pauses()
        while waiting:
            delivery = Delivery(
                partition.topic, partition.number, cut.start, cut.end, [cut.outgoing[index] for index in waiting]
            )
            partition.expect(SINK_SECONDS)
            verdicts = await self._sink.write(delivery)
            waiting, after = await self._take_verdicts(partition, cut, waiting, verdicts, pauses)
            if waiting and not await partition.pause(pauses.next(after)):
                return False
        if cut.outgoing:
            metrics.DELIVERY_SECONDS.labels(self._name).observe(time.monotonic() - began)
            age = time.time() - cut.outgoing[0].timestamp / 1000
            metrics.END_TO_END_SECONDS.labels(self._name).observe(max(0.0, age))
        return True

    async def _take_verdicts(
        self, partition: Partition, cut: Cut, offered: Sequence[int], verdicts: Sequence[Verdict], pauses: Pauses
    ) -> tuple[list[int], float]:
        """Count, send dead letters, and return what is to be offered again, and not before how many seconds."""
        again, refused, after, delivered = [], [], 0.0, 0
        for index, verdict in zip(offered, verdicts, strict=True):
            if verdict.outcome == "delivered":
                delivered += 1
            elif verdict.outcome == "again":
                again.append(index)
                after = max(after, verdict.after or 0.0)
                if verdict.reason != NEVER_SENT:
                    metrics.DELIVERY_FAILURES.labels(self._name, verdict.reason).inc()
            else:
                refused.append((cut.originals[index], Refused(SINK_REFUSALS[verdict.reason])))
        metrics.DELIVERED.labels(self._name).inc(delivered)
        if again and pauses.worth_saying():
            reasons = sorted({one.reason for one in verdicts if one.outcome == "again"})
            log.warning("%s: %d records of %s/%d not taken (%s); trying again.", self._name, len(again), partition.topic,
                        partition.number, ", ".join(reasons))  # fmt: skip
        if refused:
            await self._dead_letters.send(partition.topic, partition.number, refused, stage=self._name)
        return again, after

    async def _halt(self, partition: Partition, conflict: Conflict) -> None:
        """What stands at the destination is not ours: nothing is overwritten, and this partition waits for a person."""
        log.error("%s: %s/%d is halted. %s", self._name, partition.topic, partition.number, conflict)
        while await partition.pause(LONGEST_SECONDS):
            metrics.DELIVERY_FAILURES.labels(self._name, "conflict").inc()
