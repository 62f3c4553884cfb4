"""What brokers say of topics: ids (KIP-516), partitions, and what the asker may do with them (KIP-430).

aiokafka asks for metadata up to version 5, which has neither ids nor rights; this is version 10, from brokers of Kafka 2.8 on
(https://kafka.apache.org/protocol#The_Messages_Metadata).
"""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import IncompatibleBrokerVersion, NodeNotReadyError
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

NO_ID = bytes(16)


@dataclass(frozen=True, slots=True)
class Described:
    """One topic, as a broker sees it."""

    error: int
    """0, or Kafka's error code: 3 if it is not there, 29 if the asker may not know."""
    id: str
    """As Kafka's own tools print it; "" where there is none."""
    partitions: int
    allowed: int
    """Authorized operations, a bit for each code; also of a topic that is not there. 0 if the asker may not know."""


async def describe(client: AIOKafkaClient, topics: Iterable[str]) -> dict[str, Described]:
    """What a broker says of these topics, without making them.

    One request to any broker: one that lags behind the controller may for a moment still name a topic that was deleted.
    Raises KafkaError when no broker answers, IncompatibleBrokerVersion for brokers before 2.8.
    """
    node = client.get_random_node()
    if node is None:
        raise NodeNotReadyError("no broker is known")
    try:
        answer = await client.send(node, _Metadata(topics))
    except NotImplementedError:
        raise IncompatibleBrokerVersion("the brokers are older than Kafka 2.8") from None
    return {
        topic: Described(code, _printed(number), len(partitions), max(0, allowed))
        for code, topic, number, _, partitions, allowed, _ in answer.topics
    }


def _printed(number: bytes) -> str:
    return "" if number == NO_ID else base64.urlsafe_b64encode(number).decode().rstrip("=")


class _Uuid(AbstractType):  # type: ignore[misc]  # aiokafka is untyped
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: Any) -> bytes:
        found: bytes = data.read(16)
        return found


class _Metadata10(Response):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString()),
                ("port", Int32),
                ("rack", CompactString()),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString()),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString()),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _MetadataRequest10(RequestStruct):  # type: ignore[misc]  # aiokafka is untyped
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = _Metadata10
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("topic", CompactString()), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _Metadata(Request[_MetadataRequest10]):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = 3

    def __init__(self, topics: Iterable[str]) -> None:
        self._topics: list[tuple[bytes, str, dict[int, bytes]]] = [(NO_ID, topic, {}) for topic in topics]

    def build(self, request_struct_class: type[_MetadataRequest10]) -> _MetadataRequest10:
        return request_struct_class(self._topics, False, False, True, {})
