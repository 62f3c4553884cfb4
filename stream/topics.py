"""The topics that a config needs: made by us, compared before every start, never left to auto-creation."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code

from stream.connection import KafkaConfig

COMPARED = ("cleanup.policy", "min.insync.replicas", "max.message.bytes")
TOPIC_EXISTS = 36


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as the config wants it. Routed topics and dead letters `follow` the partitions of their raw topic."""

    name: str
    partitions: int
    replication: int
    settings: dict[str, str] = field(default_factory=dict)
    follows: str | None = None


@dataclass(frozen=True, slots=True)
class TopicState:
    """What became of one topic, or how it differs."""

    name: str
    state: Literal["ok", "created", "grown", "missing", "differs", "failed"]
    detail: str = ""


def spec(kafka: KafkaConfig, name: str, *, compacted: bool = False, follows: str | None = None) -> TopicSpec:
    """The settings that every topic of Sluice has."""
    settings = {
        "cleanup.policy": "compact" if compacted else "delete",
        "min.insync.replicas": str(kafka.min_insync_replicas),
        "max.message.bytes": str(kafka.max_message_bytes),
        # A record keeps the timestamp of its device, whose clock may be years ahead; it must not be refused on the way for that.
        "message.timestamp.after.max.ms": str(2**63 - 1),
    }
    if not compacted:
        settings["retention.ms"] = str(int(kafka.retention_hours * 3_600_000))
    return TopicSpec(name, kafka.partitions, kafka.replication, settings, follows)


class Topics:
    """The topics of one cluster, by its admin API. Use as an async context manager; entering raises KafkaConnectionError."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self._kafka = kafka

    async def __aenter__(self) -> "Topics":
        self._admin = AIOKafkaAdminClient(**self._kafka.client_arguments(), request_timeout_ms=20_000)
        await self._admin.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._admin.close()

    async def compare(self, specs: Sequence[TopicSpec]) -> list[TopicState]:
        """How each topic stands, without changing anything. Partition counts of followers count against what they follow."""
        counts = await self._partition_counts()
        settings = await self._settings([one.name for one in specs if one.name in counts])
        states = []
        for one in specs:
            if one.name not in counts:
                states.append(TopicState(one.name, "missing", "make it with `sluice topics FILE`"))
                continue
            wrong = [
                f"{key} is {settings[one.name].get(key)}, should be {value}"
                for key, value in one.settings.items()
                if key in COMPARED and settings[one.name].get(key) != value
            ]
            wanted = self._wanted(one, counts)
            if counts[one.name] < wanted:
                wrong.append(f"has {counts[one.name]} partitions, needs {wanted}; grow it with `sluice topics FILE`")
            states.append(TopicState(one.name, "differs", "; ".join(wrong)) if wrong else TopicState(one.name, "ok"))
        return states

    async def create(self, specs: Sequence[TopicSpec]) -> list[TopicState]:
        """Make what is missing, grow followers to their raw topic's partitions, and compare the rest."""
        counts = await self._partition_counts()
        made: dict[str, TopicState] = {}
        missing = [one for one in specs if one.name not in counts]
        if missing:
            topics = [
                NewTopic(
                    one.name,
                    self._wanted(one, counts),
                    one.replication,
                    topic_configs=one.settings,
                )
                for one in missing
            ]
            response = await self._admin.create_topics(topics)
            for name, code, *rest in response.topic_errors:
                if code == 0:
                    made[name] = TopicState(name, "created")
                elif code != TOPIC_EXISTS:
                    made[name] = TopicState(name, "failed", f"{for_code(code).__name__}: {rest[0] if rest else ''}")
            await self._until_known(
                [one.name for one in missing if made.get(one.name, TopicState("", "ok")).state != "failed"]
            )
        # Followers first: a partition of a raw topic that has no counterpart would have to wait.
        for one in sorted(specs, key=lambda one: one.follows is None):
            wanted = self._wanted(one, counts)
            if one.name in counts and counts[one.name] < wanted:
                await self._admin.create_partitions({one.name: NewPartitions(wanted)})
                made[one.name] = TopicState(one.name, "grown", f"{counts[one.name]} → {wanted} partitions")
        rest_states = {
            state.name: state for state in await self.compare([one for one in specs if one.name not in made])
        }
        return [made.get(one.name) or rest_states[one.name] for one in specs]

    @staticmethod
    def _wanted(one: TopicSpec, counts: dict[str, int]) -> int:
        """How many partitions a topic needs at least: those of the config, and those that its raw topic has."""
        return max(one.partitions, counts.get(one.follows or "", 0))

    async def _until_known(self, names: Sequence[str]) -> None:
        """A new topic takes a moment until every broker knows it. Raises TimeoutError after 30 s."""
        async with asyncio.timeout(30):
            while not set(names) <= set(await self._partition_counts()):  # noqa: ASYNC110  # a broker sends no event
                await asyncio.sleep(0.1)

    async def _partition_counts(self) -> dict[str, int]:
        names = await self._admin.list_topics()
        described = await self._admin.describe_topics(list(names)) if names else []
        return {one["topic"]: len(one["partitions"]) for one in described if one["error_code"] == 0}

    async def _settings(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        found: dict[str, dict[str, str]] = {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        for response in await self._admin.describe_configs(resources):
            for code, message, _, name, entries in response.resources:
                if code:
                    raise KafkaError(
                        f"the settings of topic {name} cannot be read: {message or for_code(code).__name__}"
                    )
                found[name] = {entry[0]: entry[1] for entry in entries}
        return found
