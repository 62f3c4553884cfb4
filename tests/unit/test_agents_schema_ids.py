"""An id that no records can be read with is given up for a minute, with a word in the log, and never for good."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiokafka import TopicPartition

from agents import schema_ids
from agents.schema_ids import SchemaIds
from schemas.registry import HttpRegistry, RegistryConfig
from schemas.subjects import load
from schemas.writers import Writers
from stream.assignment import Assignment, Partition
from stream.commits import Committed, Pin

AVRO = json.dumps(load("usage").latest.schema)
FORGET_SECONDS = 0.05


class FakeCommits:
    async def commit(self, pin: Pin, offsets: Any) -> None:
        raise AssertionError("nothing is settled here")


async def work(partition: Partition) -> None:
    pass


class Server:
    """A registry that answers every id with `answer`."""

    def __init__(self, answer: dict[str, Any], status: int = 200) -> None:
        self.answer, self.status, self.asked, self.url = answer, status, 0, ""

    async def handle(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response(self.answer, status=self.status)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    one = Server({})
    app = web.Application()
    app.router.add_get("/schemas/ids/7", one.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield one
    await runner.cleanup()


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        (
            {"schema": AVRO, "references": [{"name": "a.B", "subject": "b", "version": 1}]},
            200,
            "refers to other schemas",
        ),
        ({"schema": 'syntax = "proto3";', "schemaType": "PROTOBUF"}, 200, "is Protobuf or JSON Schema"),
        ({"schema": "{}", "schemaType": "JSON"}, 200, "is Protobuf or JSON Schema"),
        ({"schema": '{"type": "record"}'}, 200, "is no valid Avro"),
        ({"error_code": 40403}, 404, "is in no registry that was asked"),
    ],
)
async def test_what_cannot_be_used_is_said_once_and_asked_for_again(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answer: dict[str, Any],
    status: int,
    says: str,
) -> None:
    monkeypatch.setattr(schema_ids, "FORGET_SECONDS", FORGET_SECONDS)
    monkeypatch.setattr(schema_ids, "PATIENCE_SECONDS", 0.0)
    server.answer, server.status = answer, status
    registry, writers = HttpRegistry(RegistryConfig(url=server.url)), Writers(registry=True)
    assignment = Assignment(Pin(1, "m"), FakeCommits(), work, lambda error: None, 1000)  # type: ignore[arg-type]  # a fake
    partition = Partition(assignment, TopicPartition("raw", 0), Committed(0, ""))
    ids = SchemaIds("events", registry, writers)
    caplog.set_level(logging.WARNING)

    async def ask() -> bool:
        async with asyncio.timeout(10):
            assert await ids.learn(partition, {7})
            assert not writers.unknown({7}), "the batch is processed now"
        return writers.find(7) is not None

    async def forgotten() -> None:
        async with asyncio.timeout(10):
            while not writers.unknown({7}):
                await asyncio.sleep(FORGET_SECONDS / 5)

    try:
        for _ in range(2):
            assert not await ask()
            await forgotten()
        assert server.asked == 2
        assert [f"schema 7 {says}" in record.getMessage() for record in caplog.records] == [True]
        server.answer, server.status = {"schema": AVRO}, 200
        assert await ask(), "somebody registered it as it should be"
    finally:
        await registry.close()
