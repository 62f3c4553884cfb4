"""The records in one fetch answer of one partition, many at a time.

aiokafka unpacks them one by one through a generator and three calls each, for as much as all the rest of reading costs.
"""

import logging
import time
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate, chain, islice
from typing import Any, ClassVar

import google_crc32c
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException, KafkaError
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

from stream.records import Record, value_bytes

log = logging.getLogger(__name__)

STEP_RECORDS = 64
SAY_SECONDS = 60.0
LARGE_BYTES = 16 * 1024
"""Records of this size and more are taken one at a time, so that what is taken stays near its limit."""
_BATCH_LENGTH = slice(8, 12)
"""Of a batch, how many bytes follow behind these (kafka.apache.org/documentation/#recordbatch)."""
_MAGIC, _CRC, _CHECKED = 16, 17, 21
"""Where a batch says its version, where its checksum is in version 2, and from where on that is of."""


class Answer:
    """The batches of one fetch answer, as aiokafka's `MemoryRecords` gives them, with the bytes of the one at hand."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._parser = MemoryRecords(data)
        self._start = self._end = 0
        self._parsed: Any = None

    def size_in_bytes(self) -> int:
        size: int = self._parser.size_in_bytes()
        return size

    def has_next(self) -> bool:
        there: bool = self._parser.has_next()
        return there

    def next_batch(self) -> Any:
        head = self._data[self._end : self._end + 12]
        self._start, self._end = self._end, self._end + 12 + int.from_bytes(head[_BATCH_LENGTH], "big")
        self._parsed = self._parser.next_batch()
        return self._parsed

    def is_whole(self) -> bool:
        """Whether the batch that was given last has the checksum that it says.

        aiokafka's own look takes a tenth of the time of unpacking, as it does without the processor's instruction for it.
        """
        data, start = self._data, self._start
        if data[start + _MAGIC] != 2:
            whole: bool = self._parsed.validate_crc()
            return whole
        checksum: int = google_crc32c.value(data[start + _CHECKED : self._end])
        return checksum == int.from_bytes(data[start + _CRC : start + _CHECKED], "big")

    @property
    def batch(self) -> bytes:
        """The batch that was given last."""
        return self._data[self._start : self._end]


def keep_answers() -> None:
    """Let every consumer of this process keep the bytes of what it fetches until that is taken. Harmless to call again."""
    fetcher.MemoryRecords = Answer


class Unreadable(Exception):
    """A batch that cannot be read, at the offsets `[start, end)`: the next fetch would bring the same. `error` says why."""

    def __init__(self, start: int, end: int, error: KafkaError) -> None:
        super().__init__(f"offsets {start} to {end - 1} cannot be read ({type(error).__name__})")
        self.start, self.end, self.error = start, end, error


class _Lenient(bytearray):
    """Bytes in which text that is no UTF-8 is read as Java's client reads it."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Lenient(found) if isinstance(found, bytearray) else found

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, "replace")


def leniently(batch: bytes) -> Iterator[Record]:
    """The records of a batch one of which has a header whose name is no UTF-8: what is wrong in it becomes U+FFFD.

    aiokafka's parser refuses such a record, and with it all behind it; brokers take it, and Java's client reads it so.
    """
    parser = _DefaultRecordBatchPy(batch)
    iter(parser)  # unpacks what is compressed
    parser._buffer = _Lenient(parser._buffer)
    return chain(parser)


class Unpacking:
    """Takes the place of aiokafka's `PartitionRecords`, and goes on from where that one stands.

    The rules are aiokafka's: checksums are looked at, control batches and what was aborted are passed over, and so are
    records before the offset that was asked for (a broker answers with whole batches).
    """

    _said: ClassVar[float] = float("-inf")

    def __init__(self, fetched: PartitionRecords) -> None:
        self._fetched = fetched
        # The generator holds `fetched` in turn: both would stay until the garbage collector comes.
        fetched._records_iterator = None
        self._batch: Any = None
        self._records: Iterator[Any] = iter(())
        self._unreadable: Unreadable | None = None
        self.next_fetch_offset: int = fetched.next_fetch_offset
        """One past what was taken or passed over."""

    def take(self, most: int, most_bytes: int) -> list[Record]:
        """The next records: at most `most`, and one beyond `most_bytes` of values; fewer than both only if there are no more.

        Raises Unreadable for a batch whose checksum is wrong or that is packed in an unknown way, at every call once all that is
        before it was taken.
        """
        if self._unreadable is not None:
            raise self._unreadable
        taken: list[Record] = []
        try:
            self._take(taken, most, most_bytes)
        except KafkaError as error:
            end = max(self.next_fetch_offset + 1, self._batch.next_offset)
            self._unreadable = Unreadable(self.next_fetch_offset, end, error)
            if not taken:
                raise self._unreadable from None
        return taken

    def _take(self, taken: list[Record], most: int, most_bytes: int) -> None:
        size = 0
        while len(taken) < most and size < most_bytes:
            step = STEP_RECORDS if size < LARGE_BYTES * len(taken) else 1
            try:
                some = list(islice(self._records, min(step, most - len(taken))))
            except UnicodeDecodeError:
                self._say_it()
                self._records = leniently(self._fetched._records.batch)  # those that were taken are passed over below
                continue
            if some:
                if some[0].offset < self.next_fetch_offset:
                    some = [record for record in some if record.offset >= self.next_fetch_offset]
                    if not some:
                        continue
                all_bytes = size + value_bytes(some)
                if all_bytes > most_bytes:
                    sizes = list(accumulate([len(record.value or b"") for record in some], initial=size))
                    kept = bisect_left(sizes, most_bytes)
                    self._records, some, all_bytes = chain(some[kept:], self._records), some[:kept], sizes[kept]
                self.next_fetch_offset = some[-1].offset + 1
                taken += some
                size = all_bytes
                continue
            if self._batch is not None:
                # Compaction leaves a batch its last offset when the last record has gone.
                self.next_fetch_offset = max(self.next_fetch_offset, self._batch.next_offset)
            if not self._open_next():
                return

    def _say_it(self) -> None:
        if time.monotonic() - Unpacking._said >= SAY_SECONDS:
            Unpacking._said = time.monotonic()
            place = (*self._fetched._tp, self.next_fetch_offset)
            log.warning("%s/%s holds a header whose name is no UTF-8, from offset %s on.", *place)

    def more(self) -> bool:
        """Whether there is something left to look at. It may turn out to hold nothing to take."""
        return self._unreadable is not None or self._batch is not None or bool(self._fetched._records.has_next())

    def _open_next(self) -> bool:
        """Go to the next batch of the answer, which may hold nothing to take. False at the end."""
        fetched = self._fetched
        if not fetched._records.has_next():
            self._batch = None
            return False
        batch = self._batch = fetched._records.next_batch()
        self._records = iter(())
        if not fetched._records.is_whole():
            raise CorruptRecordException(
                f"the checksum of a batch of {fetched._tp.topic}/{fetched._tp.partition} is wrong"
            )
        if fetched._isolation_level == READ_COMMITTED and batch.producer_id is not None:
            fetched._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and fetched._contains_abort_marker(batch):
                fetched._aborted_producers.discard(batch.producer_id)
            if batch.is_transactional and batch.producer_id in fetched._aborted_producers:
                return True
        if not batch.is_control_batch:
            self._records = chain(batch)  # the batch itself refuses to be begun twice
        return True
