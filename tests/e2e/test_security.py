"""On a broker with TLS, logins and ACLs: workers do their work, need no more than is documented, and say what is wrong."""

import asyncio
import dataclasses
import json
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import TopicAuthorizationFailedError

from sluice.config import load
from sluice.wiring import needs, topic_specs
from stream.connection import KafkaConfig, SecurityConfig
from stream.diagnosis import Unreachable, reach
from stream.permissions import NotAllowed
from stream.topics import Topics
from tests.e2e.processes import children, produce, read, until_committed
from tests.e2e.secure_kafka import MECHANISMS, Authority, Grant, SecureKafka

PASSWORD = "swordfish-in-a-barrel"
ROOT = Path(__file__).resolve().parents[2]
WORKER = ("-m", "sluice.cli", "worker")
LOGINS = [*MECHANISMS, "mTLS"]
RECORDS = [
    {"id": 1, "transaction": {"result": True}},
    {"id": 2, "transaction": {"result": False}},
    {"id": 3, "event": "bootup"},
    {"id": "four"},
]
PLACES = ("success", "fail", "unmatched", "dlq")
"""Where each of RECORDS belongs."""


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    broker = SecureKafka(tmp_path_factory.mktemp("secure"), PASSWORD)
    with broker.kafka:
        broker.start()
        yield broker


