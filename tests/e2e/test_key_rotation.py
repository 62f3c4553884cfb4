"""Promise: keys are rotated under load, and nothing is lost by that: what was encrypted before and after decrypts."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from aiokafka import AIOKafkaProducer, TopicPartition

from sluice.config import load
from sluice.decrypt import Decryption
from sluice.keys import loaded
from sluice.wiring import topic_specs
from stream.topics import Topics
from tests.e2e.processes import children, read, until_committed

RATE, ROTATIONS = 5000, 3
CARD = ".transaction.cc.cc_number"


def record(number: int) -> bytes:
    card = {"cc_number": f"{number:016}", "cc_name": f"holder {number}"}
    return json.dumps({"id": number, "transaction": {"result": True, "cc": card}}).encode()


async def send(kafka: str, topic: str, enough: asyncio.Event) -> tuple[int, float]:
    """RATE records a second until it is enough, all acknowledged. Returns how many, and in how many seconds."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, enable_idempotence=True, max_batch_size=500_000)
    await producer.start()
    sent, begun = 0, time.monotonic()
    while not enough.is_set():
        due = int((time.monotonic() - begun) * RATE)
        while sent < due:
            batch = producer.create_batch()
            for number in range(sent, min(due, sent + 1000)):
                batch.append(timestamp=None, key=None, value=record(number))
            sent += batch.record_count()
            await (await producer.send_batch(batch, topic, partition=0))
        await asyncio.sleep(0.02)
    seconds = time.monotonic() - begun
    await producer.stop()
    return sent, seconds


async def test_keys_are_rotated_under_load(kafka: str, topic_name: Callable[[str], str], tmp_path: Path) -> None:
    name = topic_name("rotated")
    encrypt = [
        {
            "field": CARD,
            "key": "number",
            "algorithm": "AES-256-CFB",
            "iv_field": f"{CARD}_iv",
            "key_id_field": f"{CARD}_key",
        },
        {"field": ".transaction.cc.cc_name", "key": "name", "bind": [".id"]},
    ]
    settings = {
        "kafka": {"brokers": [kafka], "partitions": 1, "replication": 1},
        "keys": {"provider": "file", "path": "keys.yaml"},
        "pipelines": {name: {"from": f"raw-{name}", "schema": "event", "encrypt": encrypt}},
        "metrics": {"listen": "127.0.0.1:0"},
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    config = load(file)
    async with Topics(config.kafka) as topics:
        await topics.create(topic_specs(config))
    async with children(tmp_path) as start:

        async def keys(*command: str) -> None:
            ran = await start("keys", "-m", "sluice.cli", "keys", *command)
            assert await ran.ends() == 0, ran.tail()

        await keys("new", str(file), "--all")
        worker = await start("worker", "-m", "sluice.cli", "worker", str(file), name)
        await worker.says("Assigned in generation")
        enough = asyncio.Event()
        sending = asyncio.create_task(send(kafka, f"raw-{name}", enough))
        for _ in range(ROTATIONS):
            for key in ("number", "name"):
                await keys("rotate", str(file), key)
            held = loaded(config)
            for key in ("number", "name"):
                await worker.says(str(held.active(key)))
            await asyncio.sleep(1)  # so that it is used
        enough.set()
        sent, seconds = await sending
        await until_committed(kafka, f"sluice.{name}", {TopicPartition(f"raw-{name}", 0): sent})
        assert await worker.stop() == 0
    assert sent >= RATE * seconds * 0.9
    assert not any((await read(kafka, f"{name}.dlq")).values())
    undo, ids, used = Decryption(config, name, loaded(config)), [], set[tuple[str, str]]()
    for one in (await read(kafka, f"{name}.success"))[0]:
        value: Any = json.loads(one.value)  # type: ignore[attr-defined]  # a record of aiokafka's
        card = value["transaction"]["cc"]
        used.add((card["cc_number_key"], card["cc_name"].split(":")[3]))
        assert undo(value) == []
        ids.append(value["id"])
        assert value == json.loads(record(value["id"]))
    assert ids == list(range(sent)), "records are missing, doubled or out of order"
    for versions in zip(*used, strict=True):
        assert len(set(versions)) == ROTATIONS + 1, f"not every version was used: {used}"
