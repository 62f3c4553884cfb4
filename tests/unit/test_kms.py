"""Promises of data keys: only KMS can give them back, none is used beyond its limits, and an outage of KMS is not one of ours."""

import asyncio
import base64
import io
import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from moto import mock_aws
from moto.server import ThreadedMotoServer
from pydantic import ValidationError

from agents import key_outage
from agents.dead_letters import DeadLetterDesk
from agents.key_outage import KeysAway, until_usable
from pipeline.dead_letters import Sealer, unseal
from pipeline.keys import Key, Keys, UnknownKey
from pipeline.pipeline import Pipeline
from pipeline.references import Tables
from schemas.refused import Refused
from sinks.aws import Unavailable
from sluice import checks, decrypt, logs
from sluice.config import ConfigError, load
from sluice.exits import Exit, UserError
from sluice.key_commands import show
from sluice.key_config import KeysConfig
from sluice.keys import loaded, unfit
from sluice.kms import DataKeys, Kms, KmsRefuses, context
from tests.raw import Raw

ROOT = Path(__file__).parents[2]
HOUR = 3600.0
RAW = Raw(b"value", offset=7, key=b"key")
SIZES = {"card-number": 32, "card-exp": 16, "dead-letters": 32}
PLACE = "kms_key: alias/sluice, region: eu-central-1"
CONFIG = """
kafka: {{brokers: ["localhost:9092"]}}
keys: {{provider: aws-kms, {keys}}}
pipelines:
  events:
    from: raw.events
    schema: event
    encrypt:
      - {{field: .transaction.cc.cc_number, key: card-number}}
"""


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a KMS with one key, `alias/sluice`."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "stand-in")
    with mock_aws():
        client = boto3.client("kms", region_name="eu-central-1")
        client.create_alias(AliasName="alias/sluice", TargetKeyId=client.create_key()["KeyMetadata"]["KeyId"])
        yield client


@pytest.fixture
def kms_server() -> Iterator[str]:
    """The URL of a KMS with one key, `alias/sluice`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client(
        "kms", region_name="eu-central-1", endpoint_url=url, aws_access_key_id="a", aws_secret_access_key="b"
    )
    client.create_alias(AliasName="alias/sluice", TargetKeyId=client.create_key()["KeyMetadata"]["KeyId"])
    yield url
    server.stop()


def config(**changes: Any) -> KeysConfig:
    return KeysConfig.model_validate(
        {"provider": "aws-kms", "kms_key": "alias/sluice", "region": "eu-central-1", **changes}
    )


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Process:
    """The data keys of a process, as `sluice.keys.keep` looks after them, under a clock of the test's."""

    def __init__(self, **changes: Any) -> None:
        self.clock = Clock()
        self.source = DataKeys(config(**changes), SIZES, self.clock)
        self.source.open()
        self.keys = self.source.keys

    async def look(self) -> None:
        """Look, and look again when what that began has ended."""
        await self.source.look(self.keys.take_uses())
        if self.source._renewing is not None:
            await asyncio.wait([self.source._renewing])
            await self.source.look({})

    def ids(self) -> dict[str, str]:
        return {name: self.keys.active(name).id for name in self.keys.names}


# What a data key is


def test_each_name_has_a_data_key_of_its_own_whose_id_is_its_wrapped_form(kms: Any) -> None:
    one, other = Process(), Process()
    assert {name: len(one.keys.active(name).material) for name in one.keys.names} == SIZES
    everything = [*one.keys, *other.keys]
    assert len({key.material for key in everything}) == len({key.id for key in everything}) == 6
    for key in everything:
        wrapped = base64.urlsafe_b64decode(key.id + "=" * (-len(key.id) % 4))
        answer = kms.decrypt(CiphertextBlob=wrapped, EncryptionContext=context(key.name))
        assert answer["Plaintext"] == key.material
        assert ":" not in key.id, "it is a part of tokens"


def test_another_process_decrypts_with_what_stands_beside_the_value(kms: Any) -> None:
    writer, reader = Process(), Kms(config())
    keys = Keys((), reader.unwrap)
    for key in writer.keys:
        found = keys.find(key.name, key.id)
        assert (found.material, found.id, found.active) == (key.material, key.id, False)


