"""Large records and compressed batches: no partition stops for them, memory stays bounded, and order and deduplication hold.

What a worker needs at most is in the table: its peak of resident memory.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import yaml
from aiokafka import AIOKafkaProducer, TopicPartition

from sluice.config import Config, load
from sluice.key_file import new_keys_file
from sluice.wiring import topic_specs
from stream.reader import Reader
from stream.topics import Topics
from tests.e2e.processes import Child, children, read, total, until_committed
from tests.e2e.test_bad_input import CARD, configuration
from tests.faults.ledger import Judgement

MB = 1_000_000
LARGEST = 52_428_800
WORKER = ("-m", "sluice.cli", "worker")


def record(number: int, size: int, card: Mapping[str, str] = CARD) -> bytes:
    """A transaction of about so many bytes that belongs on success."""
    body = {"result": True, "total_price": 1, "cc": dict(card), "result_reason": "x" * max(0, size - 300)}
    return orjson.dumps({"id": number, "transaction": body})


async def make(folder: Path, kafka: str, name: str, **settings: Any) -> Config:
    """The config of a pipeline from raw-NAME, with its topics made and its keys."""
    data: dict[str, Any] = configuration(kafka, name, f"raw-{name}")
    data["kafka"] |= settings
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(data))
    new_keys_file(folder / "keys.yaml", [field.replace("_", "-") for field in CARD] + ["dead-letters"])
    config = load(file)
    async with Topics(config.kafka) as topics:
        assert all(one.state == "created" for one in await topics.create(topic_specs(config)))
    return config


async def produce(
    kafka: str, topic: str, partition: int, values: Sequence[bytes], compression: str | None = None, together: int = 1
) -> int:
    """`together` records in a batch. Returns the bytes that the largest batch has on the wire."""
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka, enable_idempotence=True, max_request_size=LARGEST + MB, max_batch_size=LARGEST,
        compression_type=compression,
    )  # fmt: skip
    await producer.start()
    largest = 0
    try:
        for at in range(0, len(values), together):
            batch = producer.create_batch()
            for value in values[at : at + together]:
                assert batch.append(timestamp=None, key=b"k", value=value) is not None
            await (await producer.send_batch(batch, topic, partition=partition))
            largest = max(largest, batch.size())
    finally:
        await producer.stop()
    return largest


def peak(worker: Child) -> int:
    """The most resident memory that a process had so far, in bytes."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


async def taken(kafka: str, name: str) -> dict[int, list[tuple[int, int]]]:
    """For each partition of NAME.success what a reader takes of it: raw offset and size, in order."""
    found = {}
    for partition, records in (await read(kafka, f"{name}.success")).items():
        reader = Reader()
        ids = [(reader.take(f"{name}.success", partition, one), one) for one in records]  # type: ignore[arg-type]  # aiokafka's
        found[partition] = [
            (int(origin.rpartition("/")[2]), len(one.value))  # type: ignore[attr-defined]  # as above
            for origin, one in ids
            if origin is not None
        ]
    return found


def complete(found: Sequence[tuple[int, int]], values: Sequence[bytes]) -> bool:
    """Every record once, in order, and none of them shortened."""
    return [offset for offset, _ in found] == list(range(len(values))) and all(
        size > len(value) - 100 for (_, size), value in zip(found, values, strict=True)
    )


