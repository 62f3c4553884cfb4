"""Where the record of a letter goes when it is retried: a pipeline's into its raw topic, a stream's to its destination."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from agents.pauses import Pauses
from pipeline.dead_letters import Envelope, Letter, fed_again
from sinks.contract import Delivery, Outgoing, Verdict
from sluice.config import Config
from sluice.wiring import make_project, make_sink
from stream.outbox import Outbox, Packed
from stream.reader import ID_HEADER

PATIENCE_SECONDS = 60.0
"""With a destination that takes nothing at present."""


class Again(NamedTuple):
    """A record that is to go its way again."""

    envelope: Envelope
    timestamp: int
    record: Letter


class Way(Protocol):
    """Where records go."""

    away: str
    """Why nothing goes any more, until somebody does something about it; "" at first."""

    async def take(self, some: Sequence[Again]) -> Sequence[str]:
        """For each record why it did not go, "" if it did and is acknowledged. Raises ProduceRefused, NotAllowed, KafkaError,
        or a group of them: then nobody knows which did."""
        ...

    async def close(self) -> None:
        """Give up connections."""
        ...


class RawTopic:
    """Into the raw topic of the pipeline, in the partition that each record came from, marked as fed in again."""

    def __init__(self, topic: str, outbox: Outbox) -> None:
        self.away = ""
        self._topic = topic
        self._outbox = outbox

    async def take(self, some: Sequence[Again]) -> Sequence[str]:
        outcomes = []
        by_partition: dict[int, list[Packed]] = defaultdict(list)
        for envelope, timestamp, record in some:
            headers = fed_again(record.headers, envelope)
            outcome = await self._hindrance(envelope, record, headers)
            outcomes.append(outcome)
            if not outcome:
                packed = (timestamp, record.key, record.value, headers)
                by_partition[envelope.origin.partition].append(packed)
        async with asyncio.TaskGroup() as group:
            for partition, packs in by_partition.items():
                group.create_task(self._outbox.send(self._topic, partition, self._outbox.pack(packs)))
        return outcomes

    async def _hindrance(self, envelope: Envelope, record: Letter, headers: list[tuple[str, bytes]]) -> str:
        topic, partition, _ = envelope.origin
        if topic != self._topic:
            return f"it came from {topic}, which the pipeline does not read any more"
        if not await self._outbox.has_partition(topic, partition):
            return f"{topic} has no partition {partition} any more"
        if not self._outbox.fits(record.key, record.value, headers):
            return "with its mark it is too large for kafka.max_message_bytes; raise that, and the topics' max.message.bytes"
        return ""

    async def close(self) -> None:
        """Nothing of its own."""


class Destination:
    """To the destination of a Kinesis or HTTP stream, past the routed topics: other streams read these, and have the record."""

    def __init__(self, config: Config, name: str) -> None:
        self.away = ""
        self._name = name
        self._sink = make_sink(config, name)
        self._project = make_project(config, config.streams[name])

    async def take(self, some: Sequence[Again]) -> Sequence[str]:
        outcomes = [""] * len(some)
        waiting = list(range(len(some)))
        pauses, deadline = Pauses(), time.monotonic() + PATIENCE_SECONDS
        while waiting:
            verdicts = await self._sink.write(self._delivery([some[at] for at in waiting]))
            later = [(at, verdict) for at, verdict in zip(waiting, verdicts, strict=True) if verdict.outcome == "again"]
            for at, verdict in zip(waiting, verdicts, strict=True):
                if verdict.outcome == "refused":
                    outcomes[at] = f"the destination refuses it again ({verdict.reason})"
            waiting = [at for at, _ in later]
            pause = pauses.next(max((verdict.after or 0.0 for _, verdict in later), default=0.0))
            if waiting and time.monotonic() + pause > deadline:
                self.away = self._said([verdict for _, verdict in later])
                for at in waiting:
                    outcomes[at] = "the destination does not take it at present"
                return outcomes
            if waiting:
                await asyncio.sleep(pause)
        return outcomes

    def _said(self, verdicts: Sequence[Verdict]) -> str:
        reasons = ", ".join(sorted({one.reason for one in verdicts} - {"behind"}))
        return (
            f"the destination of {self._name} takes nothing at present ({reasons}); see `sluice check FILE`, then retry"
        )

    def _delivery(self, some: Sequence[Again]) -> Delivery:
        outgoing = []
        for envelope, timestamp, record in some:
            raw = dict(record.headers).get(ID_HEADER, b"").decode(errors="replace")
            value = record.value or b""
            value = self._project(value) if self._project else value
            outgoing.append(Outgoing(envelope.origin.offset, timestamp, raw or str(envelope.origin), value))
        first, last = some[0].envelope.origin, some[-1].envelope.origin
        return Delivery(first.topic, first.partition, first.offset, last.offset + 1, outgoing)

    async def close(self) -> None:
        """Give up connections. Safe to call twice."""
        await self._sink.close()
