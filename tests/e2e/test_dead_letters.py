"""Dead letters are counted once, shown without what is secret, and go their way again once, marked."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from pipeline.dead_letters import Sealer, letter_headers
from schemas.refused import Refused
from sluice.config import load
from sluice.dlq.retrying import ROUND_LETTERS
from sluice.key_file import new_keys_file
from sluice.keys import loaded
from sluice.wiring import topic_specs
from stream.outbox import Outbox
from stream.topics import Topics
from stream.windows import looking
from tests.e2e.processes import Child, children, produce, read, total, until, until_committed

PAN = "4111111111111111"
PARTITIONS = 2


def paid(number: int, **card: Any) -> bytes:
    return json.dumps({"id": number, "transaction": {"result": True, "cc": {"cc_number": PAN, **card}}}).encode()


NO_NAME, NO_JSON, NO_NUMBER = (
    paid(1),
    b"x" + PAN.encode() + b"x",
    paid(3, cc_name="Ada Lovelace", cc_number=4111111111111111),
)
RECORDS = {
    0: [paid(0, cc_name="Ada Lovelace"), NO_NAME, NO_JSON],
    1: [NO_NUMBER, paid(4), b'{"id": "4111-1111-1111-1111"}'],
}
REASONS = {
    ("card-field-missing", ".transaction.cc.cc_name"): [(0, 1), (1, 1)],
    ("card-field-not-a-string", ".transaction.cc.cc_number"): [(1, 0)],
    ("not-json", ""): [(0, 2)],
    ("wrong-type", ".id"): [(1, 2)],
}


class Scene:
    """A pipeline of its own that encrypts a card's number and name, and an HTTP stream that reads it."""

    def __init__(
        self,
        kafka: str,
        name: str,
        folder: Path,
        start: Callable[..., Awaitable[Child]],
        url: str = "https://example.com/",
    ) -> None:
        self.kafka, self.name, self.raw, self.folder = kafka, name, f"raw.{name}", folder
        self.dlq = f"{name}.dlq"
        self.stream = f"{name}-http"
        self.file = folder / "config.yaml"
        self.url = url
        self.said: list[str] = []
        self.start = start
        self._starts = 0
        self.configure("cc_number", "cc_name")

    def configure(self, *fields: str, keys: bool = True) -> None:
        """Write the config, with rules for these fields."""
        rules = [{"field": f".transaction.cc.{field}", "key": "card"} for field in fields]
        http = {"url": self.url, "allow_http": True, "allow_private": ["127.0.0.0/8"], "mode": "rest"}
        config: dict[str, Any] = {
            "kafka": {"brokers": [self.kafka], "partitions": PARTITIONS, "replication": 1, "session_seconds": 3},
            "metrics": {"listen": "127.0.0.1:0"},
            "pipelines": {self.name: {"from": self.raw, "schema": "event", "encrypt": rules}},
            "streams": {self.stream: {"from": [f"{self.name}.success"], "http": http}},
        }
        if keys:
            config["keys"] = {"provider": "file", "path": "keys.yaml"}
            if not (self.folder / "keys.yaml").exists():
                new_keys_file(self.folder / "keys.yaml", ["card", "dead-letters"])
        self.file.write_text(yaml.safe_dump(config))

    async def make_topics(self) -> None:
        config = load(self.file)
        async with Topics(config.kafka) as topics:
            await topics.create(topic_specs(config))

    async def work(self, *offsets: int, name: str | None = None) -> None:
        """Run a worker of the pipeline until it has settled these offsets."""
        self._starts += 1
        worker = await self.start(
            f"worker-{self._starts}", "-m", "sluice.cli", "worker", str(self.file), name or self.name
        )
        ends = {TopicPartition(self.raw, number): offset for number, offset in enumerate(offsets)}
        await until_committed(self.kafka, f"sluice.{self.name}", ends)
        assert await worker.stop() == 0, worker.tail()
        self.said.append(worker.output)

    def dlq_command(self, command: str, *arguments: str, name: str | None = None) -> list[str]:
        return [sys.executable, "-m", "sluice.cli", "dlq", command, str(self.file), name or self.name, *arguments]

    def sluice(self, command: str, *arguments: str, name: str | None = None) -> tuple[int, str]:
        """Exit code and output of `sluice dlq`."""
        done = subprocess.run(
            self.dlq_command(command, *arguments, name=name), capture_output=True, text=True, timeout=90, check=False
        )
        self.said += [done.stdout, done.stderr]
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    def listed(self, *arguments: str, name: str | None = None) -> list[dict[str, Any]]:
        code, said = self.sluice("list", "--json", *arguments, name=name)
        assert code == 0, said
        return [json.loads(line) for line in said.splitlines()]

    def id(self, partition: int, offset: int) -> str:
        return f"{self.raw}/{partition}/{offset}"

    async def routed(self) -> list[tuple[int, dict[str, str]]]:
        """Id and headers of each record on the route, by partition."""
        records: Any = await read(self.kafka, f"{self.name}.success")
        return [
            (json.loads(one.value)["id"], {name: value.decode() for name, value in one.headers})
            for _, some in sorted(records.items())
            for one in some
        ]


