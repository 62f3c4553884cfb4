"""How long a request to a broker may take, and the two kinds that may take longer."""

from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.errors import NodeNotReadyError, RequestTimedOutError
from aiokafka.protocol.group import JoinGroupRequest, SyncGroupRequest

REQUEST_SECONDS = 10.0
"""After so long a broker that answers nothing is given up, and the partitions that it led are looked for elsewhere.

Above the brokers' own session (broker.session.timeout.ms, 9 s by default): a write to all replicas waits for that when one dies.
"""


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
