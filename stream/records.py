"""The records of one fetch of one partition: what the engine hands to agents."""

from collections.abc import Sequence
from typing import Protocol

Headers = Sequence[tuple[str, bytes]]


class Record(Protocol):
    """What is used of aiokafka's ConsumerRecord."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