@pytest.fixture
async def scene(kafka: str, topic_name: Callable[[str], str], tmp_path: Path) -> AsyncIterator[Scene]:
    async with children(tmp_path) as start:
        one = Scene(kafka, topic_name("letters"), tmp_path, start)
        await one.make_topics()
        yield one
    assert not any(PAN in text or "4111-1111" in text or "Lovelace" in text for text in one.said), "a card in clear"
    assert any(one.said)


async def test_letters_are_listed_shown_mended_and_retried_and_arrive_once(scene: Scene) -> None:
    await produce(scene.kafka, scene.raw, RECORDS)
    await scene.work(3, 3)

    found = {(one["reason"], one["path"]): one for one in scene.listed()}
    assert {key: one["letters"] for key, one in found.items()} == {key: len(places) for key, places in REASONS.items()}
    assert found["card-field-missing", ".transaction.cc.cc_name"]["partitions"] == [0, 1]
    assert all((one["retried"], one["sealed"]) == (0, one["letters"]) for one in found.values())
    each = {one["sluice_id"]: (one["reason"], one["path"]) for one in scene.listed("--each")}
    assert each == {scene.id(*place): key for key, places in REASONS.items() for place in places}
    assert [one["reason"] for one in scene.listed("--reason", "not-json")] == ["not-json"]
    assert scene.listed("--since", "2999-01-01") == []

    code, said = scene.sluice("show", *each)
    assert code == 0
    assert '"cc_number": "<text of 16 characters>"' in said, "what is missing can be seen"
    assert '"cc_number": "<a number>"' in said
    assert '"id": "<16 digits>"' in said
    assert "<18 bytes, no JSON from byte 0 on>" in said
    assert said.count("key         k") == 5
    code, said = scene.sluice("show", "--reason", "wrong-type")
    assert (code, said.count("wrong-type at .id")) == (0, 1)

    scene.configure("cc_number")  # the cause is mended: names are not encrypted any more
    code, said = scene.sluice("retry", "--reason", "card-field-missing", "--yes")
    assert (code, said) == (0, f"2 of 2 sent to {scene.raw}\n")
    await scene.work(4, 4)
    arrived = {number: headers for number, headers in await scene.routed() if number in (1, 4)}
    assert len(await scene.routed()) == 3
    assert {number: headers["sluice-retry"] for number, headers in arrived.items()} == {
        1: scene.id(0, 1),
        4: scene.id(1, 1),
    }
    assert arrived[1]["sluice-id"] == scene.id(0, 3)
    assert arrived[1]["sluice-retries"] == "1"

    code, said = scene.sluice("retry", "--all", "--reason", "card-field-missing")
    assert code == 64
    code, said = scene.sluice("retry", "--reason", "card-field-missing")
    assert (code, said.splitlines()) == (
        0,
        [
            "2 were retried before and are passed over; --again retries them too",
            f"no dead letters of {scene.name} to retry",
        ],
    )
    assert await total(scene.kafka, scene.raw) == 8, "nothing is sent twice"
    group = next(one for one in scene.listed() if one["reason"] == "card-field-missing")
    assert (group["letters"], group["retried"]) == (2, 2)
    assert "since then  fed in again" in scene.sluice("show", scene.id(0, 1))[1]