def test_who_decrypts_needs_no_right_to_make_data_keys(
    kms: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG.format(keys=PLACE))
    made = load(file)
    pipeline = Pipeline("events", made.pipelines["events"], loaded(made), Tables())
    raw = [Raw(b'{"transaction":{"cc":{"cc_number":"4111111111111111"}}}')] * 3
    done = pipeline.process(raw)
    assert len(done.values) == 3
    assert b"4111111111111111" not in b"".join(done.values)

    calls: list[str] = []
    whole = BaseClient._make_api_call

    def counted(client: BaseClient, operation: str, arguments: Any) -> Any:
        calls.append(operation)
        return whole(client, operation, arguments)

    monkeypatch.setattr(BaseClient, "_make_api_call", counted)
    out = io.BytesIO()
    decrypt.run(made, "events", io.BytesIO(b"\n".join(done.values)), out)
    assert out.getvalue().count(b'"cc_number":"4111111111111111"') == 3
    assert set(calls) == {"Decrypt"}


def test_a_data_key_is_asked_for_once(kms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    key, keys = Process().keys.active("card-number"), Process().keys
    calls = []
    whole = Kms.__dict__["_explained"]
    monkeypatch.setattr(Kms, "_explained", lambda self: calls.append(1) or whole(self))
    assert keys.find("card-number", key.id).material == keys.find("card-number", key.id).material
    assert len(calls) == 1


def test_a_dead_letter_is_sealed_and_opened_with_a_data_key(kms: Any) -> None:
    sealed = Sealer(Process().keys).seal(RAW, 1000)
    assert sealed is not None
    assert unseal(sealed, Keys((), Kms(config()).unwrap)).value == b"value"
    with pytest.raises(UnknownKey):
        unseal(sealed, Keys.none())


@pytest.mark.parametrize("length", [1, 128, 246, 255, 256, 8192])
def test_an_id_of_any_length_that_kms_may_give_fits_a_dead_letter(length: int) -> None:
    keys = Keys([Key("dead-letters", "x" * length, bytes(range(32)))])
    sealed = Sealer(keys).seal(RAW, 10_000)
    assert sealed is not None
    assert unseal(sealed, keys).value == b"value"


@pytest.mark.parametrize("id_", ["", "2026-11-05", "a b", "é", "AAAA=", "AAA\n", "A" * 9000, "QUJD"])
def test_an_id_that_is_no_data_key_of_ours_is_unknown(kms: Any, id_: str) -> None:
    with pytest.raises(UnknownKey, match="is no data key of 'card-number' under alias/sluice"):
        Kms(config()).unwrap("card-number", id_)


def test_a_data_key_serves_one_name_and_one_kms_key(kms: Any) -> None:
    id_ = Process().keys.active("card-number").id
    with pytest.raises(UnknownKey, match="InvalidCiphertext"):
        Kms(config()).unwrap("card-exp", id_)
    kms.create_alias(AliasName="alias/other", TargetKeyId=kms.create_key()["KeyMetadata"]["KeyId"])
    with pytest.raises(UserError, match="AccessDenied"):  # moto's word for IncorrectKeyException
        Kms(config(kms_key="alias/other")).unwrap("card-number", id_)


# When it is replaced


async def test_a_data_key_is_replaced_before_it_is_too_old(kms: Any) -> None:
    process = Process(data_key_hours=24)
    first, version = process.ids(), process.keys.version
    process.clock.now += 17.9 * HOUR
    await process.look()
    assert (process.ids(), process.keys.version) == (first, version)
    process.clock.now += 0.2 * HOUR
    await process.look()
    second = process.ids()
    assert all(second[name] != first[name] for name in SIZES)
    assert process.keys.version > version, "who holds ciphers sees it"
    process.clock.now += 17.9 * HOUR
    await process.look()
    assert process.ids() == second


async def test_a_data_key_is_replaced_before_it_is_used_too_much_and_it_alone(kms: Any) -> None:
    process = Process(data_key_uses=1000)
    first = process.ids()
    old = process.keys.active("card-exp")
    process.keys.used(old, 700)
    process.keys.used(process.keys.active("card-number"), 749)
    await process.look()
    assert process.ids() == first
    process.keys.used(old, 50)
    await process.look()
    changed = [name for name, id_ in process.ids().items() if id_ != first[name]]
    assert changed == ["card-exp"]
    process.keys.used(old, 5000)  # of a batch that was under way: not the new one's
    process.keys.used(process.keys.active("card-exp"), 749)
    second = process.ids()
    await process.look()
    assert process.ids() == second
    assert process.keys.paused == ""


# When KMS is away


async def test_work_goes_on_while_kms_is_away_until_the_limit_and_then_waits(
    kms: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(data_key_hours=24)
    first = process.ids()
    draw, calls = Kms.draw_soon, []

    async def away(self: Kms, name: str, size: int) -> Key:
        calls.append(name)
        raise Unavailable("timeout")

    monkeypatch.setattr(Kms, "draw_soon", away)
    process.clock.now += 23.9 * HOUR
    for _ in range(3):
        await process.look()
    assert (process.ids(), process.keys.paused) == (first, "")
    assert len(calls) == 1, "asked again after a pause only"
    assert caplog.messages == [
        "AWS KMS does not answer (timeout). Data keys in use serve until they are too old or used too much; then work waits."
    ]
    process.clock.now += 0.2 * HOUR
    await process.look()
    assert "card-number, card-exp, dead-letters may be used no more" in process.keys.paused
    assert caplog.messages[-1] == f"Work waits: {process.keys.paused}."
    waiting = asyncio.create_task(until_usable(process.keys))
    await asyncio.sleep(0)
    assert not waiting.done()

    monkeypatch.setattr(Kms, "draw_soon", draw)
    process.clock.now += 60
    await process.look()
    assert process.keys.paused == ""
    assert await asyncio.wait_for(waiting, 5)
    assert all(id_ != first[name] for name, id_ in process.ids().items())


async def test_a_hanging_kms_holds_up_neither_the_limits_nor_the_loop(
    kms: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(data_key_uses=1000)

    async def hangs(self: Kms, name: str, size: int) -> Key:
        return await asyncio.Future()

    monkeypatch.setattr(Kms, "draw_soon", hangs)
    process.keys.used(process.keys.active("card-exp"), 800)
    await process.source.look(process.keys.take_uses())
    assert process.keys.paused == ""
    process.keys.used(process.keys.active("card-exp"), 200)
    await process.source.look(process.keys.take_uses())
    assert "card-exp may be used no more" in process.keys.paused
    process.source.close()


async def test_a_fault_of_ours_is_no_outage(kms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process()

    async def fails(self: Kms, name: str, size: int) -> Key:
        raise ZeroDivisionError

    monkeypatch.setattr(Kms, "draw_soon", fails)
    process.clock.now += 20 * HOUR
    with pytest.raises(ZeroDivisionError):
        await process.look()


async def test_who_waits_too_long_ends_and_nothing_was_encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_outage, "PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(key_outage, "PAUSE_SECONDS", 0.02)
    keys = Keys.none()
    assert await until_usable(keys)
    keys.paused = "the data key of card may be used no more"
    with pytest.raises(KeysAway, match="the data key of card may be used no more; see `sluice check FILE`"):
        await until_usable(keys)


async def test_who_waits_stops_when_its_partition_ends() -> None:
    keys = Keys.none()
    keys.paused = "x"

    async def ended(seconds: float) -> bool:
        return False

    assert not await until_usable(keys, ended)


async def test_no_dead_letter_is_sealed_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_outage, "PATIENCE_SECONDS", -1)
    keys = Keys([Key("dead-letters", "1", bytes(range(32)))])
    keys.paused = "x"
    nowhere: Any = None  # nothing gets so far as to be sent
    with pytest.raises(KeysAway):
        await DeadLetterDesk("events", nowhere, Sealer(keys)).send("raw", 0, [(RAW, Refused("not-json"))], "pipeline")
    assert keys.take_uses() == {}


class _Refusing(BaseHTTPRequestHandler):
    """Answers every call with the error that the server has been given."""

    def do_POST(self) -> None:
        status, code = self.server.error  # type: ignore[attr-defined]
        body = json.dumps({"__type": code, "message": "swordfish"}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def refusing() -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (400, "NotFoundException", "correct keys.kms_key and keys.region"),
        (400, "DisabledException", "enable that key in KMS"),
        (400, "KMSInvalidStateException", "enable that key in KMS"),
        (400, "AccessDeniedException", "allow kms:GenerateDataKey"),
        (400, "UnrecognizedClientException", "correct access_key_id and secret_access_key"),
        (400, "SomethingNew", "see what KMS has against it"),
        (400, "ThrottlingException", None),
        (400, "LimitExceededException", None),
        (500, "KMSInternalException", None),
        (503, "DependencyTimeoutException", None),
        (500, "KeyUnavailableException", None),
        (502, "", None),
    ],
)
async def test_what_may_pass_is_waited_for_and_the_rest_is_said_at_once(
    refusing: Any, status: int, code: str, said: str | None
) -> None:
    refusing.error = (status, code)
    url = f"http://127.0.0.1:{refusing.server_port}"
    kms = Kms(config(endpoint_url=url, access_key_id="a", secret_access_key="b"))
    expected = Unavailable if said is None else KmsRefuses
    with pytest.raises(expected) as blocking:
        kms.draw("card-number", 32)
    with pytest.raises(expected) as waiting:
        await kms.draw_soon("card-number", 32)
    for caught in (blocking, waiting):
        assert (said or code) in str(caught.value)
        assert "swordfish" not in str(caught.value)
    with pytest.raises(UserError) as unwrapping:
        await asyncio.to_thread(kms.unwrap, "card-number", "QUJDRA")
    assert unwrapping.value.code == (Exit.UNAVAILABLE if said is None else Exit.CONFIG)


# Configs


def file(folder: Path, keys: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(CONFIG.format(keys=keys))
    return path


def test_a_config_encrypts_with_data_keys(kms: Any, tmp_path: Path) -> None:
    read = load(file(tmp_path, PLACE))
    keys = loaded(read)
    assert keys.names == ["card-number", "dead-letters"]
    assert len(keys.active("card-number").material) == 32
    assert list(unfit(read, keys)) == []
    assert loaded(read, ["some-stream"]).names == ["dead-letters"], "no more than it needs"
    assert keys.warnings == []


def test_data_keys_that_travel_in_clear_are_warned_about(tmp_path: Path, kms_server: str) -> None:
    place = f"{PLACE}, endpoint_url: '{kms_server}', access_key_id: a, secret_access_key: b"
    assert ["come in clear" in one for one in loaded(load(file(tmp_path, place))).warnings] == [True]


def test_a_kms_that_is_away_is_unavailable_and_a_wrong_key_is_a_wrong_config(tmp_path: Path, kms: Any) -> None:
    with pytest.raises(UserError, match="NotFoundException") as caught:
        loaded(load(file(tmp_path, PLACE.replace("sluice", "none"))))
    assert caught.value.code == Exit.CONFIG
    with pytest.raises(UserError, match=r"AWS KMS does not answer \(unreachable\)") as caught:
        loaded(load(away(tmp_path)))
    assert caught.value.code == Exit.UNAVAILABLE
    keys = Keys((), Kms(config(endpoint_url="http://127.0.0.1:1")).unwrap)
    with pytest.raises(UserError, match="try again") as caught:
        keys.find("card-number", "QUJDRA")
    assert caught.value.code == Exit.UNAVAILABLE


def test_without_credentials_or_region_it_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(UserError, match=r"set keys\.region"):
        loaded(load(file(tmp_path, "kms_key: alias/sluice, access_key_id: a, secret_access_key: b")))
    with pytest.raises(UserError, match=r"set keys\.access_key_id"):
        loaded(load(file(tmp_path, PLACE)))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"provider": "aws-kms"}, "add kms_key: alias/NAME"),
        ({"provider": "aws-kms", "kms_key": "alias/a", "path": "keys.yaml"}, "path is of provider file"),
        ({"provider": "file", "kms_key": "alias/a"}, "kms_key: of provider aws-kms; remove it, or set provider: aws-kms"),
        ({"region": "eu-central-1", "data_key_hours": 1}, "data_key_hours, region: of provider aws-kms"),
        ({"provider": "env", "path": "keys.yaml"}, "path is of provider file"),
        ({"provider": "aws-kms", "kms_key": "alias/a", "data_key_uses": (1 << 28) + 1}, "less than or equal to 268435456"),
        ({"provider": "aws-kms", "kms_key": "alias/a", "data_key_hours": 0}, "greater than 0"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(keys: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        KeysConfig.model_validate(keys)


def test_a_config_says_so_too_and_takes_no_path(tmp_path: Path) -> None:
    assert load(file(tmp_path, PLACE)).keys is not None
    with pytest.raises(ConfigError, match="path is of provider file; remove it"):
        load(file(tmp_path, f"{PLACE}, path: keys.yaml"))


def test_no_secret_of_the_config_and_no_data_key_is_shown(
    kms: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """At DEBUG, with all that boto3 says of the answer."""
    read = load(file(tmp_path, f"{PLACE}, access_key_id: a, secret_access_key: swordfish"))
    logs.configure("test", verbose=True)
    logging.getLogger().addHandler(caplog.handler)
    try:
        keys = loaded(read)
        Keys((), Kms(config()).unwrap).find("card-number", keys.active("card-number").id)
    finally:
        logging.getLogger().handlers.clear()
        logging.getLogger().setLevel(logging.WARNING)
    shown = f"{caplog.text}{capfd.readouterr()}{read!r}{read.model_dump()}{read.model_dump_json()}{keys!r}{vars(keys)}"
    assert "swordfish" not in shown
    for key in keys:
        assert base64.b64encode(key.material).decode() not in shown
        assert repr(bytes(key.material))[2:-1] not in shown


# Workers and commands


def away(folder: Path) -> Path:
    place = f"{PLACE}, endpoint_url: 'http://127.0.0.1:1', access_key_id: a, secret_access_key: b"
    return file(folder, place)


def worker(config: Path, patience: float) -> subprocess.Popen[str]:
    script = f"import sluice.worker; sluice.worker.START_SECONDS = {patience}\nfrom sluice import cli; cli.main()"
    return subprocess.Popen(
        [sys.executable, "-c", script, "worker", str(config), "events"],
        cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def test_a_worker_waits_for_kms_and_then_says_what_is_out_of_reach(tmp_path: Path) -> None:
    process = worker(away(tmp_path), 0.2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == Exit.UNAVAILABLE
    assert "sluice: gave up after 0 s: AWS KMS does not answer (unreachable)\n" in err
    assert "Traceback" not in err


def test_a_worker_that_waits_for_kms_ends_when_it_is_told_to(tmp_path: Path) -> None:
    process = worker(away(tmp_path), 60)
    assert process.stderr is not None
    said = ""
    while "Waiting up to 60 s" not in said:
        said = process.stderr.readline()
        assert said, "it ended"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == Exit.DONE


def test_check_asks_for_a_data_key_of_each_name(
    tmp_path: Path, kms_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"{PLACE}, endpoint_url: '{kms_server}', access_key_id: a, secret_access_key: b"
    offline = "✓ keys: data keys for card-number, dead-letters are to come from KMS key alias/sluice"
    assert checks.run(load(file(tmp_path, place)), offline=True) == Exit.DONE
    assert offline in (out := capsys.readouterr().out)
    assert "one active version each" not in out
    for keys, line in (
        (place, "✓ keys: KMS key alias/sluice has card-number, dead-letters, one active version each"),
        (place.replace("alias/sluice", "alias/no"), "✗ keys: KMS refuses to work with alias/no (NotFoundException); correct"),
    ):  # fmt: skip
        checks.run(load(file(tmp_path, keys)), offline=False)
        assert line in capsys.readouterr().out
    assert checks.run(load(away(tmp_path)), offline=False) == Exit.UNAVAILABLE
    assert "✗ keys: AWS KMS does not answer (unreachable)" in capsys.readouterr().out


def test_keys_list_says_where_data_keys_come_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(load(away(tmp_path)))
    assert "card-number   KMS key alias/sluice  data keys  32 bytes\n" in capsys.readouterr().out
