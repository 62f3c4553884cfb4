"""What a batch says that it takes in memory is what it takes."""

import tracemalloc

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from stream.records import RecordBatch

ROUTED = [("sluice-id", b"raw.events/3/1000000"), ("sluice-plan", b"1700000000.abcdef012345")]


@pytest.mark.parametrize("size", [100, 1000, 100_000])
@pytest.mark.parametrize("headers", [[], ROUTED], ids=["raw", "routed"])
def test_the_bytes_of_a_batch_are_those_it_takes(size: int, headers: list[tuple[str, bytes]]) -> None:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 4_000_000)
    for offset in range(2_000_000 // size):
        builder.append(offset, 1_700_000_000_000, b"device-%05d" % (offset % 200), b"x" * size, headers)
    fetched = bytes(builder.build())
    tracemalloc.start()
    try:
        records = list(MemoryRecords(fetched).next_batch())
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The tracer does not see what the allocator rounds up.
    assert RecordBatch("raw", 0, records, 0, len(records)).bytes == pytest.approx(taken, rel=0.2)
