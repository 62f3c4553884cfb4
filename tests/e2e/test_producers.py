"""What docs/producers.md tells producers to do: each example is run as it stands there, and its records take the right route."""

import asyncio
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import orjson
import pytest
import yaml
from aiokafka import TopicPartition
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from schemas.containers import avro_form
from schemas.refused import REASONS
from schemas.subjects import id_of
from schemas.subjects import load as subject
from sluice.config import load
from sluice.devices import Fleet
from sluice.wiring import topic_specs
from stream.topics import Topics
from tests.e2e.apicurio import apicurio
from tests.e2e.processes import children, produce, read, until_committed

PAGE = Path(__file__).parents[2] / "docs" / "producers.md"
ROOT = Path(__file__).parents[2]
COUNT = 60
PARTITIONS = 3


def example(heading: str, language: str) -> str:
    """The first block of code under a heading of the page."""
    found = re.search(rf"## {heading}\n.*?```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None, f"the page has no example for {heading}"
    return found[1]


def records() -> list[dict[str, Any]]:
    """Transactions, accesses and platform events, all of which keep the contract."""
    made = [orjson.loads(one.value or b"") for one, _ in zip(Fleet(7, devices=9).events(), range(COUNT), strict=False)]
    for one in made:
        if isinstance(one.get("transaction", {}).get("result"), str):
            one["transaction"]["result"] = one["transaction"]["result"] == "success"
    return made


def route(record: dict[str, Any]) -> str:
    paid = record.get("transaction")
    if paid is None or paid["total_price"] < 0:
        return "unmatched"
    return "success" if paid["result"] else "fail"


class Pipeline:
    """A pipeline without encryption, so that what arrives can be read."""

    def __init__(self, folder: Path, kafka: str, name: str, **more: Any) -> None:
        self.kafka, self.name, self.raw = kafka, name, f"raw-{name}"
        self.file = folder / "config.yaml"
        sold = {"field": ".transaction.total_price", "op": "greater_or_equal", "value": 0}
        routes = {
            label: [{"field": ".transaction.result", "op": "equal", "value": value}, sold]
            for label, value in (("success", True), ("fail", False))
        }
        settings = {
            "kafka": {"brokers": [kafka], "partitions": PARTITIONS, "replication": 1},
            "pipelines": {name: {"from": self.raw, "schema": "event", "routes": routes, "gate": "off"}},
            "metrics": {"listen": "127.0.0.1:0"},
            **more,
        }
        self.file.write_text(yaml.dump(settings, Dumper=_Plain))

    async def make(self) -> None:
        config = load(self.file)
        async with Topics(config.kafka) as topics:
            await topics.create(topic_specs(config))

    async def routed(self) -> dict[str, dict[int, list[Any]]]:
        """Run a router until all is settled; what stands on each route then, by partition."""
        ends = {
            TopicPartition(self.raw, p): len(some) for p, some in (await read(self.kafka, self.raw)).items() if some
        }
        async with children(self.file.parent) as start:
            worker = await start("router", "-m", "sluice.cli", "worker", str(self.file), self.name)
            await until_committed(self.kafka, f"sluice.{self.name}", ends)
            assert await worker.stop() == 0
        labels = ("success", "fail", "unmatched", "dlq")
        return {label: await read(self.kafka, f"{self.name}.{label}") for label in labels}


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


@pytest.fixture
async def pipeline(kafka: str, topic_name: Callable[[str], str], tmp_path: Path) -> Pipeline:
    made = Pipeline(tmp_path, kafka, topic_name("produced"))
    await made.make()
    return made


async def took_the_right_route(pipeline: Pipeline, sent: list[dict[str, Any]]) -> None:
    """Each record on its route, once; those of one device in one partition and in order."""
    found = await pipeline.routed()
    assert not any(found["dlq"].values()), [dict(one.headers) for some in found["dlq"].values() for one in some]
    for label in ("success", "fail", "unmatched"):
        there = [(p, one.key, orjson.loads(one.value)["id"]) for p, some in found[label].items() for one in some]
        assert sorted(id_ for _, _, id_ in there) == sorted(one["id"] for one in sent if route(one) == label)
        for key in {key for _, key, _ in there}:
            of_key = [(p, id_) for p, k, id_ in there if k == key]
            assert len({p for p, _ in of_key}) == 1
            in_order = [one["id"] for one in sent if str((one.get("device") or one["endpoint"])["id"]).encode() == key]
            assert [id_ for _, id_ in of_key] == [
                id_ for id_ in in_order if (key, id_) in {(k, i) for _, k, i in there}
            ]
    assert sum(len(some) for label in found for some in found[label].values()) == len(sent)


@pytest.mark.parametrize("client", ["aiokafka", "confluent-kafka, Avro"])
async def test_the_python_examples(pipeline: Pipeline, client: str, tmp_path: Path) -> None:
    sent = records()
    await run_example(tmp_path, f"Python, {client}", BROKERS=pipeline.kafka, TOPIC=pipeline.raw, RECORDS=sent)
    await took_the_right_route(pipeline, sent)


async def run_example(folder: Path, heading: str, **names: Any) -> None:
    file = folder / "example.py"
    file.write_text("".join(f"{name} = {value!r}\n" for name, value in names.items()) + example(heading, "python"))
    async with children(folder) as start:
        ran = await start("example", "-c", f"import runpy; runpy.run_path({str(file)!r}, run_name='__main__')")
        assert await ran.ends(60) == 0, ran.tail()


async def test_the_example_with_a_registry(kafka: str, topic_name: Callable[[str], str], tmp_path: Path) -> None:
    sent = records()
    with apicurio(tmp_path) as server:
        # Somebody else's schema takes an id, so that those of the registry are not those of schemas/ids.json.
        SchemaRegistryClient({"url": server.url}).register_schema("other-value", Schema('"string"', "AVRO"))
        pipeline = Pipeline(tmp_path, kafka, topic_name("produced"), registry={"url": server.url})
        await pipeline.make()
        async with children(tmp_path) as start:
            worker = await start("first", "-m", "sluice.cli", "worker", str(pipeline.file), pipeline.name)
            await worker.says("Assigned in generation")  # it has registered the schema by then
            assert await worker.stop() == 0
        heading = "Python, confluent-kafka, Avro and a registry"
        await run_example(tmp_path, heading, BROKERS=kafka, REGISTRY=server.url, TOPIC=pipeline.raw, RECORDS=sent)
        produced = [one.value for some in (await read(kafka, pipeline.raw)).values() for one in some]
        assert {int.from_bytes(value[1:5], "big") for value in produced} != {id_of(subject("event").latest)}
        await took_the_right_route(pipeline, sent)


@pytest.mark.parametrize("form", ["json", "avro"])
async def test_sluice_send(pipeline: Pipeline, tmp_path: Path, form: str) -> None:
    sent, file = records(), tmp_path / "records"
    if form == "json":
        file.write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in sent))
    else:
        file.write_bytes(container(sent))
    _, command, pipe, *_ = example("A file", "bash").split()
    assert (command, pipe) == ("send", "config.yaml")
    async with children(tmp_path) as start:
        ran = await start("send", "-m", "sluice.cli", "send", str(pipeline.file), pipeline.name, str(file))
        assert await ran.ends(60) == 0, ran.tail()
        assert f"{COUNT} records acknowledged by {pipeline.raw}" in ran.output
    await took_the_right_route(pipeline, sent)


