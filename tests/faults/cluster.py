"""Three brokers under test: who leads what, whether all replicas are in sync, and brokers that are whole again after a fault."""

import asyncio
import contextlib
import time
from collections.abc import Mapping

import orjson
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.consumer.fetcher import READ_UNCOMMITTED
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from sluice.local_kafka import LocalKafka


def controller(cluster: LocalKafka) -> tuple[int, int]:
    """Which broker was last elected as the active controller, and in which epoch: what the brokers keep of their elections."""
    states = [
        orjson.loads(file.read_bytes()) for file in cluster.root.glob("broker-*/data/__cluster_metadata-0/quorum-state")
    ]
    epoch, elected = max((one["leaderEpoch"], one["leaderId"]) for one in states)
    return elected, epoch


async def coordinator(brokers: str, group: str) -> int:
    """The broker that coordinates a consumer group."""
    client = AIOKafkaClient(bootstrap_servers=brokers, request_timeout_ms=3000)
    await client.bootstrap()
    try:
        found: int = await client.coordinator_lookup(CoordinationType.GROUP, group)
        return found
    finally:
        await client.close()


async def leaders(brokers: str, *topics: str) -> dict[TopicPartition, int]:
    """The leader of each partition, -1 for none; of all topics when none is named."""
    return {tp: leader for tp, (leader, _) in (await _partitions(brokers, *topics)).items()}


async def ends_seen_by(address: str, *topics: str) -> dict[TopicPartition, int]:
    """What one broker, asked alone, says of the partitions that it leads: where what is acknowledged ends (the high watermark).

    Raises KafkaError and OSError when it does not answer.
    """
    client = AIOKafkaClient(bootstrap_servers=address, request_timeout_ms=3000)
    await client.bootstrap()
    try:
        node = next(one.nodeId for one in client.cluster.brokers() if f"{one.host}:{one.port}" == address)
        view = await client.send(node, MetadataRequest(list(topics), allow_auto_topic_creation=False))
        led = [
            (topic, [(number, -1) for _, number, leader, *_ in partitions if leader == node])
            for _, topic, _, partitions in view.topics
        ]
        answer = await client.send(node, OffsetRequest(-1, READ_UNCOMMITTED, led))
    finally:
        await client.close()
    found = {}
    for topic, partitions in answer.topics:
        for number, code, _, offset, *_ in partitions:
            if code:
                raise for_code(code)
            found[TopicPartition(topic, number)] = offset
    return found


async def commits_seen_by(address: str, broker: int, group: str) -> dict[TopicPartition, int]:
    """The committed offsets of a group, as the broker that coordinates it says when asked alone."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address, request_timeout_ms=3000)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(group, group_coordinator_id=broker)
        return {tp: at.offset for tp, at in found.items()}
    finally:
        await admin.close()


async def until_in_sync(cluster: LocalKafka, seconds: float = 60) -> None:
    """Wait until every replica of every partition is in sync. Fails after `seconds`."""
    deadline, size = time.monotonic() + seconds, len(cluster.pids)
    while True:
        behind: Mapping[object, object] = {"no broker": "answers"}
        try:
            found = await _partitions(cluster.bootstrap)
            behind = {tp: isr for tp, (leader, isr) in found.items() if leader < 0 or len(isr) < size}
            if not behind:
                return
        except (KafkaError, OSError, TimeoutError):
            pass
        assert time.monotonic() < deadline, f"not in sync after {seconds} s: {behind}"
        await asyncio.sleep(0.2)


async def until_led_by_others(cluster: LocalKafka, broker: int, seconds: float = 30) -> None:
    """Wait until the others have noticed that `broker` is gone: they lead all that it led. Fails after `seconds`."""
    others = ",".join(one for index, one in enumerate(cluster.bootstrap.split(",")) if index != broker)
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            if not {-1, broker} & set((await leaders(others)).values()):
                return
        assert time.monotonic() < deadline, f"broker {broker} still leads after {seconds} s"
        await asyncio.sleep(0.2)


async def whole(cluster: LocalKafka) -> None:
    """Every broker runs, and all are in sync: whatever a test before has left."""
    for index, pid in enumerate(cluster.pids):
        if pid is None:
            await asyncio.to_thread(cluster.restart, index)
        else:
            cluster.resume(index)
    await until_in_sync(cluster)


async def _partitions(brokers: str, *topics: str) -> dict[TopicPartition, tuple[int, list[int]]]:
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers, request_timeout_ms=3000)
    await admin.start()
    try:
        described = await admin.describe_topics(list(topics) or None)
    finally:
        await admin.close()
    return {
        TopicPartition(topic["topic"], one["partition"]): (one["leader"], one["isr"])
        for topic in described
        for one in topic["partitions"]
    }