async def test_a_loop_is_seen_and_a_record_that_fails_again_keeps_its_history(scene: Scene) -> None:
    await produce(scene.kafka, scene.raw, {0: [NO_JSON]})
    await scene.work(1, 0)
    for times in (1, 2, 3):
        assert scene.sluice("retry", "--all", "--yes")[0] == 0
        await scene.work(times + 1, 0)
        letters = scene.listed("--each")
        assert [one["retries"] for one in letters] == list(range(times + 1))
        assert len(letters) == await total(scene.kafka, scene.raw), "only the last one was sent"
    code, said = scene.sluice("show", scene.id(0, 3))
    assert (code, f"fed in again 3 times before, first as {scene.id(0, 0)}" in said) == (0, True)
    assert scene.sluice("retry", scene.id(0, 0), "--again", "--yes") == (0, f"1 of 1 sent to {scene.raw}\n")
    assert await total(scene.kafka, scene.raw) == 5
    raw: Any = (await read(scene.kafka, scene.raw))[0]
    assert {(one.key, one.value, one.timestamp) for one in raw} == {(b"k", NO_JSON, raw[0].timestamp)}


async def test_on_a_terminal_it_asks_and_no_means_no(scene: Scene) -> None:
    await produce(scene.kafka, scene.raw, {0: [NO_JSON]})
    await scene.work(1, 0)
    for answer, code, count in (("n", 1, 1), ("y", 0, 2)):
        ours, theirs = pty.openpty()
        os.write(ours, f"{answer}\n".encode())
        done = subprocess.run(  # noqa: ASYNC221  # nothing else is to go on meanwhile
            scene.dlq_command("retry", "--all"), stdin=theirs, capture_output=True, text=True, timeout=60, check=False
        )
        os.close(ours)
        os.close(theirs)
        assert f"Send 1 to {scene.raw}? [y/N]" in done.stderr
        assert done.returncode == code, done.stderr
        assert await total(scene.kafka, scene.raw) == count


async def test_what_a_crash_wrote_twice_is_one_letter(scene: Scene) -> None:
    await produce(scene.kafka, scene.raw, {0: [NO_JSON, NO_NAME]})
    await scene.work(2, 0)
    records: Any = (await read(scene.kafka, scene.dlq))[0]
    outbox = Outbox(load(scene.file).kafka, "test")
    await outbox.start()
    await outbox.send(
        scene.dlq, 0, outbox.pack([(one.timestamp, None, one.value, list(one.headers)) for one in records])
    )
    await outbox.send(scene.dlq, 0, outbox.pack([(0, None, b"somebody else's", [("sluice-reason", b"x")])]))
    await outbox.stop()
    assert sum(one["letters"] for one in scene.listed()) == len(scene.listed("--each")) == 2
    assert scene.sluice("show", scene.id(0, 0))[1].count("not-json") == 1
    assert scene.sluice("retry", "--all", "--yes") == (0, f"2 of 2 sent to {scene.raw}\n")
    assert await total(scene.kafka, scene.raw) == 4


