"""The local Kafka is real, survives its faults, and never outlives whoever started it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from sluice.kafka_installation import Missing, fetched_jars, find_java
from sluice.local_kafka import BrokerFailed, LocalKafka, kafka

ROOT = Path(__file__).resolve().parents[2]


async def _make_topic(bootstrap: str, name: str, replicas: int = 1) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    made = await admin.create_topics([NewTopic(name, 1, replicas)])
    await admin.close()
    assert made.topic_errors[0][1] == 0, made.topic_errors


async def _send(bootstrap: str, topic: str, *values: bytes) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, request_timeout_ms=10_000
    )
    await producer.start()
    for value in values:
        await producer.send_and_wait(topic, value)
    await producer.stop()


async def _read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    # A broker that was just thawed may leave a request without an answer: then another one is asked.
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", request_timeout_ms=10_000)
    await consumer.start()
    consumer.assign([TopicPartition(topic, 0)])
    async with asyncio.timeout(60):
        values = [(await consumer.getone()).value for _ in range(count)]
    await consumer.stop()
    return values


def _gone(pid: int, within: float) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True  # ended; whoever adopted it has not looked yet
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_what_was_acknowledged_survives_kill_9_and_restart(tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "kafka") as cluster:
        asyncio.run(_make_topic(cluster.bootstrap, "ledger"))
        asyncio.run(_send(cluster.bootstrap, "ledger", b"1", b"2"))
        cluster.kill(0)
        assert cluster.pids == [None]
        cluster.restart(0)
        asyncio.run(_send(cluster.bootstrap, "ledger", b"3"))
        assert asyncio.run(_read(cluster.bootstrap, "ledger", 3)) == [b"1", b"2", b"3"]


def test_it_stops_in_order_and_starts_again_on_its_data(tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "kafka") as cluster:
        asyncio.run(_make_topic(cluster.bootstrap, "ledger"))
        asyncio.run(_send(cluster.bootstrap, "ledger", b"1"))
        (pid,) = cluster.pids
        cluster.stop()
        assert pid is not None
        assert _gone(pid, within=0.1)
        cluster.start()
        assert asyncio.run(_read(cluster.bootstrap, "ledger", 1)) == [b"1"]


def test_two_runs_in_a_row_leave_nothing_behind(tmp_path: Path) -> None:
    for _ in range(2):
        with LocalKafka(tmp_path / "kafka") as cluster:
            (pid,) = cluster.pids
            asyncio.run(_make_topic(cluster.bootstrap, "again"))
        assert pid is not None
        assert _gone(pid, within=0.1)
        assert not (tmp_path / "kafka").exists()


def test_three_brokers_go_on_when_one_is_killed_or_frozen(tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "kafka", brokers=3) as cluster:
        asyncio.run(_make_topic(cluster.bootstrap, "ledger", replicas=3))
        cluster.kill(1)
        asyncio.run(_send(cluster.bootstrap, "ledger", b"one is dead"))
        cluster.restart(1)
        cluster.pause(2)
        asyncio.run(_send(cluster.bootstrap, "ledger", b"one is frozen"))
        cluster.resume(2)
        assert asyncio.run(_read(cluster.bootstrap, "ledger", 2)) == [b"one is dead", b"one is frozen"]


OWNER = """
    import sys, threading, time
    from pathlib import Path
    from sluice.local_kafka import LocalKafka
    kafka = LocalKafka(Path(sys.argv[1]))
    thread = threading.Thread(target=kafka.start)    # the thread that asks for a broker may end, the broker must not
    thread.start()
    thread.join()
    time.sleep(0.3)
    kafka.restart(0)
    print(kafka.pids[0], flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_broker_never_outlives_its_owner(tmp_path: Path, fault: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER), str(tmp_path / "kafka")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert owner.stdout is not None
    broker = int(owner.stdout.readline())
    assert not _gone(broker, within=0.3)
    owner.send_signal(fault)
    owner.wait(10)
    owner.stdout.close()
    assert _gone(broker, within=5)


async def test_it_starts_and_restarts_while_an_event_loop_runs(tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "kafka") as cluster:
        await _make_topic(cluster.bootstrap, "ledger")
        await asyncio.to_thread(cluster.restart, 0)
        await _send(cluster.bootstrap, "ledger", b"1")


def test_it_listens_on_the_loopback_address_alone(tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "kafka") as cluster:
        assert cluster.bootstrap.startswith("127.0.0.1:")
        port = int(cluster.bootstrap.rpartition(":")[2])
        others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)} - {"127.0.0.1"}
        for address in [*others, "127.0.0.2"]:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((str(address), port), timeout=2)


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    cluster = LocalKafka(tmp_path / "kafka", properties={"num.io.threads": "0"})
    with pytest.raises(BrokerFailed, match=r"num\.io\.threads"), cluster:
        pytest.fail("started with no threads")
    assert cluster.pids == [None]


def test_a_directory_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="name a new directory"), LocalKafka(tmp_path):
        pytest.fail("took a directory that is not its own")
    assert (tmp_path / "letters.txt").read_text() == "dear"


def test_without_maven_it_says_in_a_sentence_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(Missing, match="apt-get install maven") as raised:
        fetched_jars()
    assert "\n" not in str(raised.value)
    assert not any(path.is_dir() for path in (tmp_path / "sluice").iterdir())


def test_a_fetch_that_fails_leaves_no_half_filled_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maven = tmp_path / "bin" / "mvn"
    maven.parent.mkdir()
    maven.write_text("#!/bin/sh\nfor a; do case $a in -DoutputDirectory=*) touch ${a#*=}/kafka-clients.jar;; esac; done\n"
                     "echo '[ERROR] no route to the repository'\nexit 1\n")  # fmt: skip
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{maven.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(Missing, match="no route to the repository"):
        fetched_jars()
    assert not any(path.is_dir() for path in (tmp_path / "cache" / "sluice").iterdir())


def test_two_processes_fetch_the_jars_once(tmp_path: Path) -> None:
    maven = tmp_path / "bin" / "mvn"
    maven.parent.mkdir()
    maven.write_text("#!/bin/sh\nfor a; do case $a in -DoutputDirectory=*) touch ${a#*=}/kafka_2.13-4.jar;; esac; done\n"
                     f"sleep 0.5\necho fetched >> {tmp_path}/fetches\n")  # fmt: skip
    maven.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{maven.parent}{os.pathsep}{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    code = "from sluice.kafka_installation import fetched_jars; fetched_jars()"
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment) for _ in range(2)]
    assert [process.wait(30) for process in both] == [0, 0]
    assert (tmp_path / "fetches").read_text() == "fetched\n"


@pytest.mark.parametrize(
    "says", ["", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2", "echo 'java version \"1.8.0_292\"' >&2"]
)
def test_an_old_java_is_refused_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f"#!/bin/sh\n{says}\n")
    java.chmod(0o755)
    with pytest.raises(Missing, match="Java 17 or later") as raised:
        find_java()
    assert str(java) in str(raised.value)


def test_an_existing_cluster_is_used_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, topic_name: Callable[[str], str]
) -> None:
    monkeypatch.setenv("KAFKA_BROKERS", "kafka-1:9092,kafka-2:9092")
    with kafka(tmp_path / topic_name("kafka")) as bootstrap:
        assert bootstrap == "kafka-1:9092,kafka-2:9092"
    assert not list(tmp_path.iterdir())
