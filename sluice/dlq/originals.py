"""The records that letters without a body tell of, read where they came from, if they are still there."""

from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from pipeline.dead_letters import Origin
from stream.windows import held, read

NEAR = 1000
"""Offsets that are read on through rather than sought past."""


async def originals(consumer: AIOKafkaConsumer, origins: Sequence[Origin]) -> dict[Origin, ConsumerRecord]:
    """Those records that are there now; one that another was put in the place of cannot be told here. Raises KafkaError."""
    found: dict[Origin, ConsumerRecord] = {}
    wanted: dict[TopicPartition, list[int]] = {}
    for topic in {origin.topic for origin in origins}:
        for tp, (start, end) in (await held(consumer, topic, {one.partition for one in origins})).items():
            here = TopicPartition(topic, tp.partition)
            offsets = sorted({one.offset for one in origins if one[:2] == here and start <= one.offset < end})
            if offsets:
                wanted[here] = offsets
    while wanted:
        windows = {tp: (offsets[0], _reach(offsets)) for tp, offsets in wanted.items()}
        async for tp, records in read(consumer, windows):
            asked = set(wanted[tp])
            for record in records:
                if record.offset in asked:
                    found[Origin(tp.topic, tp.partition, record.offset)] = record
        wanted = {
            tp: left for tp, offsets in wanted.items() if (left := [one for one in offsets if one >= windows[tp][1]])
        }
    return found


def _reach(offsets: Sequence[int]) -> int:
    """The end of a window that holds the first of these offsets, and those near it."""
    return 1 + max(one for one in offsets if one < offsets[0] + NEAR)
