"""Schemas by id, from a real registry and from the files of this tree: registered, compared, learned, and missed."""

import asyncio
import copy
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import fastavro
import orjson
import pytest
import yaml
from aiokafka import TopicPartition

from schemas.compatibility import check
from schemas.registry import (
    CONTENT_TYPE,
    Breaks,
    EmbeddedRegistry,
    HttpRegistry,
    Registry,
    RegistryConfig,
    RegistryUnavailable,
)
from schemas.subjects import Subject, Version, load, names
from sluice import config as configs
from sluice.exits import Exit
from sluice.wiring import topic_specs
from stream.topics import Topics
from tests.e2e.apicurio import Apicurio, apicurio
from tests.e2e.processes import Child, children, committed, produce, read, until, until_committed

IMPATIENT = "import agents.schema_ids as a; a.PATIENCE_SECONDS = 3.0; from sluice import cli; cli.main()"
"""A worker that waits 3 s for an id instead of 30."""
PARTITIONS = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apicurio]:
    with apicurio(tmp_path_factory.mktemp("apicurio")) as one:
        yield one


@pytest.fixture(params=["embedded", "apicurio"])
async def registry(request: pytest.FixtureRequest, server: Apicurio) -> AsyncIterator[Registry]:
    one: Registry = EmbeddedRegistry() if request.param == "embedded" else HttpRegistry(RegistryConfig(url=server.url))
    yield one
    await one.close()


async def post(server: Apicurio, path: str, body: object, method: str = "POST") -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session:
        headers = {"Content-Type": CONTENT_TYPE}
        async with session.request(method, server.url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)


def as_body(schema: object) -> dict[str, str]:
    return {"schema": json.dumps(schema), "schemaType": "AVRO"}


def grown(subject: Subject, *, by: int) -> Subject:
    """The subject with `by` versions fewer, or one more that is not in this tree."""
    if by < 0:
        return Subject(subject.name, subject.versions[:by], subject.columns)
    schema = copy.deepcopy(dict(subject.latest.schema))
    schema["fields"].append({"name": "next", "type": ["null", "string"], "default": None, "doc": "what comes next"})
    version = Version(subject.name, subject.latest.number + 1, schema)
    return Subject(subject.name, (*subject.versions, version), subject.columns)


@pytest.mark.parametrize("name", names())
async def test_every_version_has_an_id_and_comes_back_by_it(
    registry: Registry, topic_name: Callable[[str], str], name: str
) -> None:
    subject, under = load(name), f"{topic_name(name)}-value"
    await registry.compare(subject, under)
    ids = await registry.register(subject, under)
    assert set(ids) == {version.number for version in subject.versions}
    assert await registry.register(subject, under) == ids, "registered twice, and the ids are others"
    for version in subject.versions:
        assert check(version.schema, await registry.schema(ids[version.number])) == []
    assert await registry.schema(2_000_000_000) is None


async def test_an_older_and_a_newer_worker_go_with_what_is_there(
    server: Apicurio, topic_name: Callable[[str], str]
) -> None:
    registry, under = HttpRegistry(RegistryConfig(url=server.url)), f"{topic_name('event')}-value"
    old = await registry.register(grown(load("event"), by=-1), under)
    newer = await registry.register(grown(load("event"), by=1), under)
    assert newer.items() >= old.items()
    assert await registry.register(load("event"), under) == {number: newer[number] for number in (1, 2, 3, 4)}
    await registry.close()


async def test_what_breaks_is_refused_though_the_registry_would_let_it_pass(
    server: Apicurio, topic_name: Callable[[str], str]
) -> None:
    """FULL_TRANSITIVE lets an optional field go: our own check stays the judge."""
    registry, under = HttpRegistry(RegistryConfig(url=server.url)), f"{topic_name('event')}-value"
    await registry.register(load("event"), under)
    assert (await post(server, f"/config/{under}", {"compatibility": "FULL_TRANSITIVE"}, "PUT"))[0] == 200
    schema = copy.deepcopy(dict(load("event").latest.schema))
    schema["fields"] = [field for field in schema["fields"] if field["name"] != "description"]
    status, _ = await post(server, f"/subjects/{under}/versions", as_body(schema))
    assert status == 200, "the registry refuses what this test is about"
    with pytest.raises(Breaks, match=r"event/v4 breaks what .*-value in .* promises: \.description"):
        await registry.compare(load("event"), under)
    with pytest.raises(Breaks):
        await registry.register(load("event"), under)
    await registry.close()


async def test_a_registry_that_is_gone_is_unavailable_and_says_so(server: Apicurio, unused_tcp_port: int) -> None:
    registry = HttpRegistry(RegistryConfig(url=f"http://127.0.0.1:{unused_tcp_port}"))
    with pytest.raises(RegistryUnavailable, match="cannot be reached"):
        await registry.schema(1)
    await registry.close()
    wrong = HttpRegistry(RegistryConfig(url=server.url.removesuffix("/v7")))
    with pytest.raises(RegistryUnavailable, match="see that it is one"):
        await wrong.schema(1)
    await wrong.close()


