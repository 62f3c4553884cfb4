"""What the outputs of a router hold of its raw partitions: whether it wrote there before, and under which plan last."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaTimeoutError

from stream.connection import KafkaConfig
from stream.reader import origin_of, plan_epoch
from stream.records import Record
from stream.windows import Window, looking, read

log = logging.getLogger(__name__)

LOOK_OFFSETS = 200
"""So many at the end, and so many at the beginning, of each partition are looked at."""
LOOK_SECONDS = 45.0
"""The most that a look may take: well below what the watchdog grants."""


@dataclass
class Held:
    """What the outputs hold of one raw partition."""

    written: str = ""
    """In words, what stands there that the router wrote, or may have written; "" for nothing."""
    last_epoch: int = 0
    """The highest plan epoch seen, 0 without one."""


class Outputs:
    """The topics that one router writes, partition for partition of its raw topic."""

    def __init__(self, kafka: KafkaConfig, topics: Sequence[str]) -> None:
        self._kafka = kafka
        self._topics = topics

    async def held(self, raw: Iterable[TopicPartition]) -> dict[TopicPartition, Held]:
        """Look at the last LOOK_OFFSETS of the counterparts of these raw partitions, and at the first where the last tell
        nothing. Committed records only.

        Of an output whose records retention took all, nobody can say what they were: it counts as written. Foreign records
        in more than what is looked at may hide ours in their midst: then nothing is lost, but the raw partition is taken for
        new, and its records are written again under a new plan. Raises KafkaError; KafkaTimeoutError after LOOK_SECONDS.
        """
        found = {tp: Held() for tp in raw}
        async with looking(self._kafka) as consumer:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._look(consumer, found)
            except TimeoutError:
                raise KafkaTimeoutError(
                    f"looking at what {', '.join(self._topics)} hold took longer than {LOOK_SECONDS:.0f} s"
                ) from None
        return found

    async def _look(self, consumer: AIOKafkaConsumer, found: dict[TopicPartition, Held]) -> None:
        counterparts: dict[TopicPartition, TopicPartition] = {}
        for topic in self._topics:
            await consumer._client._wait_on_metadata(topic)
            there = consumer.partitions_for_topic(topic) or ()
            counterparts |= {TopicPartition(topic, tp.partition): tp for tp in found if tp.partition in there}
        if not counterparts:
            return
        ends = await consumer.end_offsets(list(counterparts))
        begins = await consumer.beginning_offsets(list(counterparts))
        used = [out for out in counterparts if ends[out] > 0]
        for out in used:
            if begins[out] >= ends[out]:
                found[counterparts[out]].written = "offsets whose records retention took"
        tails = {
            out: (max(begins[out], ends[out] - LOOK_OFFSETS), ends[out]) for out in used if begins[out] < ends[out]
        }
        seen = await self._read(consumer, tails, counterparts, found)
        heads = {
            out: (begins[out], min(start, begins[out] + LOOK_OFFSETS))
            for out, (start, _) in tails.items()
            if start > begins[out] and not found[counterparts[out]].written
        }
        seen |= await self._read(consumer, heads, counterparts, found)
        for out in tails:
            if out not in seen and not found[counterparts[out]].written:
                found[counterparts[out]].written = "offsets without a record"

    @staticmethod
    async def _read(
        consumer: AIOKafkaConsumer,
        windows: dict[TopicPartition, Window],
        counterparts: dict[TopicPartition, TopicPartition],
        found: dict[TopicPartition, Held],
    ) -> set[TopicPartition]:
        """Note what the records of these offsets say. Returns the partitions that had a record there."""
        seen: set[TopicPartition] = set()
        async for out, records in read(consumer, windows):
            raw = counterparts[out]
            for record in records:
                seen.add(out)
                _note(record, raw, found[raw])
        return seen


def _note(record: Record, raw: TopicPartition, held: Held) -> None:
    if origin_of(record).rpartition("/")[0] == f"{raw.topic}/{raw.partition}":
        held.written = "records"
        held.last_epoch = max(held.last_epoch, plan_epoch(record))
