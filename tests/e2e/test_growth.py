"""A raw topic that grows under a running router loses nothing: the new partition waits until its counterparts are there."""

from collections.abc import Callable
from pathlib import Path

import yaml
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from sluice.config import load
from sluice.wiring import topic_specs
from stream.topics import Topics
from tests.e2e.processes import children, produce, read, until_committed


async def test_a_new_partition_waits_for_its_counterparts(
    kafka: str, topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    name, raw = topic_name("usage"), topic_name("raw")
    file = tmp_path / "config.yaml"
    settings = {
        "kafka": {"brokers": [kafka], "partitions": 1, "replication": 1, "session_seconds": 6},
        "metrics": {"listen": "127.0.0.1:0"},
        "pipelines": {name: {"from": raw, "schema": "usage"}},
    }
    file.write_text(yaml.safe_dump(settings))
    config = load(file)
    async with Topics(config.kafka) as topics:
        await topics.create(topic_specs(config))
        async with children(tmp_path) as start:
            worker = await start("worker", "-m", "sluice.cli", "worker", str(file), name)
            await worker.says("Assigned in generation")
            admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
            await admin.start()
            await admin.create_partitions({raw: NewPartitions(2)})
            await admin.close()
            await worker.says("has no partition 1 yet", seconds=60)
            await produce(kafka, raw, {p: [b'{"id":%d}' % (10 * p + n) for n in range(3)] for p in (0, 1)})
            await until_committed(kafka, f"sluice.{name}", {TopicPartition(raw, 0): 3})
            grown = {one.name: one.state for one in await topics.create(topic_specs(config))}
            assert grown[f"{name}.success"] == grown[f"{name}.dlq"] == "grown"
            await until_committed(kafka, f"sluice.{name}", {TopicPartition(raw, p): 3 for p in (0, 1)})
            assert await worker.stop() == 0
    found = {p: [record.value for record in records] for p, records in (await read(kafka, f"{name}.success")).items()}  # type: ignore[attr-defined]
    assert found == {p: [b'{"id":%d}' % (10 * p + n) for n in range(3)] for p in (0, 1)}