class Pipeline:
    """A pipeline that reads Avro whose ids are those of a registry."""

    def __init__(self, folder: Path, kafka: str, name: str, url: str) -> None:
        self.kafka, self.name, self.raw, self.file = kafka, name, f"raw-{name}", folder / "config.yaml"
        settings = {
            "kafka": {"brokers": [kafka], "partitions": PARTITIONS, "replication": 1},
            "registry": {"url": url},
            "pipelines": {name: {"from": self.raw, "schema": "event"}},
            "metrics": {"listen": "127.0.0.1:0"},
        }
        self.file.write_text(yaml.safe_dump(settings))

    async def make(self) -> None:
        config = configs.load(self.file)
        async with Topics(config.kafka) as topics:
            await topics.create(topic_specs(config))

    async def settled(self, partition: int) -> int:
        found = await committed(self.kafka, f"sluice.{self.name}")
        return found.get(TopicPartition(self.raw, partition), (0, ""))[0]

    async def until_settled(self, ends: dict[int, int]) -> None:
        await until_committed(
            self.kafka, f"sluice.{self.name}", {TopicPartition(self.raw, p): n for p, n in ends.items()}
        )

    async def routed(self) -> dict[int, list[int]]:
        found = await read(self.kafka, f"{self.name}.success")
        return {p: [orjson.loads(one.value)["id"] for one in some] for p, some in found.items()}  # type: ignore[attr-defined]

    async def reasons(self) -> list[str]:
        found = await read(self.kafka, f"{self.name}.dlq")
        return [dict(one.headers)["sluice-reason"].decode() for some in found.values() for one in some]  # type: ignore[attr-defined]


def avro(number: int, record: int, version: Version | None = None) -> bytes:
    """A record in this version, or the newest, under this schema id."""
    body = io.BytesIO()
    fastavro.schemaless_writer(body, (version or load("event").latest).parsed, {"id": record})
    return b"\0" + number.to_bytes(4, "big") + body.getvalue()


async def test_a_worker_registers_learns_and_never_stops_for_what_it_knows(
    kafka: str, topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    with apicurio(tmp_path) as server:
        on = Pipeline(tmp_path, kafka, topic_name("registry"), server.url)
        await on.make()
        async with children(tmp_path) as start:
            worker: Child = await start("worker", "-c", IMPATIENT, "worker", str(on.file), on.name)
            await worker.says("Assigned in generation")
            status, found = await post(server, f"/subjects/{on.raw}-value/versions/4", None, "GET")
            assert status == 200, "the worker has not registered its versions"
            known = found["id"]
            # An id that a producer registers while the record waits.
            coming, version = known + 1, grown(load("event"), by=1).latest
            await produce(
                kafka, on.raw, {0: [avro(known, 1), avro(coming, 2, version), avro(known, 3)], 1: [avro(known, 11)]}
            )
            await on.until_settled({1: 1})
            assert await on.settled(0) < 3, "the record with an unknown id did not wait"
            status, found = await post(server, f"/subjects/{on.raw}-value/versions", as_body(version.schema))
            assert (status, found["id"]) == (200, coming)
            await on.until_settled({0: 3, 1: 1})
            # One that nobody has: after a while its records are dead letters, and it is not waited for again.
            await produce(kafka, on.raw, {0: [avro(10_000, 4), avro(10_000, 5), avro(known, 6)]})
            await on.until_settled({0: 6, 1: 1})
            assert await on.reasons() == ["unknown-schema-id"] * 2
            # A dead registry: what is known goes on, what is not waits.
            server.kill()
            await produce(kafka, on.raw, {0: [avro(20_000, 7)], 1: [avro(known, 12), b'{"id":13}']})
            await on.until_settled({0: 6, 1: 3})
            await until(lambda: "waits for schema 20000: the schema registry at" in worker.output, 30, worker.tail)
            await asyncio.sleep(4)  # longer than its patience with an id that the registry does not have
            assert await on.settled(0) == 6
            assert await worker.stop() == 0
        assert await on.routed() == {0: [1, 2, 3, 6], 1: [11, 12, 13]}
        assert await on.reasons() == ["unknown-schema-id"] * 2


async def test_a_worker_does_not_start_on_a_break_and_check_says_why(
    kafka: str, topic_name: Callable[[str], str], tmp_path: Path, server: Apicurio
) -> None:
    on = Pipeline(tmp_path, kafka, topic_name("broken"), server.url)
    await on.make()
    other = {
        "type": "record",
        "name": "Event",
        "namespace": "sluice.event",
        "fields": [{"name": "id", "type": "string"}],
    }
    assert (await post(server, f"/subjects/{on.raw}-value/versions", as_body(other)))[0] == 200
    async with children(tmp_path) as start:
        worker = await start("worker", "-m", "sluice.cli", "worker", str(on.file), on.name)
        assert await worker.ends(60) == Exit.CONFIG
        assert "event/v4 breaks what" in worker.output
        assert "Traceback" not in worker.output
        looked = await start("check", "-m", "sluice.cli", "check", str(on.file))
        assert await looked.ends(60) == Exit.CONFIG
        assert "✗ registry: event/v4 breaks what" in looked.output


async def test_check_registers_nothing(
    kafka: str, topic_name: Callable[[str], str], tmp_path: Path, server: Apicurio
) -> None:
    on = Pipeline(tmp_path, kafka, topic_name("looked-at"), server.url)
    await on.make()
    async with children(tmp_path) as start:
        looked = await start("check", "-m", "sluice.cli", "check", str(on.file))
        assert await looked.ends(60) == Exit.DONE, looked.tail()
        assert "✓ registry: it answers" in looked.output
    assert (await post(server, f"/subjects/{on.raw}-value/versions", None, "GET"))[0] == 404
