"""Commands on a real Kafka: topics are made as the config says, `check` sees them, `up` runs what is configured."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

SLUICE = str(Path(sys.executable).with_name("sluice"))
CONFIG = """
kafka: {{brokers: ['{kafka}'], partitions: 3, replication: 1}}
keys: {{provider: file, path: keys.yaml}}
reference:
  endpoints: {{topic: {raw}.endpoints}}
pipelines:
  {name}:
    from: {raw}
    schema: event
    enrich: [{{by: .endpoint.id, from: endpoints, into: .endpoint}}]
    routes:
      success: [{{field: .transaction.result, op: equal, value: true}}]
    encrypt:
      - {{field: .transaction.cc.cc_number, key: card-number}}
metrics: {{listen: '127.0.0.1:0'}}
"""

Sluice = Callable[..., tuple[int, str]]


@pytest.fixture
def name(topic_name: Callable[[str], str]) -> str:
    return topic_name("commands")


@pytest.fixture
def sluice(kafka: str, name: str, tmp_path: Path) -> Sluice:
    """`sluice("topics", "--compare")` is the exit code and all that was said, on the config of this test."""
    (tmp_path / "config.yaml").write_text(CONFIG.format(kafka=kafka, raw=f"raw.{name}", name=name))

    def sluice(command: str, *arguments: str) -> tuple[int, str]:
        words = [SLUICE, *command.split(), "config.yaml", *arguments]
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    return sluice


def states(said: str) -> dict[str, str]:
    lines = [line.split() for line in said.splitlines()]
    return {line[1]: line[2].rstrip(":") for line in lines}


async def test_topics_are_made_once_compared_and_grown(kafka: str, name: str, sluice: Sluice, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    code, said = sluice("topics", "--compare")
    wanted = [f"raw.{name}", *(f"{name}.{route}" for route in ("success", "unmatched", "dlq")), f"raw.{name}.endpoints"]
    assert (code, states(said)) == (1, dict.fromkeys(wanted, "missing"))
    code, said = sluice("topics")  # there are no keys yet
    assert (code, states(said)) == (0, dict.fromkeys(wanted, "created"))
    assert sluice("topics")[0] == sluice("topics", "--compare")[0] == 0

    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.create_partitions({f"raw.{name}": NewPartitions(5)})
        code, said = sluice("topics", "--compare")
        assert code == 1
        assert f"{name}.success" in said
        assert "has 3 partitions, needs 5" in said
        assert sluice("topics")[0] == 0
        described = await admin.describe_topics([f"{name}.{route}" for route in ("success", "unmatched", "dlq")])
        assert [len(one["partitions"]) for one in described] == [5, 5, 5]
        file.write_text(file.read_text().replace("partitions: 3", "partitions: 6"))
        assert sluice("topics")[0] == sluice("topics", "--compare")[0] == 0
        described = await admin.describe_topics([f"raw.{name}", f"{name}.success", f"raw.{name}.endpoints"])
        counts = {one["topic"]: len(one["partitions"]) for one in described}
        # Entries of one id stay in one partition.
        assert counts == {f"raw.{name}": 6, f"{name}.success": 6, f"raw.{name}.endpoints": 3}
    finally:
        await admin.close()


def test_more_replicas_than_brokers_is_said_plainly(tmp_path: Path, sluice: Sluice) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(file.read_text().replace("replication: 1", "replication: 3"))
    code, said = sluice("topics")
    assert code == 1
    assert "failed" in said
    assert "lower kafka.replication, or add brokers" in said


def test_check_says_what_is_missing_until_all_is_there(sluice: Sluice) -> None:
    assert sluice("check")[0] == 78  # no keys
    assert sluice("keys new", "--all")[0] == 0
    code, said = sluice("check")
    assert code == 69
    assert "are not there; make them with `sluice topics FILE`" in said
    assert sluice("topics")[0] == 0
    code, said = sluice("check")
    assert code == 0
    assert "5 topics are as the config needs them" in said


@pytest.fixture
def up(sluice: Sluice, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`sluice up` with two workers of the pipeline, its topics and keys made."""
    assert sluice("keys new", "--all")[0] == sluice("topics")[0] == 0
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([SLUICE, "up", "config.yaml", "--workers", "2"], cwd=tmp_path, stderr=log, text=True)
        yield process
        process.kill()
        process.wait()
    shutil.rmtree(tmp_path)


async def test_up_runs_the_pipeline_and_drains_on_sigterm(kafka: str, name: str, up: subprocess.Popen[str]) -> None:
    card = {"cc_number": "4111111111111111"}
    records = [{"id": number, "transaction": {"result": number % 2 == 0, "cc": card}} for number in range(60)]
    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    await producer.start()
    try:
        for record in records:
            await producer.send_and_wait(f"raw.{name}", json.dumps(record).encode(), partition=record["id"] % 3)  # type: ignore[operator]
    finally:
        await producer.stop()

    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        places = [
            TopicPartition(f"{name}.{route}", number) for route in ("success", "unmatched") for number in range(3)
        ]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        found: dict[int, str] = {}
        async with asyncio.timeout(60):
            while len(found) < len(records):
                for place, batch in (await consumer.getmany(timeout_ms=500)).items():
                    assert not any(card["cc_number"].encode() in one.value for one in batch)
                    found |= {json.loads(one.value)["id"]: place.topic for one in batch}
    finally:
        await consumer.stop()
    assert found == {number: f"{name}.{'unmatched' if number % 2 else 'success'}" for number in range(60)}
    up.send_signal(signal.SIGTERM)
    started = time.monotonic()
    assert await asyncio.to_thread(up.wait, 30) == 0
    assert time.monotonic() - started < 20


async def test_generate_sends_until_a_signal_and_says_how_much_is_there(
    kafka: str, topic_name: Callable[[str], str], new_topics: Callable[..., Awaitable[None]]
) -> None:
    topic = topic_name("generated")
    await new_topics(topic, partitions=2)
    command = [SLUICE, "generate", "--topic", topic, "--brokers", kafka, "--rate", "500", "--kind", "both"]
    generate = await asyncio.to_thread(subprocess.Popen, command, stderr=subprocess.PIPE, text=True)
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka)
    await consumer.start()
    try:
        places = [TopicPartition(topic, number) for number in range(2)]
        async with asyncio.timeout(30):
            # A round adds to each of the two partitions once, and the next begins when it is counted: of three totals the last
            # is of a later round than the first.
            totals: set[int] = set()
            while len(totals) < 3:
                if (total := sum((await consumer.end_offsets(places)).values())) >= 200:
                    totals.add(total)
                await asyncio.sleep(0.1)
        generate.send_signal(signal.SIGTERM)
        _, said = await asyncio.to_thread(generate.communicate, None, 20)
        assert generate.returncode == 0, said
        count = int(said.split()[0])
        assert said == f"{count} records acknowledged by {topic}\n"
        assert sum((await consumer.end_offsets(places)).values()) >= count >= 200
    finally:
        await consumer.stop()


def test_a_topic_that_is_not_there_is_named(kafka: str, topic_name: Callable[[str], str]) -> None:
    topic = topic_name("no.such")
    command = [SLUICE, "generate", "--topic", f"{topic} x", "--brokers", kafka, "--count", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == 69
    assert "correct --topic" in done.stderr
