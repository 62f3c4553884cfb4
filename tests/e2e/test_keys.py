"""Promises of a running worker: it takes a rotated key without a restart, and an outage of KMS costs nothing but time."""

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import orjson
import pytest
import yaml
from aiokafka import TopicPartition
from moto.server import ThreadedMotoServer

from pipeline.dead_letters import unseal
from pipeline.encryption import decrypt_field
from pipeline.keys import Keys
from sluice.config import load
from sluice.exits import Exit
from sluice.key_file import new_keys_file, read
from sluice.kms import Kms
from sluice.wiring import topic_specs
from stream.topics import Topics
from tests.e2e.processes import Child, children, produce, total, until_committed
from tests.e2e.processes import read as read_topic

NUMBER = "4111111111111111"
WORKER = ("-m", "sluice.cli", "worker")
IMPATIENT = """
from agents import key_outage
from sluice import cli
key_outage.PATIENCE_SECONDS = 1
cli.main()
"""


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


async def card_numbers(kafka: str, name: str) -> list[str]:
    """What stands in place of the card numbers of a pipeline's routed records, in order."""
    found = await read_topic(kafka, f"{name}.success")
    return [orjson.loads(one.value)["transaction"]["cc"]["cc_number"] for one in found.get(0, [])]  # type: ignore[attr-defined]


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


@pytest.fixture
def kms() -> Iterator[Callable[[], ThreadedMotoServer]]:
    """`kms()` starts a KMS that has a key `alias/sluice`; again, after it was stopped, at the same port and with the same key."""
    servers: list[ThreadedMotoServer] = []

    def start() -> ThreadedMotoServer:
        port = servers[0].get_host_and_port()[1] if servers else 0
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=port)
        server.start()
        if not servers:
            client = boto3.client("kms", **place(server), aws_access_key_id="a", aws_secret_access_key="b")
            client.create_alias(AliasName="alias/sluice", TargetKeyId=client.create_key()["KeyMetadata"]["KeyId"])
        servers.append(server)
        return server

    yield start
    servers[-1].stop()


def place(server: ThreadedMotoServer) -> dict[str, Any]:
    return {"region_name": "us-east-1", "endpoint_url": "http://{}:{}".format(*server.get_host_and_port())}


async def test_work_waits_while_kms_is_away_and_nothing_is_lost_or_in_clear(
    kafka: str, topic_name: Callable[[str], str], tmp_path: Path, kms: Callable[[], ThreadedMotoServer]
) -> None:
    name, raw = topic_name("events"), topic_name("raw")
    server = kms()
    keys = {
        "provider": "aws-kms", "kms_key": "alias/sluice", "region": "us-east-1", "endpoint_url": place(server)["endpoint_url"],
        "access_key_id": "a", "secret_access_key": "b", "data_key_hours": 0.002,
    }  # fmt: skip
    file = await stage(kafka, tmp_path, name, raw, keys)
    group, source = f"sluice.{name}", TopicPartition(raw, 0)
    async with children(tmp_path) as start:
        worker = await start("worker", *WORKER, str(file), name)
        await produce(kafka, raw, {0: [transaction(1), b"not JSON"]})
        await until_committed(kafka, group, {source: 2})

        await asyncio.to_thread(server.stop)
        await worker.says("Work waits: the data key of ", 30)
        await produce(kafka, raw, {0: [transaction(2), b"not JSON either"]})
        await asyncio.sleep(3)  # in which it would have been written
        assert (await total(kafka, f"{name}.success"), await total(kafka, f"{name}.dlq")) == (1, 1)

        server = await asyncio.to_thread(kms)
        await worker.says("Work goes on with new data keys", 60)
        await until_committed(kafka, group, {source: 4})
        assert await worker.stop() == 0

        impatient = await start("impatient", "-c", IMPATIENT, "worker", str(file), name)
        await impatient.says("Assigned in generation")
        await asyncio.to_thread(server.stop)
        await impatient.says("Work waits: ", 30)
        await produce(kafka, raw, {0: [transaction(3)]})
        assert await impatient.ends() == Exit.UNAVAILABLE
        assert "sluice: gave up after 1 s: the data key of " in impatient.output
        assert "Traceback" not in impatient.output
        await asyncio.to_thread(kms)
        successor = await start("successor", *WORKER, str(file), name)
        await until_committed(kafka, group, {source: 5})
        assert await successor.stop() == 0

        config = load(file)
        assert config.keys is not None
        reading = Keys((), Kms(config.keys).unwrap)
        rule = config.pipelines[name].encrypt[0]
        tokens = await card_numbers(kafka, name)
        assert [await asyncio.to_thread(decrypt_field, rule, name, reading, one) for one in tokens] == [NUMBER] * 3
        sealed = await letters(kafka, name)
        opened = [(await asyncio.to_thread(unseal, one, reading)).value for one in sealed]
        assert opened == [b"not JSON", b"not JSON either"]
        assert len({one[:100] for one in sealed}) == 2, "each was sealed with the data key of its time"
        assert not [one for one in (worker, impatient, successor) if NUMBER in one.output]
