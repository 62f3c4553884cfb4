"""Whether the brokers can do their part: asked before a process is blamed for standing still."""

import asyncio
from collections.abc import Sequence

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from stream.connection import KafkaConfig
from stream.diagnosis import Unreachable, reach

REASON_SECONDS = 20.0


async def outage(kafka: KafkaConfig, topics: Sequence[str], groups: Sequence[str], seconds: float) -> str | None:
    """What is missing on the side of Kafka, in a few words; None if nothing is.

    Asks over connections of its own: every partition of `topics` for a leader and the in-sync replicas that `acks=all` needs,
    each of these leaders for an answer, every one of `groups` for a coordinator. A broker that leads none of them may be
    down. Takes at most `seconds`, and REASON_SECONDS to find out why; raises nothing for what the brokers do.
    """
    try:
        client = AIOKafkaClient(**kafka.client_arguments(), request_timeout_ms=int(seconds * 1000))
    except OSError:  # a file of its certificates is away, or half written
        return f"the brokers cannot be asked{await _why(kafka)}"
    asked = f"no broker answers at {kafka.bootstrap}"
    try:
        async with asyncio.timeout(seconds):
            await client.bootstrap()
            request = MetadataRequest(list(topics), allow_auto_topic_creation=False)
            view = await client.send(client.get_random_node(), request)
            if (unfit := _unfit_partition(view, kafka.min_insync_replicas)) is not None:
                return unfit
            for leader in sorted({leader for *_, partitions in view.topics for _, _, leader, *_ in partitions}):
                asked = f"broker {leader} does not answer"
                await client.send(leader, request)
            for group in groups:
                asked = f"group {group} has no coordinator"
                await client.coordinator_lookup(CoordinationType.GROUP, group)
    except (KafkaError, OSError, TimeoutError):
        return f"{asked}{await _why(kafka)}"
    finally:
        await client.close()
    return None


async def _why(kafka: KafkaConfig) -> str:
    """The reason, if no broker can be used at all: a password that was changed, a certificate that has expired."""
    try:
        async with asyncio.timeout(REASON_SECONDS):
            await reach(kafka)
    except Unreachable as error:
        return f" ({error})"
    except (KafkaError, OSError, TimeoutError):
        pass
    return ""


def _unfit_partition(view: object, in_sync: int) -> str | None:
    """The first partition in a metadata response that cannot be read or written."""
    for _, topic, _, partitions in view.topics:  # type: ignore[attr-defined]  # aiokafka's responses are untyped
        for _, number, leader, _, replicas, *_ in partitions:
            if leader < 0:
                return f"{topic}/{number} has no leader"
            if len(replicas) < in_sync:
                return f"{topic}/{number} has {len(replicas)} of {in_sync} replicas in sync"
    return None