@pytest.fixture
def write_config(secure: SecureKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`write_config("events", brokers, security)` is a config file with one pipeline; the password is in the environment."""
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)

    def write(name: str, brokers: str, security: dict[str, Any], **more: Any) -> Path:
        def is_(value: bool) -> list[dict[str, Any]]:
            return [{"field": ".transaction.result", "op": "equal", "value": value}]

        pipeline = {"from": f"raw.{name}", "schema": "event", "routes": {"success": is_(True), "fail": is_(False)}}
        kafka = {"brokers": [brokers], "partitions": 1, "replication": 1, "session_seconds": 6, "security": security}
        file = tmp_path / f"{name}.yaml"
        metrics = {"listen": "127.0.0.1:0"}
        file.write_text(yaml.safe_dump({"kafka": kafka, "pipelines": {name: pipeline}, "metrics": metrics, **more}))
        return file

    return write


def login(secure: SecureKafka, mechanism: str, user: str = "sluice") -> tuple[str, dict[str, Any]]:
    """Bootstrap servers and `kafka.security` of a user; mechanism mTLS: by certificate."""
    ca = str(secure.folder / "ca.pem")
    if mechanism == "mTLS":
        own = {"certificate": str(secure.folder / f"{user}.crt"), "key": str(secure.folder / f"{user}.key")}
        return secure.kafka.listener("MTLS"), {"protocol": "SSL", "ca": ca, **own}
    shown = {"mechanism": mechanism, "username": user, "password": "${KAFKA_PASSWORD}"}
    return secure.kafka.listener("SECURE"), {"protocol": "SASL_SSL", "ca": ca, **shown}


def sluice(*arguments: str, seconds: float = 30) -> tuple[int, str]:
    """Exit code, and all that was said. Never a stack trace or the password."""
    words = [sys.executable, "-m", "sluice.cli", *arguments]
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False, cwd=ROOT)
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert PASSWORD not in said
    return done.returncode, said


async def ids(brokers: str, name: str) -> list[list[int]]:
    """For each of PLACES the raw offsets that it holds."""
    held = []
    for place in PLACES:
        records: list[Any] = (await read(brokers, f"{name}.{place}"))[0]
        held.append([int(dict(one.headers)["sluice-id"].rpartition(b"/")[2]) for one in records])
    return held


async def test_a_whole_pipeline_runs_with_each_login(
    secure: SecureKafka, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    files = {f"login-{one.lower()}": write_config(f"login-{one.lower()}", *login(secure, one)) for one in LOGINS}
    commands = [("topics", str(file)) for file in files.values()]
    assert [code for code, _ in await asyncio.gather(*(asyncio.to_thread(sluice, *one) for one in commands))] == [0] * 4
    for name in files:
        await produce(secure.kafka.bootstrap, f"raw.{name}", {0: [json.dumps(one).encode() for one in RECORDS]})
    async with children(tmp_path) as start:
        workers = [await start(name, *WORKER, str(file), name, "--verbose") for name, file in files.items()]
        for name in files:
            await until_committed(secure.kafka.bootstrap, f"sluice.{name}", {TopicPartition(f"raw.{name}", 0): 4})
        assert [await worker.stop() for worker in workers] == [0] * 4
    for worker, name in zip(workers, files, strict=True):
        assert PASSWORD not in worker.output
        assert await ids(secure.kafka.bootstrap, name) == [[0], [1], [2], [3]]
    code, said = await asyncio.to_thread(sluice, "check", str(files["login-mtls"]))
    assert code == 0, said
    assert "5 topics are as the config needs them" in said


# Connections that do not come about


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def failure(brokers: str, **security: Any) -> tuple[bool, str]:
    """Whether only another config helps, and what is said."""
    with pytest.raises(Unreachable) as caught:
        await reach(KafkaConfig(brokers=brokers.split(","), security=SecurityConfig(**security)))
    assert PASSWORD not in str(caught.value)
    return caught.value.final, str(caught.value)


async def test_each_step_of_a_connection_that_fails_says_why(
    secure: SecureKafka, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.diagnosis.STEP_SECONDS", 2.0)
    plain, tls, clear, mutual = (secure.kafka.listener(one) for one in ("PLAIN", "SECURE", "CLEAR", "MTLS"))
    folder, silent = secure.folder, f"127.0.0.1:{silent_port}"
    user = {"username": "sluice", "password": PASSWORD}
    sasl = {"protocol": "SASL_SSL", "mechanism": "SCRAM-SHA-512", "ca": folder / "ca.pem", **user}
    ssl = {"protocol": "SSL", "ca": folder / "ca.pem"}
    own = {"certificate": folder / "stranger.pem"}
    scram = {"protocol": "SASL_PLAINTEXT", "mechanism": "SCRAM-SHA-512", **user}
    other_name = f"localhost:{tls.rpartition(':')[2]}"
    cases: list[tuple[str, dict[str, Any], bool, str]] = [
        ("127.0.0.1:1", {}, False, "127.0.0.1:1: nothing listens there (connection refused); start it"),
        ("no-such-host.invalid:1", {}, False, "the name no-such-host.invalid leads nowhere"),
        (silent, {}, False, "it takes connections, but no answer to the first request in 2 s"),
        (silent, sasl, False, "no answer to the TLS handshake in 2 s"),
        (
            plain,
            ssl,
            True,
            "it is a plaintext port; take the port with TLS, or set kafka.security.protocol to PLAINTEXT",
        ),
        (plain, sasl, True, "it is a plaintext port; take the port with TLS, or set kafka.security.protocol to SASL_"),
        (plain, scram, True, "takes no user and password (SASL); set kafka.security.protocol to PLAINTEXT"),
        (
            tls,
            {},
            True,
            "the port wants TLS, and kafka.security.protocol is PLAINTEXT; set kafka.security.protocol to SSL",
        ),
        (tls, scram, True, "the port wants TLS, and kafka.security.protocol is SASL_PLAINTEXT"),
        (tls, ssl, True, "the port wants user and password (SASL PLAIN, SCRAM-SHA-256, SCRAM-SHA-512)"),
        (clear, {}, True, "the port wants user and password (SASL SCRAM-SHA-512)"),
        (tls, sasl | {"ca": folder / "another-ca.pem"}, True, "another-ca.pem did not sign its certificate"),
        (tls, sasl | {"ca": None}, True, "nobody whom this machine trusts signed its certificate"),
        (other_name, sasl, True, "its certificate is for another host than localhost"),
        (mutual, ssl, True, "without a client certificate"),
        (mutual, ssl | own, True, "it refuses our certificate stranger.pem"),
        (clear, scram | {"mechanism": "PLAIN"}, True, "it does not offer PLAIN, but SCRAM-SHA-512"),
        *(
            (tls, sasl | {"mechanism": one, "password": "wrong"}, True, f"does not let in user sluice with {one} (Auth")
            for one in MECHANISMS
        ),
        (f"127.0.0.1:1,{silent}", {}, False, "start it, or correct kafka.brokers. 127.0.0.1:"),
    ]
    found = await asyncio.gather(*(failure(brokers, **security) for brokers, security, _, _ in cases))
    for (brokers, security, final, said), (was_final, text) in zip(cases, found, strict=True):
        assert said in text, (brokers, security.get("protocol"))
        assert was_final == final, text
        assert ";" in text, "a remedy"


async def test_one_usable_broker_is_enough_and_the_others_are_named(secure: SecureKafka) -> None:
    brokers = [secure.kafka.bootstrap, "127.0.0.1:1"]
    (said,) = await reach(KafkaConfig(brokers=brokers))
    assert said.startswith("127.0.0.1:1: nothing listens there")


def test_all_that_is_wrong_with_the_files_is_said_at_once(
    secure: SecureKafka, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    Authority("authority").sign(tmp_path, "old", days=-1)
    files = {"ca": "not-there.pem", "certificate": "old.crt", "key": str(secure.folder / "router.key")}
    file = write_config("files", secure.kafka.listener("MTLS"), {"protocol": "SSL", **files})
    for command in (("check", "--offline"), ("check",), ("topics",), ("worker",)):
        code, said = sluice(*command, str(file), *(["files"] if command == ("worker",) else []))
        assert code == 78
        assert "kafka.security.ca: " in said
        assert "not-there.pem cannot be read (No such file or directory)" in said
        assert "old.crt expired on" in said
        assert "router.key is not the key of" in said


def test_a_wrong_password_ends_every_command_at_once(
    secure: SecureKafka, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_config("wrong", *login(secure, "SCRAM-SHA-512"))
    monkeypatch.setenv("KAFKA_PASSWORD", "not-the-password")
    for command in (("check", str(file)), ("topics", str(file)), ("worker", str(file), "wrong")):
        code, said = sluice(*command, seconds=20)
        assert code == 78
        assert "does not let in user sluice with SCRAM-SHA-512" in said
        assert "not-the-password" not in said


# Rights


def documented(user: str) -> list[Grant]:
    """The rights of a user in docs/security.md, one by one."""
    grants: list[Grant] = []
    for line in (ROOT / "docs" / "security.md").read_text().splitlines():
        if line.startswith("kafka-acls.sh") and f"--allow-principal User:{user} " in line:
            words = shlex.split(line)
            given = [(word, words[at + 1]) for at, word in enumerate(words[:-1])]
            operations = [value for word, value in given if word == "--operation"]
            grants += [
                (word[2:], value, re.sub(r"(?<!^)(?=[A-Z])", "_", operation).upper())
                for word, value in given
                if word in ("--topic", "--group")
                for operation in operations
            ]
    assert grants
    return grants


class Receiver(ThreadingHTTPServer):
    """Takes every record that is posted to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.ids: list[int] = []


class Answer(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.ids += [one["id"] for one in json.loads(self.rfile.read(int(self.headers["Content-Length"])))]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def config_of(
    secure: SecureKafka, write_config: Callable[..., Path], receiver: Receiver, tmp_path: Path
) -> Callable[[str], Path]:
    """`config_of("router")`: the config of the documentation's pipeline and stream, to be used by this user."""
    url = f"http://127.0.0.1:{receiver.server_port}/"
    http = {"url": url, "allow_http": True, "allow_private": ["127.0.0.0/8"], "seconds": 0.5}
    stream = {"from": ["events.success", "events.fail", "events.unmatched"], "http": http}
    more = {"streams": {"s3-general": stream}, "reference": {"endpoints": {"topic": "ref.endpoints"}}}

    def config_of(user: str) -> Path:
        data = yaml.safe_load(write_config("events", *login(secure, "SCRAM-SHA-256", user), **more).read_text())
        data["pipelines"]["events"]["enrich"] = [{"by": ".endpoint.id", "from": "endpoints", "into": ".endpoint"}]
        file = tmp_path / f"{user}.yaml"
        file.write_text(yaml.safe_dump(data))
        return file

    return config_of


async def test_the_documented_rights_are_enough(
    secure: SecureKafka, config_of: Callable[[str], Path], receiver: Receiver, tmp_path: Path
) -> None:
    for user in ("operator", "router", "stream", "device", "oncall"):
        secure.grant(user, *documented(user))
    code, said = await asyncio.to_thread(sluice, "topics", str(config_of("operator")))
    assert (code, said.count("created")) == (0, 7), said
    arguments = load(config_of("device")).kafka.client_arguments()
    device = AIOKafkaProducer(**arguments, acks="all", enable_idempotence=True)
    await device.start()
    for record in RECORDS:
        await device.send_and_wait("raw.events", json.dumps(record).encode(), partition=0)
    with pytest.raises(TopicAuthorizationFailedError):
        await device.send_and_wait("events.success", b"forged", partition=0)
    await device.stop()
    async with children(tmp_path) as start:
        router = await start("router-worker", *WORKER, str(config_of("router")), "events")
        stream = await start("stream-worker", *WORKER, str(config_of("stream")), "s3-general")
        ends = {TopicPartition(f"events.{place}", 0): 1 for place in ("success", "fail", "unmatched")}
        await until_committed(secure.kafka.bootstrap, "sluice.s3-general", ends)
        assert sorted(receiver.ids) == [1, 2, 3]
        assert await ids(secure.kafka.bootstrap, "events") == [[0], [1], [2], [3]]
        assert await stream.stop() == 0
        # Taken away under a running worker, a right is missed when it is used.
        secure.revoke("router", ("topic", "events.fail", "WRITE"))
        await produce(secure.kafka.bootstrap, "raw.events", {0: [json.dumps(RECORDS[1]).encode()]})
        assert await router.ends() == 78
    last = router.output.splitlines()[-1]
    assert last.startswith(
        "sluice: Kafka does not allow user router WRITE on topic events.fail; grant it with kafka-acls"
    )
    assert "Traceback" not in router.output
    start = ("start", "--from", "end", str(config_of("router")), "events")
    code, said = await asyncio.to_thread(sluice, *start)
    assert (code, said.splitlines()[0]) == (0, "raw.events/0: 4 → 5")
    code, said = await asyncio.to_thread(sluice, "start", "--from", "end", str(config_of("device")), "events")
    rights = "READ on group sluice.events and READ on topic raw.events"
    assert (code, said.partition(";")[0]) == (78, f"sluice: Kafka does not allow user device {rights}")
    for user, command, end in (
        ("device", ["list"], (78, "READ on topic events.dlq")),
        ("oncall", ["list"], (0, "1 dead letter of events, 0 retried")),
        ("oncall", ["retry", "--all"], (78, "READ on topic raw.events")),  # the letter has no body
    ):
        code, said = await asyncio.to_thread(sluice, "dlq", *command, str(config_of(user)), "events")
        assert (code, end[1] in said) == (end[0], True), said
    secure.grant("oncall", ("topic", "raw.events", "READ"))
    code, said = await asyncio.to_thread(sluice, "dlq", "retry", "--all", str(config_of("oncall")), "events")
    assert (code, said) == (0, "1 of 1 sent to raw.events\n")


async def test_with_any_right_taken_away_what_is_missing_is_named(
    secure: SecureKafka, config_of: Callable[[str], Path], tmp_path: Path
) -> None:
    admin = load(config_of("sluice"))
    async with Topics(admin.kafka) as topics:
        await topics.create(topic_specs(admin))
    for user, name in (("router", "events"), ("stream", "s3-general")):
        config = load(config_of(user))
        async with Topics(config.kafka) as topics:
            for right in documented(user):
                secure.revoke(user)
                secure.grant(user, *(one for one in documented(user) if one != right))
                missing = await topics.missing_rights(needs(config, [name]))
                assert [(one.kind, one.name, one.operation.name) for one in missing] == [right]
    code, said = await asyncio.to_thread(sluice, "worker", str(config_of("stream")), "s3-general")
    assert code == 78
    assert (
        "sluice: Kafka does not allow user stream READ on group sluice.s3-general; grant it with kafka-acls.sh" in said
    )

    wanted = topic_specs(load(config_of("operator")))
    new = [*wanted, dataclasses.replace(wanted[0], name="new")]
    grown = [dataclasses.replace(one, partitions=2) for one in wanted]
    cases = [
        ("CREATE", new, ["ALTER", "DESCRIBE_CONFIGS"]),
        ("ALTER", grown, ["CREATE", "DESCRIBE", "DESCRIBE_CONFIGS"]),
        ("DESCRIBE_CONFIGS", wanted, ["CREATE", "ALTER"]),
        ("DESCRIBE", wanted, ["CREATE", "DESCRIBE_CONFIGS"]),
    ]
    names = {name for _, name, _ in documented("operator")} | {"new"}
    for right, specs, granted in cases:
        secure.revoke("operator")
        secure.grant("operator", *(("topic", name, one) for name in names for one in granted))
        async with Topics(load(config_of("operator")).kafka) as topics:
            with pytest.raises(NotAllowed, match=f"does not allow user operator {right} on topic") as caught:
                await topics.create(specs)
    code, said = await asyncio.to_thread(sluice, "topics", str(config_of("operator")))
    assert (code, said) == (78, f"sluice: {caught.value}\n")
