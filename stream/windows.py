"""Parts of topics read without a group: from an offset to another one, committed records only, in the order of each partition."""

import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaTimeoutError

from stream.connection import KafkaConfig

Window = tuple[int, int]
"""The offsets `[start, end)` of one partition."""
SILENT_SECONDS = 60.0
"""When nothing has come for so long, brokers are away."""


@asynccontextmanager
async def looking(kafka: KafkaConfig) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of no group, for `held` and `read`. Raises KafkaConnectionError."""
    consumer = AIOKafkaConsumer(
        **kafka.client_arguments(),
        enable_auto_commit=False,
        auto_offset_reset="earliest",  # retention may move the beginning while it is read
        isolation_level="read_committed",
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def held(
    consumer: AIOKafkaConsumer, topic: str, only: Collection[int] | None = None, since: int | None = None
) -> dict[TopicPartition, Window]:
    """What each partition of a topic holds now, or of those numbered in `only`; none for a topic that is not there.

    `since`, in milliseconds: from the first record whose timestamp is at or after it; later ones may be older again. Raises
    KafkaError.
    """
    await consumer._client._wait_on_metadata(topic)
    numbers = sorted(consumer.partitions_for_topic(topic) or ())
    tps = [TopicPartition(topic, number) for number in numbers if only is None or number in only]
    if not tps:
        return {}
    begins, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
    if since is None:
        return {tp: (begins[tp], ends[tp]) for tp in tps}
    found = await consumer.offsets_for_times(dict.fromkeys(tps, since))
    return {tp: (min(found[tp].offset, ends[tp]) if found.get(tp) else ends[tp], ends[tp]) for tp in tps}


async def read(
    consumer: AIOKafkaConsumer, windows: Mapping[TopicPartition, Window]
) -> AsyncIterator[tuple[TopicPartition, list[ConsumerRecord]]]:
    """The records in these windows, some of one partition at a time. Ends where nobody will write a record any more: a window
    must lie before the end of its log.

    Holds what one fetch brings: about 1 MB of a partition, or one record that is larger. Raises KafkaError, KafkaTimeoutError
    when nothing has come for SILENT_SECONDS.
    """
    waiting = {tp: window for tp, window in windows.items() if window[0] < window[1]}
    if not waiting:
        return
    consumer.assign(list(waiting))
    for tp, (start, _) in waiting.items():
        consumer.seek(tp, start)
    at = {tp: start for tp, (start, _) in waiting.items()}
    heard = time.monotonic()
    while waiting:
        for tp, records in (await consumer.getmany(*waiting, timeout_ms=200)).items():
            end = waiting[tp][1]
            yield tp, records if records[-1].offset < end else [one for one in records if one.offset < end]
        for tp in list(waiting):  # by position: the last offsets may hold no record
            position = await consumer.position(tp)
            if position != at[tp]:
                at[tp], heard = position, time.monotonic()
            if position >= waiting[tp][1]:
                del waiting[tp]
                consumer.pause(tp)
        if waiting and time.monotonic() - heard > SILENT_SECONDS:
            silent = ", ".join(f"{tp.topic}/{tp.partition}" for tp in sorted(waiting)[:3])
            raise KafkaTimeoutError(f"nothing has come of {silent} for {SILENT_SECONDS:.0f} s")