def container(sent: list[dict[str, Any]]) -> bytes:
    version, out = subject("event").latest, io.BytesIO()
    fastavro.writer(out, version.parsed, [avro_form(version.fields, one) for one in sent], codec="deflate")
    return out.getvalue()


@pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is a program of its own, and not installed here")
async def test_kcat(pipeline: Pipeline, tmp_path: Path) -> None:
    sent = records()
    lines = [str((one.get("device") or one["endpoint"])["id"]).encode() + b"\t" + orjson.dumps(one) for one in sent]
    (tmp_path / "keyed.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    command = example("kcat", "bash").replace("BROKERS", pipeline.kafka).replace("TOPIC", pipeline.raw)
    ran = await asyncio.create_subprocess_shell(command, cwd=tmp_path)
    assert await asyncio.wait_for(ran.wait(), 60) == 0
    await took_the_right_route(pipeline, sent)


async def test_a_file_with_one_bad_record_is_not_sent_and_says_where(pipeline: Pipeline, tmp_path: Path) -> None:
    good = orjson.dumps(records()[0])
    bad = b'{"id":1,"transaction":{"quantity":"4111111111111111"}}'
    (tmp_path / "records").write_bytes(b"\n".join([good, b"", bad, good, b"{"]))
    async with children(tmp_path) as start:
        ran = await start(
            "send", "-m", "sluice.cli", "send", str(pipeline.file), pipeline.name, str(tmp_path / "records")
        )
        assert await ran.ends(60) == 1
    assert "2 of 4 records would be refused, so nothing was sent" in ran.output
    assert "record 3: wrong-type at .transaction.quantity" in ran.output
    assert "record 5: not-json" in ran.output
    assert "4111" not in ran.output
    assert "Traceback" not in ran.output
    assert not any((await read(pipeline.kafka, pipeline.raw)).values())


async def test_what_comes_back_when_a_record_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    await produce(pipeline.kafka, pipeline.raw, {1: [b'{"id":"x"}', None]})
    letters = (await pipeline.routed())["dlq"][1]
    headers = [{name: value.decode() for name, value in one.headers} for one in letters]
    assert [one["sluice-reason"] for one in headers] == ["wrong-type", "null-value"]
    assert [one["sluice-id"] for one in headers] == [f"{pipeline.raw}/1/0", f"{pipeline.raw}/1/1"]
    assert headers[0]["__connect.errors.exception.message"] == "wrong-type at .id"
    page = PAGE.read_text()
    assert all(f"`{name}`" in page or name.startswith("__connect.errors.") for name in headers[0])


def test_the_page_names_every_reason_that_a_pipeline_has() -> None:
    page = PAGE.read_text()
    of_sinks = {"too-large-for-sink", "rejected-by-sink"}
    assert {one for one in REASONS if f"`{one}`" not in page} == of_sinks