async def test_a_letter_without_a_body_is_retried_from_where_it_came_as_long_as_that_is_there(scene: Scene) -> None:
    scene.configure(keys=False)  # nothing to seal with
    await produce(scene.kafka, scene.raw, {0: [NO_JSON], 1: [b'{"id":"a"}', b'{"id":"b"}', b'{"id":"c"}']})
    await scene.work(1, 3)
    assert [one["sealed"] for one in scene.listed("--each")] == [False] * 4
    assert "may still be at" in scene.sluice("show", scene.id(0, 0))[1]
    admin = AIOKafkaAdminClient(bootstrap_servers=scene.kafka)
    await admin.start()
    await admin.delete_records({TopicPartition(scene.raw, 1): RecordsToDelete(before_offset=2)})
    await admin.close()
    code, said = scene.sluice("retry", "--all", "--yes")
    assert code == 1
    assert said.splitlines() == [
        f"2 of 4 sent to {scene.raw}",
        f"not retried: {scene.id(1, 0)}, {scene.id(1, 1)}: its letter has no body, and {scene.raw} does not hold it any more",
    ]
    raw: Any = await read(scene.kafka, scene.raw)
    assert [one.value for one in raw[0]] == [NO_JSON, NO_JSON]
    assert [one.value for one in raw[1]] == [b'{"id":"c"}', b'{"id":"c"}']
    assert scene.sluice("retry", "--all", "--yes")[1].startswith("2 were retried before"), (
        "and the two that are gone stay"
    )


async def test_another_record_in_its_place_is_not_taken_for_it(scene: Scene) -> None:
    scene.configure(keys=False)
    await produce(scene.kafka, scene.raw, {0: [NO_JSON]})
    await scene.work(1, 0)
    admin = AIOKafkaAdminClient(bootstrap_servers=scene.kafka)
    await admin.start()
    await admin.delete_topics([scene.raw])
    while scene.raw in await admin.list_topics():
        await asyncio.sleep(0.05)
    await admin.close()
    await scene.make_topics()
    await produce(scene.kafka, scene.raw, {0: [b'{"id":1}']})
    code, said = scene.sluice("retry", "--all", "--yes")
    assert (code, f"{scene.raw} does not hold it any more" in said) == (1, True)
    assert await total(scene.kafka, scene.raw) == 1


async def test_a_missing_key_version_is_named_and_ids_that_are_not_there(scene: Scene) -> None:
    await produce(scene.kafka, scene.raw, {0: [NO_JSON]})
    await scene.work(1, 0)
    (scene.folder / "keys.yaml").unlink()
    new_keys_file(scene.folder / "keys.yaml", ["card", "dead-letters"], id_="2027")
    missing = "there is no version '1' of key 'dead-letters'; put it back into the key file, decrypt-only"
    code, said = scene.sluice("show", scene.id(0, 0))
    assert (code, missing in said, "not-json" in said) == (78, True, True)
    code, said = scene.sluice("retry", "--all", "--yes")
    assert (code, f"not retried: {scene.id(0, 0)}: {missing}" in said, "0 of 1 sent" in said) == (1, True, True)
    (scene.folder / "keys.yaml").unlink()
    code, said = scene.sluice("show", scene.id(0, 0))
    assert (code, "make it with `sluice keys new FILE --all`" in said) == (78, True)
    assert scene.sluice("list")[0] == 0, "needs no keys"
    for command in (["show"], ["retry", "--yes"]):
        code, said = scene.sluice(*command, scene.id(0, 5))
        assert (code, f"not on {scene.dlq}: {scene.id(0, 5)}" in said) == (1, True)
    assert await total(scene.kafka, scene.raw) == 1


