"""Requests to brokers: how long one may take, which two kinds may take longer, how often metadata is asked for, and how what is
produced gets into one."""

import asyncio
import math
import time
from collections.abc import Iterator
from typing import Any, get_args

from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.errors import NodeNotReadyError, RequestTimedOutError
from aiokafka.protocol.group import JoinGroupRequest, SyncGroupRequest
from aiokafka.protocol.produce import ProduceRequestStruct
from aiokafka.protocol.struct import Struct
from aiokafka.protocol.types import Array, Bytes, Int32, Schema

REQUEST_SECONDS = 10.0
"""After so long a broker that answers nothing is given up, and the partitions that it led are looked for elsewhere.

Above the brokers' own session (broker.session.timeout.ms, 9 s by default): a write to all replicas waits for that when one dies.
"""
METADATA_SECONDS = 0.1
"""At least so long between two requests for metadata: `retry.backoff.ms` of Kafka's own clients."""


def give_joins_time(consumer: AIOKafkaConsumer, seconds: float) -> None:
    """Let JoinGroup and SyncGroup of a started consumer take `seconds`; its `request_timeout_ms` holds for all other requests.

    A broker answers these two only when every member has come, up to the rebalance time-out. aiokafka has one time-out for all
    requests: long enough for a join it leaves fetches, commits and heartbeats with a frozen broker until the session is over.
    """
    client = consumer._client
    send = client.send

    async def patient(node: int, request: Any, *, group: ConnectionGroup = ConnectionGroup.DEFAULT) -> Any:
        if not isinstance(request, JoinGroupRequest | SyncGroupRequest):
            return await send(node, request, group=group)
        if not await client.ready(node, group=group):
            raise NodeNotReadyError(f"broker {node} does not take a connection")
        connection = client._conns[node, group]
        usual, connection._request_timeout = connection._request_timeout, seconds
        try:
            answer = connection.send(request)  # takes the time-out now, not when it is awaited
        finally:
            connection._request_timeout = usual
        try:
            return await answer
        except TimeoutError as error:
            connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
            raise RequestTimedOutError from error

    client.send = patient


def pace_metadata(client: AIOKafkaClient) -> None:
    """Let a started client ask for metadata every METADATA_SECONDS at most.

    While a partition has no leader, aiokafka's sender and fetcher ask as fast as brokers answer: over 1000 times a second.
    """
    update = client._metadata_update
    last = -math.inf

    async def paced(*arguments: Any) -> bool:
        nonlocal last
        await asyncio.sleep(max(0.0, last + METADATA_SECONDS - time.monotonic()))
        last = time.monotonic()
        updated: bool = await update(*arguments)
        return updated

    client._metadata_update = paced


def write_batches_once() -> None:
    """Let the produce requests of this process be written with one copy of their batches, where aiokafka makes one at each of the
    five levels around them. A connection then copies the request twice. Harmless to call again."""
    for struct in get_args(ProduceRequestStruct):
        struct.encode = _encoded


def _encoded(request: Struct) -> bytes:
    return b"".join(_parts(request.SCHEMA, [request.__dict__[name] for name in request.SCHEMA.names]))


def _parts(type_: Any, value: Any) -> Iterator[bytes]:
    if isinstance(type_, Schema):
        for field, item in zip(type_.fields, value, strict=True):
            yield from _parts(field, item)
    elif type(type_) is Array and value is not None:
        yield Int32.encode(len(value))
        for item in value:
            yield from _parts(type_.array_of, item)
    elif type_ is Bytes and value is not None:
        yield Int32.encode(len(value))
        yield value
    else:
        yield type_.encode(value)
