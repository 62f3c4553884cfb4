"""Promises of a running worker: it takes a rotated key without a restart."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import aiohttp
import orjson
import yaml
from aiokafka import TopicPartition

from pipeline.dead_letters import unseal
from sluice.config import load
from sluice.key_file import new_keys_file, read
from sluice.wiring import topic_specs
from stream.topics import Topics
from tests.e2e.processes import Child, children, produce, until_committed
from tests.e2e.processes import read as read_topic

NUMBER = "4111111111111111"
WORKER = ("-m", "sluice.cli", "worker")


def transaction(number: int) -> bytes:
    body = {"total_price": 12.5, "result": True, "cc": {"cc_number": NUMBER}}
    return orjson.dumps({"id": number, "event": "transaction", "transaction": body})


async def stage(kafka: str, folder: Path, name: str, raw: str, keys: dict[str, object]) -> Path:
    """The config of a pipeline that encrypts one field, with its topics."""
    rule = {"field": ".transaction.cc.cc_number", "key": "card-number"}
    settings = {
        "kafka": {"brokers": [kafka], "partitions": 1, "replication": 1, "session_seconds": 6},
        "keys": keys,
        "metrics": {"listen": "127.0.0.1:0"},
        "pipelines": {name: {"from": raw, "schema": "event", "encrypt": [rule]}},
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    config = load(file)
    async with Topics(config.kafka) as topics:
        await topics.create(topic_specs(config))
    return file


async def letters(kafka: str, name: str) -> list[bytes]:
    """The sealed values of a pipeline's dead letters, in order."""
    found = await read_topic(kafka, f"{name}.dlq")
    return [record.value for record in found.get(0, [])]  # type: ignore[attr-defined]  # records of aiokafka


async def until_used(worker: Child, line: str, seconds: float = 30) -> None:
    """Wait until the worker's metrics have a line."""
    found = re.search(r"http://(\S+)\.", worker.output)
    assert found is not None, worker.tail()
    said = ""
    async with aiohttp.ClientSession() as session, asyncio.timeout(seconds):
        while line not in said:
            async with session.get(f"http://{found[1]}/metrics") as answer:
                said = await answer.text()
            await asyncio.sleep(0.1)


async def test_a_running_worker_takes_a_rotated_key_and_keeps_what_it_has_when_the_file_breaks(
    kafka: str, topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    name, raw = topic_name("events"), topic_name("raw")
    file = await stage(kafka, tmp_path, name, raw, {"provider": "file", "path": "keys.yaml"})
    path = tmp_path / "keys.yaml"
    new_keys_file(path, ["card-number", "dead-letters"])
    group, source = f"sluice.{name}", TopicPartition(raw, 0)
    async with children(tmp_path) as start:
        worker = await start("worker", *WORKER, str(file), name)
        await produce(kafka, raw, {0: [b"not JSON", transaction(1)]})
        await until_committed(kafka, group, {source: 2})

        rotating = await start("rotate", "-m", "sluice.cli", "keys", "rotate", str(file), "dead-letters")
        assert await rotating.ends() == 0
        await worker.says("newly active: dead-letters/20", 10)
        newest = read(path).active("dead-letters").id
        await produce(kafka, raw, {0: [b"not JSON either"]})
        await until_committed(kafka, group, {source: 3})

        keys = read(path)
        path.unlink()
        path.write_text("dead-letters: [")
        path.chmod(0o400)
        await worker.says("The keys stay as they were: ", 10)
        await produce(kafka, raw, {0: [b"nor this"]})
        await until_committed(kafka, group, {source: 4})
        await until_used(worker, f'sluice_key_uses_total{{id="{newest}",key="dead-letters"}} 2.0')
        assert await worker.stop() == 0
        assert worker.output.count("The keys stay as they were") == 1
    sealed = await letters(kafka, name)
    assert [unseal(one, keys).value for one in sealed] == [b"not JSON", b"not JSON either", b"nor this"]
    assert [newest.encode() in one for one in sealed] == [False, True, True]
