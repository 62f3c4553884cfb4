"""Compacted topics held in memory by every worker: read from the beginning, then followed."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError

from stream.connection import KafkaConfig
from stream.fetches import FETCH_BYTES, RESPONSE_BYTES, check_fetching
from stream.receiving import join_answers_once
from stream.records import Record
from stream.windows import SILENT_SECONDS

MOST_RECORDS = 5000
"""Taken in one turn of the event loop, which then stands still for some 20 ms."""

Apply = Callable[[Sequence[Record]], None]
"""Takes records of one partition, in their order; a value of None deletes. Raises nothing."""
Progress = Callable[[int, int], None]
"""Is told how many offsets were read, of how many that were there at the start."""


class ReferenceReader:
    """Reads whole topics without a consumer group: every worker has every record. An async context manager."""

    def __init__(self, kafka: KafkaConfig, topics: Mapping[str, Apply]) -> None:
        self._topics = topics
        join_answers_once()
        self._consumer = AIOKafkaConsumer(
            **kafka.client_arguments(),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_bytes=RESPONSE_BYTES,
        )

    async def __aenter__(self) -> "ReferenceReader":
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(KafkaError):
            await self._consumer.stop()

    async def catch_up(self, progress: Progress = lambda read, total: None) -> None:
        """Return when everything that is there now has been applied. Raises KafkaError when the topics cannot be read, and
        KafkaTimeoutError when nothing has come for SILENT_SECONDS."""
        await self._consumer.start()
        partitions = [TopicPartition(topic, number) for topic in self._topics for number in await self._numbers(topic)]
        self._consumer.assign(partitions)
        ends = await self._consumer.end_offsets(partitions)
        begins = await self._consumer.beginning_offsets(partitions)
        ahead = {tp: ends[tp] - begins[tp] for tp in partitions if ends[tp] > begins[tp]}
        total = left = sum(ahead.values())
        try:
            async with asyncio.timeout(SILENT_SECONDS) as silence:
                while ahead:
                    progress(total - left, total)
                    await self._take()
                    for tp in list(ahead):  # by position: the last offsets may be markers or compacted away
                        ahead[tp] = ends[tp] - await self._consumer.position(tp)
                        if ahead[tp] <= 0:
                            del ahead[tp]
                    before, left = left, sum(ahead.values())
                    if left < before:
                        silence.reschedule(asyncio.get_running_loop().time() + SILENT_SECONDS)
        except TimeoutError:
            silent = ", ".join(f"{tp.topic}/{tp.partition}" for tp in sorted(ahead)[:3])
            raise KafkaTimeoutError(f"nothing has come of {silent} for {SILENT_SECONDS:.0f} s") from None

    async def follow(self) -> None:
        """Apply what comes from then on, until cancelled. Raises KafkaError."""
        while True:
            await self._take()

    async def _take(self) -> None:
        """Apply what has come, or wait for it a little. Raises what has ended aiokafka's fetching, which it keeps to itself."""
        check_fetching(self._consumer)
        for tp, records in (await self._consumer.getmany(timeout_ms=200, max_records=MOST_RECORDS)).items():
            self._topics[tp.topic](records)

    async def _numbers(self, topic: str) -> list[int]:
        await self._consumer._client._wait_on_metadata(topic)
        numbers = self._consumer.partitions_for_topic(topic)
        if not numbers:
            raise KafkaError(f"the reference topic {topic} does not exist; make it with `sluice topics FILE`")
        return sorted(numbers)