async def test_large_records_beside_small_ones_survive_a_kill(
    kafka: str, name: str, tmp_path: Path, seconds: Callable[[float, float], float], seen: Callable[..., None],
) -> None:  # fmt: skip
    small, largest = 500, int(seconds(20 * MB, 50 * MB))
    sizes = [
        [*[small] * 50, 1 * MB, 5 * MB, *[small] * 50, 10 * MB, 10 * MB, 10 * MB, small, largest, *[small] * 20],
        [10 * MB, small, 10 * MB, small, 5 * MB],
        [small] * 3000,
    ]
    await make(tmp_path, kafka, name, partitions=3, max_message_bytes=LARGEST)
    file, raw, group = str(tmp_path / "config.yaml"), f"raw-{name}", f"sluice.{name}"
    values = [[record(number, size) for number, size in enumerate(some)] for some in sizes]
    for partition, some in enumerate(values):
        await produce(kafka, raw, partition, some, together=1 if partition < 2 else 500)
    ends = {TopicPartition(raw, partition): len(some) for partition, some in enumerate(values)}
    async with children(tmp_path) as start:
        first = await start("first", *WORKER, file, name)
        await first.says("Assigned in generation")
        async with asyncio.timeout(60):
            while not await total(kafka, f"{name}.success"):
                await asyncio.sleep(0.02)
        first.kill()
        assert await first.ends() == -9
        assert await total(kafka, f"{name}.success") < sum(ends.values()), "it was killed too late"
        second = await start("second", *WORKER, file, name)
        await until_committed(kafka, group, ends, 120)
        memory = peak(second)
        assert await second.stop() == 0
        written = await total(kafka, f"{name}.success")
    found = await taken(kafka, name)
    for partition, some in enumerate(values):
        assert complete(found[partition], some), f"partition {partition}"
    assert memory < 900 * MB
    count = sum(ends.values())
    seen("F-28", f"records of 1 to {largest // MB} MB, kill -9", Judgement(count, 0, written - count, 1),
         f"peak {memory // MB} MB")  # fmt: skip


async def test_compressed_batches_that_grow_a_hundredfold_stay_within_memory(
    kafka: str, name: str, tmp_path: Path, seconds: Callable[[float, float], float], seen: Callable[..., None],
) -> None:  # fmt: skip
    await make(tmp_path, kafka, name, partitions=4, max_message_bytes=LARGEST, compression="zstd")
    values = [record(number, MB) for number in range(int(seconds(60, 200)))]
    ends, ratios = {}, {}
    for partition, codec in enumerate(("gzip", "snappy", "lz4", "zstd")):
        wire = await produce(kafka, f"raw-{name}", partition, values, codec, together=10)
        ends[TopicPartition(f"raw-{name}", partition)] = len(values)
        ratios[codec] = 10 * MB // wire
    async with children(tmp_path) as start:
        worker = await start("worker", *WORKER, str(tmp_path / "config.yaml"), name)
        await until_committed(kafka, f"sluice.{name}", ends, 180)
        memory = peak(worker)
        assert await worker.stop() == 0
    found = await taken(kafka, name)
    assert all(complete(found[partition], values) for partition in range(4))
    assert max(ratios.values()) >= 100, "nothing grew a hundredfold"
    assert memory < 450 * MB
    packed = ", ".join(f"{codec} {ratio}:1" for codec, ratio in ratios.items())
    seen("F-28", f"{4 * len(values)} MB in compressed batches", Judgement(4 * len(values), 0, 0, 1),
         f"{packed}; peak {memory // MB} MB")  # fmt: skip


async def test_what_grows_too_large_is_a_dead_letter_and_sealed_if_it_fits(
    kafka: str, name: str, tmp_path: Path
) -> None:
    limit = 200_000
    await make(tmp_path, kafka, name, partitions=1, max_message_bytes=limit)
    grows = record(1, 0, CARD | {"cc_name": "x" * (limit * 4 // 5)})  # a third more in base64
    no_room = record(2, 0, CARD | {"cc_name": "x" * (limit - 2500)})
    values = [record(0, 500), grows, record(2, limit * 9 // 10), no_room, record(4, 500)]
    await produce(kafka, f"raw-{name}", 0, values)
    async with children(tmp_path) as start:
        worker = await start("worker", *WORKER, str(tmp_path / "config.yaml"), name)
        await until_committed(kafka, f"sluice.{name}", {TopicPartition(f"raw-{name}", 0): len(values)})
        assert await worker.stop() == 0
    assert [offset for offset, _ in (await taken(kafka, name))[0]] == [0, 2, 4]
    letters: list[Any] = (await read(kafka, f"{name}.dlq"))[0]
    headers = [dict(one.headers) for one in letters]
    assert [one["sluice-id"].decode() for one in headers] == [f"raw-{name}/0/{offset}" for offset in (1, 3)]
    assert [one["sluice-reason"] for one in headers] == [b"too-large"] * 2
    assert len(letters[0].value) > len(grows), "sealed"
    assert not letters[1].value, "origin and reason only"