@pytest.mark.parametrize(("by", "most"), [(signal.SIGKILL, ROUND_LETTERS), (signal.SIGINT, 0)])
async def test_ended_in_the_midst_the_next_one_goes_on_and_at_most_one_round_goes_twice(
    scene: Scene, by: signal.Signals, most: int
) -> None:
    count = 60 * ROUND_LETTERS
    sealer = Sealer(loaded(load(scene.file)))
    outbox = Outbox(load(scene.file).kafka, "test")
    await outbox.start()

    class Raw:
        timestamp, key, headers = int(time.time() * 1000), None, ()

        def __init__(self, offset: int) -> None:
            self.offset, self.value = offset, b'{"id":%d}' % offset

    why = Refused("wrong-type", ".id")
    packed = [
        (raw.timestamp, None, sealer.seal(raw, 10_000), letter_headers(scene.raw, 0, raw, why, "pipeline"))
        for raw in map(Raw, range(count))
    ]
    await outbox.send(scene.dlq, 0, outbox.pack(packed))
    await outbox.stop()
    ended = await scene.start("ended", *scene.dlq_command("retry", "--all", "--yes")[1:])
    tp = TopicPartition(scene.raw, 0)
    async with looking(load(scene.file).kafka) as consumer, asyncio.timeout(60):
        while (await consumer.end_offsets([tp]))[tp] < 3 * ROUND_LETTERS:
            assert ended.process.returncode is None, "ended before it was ended"
    ended.process.send_signal(by)
    assert await ended.ends() == (-by if by == signal.SIGKILL else 130)
    marked = scene.listed()[0]["retried"]
    before = await total(scene.kafka, scene.raw)
    assert 0 < before < count, "it was not in its midst"
    assert before - most <= marked <= before
    if by == signal.SIGINT:
        assert f"stopped. {marked:,} of {count:,} were sent and marked" in ended.output
    assert scene.sluice("retry", "--all", "--yes") == (
        0,
        f"{marked:,} were retried before and are passed over; --again retries them too\n"
        f"{count - marked:,} of {count - marked:,} sent to {scene.raw}\n",
    )
    raw: Any = (await read(scene.kafka, scene.raw))[0]
    times = Counter(one.value for one in raw)
    assert len(times) == count
    assert len(raw) - count == before - marked <= most
    assert scene.listed()[0]["retried"] == count


class Receiver(ThreadingHTTPServer):
    """Refuses records with an odd id until it is told not to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.picky = True
        self.taken: list[tuple[int, str]] = []


class _Answer(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refused = self.server.picky and body["id"] % 2
        if not refused:
            self.server.taken.append((body["id"], body["sluice_id"]))
        self.send_response(422 if refused else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def receiving() -> Iterator[Receiver]:
    with Receiver() as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


async def test_a_stream_s_letters_go_to_its_destination_alone(
    kafka: str, topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    with receiving() as receiver:
        async with children(tmp_path) as start:
            url = f"http://127.0.0.1:{receiver.server_port}/"
            scene = Scene(kafka, topic_name("letters"), tmp_path, start, url)
            await scene.make_topics()
            records = [paid(number, cc_name="Ada Lovelace") for number in range(4)]
            await produce(kafka, scene.raw, {0: records})
            await scene.work(4, 0)
            stream = await start("stream", "-m", "sluice.cli", "worker", str(scene.file), scene.stream)
            ends = {TopicPartition(f"{scene.name}.success", 0): 4}
            await until_committed(kafka, f"sluice.{scene.stream}", ends)
            assert await stream.stop() == 0
            assert [number for number, _ in receiver.taken] == [0, 2]
            (group,) = scene.listed(name=scene.stream)
            assert (group["reason"], group["letters"]) == ("rejected-by-sink", 2)
            ids = [one["sluice_id"] for one in scene.listed("--each", name=scene.stream)]
            assert ids == [f"{scene.name}.success/0/{offset}" for offset in (1, 3)]
            assert "<text of" in scene.sluice("show", ids[0], name=scene.stream)[1]

            code, said = scene.sluice("retry", ids[0], "--yes", name=scene.stream)
            assert (code, "the destination refuses it again (rejected)" in said) == (1, True)
            receiver.picky = False
            code, said = scene.sluice("retry", "--all", "--yes", name=scene.stream)
            assert (code, said) == (0, f"2 of 2 sent to the destination of {scene.stream}\n")
            await until(lambda: len(receiver.taken) == 4)
            assert receiver.taken[2:] == [(number, scene.id(0, number)) for number in (1, 3)], "with the ids they had"
            assert scene.sluice("retry", "--all", "--yes", name=scene.stream)[0] == 0
            assert len(receiver.taken) == 4
            assert await total(kafka, scene.raw) == await total(kafka, f"{scene.name}.success") == 4
            assert not any(PAN in text or "Lovelace" in text for text in scene.said)
