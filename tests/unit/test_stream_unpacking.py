"""What is taken out of a fetch many records at a time is what aiokafka gives one by one."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record._crc32c import crc
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.unpacking import LARGE_BYTES, Answer, Unpacking, Unreadable

TP = TopicPartition("raw", 3)
ABORT, COMMIT = struct.pack(">hh", 0, 0), struct.pack(">hh", 0, 1)
CONTROL_BIT = 0x20


@dataclass
class Batch:
    """A produce batch: records at these steps from its first offset, and so many offsets behind the last."""

    values: Sequence[bytes | None]
    codec: int = 0
    producer: int = -1
    transactional: bool = False
    marker: bytes | None = None
    compacted: int = 0
    old: bool = False
    aborted: bool = field(default=False, compare=False)


def encoded(batch: Batch, base: int) -> tuple[bytes, int]:
    """The batch as it stands in a log at offset `base`, and the offset behind it."""
    values = batch.values if batch.marker is None else [b""]
    if batch.old:
        builder = LegacyRecordBatchBuilder(1, 0, 1 << 30)
        for step, value in enumerate(values):
            builder.append(base + step, 1000 + step, b"k", value)
        return bytes(builder.build()), base + len(values)
    made = DefaultRecordBatchBuilder(2, batch.codec, batch.transactional, batch.producer, 0, 0, 1 << 30)
    for step, value in enumerate(values):
        made.append(step, 1000 + step, batch.marker or b"k", value, [("h", b"v")])
    data = bytearray(made.build())
    last = len(values) - 1 + batch.compacted
    data[0:8] = struct.pack(">q", base)
    data[23:27] = struct.pack(">i", last)
    if batch.marker is not None:
        data[22] |= CONTROL_BIT
    data[17:21] = struct.pack(">I", crc(bytes(data[21:])))
    return bytes(data), base + last + 1


def log_of(batches: Sequence[Batch]) -> tuple[bytes, list[tuple[int, int]]]:
    data, aborted, offset = b"", [], 0
    for batch in batches:
        if batch.aborted and batch.transactional and batch.marker is None:
            aborted.append((batch.producer, offset))
        one, offset = encoded(batch, offset)
        data += one
    return data, aborted


def fetched(data: bytes, aborted: Sequence[tuple[int, int]], start: int, level: int) -> PartitionRecords:
    return PartitionRecords(TP, Answer(data), aborted, start, None, None, True, level)


def seen(records: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [(one.offset, one.timestamp, one.key, one.value, tuple(one.headers)) for one in records]


values = st.lists(st.one_of(st.none(), st.binary(max_size=8), st.just(b"x" * 100)), min_size=1, max_size=150)
plain = st.builds(Batch, values, codec=st.sampled_from([0, 1, 2, 3, 4]), compacted=st.integers(0, 3))
legacy = st.builds(Batch, st.lists(st.binary(max_size=8), min_size=1, max_size=4), old=st.just(True))
written = st.builds(Batch, values, producer=st.sampled_from([7, 8]), transactional=st.just(True), aborted=st.booleans())
marker = st.builds(
    Batch,
    st.just([b""]),
    producer=st.sampled_from([7, 8]),
    transactional=st.just(True),
    marker=st.sampled_from([ABORT, COMMIT]),
)


@settings(max_examples=300)
@given(
    st.one_of(
        st.lists(st.one_of(plain, written, marker), min_size=1, max_size=6),
        st.lists(legacy, min_size=1, max_size=6),
    ),
    st.integers(0, 40),
    st.integers(1, 200),
    st.integers(1, 2000),
    st.sampled_from([READ_COMMITTED, READ_UNCOMMITTED]),
)
def test_it_takes_what_aiokafka_takes(batches: list[Batch], start: int, most: int, most_bytes: int, level: int) -> None:
    data, aborted = log_of(batches)
    # A broker answers with the batch that holds it, and what follows; of the old format each record is one.
    start = 0 if batches[0].old else min(start, encoded(batches[0], 0)[1] - 1)
    theirs = PartitionRecords(TP, MemoryRecords(data), aborted, start, None, None, True, level)
    expected = seen(list(theirs))
    ours = Unpacking(fetched(data, aborted, start, level))
    taken: list[tuple[Any, ...]] = []
    while ours.more():
        before = ours.next_fetch_offset
        some = ours.take(most, most_bytes)
        assert len(some) <= most
        assert ours.next_fetch_offset >= before
        taken += seen(some)
        assert not taken or ours.next_fetch_offset > taken[-1][0]
        behind = expected[len(taken)][0] if len(taken) < len(expected) else theirs.next_fetch_offset
        assert ours.next_fetch_offset <= behind, "what was not taken is passed over"
    assert taken == expected
    assert ours.next_fetch_offset == theirs.next_fetch_offset


def test_what_is_taken_is_at_most_one_record_beyond_its_bytes() -> None:
    large = b"x" * LARGE_BYTES * 4
    data, _ = log_of([Batch([*[b"small"] * 300, *[large] * 40], codec=1)])
    ours = Unpacking(fetched(data, [], 0, READ_COMMITTED))
    first = ours.take(2000, LARGE_BYTES * 10)
    assert len(first) == 303
    assert ours.next_fetch_offset == 303
    rest = first
    while ours.more():
        rest += ours.take(2000, LARGE_BYTES * 10)
    assert [one.offset for one in rest] == list(range(340))


@pytest.mark.parametrize("spoil", ["checksum", "codec"])
def test_what_is_before_an_unreadable_batch_is_taken_and_then_its_place_is_said(spoil: str) -> None:
    data, _ = log_of([Batch([b"first", b"second"])])
    bad = bytearray(encoded(Batch([b"third", b"fourth"]), 2)[0])
    if spoil == "checksum":
        bad[-3] ^= 1
    else:
        bad[22] |= 7
        bad[17:21] = struct.pack(">I", crc(bytes(bad[21:])))
    ours = Unpacking(fetched(data + bytes(bad), [], 0, READ_COMMITTED))
    assert [one.value for one in ours.take(100, 100)] == [b"first", b"second"]
    for _ in range(2):
        assert ours.more()
        with pytest.raises(Unreadable, match="offsets 2 to 3 cannot be read") as caught:
            ours.take(100, 100)
        assert isinstance(caught.value.error, CorruptRecordException if spoil == "checksum" else UnsupportedCodecError)
    assert ours.next_fetch_offset == 2


@pytest.mark.parametrize("codec", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("most", [1, 7, 1000])
def test_a_header_name_that_is_no_utf_8_is_read_as_java_reads_it_and_stops_nothing(codec: int, most: int) -> None:
    plain = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 30)
    for number in range(100):
        plain.append(
            number, 1000 + number, b"k%d" % number, b"v%d" % number, [("name" if number == 70 else "fine", b"h")]
        )
    data = respelt(bytes(plain.build()), codec)
    ours = Unpacking(fetched(data + encoded(Batch([b"next"]), 100)[0], [], 3, READ_COMMITTED))
    taken = []
    while ours.more():
        taken += ours.take(most, 1 << 20)
    assert [one.offset for one in taken] == list(range(3, 101))
    assert [one.value for one in taken] == [b"v%d" % number for number in range(3, 100)] + [b"next"]
    assert [list(one.headers) for one in taken if one.offset == 70] == [[("n\ufffdme", b"h")]]
    assert all(list(one.headers) == [("fine", b"h")] for one in taken if one.offset not in (70, 100))


def respelt(batch: bytes, codec: int) -> bytes:
    """The batch with its header `name` spelt in no UTF-8, compressed, and its checksum right."""
    head, records = batch[:61], batch[61:].replace(b"name", b"n\xffme")
    pack = {0: bytes, 1: gzip_encode, 2: snappy_encode, 3: lz4_encode, 4: zstd_encode}[codec]
    data = bytearray(head + bytes(pack(records)))
    data[8:12] = struct.pack(">i", len(data) - 12)
    data[22] |= codec
    data[17:21] = struct.pack(">I", crc(bytes(data[21:])))
    return bytes(data)
