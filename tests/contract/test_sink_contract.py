"""What every sink promises, whatever its outside system is: the same tests over all of them."""

import asyncio
import itertools
import json
import logging
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from aiohttp import web

from schemas.subjects import load
from sinks.contract import Delivery, Finding, Outgoing, Sink, Verdict
from sinks.http import HttpConfig, HttpSink
from sinks.kinesis import KinesisConfig, KinesisSink
from sinks.s3 import S3Config, S3Sink

SECRET = "hunter2hunter2hunter2hunter2"
CARD = "4111111111111111"
numbers = itertools.count()

AWS = {"access_key_id": "AKIAhunter2", "secret_access_key": SECRET, "role_arn": None}


@dataclass
class World:
    """One outside system: how to make a sink of it at some address, and what has arrived there."""

    make: Callable[[str], Sink]
    url: str
    arrived: Callable[[], list[bytes]]
    exactly_once: bool

    def sink(self) -> Sink:
        return self.make(self.url)


def client(service: Any, moto: str) -> Any:
    return boto3.client(
        service, endpoint_url=moto, region_name="us-east-1", aws_access_key_id="t", aws_secret_access_key="t"
    )


def s3_world(moto: str) -> World:
    bucket = f"contract-{next(numbers)}"
    s3 = client("s3", moto)
    s3.create_bucket(Bucket=bucket)

    def arrived() -> list[bytes]:
        keys = [found["Key"] for found in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
        bodies = [s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys if "_sluice/" not in key]
        return [line for body in bodies for line in body.splitlines()]

    def make(url: str) -> Sink:
        return S3Sink(
            S3Config.model_validate({"bucket": bucket, "endpoint_url": url, **AWS}), "stream-s3", load("event")
        )

    return World(make, moto, arrived, exactly_once=True)


def kinesis_world(moto: str) -> World:
    stream = f"contract-{next(numbers)}"
    kinesis = client("kinesis", moto)
    kinesis.create_stream(StreamName=stream, ShardCount=1)

    def arrived() -> list[bytes]:
        shard = kinesis.list_shards(StreamName=stream)["Shards"][0]["ShardId"]
        at = kinesis.get_shard_iterator(StreamName=stream, ShardId=shard, ShardIteratorType="TRIM_HORIZON")
        return [found["Data"] for found in kinesis.get_records(ShardIterator=at["ShardIterator"])["Records"]]

    def make(url: str) -> Sink:
        config = KinesisConfig.model_validate({"stream": stream, "endpoint_url": url, "id_field": None, **AWS})
        return KinesisSink(config, "stream-kinesis")

    return World(make, moto, arrived, exactly_once=False)


@pytest.fixture
async def receiver() -> AsyncIterator[tuple[str, list[bytes]]]:
    bodies: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        bodies.append(await request.read())
        return web.Response()

    app = web.Application(client_max_size=2**26)
    app.router.add_post("/hook/" + SECRET, take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", bodies
    await runner.cleanup()


def http_world(url: str, bodies: list[bytes]) -> World:
    def arrived() -> list[bytes]:
        return [json.dumps(record).encode() for body in bodies for record in json.loads(body)]

    def make(url: str) -> Sink:
        settings = {
            "url": f"{url}/hook/{SECRET}", "allow_http": True, "allow_private": ["127.0.0.0/8"], "size": 7,
            "headers": {"Authorization": SECRET}, "secret": SECRET, "timeout_seconds": 1, "id_field": None,
        }  # fmt: skip
        return HttpSink(HttpConfig.model_validate(settings), "stream-http")

    return World(make, url, arrived, exactly_once=False)


@pytest.fixture(params=["s3", "kinesis", "http"])
def world(request: pytest.FixtureRequest, moto: str, receiver: tuple[str, list[bytes]]) -> World:
    if request.param == "s3":
        return s3_world(moto)
    return kinesis_world(moto) if request.param == "kinesis" else http_world(*receiver)


def delivery(count: int, partition: int = 0) -> Delivery:
    records = [
        Outgoing(
            2 * i, 0, f"raw.events/{partition}/{i}", json.dumps({"id": i, "p": partition, "n": f"é\n{CARD}"}).encode()
        )
        for i in range(count)
    ]
    return Delivery("events.success", partition, 0, 2 * count, records)


def parsed(lines: list[bytes]) -> Counter[tuple[int, int]]:
    return Counter((record["p"], record["id"]) for record in map(json.loads, lines))


async def test_every_record_arrives_intact_and_has_its_verdict(world: World) -> None:
    sink = world.sink()
    what = delivery(50)
    assert list(await sink.write(what)) == [Verdict("delivered")] * 50
    await sink.close()
    assert sorted(json.loads(line)["id"] for line in world.arrived()) == list(range(50))
    assert {json.loads(line)["n"] for line in world.arrived()} == {f"é\n{CARD}"}


async def test_no_records_no_verdicts(world: World) -> None:
    sink = world.sink()
    assert list(await sink.write(delivery(0))) == []
    await sink.close()
    assert world.arrived() == []


async def test_a_repeated_write_loses_nothing_and_is_harmless_where_promised(world: World) -> None:
    sink = world.sink()
    for _ in range(2):
        assert {verdict.outcome for verdict in await sink.write(delivery(20))} == {"delivered"}
    await sink.close()
    expected = 1 if world.exactly_once else 2
    assert parsed(world.arrived()) == Counter({(0, i): expected for i in range(20)})


async def test_partitions_are_written_at_once_without_mixing(world: World) -> None:
    sink = world.sink()
    answers = await asyncio.gather(*(sink.write(delivery(10 + partition, partition)) for partition in range(12)))
    await sink.close()
    assert [len(answer) for answer in answers] == [10 + partition for partition in range(12)]
    assert {verdict.outcome for answer in answers for verdict in answer} == {"delivered"}
    assert parsed(world.arrived()) == Counter((p, i) for p in range(12) for i in range(10 + p))


async def test_check_finds_what_is_well_and_writes_no_record(world: World) -> None:
    sink = world.sink()
    findings = await sink.check()
    await sink.close()
    assert findings[0].level == "ok"
    assert all(finding.level in ("ok", "warning") and (finding.remedy or finding.level == "ok") for finding in findings)
    assert world.arrived() == []


async def test_close_twice_used_or_not(world: World) -> None:
    unused, used = world.sink(), world.sink()
    await used.write(delivery(1))
    for sink in (unused, used, unused, used):
        await sink.close()


# What any server can do to a client; each sink's own answers are in its own tests.
FAULTS: dict[str, bytes | None] = {
    "closes": b"",
    "garbage": b"\x16\x03\x01 this is no HTTP\r\n\r\n" + b"\xff" * 100,
    "half an answer": b"HTTP/1.1 200 OK\r\ncontent-le",
    "500": b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    "503": b"HTTP/1.1 503 Slow Down\r\ncontent-length: 7\r\nconnection: close\r\n\r\n<html/>",
    "hangs": None,
}


async def faulty(fault: bytes | None) -> tuple[asyncio.Server, str, list[int]]:
    """A server on 127.0.0.1 that answers everything with `fault`, or never; and how often it was asked."""
    asked: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked.append(len(await reader.readuntil(b"\r\n\r\n")))
            if fault is None:
                await reader.read()
            else:
                writer.write(fault)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


@pytest.mark.parametrize("fault", FAULTS)
async def test_whatever_the_outside_does_every_record_comes_again(
    world: World, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.aws.READ_SECONDS", 0.5)
    server, url, asked = await faulty(FAULTS[fault])
    sink = world.make(url)
    began = time.monotonic()
    verdicts = await sink.write(delivery(20))
    took = time.monotonic() - began
    await sink.close()
    server.close()
    assert asked, "the fault was not met"
    assert [verdict.outcome for verdict in verdicts] == ["again"] * 20
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9.-]{1,63}", verdict.reason) for verdict in verdicts)
    assert took < 5
    assert world.arrived() == []


@pytest.mark.parametrize("fault", FAULTS)
async def test_check_raises_nothing_and_says_what_to_do(
    world: World, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.aws.READ_SECONDS", 0.5)
    server, url, _ = await faulty(FAULTS[fault])
    sink = world.make(url)
    began = time.monotonic()
    findings = await sink.check()
    took = time.monotonic() - began
    await sink.close()
    server.close()
    assert took < 10
    assert findings
    assert all(isinstance(finding, Finding) and (finding.remedy or finding.level == "ok") for finding in findings)
    if not isinstance(sink, HttpSink):  # sends no request, so it sees a server that can be connected to
        assert findings[0].level == "unavailable"


async def test_nobody_there(world: World) -> None:
    sink = world.make("http://127.0.0.1:1")
    verdicts = await sink.write(delivery(9))
    findings = await sink.check()
    await sink.close()
    assert {verdict.outcome for verdict in verdicts} == {"again"}
    assert verdicts[0].reason == "unreachable"
    assert [finding.level for finding in findings] == ["unavailable"]


@pytest.mark.parametrize("fault", [None, "garbage", "503"])
async def test_no_secret_and_no_record_in_any_text(
    world: World, fault: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server, url, _ = await faulty(FAULTS[fault or "closes"])
    sink = world.make(url) if fault else world.sink()
    verdicts = await sink.write(delivery(9))
    findings = await sink.check()
    config = sink._config  # type: ignore[attr-defined]  # what a traceback or a debugger would show
    texts = [repr(sink), repr(vars(sink)["_config"]), repr(config), str(config), repr(verdicts), repr(findings)]
    await sink.close()
    server.close()
    # werkzeug is the stand-in's own log.
    texts += [record.getMessage() for record in caplog.records if record.name not in ("werkzeug", "aiohttp.access")]
    assert not [text for text in texts if "hunter2" in text or CARD in text]
