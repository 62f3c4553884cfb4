"""The records of one fetch of one partition: what the engine hands to agents."""

import operator
from collections.abc import Sequence
from typing import Protocol

Headers = Sequence[tuple[str, bytes]]
"""As they come; to be sent they must be a list."""
_value = operator.attrgetter("value")


class Record(Protocol):
    """What is used of aiokafka's ConsumerRecord."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class RecordBatch:
    """The records of one fetch of one partition, in offset order; never empty.

    It stands for all offsets of `[start, end)`; some of them may hold no record: transaction markers, compacted records.
    """

    __slots__ = ("bytes", "end", "partition", "records", "start", "topic")

    def __init__(self, topic: str, partition: int, records: Sequence[Record], start: int, end: int) -> None:
        self.topic = topic
        self.partition = partition
        self.records = records
        self.start = start
        self.end = end
        self.bytes = sum(map(len, filter(None, map(_value, records)))) + 300 * len(records)
        """About what the batch holds in memory: values, and 300 bytes for each record's object, key and headers."""

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:  # never a value: batches are named in logs
        return f"RecordBatch({self.topic}/{self.partition} [{self.start}, {self.end}), {len(self)} records)"
