"""References on a real Kafka: loaded before work begins, followed, waited for; and a worker killed while it loads."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import yaml
from aiokafka import TopicPartition

from sluice import config as configs
from sluice.devices import Message
from sluice.generate import to_topic
from sluice.wiring import topic_specs
from stream.topics import Topics
from tests.e2e.processes import Child, children, produce, read, until_committed

PARTITIONS = 2
MANY = 300_000
"""Endpoints; they take a second at least to load."""
LOADING, LOADED = "Loading references", "References are loaded"


class Stage:
    """A pipeline that enriches events by endpoint, with its topics; workers of it are started by hand."""

    def __init__(self, brokers: str, name: str, file: Path, start: Callable[..., Any], port: int) -> None:
        self.brokers, self.name, self.file, self._start, self.port = brokers, name, file, start, port
        self.raw, self.reference = f"raw.{name}", f"ref.{name}"
        self.sent = dict.fromkeys(range(PARTITIONS), 0)
        self._workers = 0

    async def worker(self) -> Child:
        self._workers += 1
        child: Child = await self._start(
            f"worker-{self._workers}", "-m", "sluice.cli", "worker", str(self.file), self.name
        )
        return child

    async def refer(self, entries: Mapping[int, Any]) -> None:
        """Put entries into the reference topic; None deletes one."""
        messages = (
            Message(0, b"%d" % id_, None if entry is None else orjson.dumps(entry), "platform", None)
            for id_, entry in entries.items()
        )
        await to_topic(messages, self.reference, self.brokers)

    async def send(self, partition: int, *ids: int) -> None:
        """An event of each of these endpoints."""
        await produce(self.brokers, self.raw, {partition: [b'{"endpoint":{"id":%d}}' % id_ for id_ in ids]})
        self.sent[partition] += len(ids)

    async def done(self, *partitions: int, seconds: float = 60) -> None:
        """Until everything that was sent to these partitions is settled."""
        at = {TopicPartition(self.raw, number): self.sent[number] for number in partitions}
        await until_committed(self.brokers, f"sluice.{self.name}", at, seconds)

    async def names(self) -> dict[int, list[Any]]:
        """Partition → the names of the endpoints of its routed records, in order."""
        found = await read(self.brokers, f"{self.name}.success")
        return {at: [json.loads(one.value)["endpoint"].get("name") for one in all_] for at, all_ in found.items()}  # type: ignore[attr-defined]

    async def refused(self) -> list[str]:
        """What the dead letters say."""
        letters = [one for all_ in (await read(self.brokers, f"{self.name}.dlq")).values() for one in all_]
        return [dict(one.headers)["__connect.errors.exception.message"].decode() for one in letters]  # type: ignore[attr-defined]

    async def ready(self) -> int | None:
        """What /ready answers; None while nobody does."""
        try:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}/ready") as answer:
                return answer.status
        except aiohttp.ClientConnectionError:
            return None


@asynccontextmanager
async def stage(kafka: str, name: str, folder: Path, **rule: Any) -> AsyncIterator[Stage]:
    """`rule` is added to the rule of enrich."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = folder / "config.yaml"
    join = {"by": ".endpoint.id", "from": "endpoints", "into": ".endpoint", **rule}
    settings = {
        "kafka": {"brokers": [kafka], "partitions": PARTITIONS, "replication": 1, "session_seconds": 6},
        "metrics": {"listen": f"127.0.0.1:{port}"},
        "reference": {"endpoints": {"topic": f"ref.{name}"}},
        "pipelines": {name: {"from": f"raw.{name}", "schema": "event", "enrich": [join]}},
    }
    file.write_text(yaml.safe_dump(settings))
    config = configs.load(file)
    async with Topics(config.kafka) as topics:
        await topics.create(topic_specs(config))
    async with children(folder) as start:
        yield Stage(kafka, name, file, start, port)


def many() -> dict[int, Any]:
    return {id_: {"id": id_, "name": f"Meter {id_}", "imei": "350000000000000"} for id_ in range(MANY)}


