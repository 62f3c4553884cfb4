"""Compacted topics held in memory by every worker: read from the beginning, then followed."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stream.connection import KafkaConfig

log = logging.getLogger(__name__)

Apply = Callable[[bytes | None, bytes | None], None]
"""Takes key and value of one record, in the order of its partition; a value of None deletes. Raises nothing."""


class ReferenceReader:
    """Reads whole topics without a consumer group: every worker has every record."""

    def __init__(self, kafka: KafkaConfig, topics: Mapping[str, Apply]) -> None:
        self._kafka = kafka
        self._topics = topics
        self.caught_up = asyncio.Event()
        """Set once everything that was there at the start has been applied."""

    async def run(self) -> None:
        """Read until cancelled. Raises KafkaError when the topics cannot be read."""
        consumer = AIOKafkaConsumer(
            **self._kafka.client_arguments(),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_partition_fetch_bytes=4 * 1024 * 1024,
        )
        await consumer.start()
        try:
            partitions = [
                TopicPartition(topic, number)
                for topic in self._topics
                for number in await self._numbers(consumer, topic)
            ]
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            begins = await consumer.beginning_offsets(partitions)
            waiting = {tp for tp in partitions if ends[tp] > begins[tp]}
            while True:
                if not waiting:
                    self.caught_up.set()
                for tp, records in (await consumer.getmany(timeout_ms=200, max_records=5000)).items():
                    apply = self._topics[tp.topic]
                    for record in records:
                        apply(record.key, record.value)
                for tp in list(waiting):  # by position: the last offsets may be markers or compacted away
                    if await consumer.position(tp) >= ends[tp]:
                        waiting.discard(tp)
        finally:
            await consumer.stop()

    @staticmethod
    async def _numbers(consumer: AIOKafkaConsumer, topic: str) -> list[int]:
        await consumer._client._wait_on_metadata(topic)
        numbers = consumer.partitions_for_topic(topic)
        if not numbers:
            raise KafkaError(f"the reference topic {topic} does not exist; make it with `sluice topics FILE`")
        return sorted(numbers)
