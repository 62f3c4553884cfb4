"""Compressed topics are read, and what Sluice writes is compressed as the config says."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record.memory_records import MemoryRecords

from sluice.config import load
from sluice.wiring import topic_specs
from stream.connection import KafkaConfig
from stream.outbox import Outbox
from stream.topics import Topics
from tests.e2e.processes import children, read, until_committed

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
"""With their numbers in a batch (kafka.apache.org/documentation/#recordbatch)."""


@pytest.fixture
def codecs_read(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The codecs of all batches that this process reads."""
    seen: set[int] = set()

    def look(data: bytes) -> MemoryRecords:
        if data:
            seen.add(data[22] & 7)  # the low byte of the first batch's attributes
        return MemoryRecords(data)

    monkeypatch.setattr(fetcher, "MemoryRecords", look)
    return seen


async def test_a_pipeline_reads_every_codec_and_writes_its_own(
    kafka: str, topic_name: Callable[[str], str], tmp_path: Path, codecs_read: set[int]
) -> None:
    name, raw = topic_name("compressed"), topic_name("raw")
    settings: dict[str, Any] = {
        "kafka": {"brokers": [kafka], "partitions": 4, "replication": 1, "compression": "lz4"},
        "pipelines": {name: {"from": raw, "schema": "event"}},
        "metrics": {"listen": "127.0.0.1:0"},
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    config = load(file)
    async with Topics(config.kafka) as topics:
        await topics.create(topic_specs(config))
    values = [orjson.dumps({"id": number, "event": "bootup " * 20}) for number in range(200)]
    for partition, codec in enumerate(CODECS):
        producer = AIOKafkaProducer(bootstrap_servers=kafka, compression_type=codec, linger_ms=50)
        await producer.start()
        for value in values:
            last = await producer.send(raw, value, partition=partition)
        await last
        await producer.stop()
    assert {len(records) for records in (await read(kafka, raw)).values()} == {200}
    assert codecs_read == set(CODECS.values()), "the input was not compressed by every codec"
    codecs_read.clear()
    async with children(tmp_path) as start:
        worker = await start("worker", "-m", "sluice.cli", "worker", str(file), name)
        await until_committed(kafka, f"sluice.{name}", {TopicPartition(raw, number): 200 for number in range(4)})
        assert await worker.stop() == 0
    found = await read(kafka, f"{name}.success")
    assert codecs_read == {CODECS["lz4"]}
    for records in found.values():
        assert [orjson.loads(one.value)["id"] for one in records] == list(range(200))  # type: ignore[attr-defined]  # aiokafka's
    assert len(found) == 4


@pytest.mark.parametrize("codec", CODECS)
async def test_the_outbox_writes_with_each_codec(
    kafka: str,
    topic_name: Callable[[str], str],
    new_topics: Callable[..., Awaitable[None]],
    codecs_read: set[int],
    codec: str,
) -> None:
    topic = topic_name(codec)
    await new_topics(topic, partitions=1)
    outbox = Outbox(KafkaConfig.model_validate({"brokers": [kafka], "compression": codec}), "test")
    await outbox.start()
    try:
        await outbox.send(topic, 0, outbox.pack([(1, b"k", b"the same again " * 50, [])] * 100))
    finally:
        await outbox.stop()
    assert len((await read(kafka, topic))[0]) == 100
    assert codecs_read == {CODECS[codec]}
