"""The records of one fetch of one partition: what the engine hands to agents."""

import operator
from collections.abc import Sequence
from typing import Protocol

Headers = Sequence[tuple[str, bytes]]
"""As they come; to be sent they must be a list."""
_value = operator.attrgetter("value")
_RECORD_BYTES = 270
"""What a record takes in memory beside its contents: its object, those of key and value, a list for headers."""
_HEADER_BYTES = 185
"""The same for a header: its tuple, and the objects of name and value."""
_SAMPLE = 64
"""Keys and headers of one record in so many are looked at: looking at all costs a tenth of the engine's time."""


class Record(Protocol):
    """What is used of aiokafka's ConsumerRecord."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def _beside_value(record: Record) -> int:
    """The memory that a record's key and headers take."""
    return len(record.key or b"") + sum(_HEADER_BYTES + len(value or b"") for _, value in record.headers)


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
        sample = records[::_SAMPLE]
        self.bytes = sum(map(len, filter(None, map(_value, records)))) + len(records) * (
            _RECORD_BYTES + sum(map(_beside_value, sample)) // len(sample)
        )
        """What the batch takes in memory: within 3 % of resident memory, as seen with records of 100 bytes to 100 KB."""

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:  # never a value: batches are named in logs
        return f"RecordBatch({self.topic}/{self.partition} [{self.start}, {self.end}), {len(self)} records)"