async def test_a_worker_that_is_killed_while_it_loads_only_has_to_be_started_again(
    kafka: str, topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    async with stage(kafka, topic_name("events"), tmp_path) as on:
        await on.refer(many())
        await on.send(0, 0, MANY - 1, MANY)
        killed = await on.worker()
        await killed.says(LOADING)
        killed.kill()
        assert await killed.ends() == -9
        assert LOADED not in killed.output, "it was not loading any more: nothing was tested"
        assert "Assigned" not in killed.output
        worker = await on.worker()
        await on.done(0)
        assert f"endpoints {MANY:,}" in worker.output
        assert await on.names() == {0: ["Meter 0", f"Meter {MANY - 1}", None]}
        assert await worker.stop() == 0


async def test_a_worker_is_ready_and_takes_records_only_when_it_has_caught_up(
    kafka: str, topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    async with stage(kafka, topic_name("events"), tmp_path) as on:
        await on.refer(many())
        await on.send(1, *range(0, MANY, 1000))
        worker = await on.worker()
        answers: list[int] = []
        async with asyncio.timeout(60):
            while 200 not in answers:
                if (answer := await on.ready()) is not None:
                    assert answer == 503 or LOADED in worker.output
                    answers += [answer] if LOADING in worker.output else []
        assert answers.count(503) > 3, "it was ready at once: nothing was tested"
        await on.done(1)
        assert await on.names() == {1: [f"Meter {id_}" for id_ in range(0, MANY, 1000)]}
        assert await worker.stop() == 0


async def test_a_worker_that_is_stopped_while_it_loads_ends_in_order(
    kafka: str, topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    async with stage(kafka, topic_name("events"), tmp_path) as on:
        await on.refer(many())
        worker = await on.worker()
        await worker.says(LOADING)
        assert await worker.stop() == 0
        assert LOADED not in worker.output


async def test_a_changed_entry_shows_in_the_next_records(
    kafka: str, topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    async with stage(kafka, topic_name("events"), tmp_path) as on:
        await on.refer({7: {"name": "zero"}})
        worker = await on.worker()
        expected = []
        for entry in ({"name": "one"}, {"name": "two"}, None, {"name": "four"}):
            await on.refer({7: entry})
            expected.append(entry and entry["name"])
            async with asyncio.timeout(20):  # each try is one more record
                while True:
                    await on.send(0, 7)
                    await on.done(0)
                    names = (await on.names())[0]
                    if names[-1] == expected[-1]:
                        break
        seen = [name for at, name in enumerate(names) if at == 0 or names[at - 1] != name]
        assert [name for name in seen if name != "zero"] == expected
        assert await worker.stop() == 0


async def test_one_partition_waits_for_an_id_and_the_others_go_on(
    kafka: str, topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    async with stage(kafka, topic_name("events"), tmp_path, on_missing="wait", wait_seconds=300) as on:
        await on.refer({1: {"name": "one"}})
        worker = await on.worker()
        await on.send(0, 1, 2, 1)
        await worker.says("waits for ids that references lack: endpoints 1.")
        await on.send(1, 1)
        await on.done(1)
        await on.refer({2: {"name": "two"}})
        await on.done(0)
        assert await on.names() == {0: ["one", "two", "one"], 1: ["one"]}
        assert await on.refused() == []
        assert await worker.stop() == 0


async def test_a_worker_that_waits_for_an_id_can_be_stopped_and_its_successor_waits(
    kafka: str, topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    async with stage(kafka, topic_name("events"), tmp_path, on_missing="wait", wait_seconds=300) as on:
        worker = await on.worker()
        await on.send(0, 2)
        await worker.says("waits for ids")
        assert await worker.stop() == 0
        successor = await on.worker()
        await successor.says("waits for ids")
        await on.refer({2: {"name": "two"}})
        await on.done(0)
        assert await on.names() == {0: ["two"]}
        assert await successor.stop() == 0


async def test_an_id_that_never_comes_costs_the_partition_its_patience_once(
    kafka: str, topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    async with stage(kafka, topic_name("events"), tmp_path, on_missing="wait", wait_seconds=3) as on:
        await on.refer({1: {"name": "one"}})
        worker = await on.worker()
        await on.send(0, 2, 1)
        await on.done(0)
        waited = worker.output.count("waits for ids")
        for _ in range(3):
            await on.send(0, 2, 1)
            await on.done(0)
        assert (waited, worker.output.count("waits for ids")) == (1, 1)
        assert await on.names() == {0: ["one"] * 4}
        assert await on.refused() == ["reference-missing at .endpoint.id"] * 4
        assert await worker.stop() == 0
