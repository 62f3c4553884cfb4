"""Cuts one routed partition into deliveries: by records, bytes or seconds, without the router's repeats."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sinks.contract import Outgoing
from stream.assignment import Partition
from stream.reader import Reader
from stream.records import Record

LOOK_SECONDS = 0.1
"""How often a collector that waits looks whether its time is up, or its memory."""
Where = Callable[[bytes], bool]
"""Whether a stream wants a record, by its value. Raises nothing."""
Project = Callable[[bytes], bytes]
"""A record's value as the stream delivers it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a delivery is cut: at so many records or bytes, or so many seconds after its first record was read; and before that
    when its records take all the memory that the partition may have."""

    records: int
    bytes: int
    seconds: float


@dataclass(slots=True)
class Cut:
    """The offsets `[start, end)` of one partition, and what is to be delivered of them. Fewer records than offsets is normal."""

    start: int
    end: int
    seen: dict[str, int]
    """The reader's numbers before the cut."""
    outgoing: list[Outgoing] = field(default_factory=list)
    originals: list[Record] = field(default_factory=list)
    """The records behind `outgoing`, one for one."""
    read: list[Record] = field(default_factory=list)
    """All records of the cut, those that are not delivered too."""
    bytes: int = 0
    """Of the outgoing values."""
    held_bytes: int = 0
    """What leaves memory when the cut is settled."""
    repeats: int = 0


class Collector:
    """The records of one partition, cut by cut."""

    def __init__(
        self,
        partition: Partition,
        reader: Reader,
        limits: Limits,
        where: Where | None = None,
        project: Project | None = None,
    ) -> None:
        self._partition = partition
        self._reader = reader
        self._limits = limits
        self._where = where
        self._project = project
        self._waiting: deque[tuple[Sequence[Record], int, int]] = deque()
        """Records read and not yet cut: the sequence, the next position in it, and the bytes that are free behind its last."""

    async def cut(self, start: int, end: int | None = None) -> Cut | None:
        """The next cut, from `start`; None when the partition ends first: what was collected then is read again.

        With `end`, exactly up to that offset, whatever the limits and the memory say.
        """
        self._partition.needed_to = end
        cut = Cut(start, start, dict(self._reader.seen))
        deadline: float | None = None
        while True:
            if not self._waiting:
                if end is None and cut.read and not self._partition.fed:
                    return cut  # nothing more comes until some of this is settled
                try:
                    batch = await self._partition.next(LOOK_SECONDS)
                except TimeoutError:
                    if end is None and deadline is not None and time.monotonic() >= deadline:
                        return cut
                    continue
                if batch is None:
                    return None
                self._waiting.append((batch.records, 0, batch.bytes))
            if deadline is None:
                deadline = time.monotonic() + self._limits.seconds
            if self._fill(cut, end):
                return cut

    def read_from(self, seen: dict[str, int]) -> None:
        """Set the reader's numbers before the next cut, where a link of the chain says them."""
        self._reader.seen = dict(seen)

    def put_back(self, cut: Cut, seen: dict[str, int]) -> None:
        """Undo a cut, to make another from the same records; `seen` are the reader's numbers before them."""
        self._waiting.appendleft((cut.read, 0, cut.held_bytes))
        self.read_from(seen)

    def _fill(self, cut: Cut, end: int | None) -> bool:
        """Take records that wait into the cut. True when it is complete."""
        records, position, held = self._waiting.popleft()
        for index in range(position, len(records)):
            record = records[index]
            if end is not None and record.offset >= end:
                self._waiting.appendleft((records, index, held))
                cut.end = end
                return True
            self._take(record, cut)
            if end is None and (len(cut.outgoing) >= self._limits.records or cut.bytes >= self._limits.bytes):
                if index + 1 < len(records):
                    self._waiting.appendleft((records, index + 1, held))
                else:
                    cut.held_bytes += held
                return True
        cut.held_bytes += held
        return cut.end == end

    def _take(self, record: Record, cut: Cut) -> None:
        cut.end = record.offset + 1
        cut.read.append(record)
        origin = self._reader.take(self._partition.topic, self._partition.number, record)
        if origin is None:
            cut.repeats += 1
            return
        value = record.value or b""
        if self._where is None or self._where(value):
            if self._project is not None:
                value = self._project(value)
            cut.outgoing.append(Outgoing(record.offset, record.timestamp, origin, value))
            cut.originals.append(record)
            cut.bytes += len(value)
