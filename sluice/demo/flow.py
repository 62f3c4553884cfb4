"""How far the records are, as Kafka knows it: what came in, what is settled, what still waits, for every name of a config."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, GroupLoadInProgressError
from aiokafka.structs import OffsetAndMetadata

from sluice.config import Config
from stream.connection import KafkaConfig
from stream.windows import held, looking, read

Offsets = dict[TopicPartition, int]


@dataclass(frozen=True)
class Reading:
    """Figures of one moment. Counts are offsets, so what a crash made a router write twice counts twice."""

    sent: int = 0
    """Records on the raw topics."""
    settled: dict[str, int] = field(default_factory=dict)
    """By pipeline and stream: records that it has done with."""
    lag: dict[str, int] = field(default_factory=dict)
    """By pipeline and stream: records that wait for it, or that it has in work."""
    on_topics: dict[str, int] = field(default_factory=dict)
    """By topic (routed topics and dead letters): records there."""

    @property
    def done(self) -> bool:
        """Nothing waits anywhere: every record that was on a raw topic is where it belongs."""
        return not any(self.lag.values())


class Flow:
    """Asks the brokers. Use as an async context manager; every call may raise KafkaError."""

    def __init__(self, config: Config) -> None:
        self._brokers = config.kafka.bootstrap
        self._raw = {name: [pipeline.source] for name, pipeline in config.pipelines.items()}
        self._routed = {name: list(stream.topics) for name, stream in config.streams.items()}
        self._outputs = [*config.routed_topics(), *(f"{name}.dlq" for name in (*config.pipelines, *config.streams))]

    async def __aenter__(self) -> Self:
        self._admin = AIOKafkaAdminClient(bootstrap_servers=self._brokers)
        self._consumer = AIOKafkaConsumer(bootstrap_servers=self._brokers)
        await self._admin.start()
        await self._consumer.start()
        topics = {topic for group in (self._raw, self._routed) for names in group.values() for topic in names}
        described = await self._admin.describe_topics(sorted(topics.union(self._outputs)))
        self._partitions = {one["topic"]: [p["partition"] for p in one["partitions"]] for one in described}
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()
        await self._admin.close()

    async def read(self) -> Reading:
        """Where everything is now.

        In the order of a record's way: where a pipeline has settled all that was there, its outputs are complete when they
        are counted. So once the devices are silent, `done` cannot be true too early.
        """
        raw = await self._ends(topic for topics in self._raw.values() for topic in topics)
        settled, lag = await self._progress(self._raw, raw)
        routed = await self._ends(self._outputs)
        of_streams, lag_of_streams = await self._progress(self._routed, routed)
        on_topics = dict.fromkeys(self._outputs, 0)
        for tp, end in routed.items():
            on_topics[tp.topic] += end
        return Reading(sum(raw.values()), settled | of_streams, lag | lag_of_streams, on_topics)

    async def _progress(self, groups: dict[str, list[str]], ends: Offsets) -> tuple[dict[str, int], dict[str, int]]:
        settled, lag = {}, {}
        for name, topics in groups.items():
            committed = await self._committed(f"sluice.{name}")
            mine = {tp: end for tp, end in ends.items() if tp.topic in topics}
            at = {tp: max(0, committed[tp].offset) if tp in committed else 0 for tp in mine}
            settled[name] = sum(at.values())
            lag[name] = sum(mine.values()) - settled[name]
        return settled, lag

    async def _committed(self, group: str) -> Mapping[TopicPartition, OffsetAndMetadata]:
        try:
            found: Mapping[TopicPartition, OffsetAndMetadata] = await self._admin.list_consumer_group_offsets(group)
        except (GroupCoordinatorNotAvailableError, GroupLoadInProgressError):
            return {}  # a cluster without any group yet: it seems that nothing is settled, which is never too much
        return found

    async def _ends(self, topics: Iterable[str]) -> Offsets:
        partitions = [TopicPartition(topic, number) for topic in topics for number in self._partitions[topic]]
        ends: Offsets = await self._consumer.end_offsets(partitions)
        return ends


async def whole_topic(kafka: KafkaConfig, topic: str) -> list[ConsumerRecord]:
    """Every record of a topic from its beginning to its present end, in the order of each partition. Raises KafkaError."""
    async with looking(kafka) as consumer:
        windows = await held(consumer, topic)
        return [record async for _, records in read(consumer, windows) for record in records]
