"""The topics that a config needs: made by us, compared before every start, never left to auto-creation."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    KafkaError,
    TopicAuthorizationFailedError,
    for_code,
)

from stream.connection import KafkaConfig
from stream.diagnosis import reach
from stream.metadata import describe
from stream.permissions import TOPIC_AUTHORIZATION_FAILED, Need, NotAllowed, Operation, lacking

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
    """The topics of one cluster, by its admin API. Use as an async context manager.

    Entering looks at every broker first, and raises Unreachable when none can be used.
    """

    def __init__(self, kafka: KafkaConfig) -> None:
        self._kafka = kafka
        self.away: list[str] = []
        """What is wrong with single brokers, a sentence each with its remedy."""

    async def __aenter__(self) -> "Topics":
        self.away = await reach(self._kafka)
        self._admin = AIOKafkaAdminClient(**self._kafka.client_arguments(), request_timeout_ms=20_000)
        await self._admin.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._admin.close()

    async def missing_rights(self, needs: Sequence[Need]) -> list[Need]:
        """Those needs that ACLs do not meet; whether a topic is there does not matter. Raises KafkaError when nobody answers."""
        described = await describe(self._admin._client, sorted({one.name for one in needs if one.kind == "topic"}))
        allowed = {name: one.allowed for name, one in described.items()}
        # Who may not describe a topic is not told the rest; its settings are a right of their own.
        hidden = [name for name, one in described.items() if one.error == TOPIC_AUTHORIZATION_FAILED]
        for name, (code, _) in (await self._described_settings(hidden)).items():
            if code != TOPIC_AUTHORIZATION_FAILED:
                allowed[name] |= 1 << Operation.DESCRIBE_CONFIGS
        missing = lacking(needs, allowed)
        for one in needs:
            if one.kind == "group":
                try:  # who may not read a group is not told its coordinator
                    await self._admin.find_coordinator(one.name)
                except GroupAuthorizationFailedError:
                    missing.append(one)
                except GroupCoordinatorNotAvailableError:
                    pass  # the first group of a new cluster: the topic of offsets is being made
        return missing

    async def compare(self, specs: Sequence[TopicSpec]) -> list[TopicState]:
        """How each topic stands, without changing anything. Partition counts of followers count against what they follow.

        Raises NotAllowed when ACLs do not let this client look at a topic or its settings.
        """
        counts = await self._partition_counts(specs)
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
        """Make what is missing, grow followers to their raw topic's partitions, and compare the rest. Raises NotAllowed."""
        counts = await self._partition_counts(specs)
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
            self._see_allowed(Operation.CREATE, {name: code for name, code, *_ in response.topic_errors})
            for name, code, *rest in response.topic_errors:
                if code == 0:
                    made[name] = TopicState(name, "created")
                elif code != TOPIC_EXISTS:
                    made[name] = TopicState(name, "failed", f"{for_code(code).__name__}: {rest[0] if rest else ''}")
            await self._until_known(
                [one for one in missing if made.get(one.name, TopicState("", "ok")).state != "failed"]
            )
        # Followers first: a partition of a raw topic that has no counterpart would have to wait.
        for one in sorted(specs, key=lambda one: one.follows is None):
            wanted = self._wanted(one, counts)
            if one.name in counts and counts[one.name] < wanted:
                try:
                    await self._admin.create_partitions({one.name: NewPartitions(wanted)})
                except TopicAuthorizationFailedError:
                    raise NotAllowed(self._kafka, [Need("topic", one.name, Operation.ALTER)]) from None
                made[one.name] = TopicState(one.name, "grown", f"{counts[one.name]} → {wanted} partitions")
        rest_states = {
            state.name: state for state in await self.compare([one for one in specs if one.name not in made])
        }
        return [made.get(one.name) or rest_states[one.name] for one in specs]

    @staticmethod
    def _wanted(one: TopicSpec, counts: dict[str, int]) -> int:
        """How many partitions a topic needs at least: those of the config, and those that its raw topic has.

        A compacted one keeps those it was made with, or an older and a newer entry of an id would lie in two, in no order.
        """
        if one.settings.get("cleanup.policy") == "compact" and one.name in counts:
            return counts[one.name]
        return max(one.partitions, counts.get(one.follows or "", 0))

    async def _until_known(self, specs: Sequence[TopicSpec]) -> None:
        """A new topic takes a moment until every broker knows it. Raises TimeoutError after 30 s."""
        async with asyncio.timeout(30):
            while len(await self._partition_counts(specs)) < len(specs):  # noqa: ASYNC110  # a broker sends no event
                await asyncio.sleep(0.1)

    async def _partition_counts(self, specs: Sequence[TopicSpec]) -> dict[str, int]:
        """Partitions by topic, of these and of what they follow; one that is not there is left out. Raises NotAllowed."""
        return await self.partitions([one.name for one in specs], [one.follows for one in specs if one.follows])

    async def partitions(self, topics: Iterable[str], others: Iterable[str] = ()) -> dict[str, int]:
        """How many partitions each topic has; one that is not there is left out, and one of `others` that may not be seen.

        Raises NotAllowed for one of `topics` that may not be seen.
        """
        names = set(topics)
        described = await describe(self._admin._client, sorted(names | set(others)))
        self._see_allowed(Operation.DESCRIBE, {name: described[name].error for name in names})
        return {name: one.partitions for name, one in described.items() if one.error == 0}

    def _see_allowed(self, operation: Operation, codes: Mapping[str, int]) -> None:
        """Raise NotAllowed if a topic's error code says so."""
        refused = [Need("topic", name, operation) for name, code in codes.items() if code == TOPIC_AUTHORIZATION_FAILED]
        if refused:
            raise NotAllowed(self._kafka, refused)

    async def _settings(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Raises NotAllowed, and KafkaError for a topic that went away meanwhile."""
        found = await self._described_settings(names)
        self._see_allowed(Operation.DESCRIBE_CONFIGS, {name: code for name, (code, _) in found.items()})
        for name, (code, _) in found.items():
            if code:
                raise KafkaError(f"the settings of topic {name} cannot be read: {for_code(code).__name__}")
        return {name: settings for name, (_, settings) in found.items()}

    async def _described_settings(self, names: Sequence[str]) -> dict[str, tuple[int, dict[str, str]]]:
        """For each topic an error code and its settings."""
        if not names:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        return {
            name: (code, {entry[0]: entry[1] for entry in entries})
            for response in await self._admin.describe_configs(resources)
            for code, _, _, name, entries in response.resources
        }
