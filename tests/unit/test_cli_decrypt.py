"""Promise: who holds the keys gets back what was encrypted, type and all; who does not is told which key is missing."""

import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import PipelineConfig
from pipeline.keys import Key, Keys
from pipeline.pipeline import Pipeline
from pipeline.references import Tables
from sluice import decrypt
from sluice.config import Config, load
from sluice.exits import Exit, UserError
from sluice.keys import loaded
from tests.raw import Raw

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


SALE = {
    "id": 7,
    "transaction": {"total_price": 3.50, "result": True, "cc": {"cc_number": "4111111111111111", "cc_name": "Zoë"}},
    "user": {"username": "zoë"},
}
ENCRYPT = [
    {"field": ".transaction.cc.cc_number", "key": "a", "algorithm": "AES-256-CFB", "iv_field": ".transaction.cc.cc_number_iv",
     "key_id_field": ".transaction.cc.cc_number_key"},
    {"field": ".transaction.total_price", "key": "b", "bind": [".id"]},
    {"field": ".user", "key": "b", "algorithm": "AES-256-GCM-SIV", "required_on": []},
    {"field": ".transaction.cc.cc_name", "key": "b", "search_field": ".transaction.cc.cc_name_hash", "search_key": "c"},
]  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Config:
    keys = {
        name: [{"id": "1", "state": "active", "text": letter * 31 + name}]
        for name, letter in zip("abc", "xyz", strict=True)
    }
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump(keys))
    file.chmod(0o400)
    settings = {
        "kafka": {"brokers": ["localhost:9092"]},
        "keys": {"provider": "file", "path": "keys.yaml"},
        "pipelines": {
            "events": {"from": "raw", "schema": "event", "encrypt": ENCRYPT},
            "usage": {"from": "u", "schema": "usage"},
        },
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    return load(tmp_path / "config.yaml")


def encrypted(config: Config, *records: Any) -> list[bytes]:
    rules = config.pipelines["events"].model_copy(update={"routes": {}})
    assert isinstance(rules, PipelineConfig)
    made = Pipeline("events", rules, loaded(config), Tables())
    done = made.process([Raw(json.dumps(one).encode()) for one in records])
    assert not done.dead
    return list(done.values)


def run(config: Config, lines: bytes, pipeline: str | None = None) -> list[Any]:
    out = io.BytesIO()
    decrypt.run(config, pipeline, io.BytesIO(lines), out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("packed", [bytes, gzip.compress, zstd.compress])
def test_every_field_comes_back_as_it_was(config: Config, packed: Callable[[bytes], bytes]) -> None:
    lines = b"\n".join(encrypted(config, SALE, {**SALE, "id": 8})) + b"\n\n"
    assert b"4111" not in lines
    assert "Zoë".encode() not in lines
    first, second = run(config, packed(lines))
    hashed = first["transaction"]["cc"].pop("cc_name_hash")
    assert second["transaction"]["cc"].pop("cc_name_hash") == hashed
    assert first == SALE
    assert second == {**SALE, "id": 8}


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
def test_what_is_cut_off_or_damaged_is_said_after_what_is_whole(config: Config, pack: Callable[[bytes], bytes]) -> None:
    (line,) = encrypted(config, SALE)
    packed = pack(b"".join(line + b"%d\n" % number for number in range(20_000)).replace(b"}0", b"}"))
    for damaged in (packed[: len(packed) // 2], packed + b"more", packed[:2000] + b"\0" * 2000 + packed[4000:]):
        with pytest.raises(UserError, match="damaged after line") as caught:
            decrypt.run(config, None, io.BytesIO(damaged), io.BytesIO())
        assert caught.value.code is Exit.FAILED


def test_a_token_where_no_rule_writes_one_is_no_success(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = encrypted(config, SALE)
    token = json.loads(line)["transaction"]["cc"]["cc_name"]
    for record, place in (
        ({"value": json.loads(line)}, ".value.transaction.cc.cc_name"),
        ({**json.loads(line), "description": token}, ".description"),
        ({**json.loads(line), "detail": {"seen": ["x", token]}}, ".detail.seen[1]"),
    ):
        with pytest.raises(UserError, match="1 lines were not decrypted"):
            decrypt.run(config, None, io.BytesIO(json.dumps(record).encode()), io.BytesIO())
        assert f"{place}: a token, where no rule writes one" in capsys.readouterr().err


def test_what_does_not_decrypt_stays_and_is_named(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (json.loads(line) for line in encrypted(config, SALE, {**SALE, "id": 8}))
    one["transaction"]["total_price"] = other["transaction"]["total_price"]
    del one["transaction"]["cc"]["cc_number_iv"]
    one["transaction"]["cc"]["cc_name"] = one["user"]
    out = io.BytesIO()
    with pytest.raises(UserError, match="2 lines were not decrypted") as caught:
        decrypt.run(config, None, io.BytesIO(json.dumps(one).encode() + b"\n4111111111111111 no json\n"), out)
    assert caught.value.code is Exit.FAILED
    said = capsys.readouterr().err
    assert "line 1: .transaction.cc.cc_number: AES-256-CFB needs the content of .transaction.cc.cc_number_iv" in said
    assert (
        ".transaction.total_price: the token was changed, was written in another field or pipeline, or beside another .id"
        in said
    )
    assert ".transaction.cc.cc_name: the token is that of .user, and was moved here; put it back there" in said
    assert "line 2: is no JSON object" in said
    assert "4111" not in said
    kept = json.loads(out.getvalue().splitlines()[0])
    assert kept["transaction"]["total_price"] == other["transaction"]["total_price"]
    assert kept["user"] == SALE["user"]


def test_every_way_to_break_a_token_has_its_own_error_and_none_gives_a_value(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = encrypted(config, SALE)
    token = json.loads(line)["transaction"]["cc"]["cc_name"]

    def said(changed: str) -> str:
        record = json.loads(line)
        record["transaction"]["cc"]["cc_name"] = changed
        out = io.BytesIO()
        with pytest.raises(UserError):
            decrypt.run(config, None, io.BytesIO(json.dumps(record).encode()), out)
        kept = json.loads(out.getvalue())
        assert kept["transaction"]["cc"]["cc_name"] == changed
        assert kept["user"] == SALE["user"]
        (reason,) = capsys.readouterr().err.splitlines()
        return reason.removeprefix("line 1: .transaction.cc.cc_name: ")

    def keys(**versions: list[dict[str, str]]) -> None:
        file = tmp_path / "keys.yaml"
        content = yaml.safe_load(file.read_text())
        file.unlink()
        file.write_text(yaml.safe_dump(content | versions))
        file.chmod(0o400)

    last = "A" if token[-6] != "A" else "B"
    assert said(token[:-6] + last + token[-5:]).startswith(
        "the token was changed, was written in another field or pipeline, or b/1"
    )
    assert said(token[:-1] + "!").startswith("the token was cut off or changed: its last two parts are not base64url")
    assert said(json.loads(line)["user"]).startswith("the token is that of .user, and was moved here")
    assert said(token.replace(":1:", ":7:")) == (
        "the token names a version of its key that there is not, and was made with b/1; check who changed an id"
    )
    assert said("Zoë").startswith("no token of AES-256-GCM; check which rule wrote the value")
    old = {"id": "1", "state": "decrypt-only", "text": "y" * 31 + "b"}
    new = {"id": "2", "state": "active", "text": "qr" * 16}
    keys(b=[old, new])
    assert (
        said(token.replace(":1:", ":2:")) == "the token names b/2, and was made with b/1; check who changed its key id"
    )
    keys(b=[new])
    with pytest.raises(UserError):
        run(config, line)
    assert ".cc_name: there is no version '1' of key 'b'; put it back" in capsys.readouterr().err


def test_a_token_that_was_moved_is_known_under_another_key_too(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    config.pipelines["events"].encrypt[3] = config.pipelines["events"].encrypt[3].model_copy(update={"key": "c"})
    (line,) = encrypted(config, SALE)
    record = json.loads(line)
    record["transaction"]["cc"]["cc_name"] = record["user"]
    with pytest.raises(UserError):
        run(config, json.dumps(record).encode())
    assert ".transaction.cc.cc_name: the token is that of .user, and was moved here" in capsys.readouterr().err


def test_records_of_something_else_are_no_success(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = encrypted(config, SALE)
    for record, reason in (
        ({"route": "success", "value": None}, "has no field of event; give the records themselves"),
        ({"transaction": {"cc": [1]}}, ".transaction.cc.cc_number: .transaction.cc is no object"),
        ({"transaction": "none"}, ".transaction.total_price: .transaction is no object"),
    ):
        with pytest.raises(UserError, match="1 lines were not decrypted"):
            run(config, json.dumps(record).encode())
        assert reason in capsys.readouterr().err
    assert run(config, line)
    assert "nothing was decrypted" not in capsys.readouterr().err


def test_that_there_was_nothing_to_decrypt_is_said(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    for record in ({"id": 1, "transaction": None}, {"id": 1, "user": None}, {}):
        assert run(config, json.dumps(record).encode()) == [record]
        assert capsys.readouterr().err == "no line holds a field that pipeline events encrypts: nothing was decrypted\n"


def test_that_a_version_was_guessed_is_said(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads(encrypted(config, SALE)[0])
    del record["transaction"]["cc"]["cc_number_key"]
    line = json.dumps(record).encode()
    assert run(config, line + b"\n" + line) == [SALE | {"transaction": run(config, line)[0]["transaction"]}] * 2
    assert capsys.readouterr().err == ""
    file = tmp_path / "keys.yaml"
    content = yaml.safe_load(file.read_text())
    content["a"].append({"id": "0", "state": "decrypt-only", "text": "pq" * 16})
    file.unlink()
    file.write_text(yaml.safe_dump(content))
    file.chmod(0o400)
    run(config, line + b"\n" + line)
    assert "2 lines name no version of the key of .transaction.cc.cc_number" in capsys.readouterr().err
    unnamed = config.pipelines["events"].encrypt[0].model_copy(update={"key_id_field": None})
    config.pipelines["events"].encrypt[0] = unnamed
    run(config, line)
    assert "1 line names no version of the key of .transaction.cc.cc_number" in capsys.readouterr().err


def test_nobody_is_asked_for_another_key_because_a_token_does_not_open(config: Config) -> None:
    """Whom a KMS policy gives one key must not fail at the others."""
    (line,) = encrypted(config, SALE)
    record = json.loads(line)
    token = record["transaction"]["cc"]["cc_name"]
    record["transaction"]["cc"]["cc_name"] = token[:-6] + ("A" if token[-6] != "A" else "B") + token[-5:]
    record["user"] = None
    keys = Asked(loaded(config))
    rules = config.pipelines["events"].encrypt
    other = rules[2].model_copy(update={"key": "elsewhere"})
    config.pipelines["events"].encrypt[2] = other
    reasons = decrypt.Decryption(config, "events", keys)(record)
    assert [reason.partition(":")[0] for reason in reasons] == [".transaction.cc.cc_name"]
    assert set(keys.asked) == {"a", "b"}


def test_who_refuses_a_key_is_asked_once_for_each_field(config: Config) -> None:
    record = json.loads(encrypted(config, SALE)[0])
    rules = config.pipelines["events"].encrypt
    keys = Asked(Keys(key for key in loaded(config) if key.name != "b"))
    reasons = decrypt.Decryption(config, "events", keys)(record)
    of_b = [rule.field for rule in rules if rule.key == "b"]
    assert [reason.partition(":")[0] for reason in reasons] == of_b
    assert keys.asked.count("b") == len(of_b)


class Asked(Keys):
    """Keeps in mind which keys were asked for."""

    def __init__(self, keys: Keys) -> None:
        super().__init__(keys)
        self.asked: list[str] = []

    def find(self, name: str, id_: str) -> Key:
        self.asked.append(name)
        return super().find(name, id_)


def test_a_retired_key_is_named(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = b"\n".join(encrypted(config, SALE))
    file = tmp_path / "keys.yaml"
    file.chmod(0o600)
    content = yaml.safe_load(file.read_text())
    content["a"][0]["id"] = "2"
    file.write_text(yaml.safe_dump(content))
    file.chmod(0o400)
    with pytest.raises(UserError):
        run(config, lines)
    assert ".transaction.cc.cc_number: there is no version '1' of key 'a'; put it back" in capsys.readouterr().err


def test_who_holds_some_of_the_keys_gets_what_they_open(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = b"\n".join(encrypted(config, SALE))
    file = tmp_path / "keys.yaml"
    content = yaml.safe_load(file.read_text())
    file.unlink()
    file.write_text(yaml.safe_dump({"b": content["b"]}))
    file.chmod(0o400)
    out = io.BytesIO()
    with pytest.raises(UserError):
        decrypt.run(config, None, io.BytesIO(lines), out)
    assert json.loads(out.getvalue())["user"] == SALE["user"]
    said = capsys.readouterr().err
    assert ".transaction.cc.cc_number: there is no version '1' of key 'a'" in said
    assert "keys new" not in said


def test_which_pipeline_is_said_or_the_only_one(config: Config) -> None:
    with pytest.raises(UserError, match=r"there is no pipeline event .did you mean events"):
        run(config, b"", "event")
    with pytest.raises(UserError, match="usage encrypts nothing"):
        run(config, b"", "usage")
    assert run(config, b"{}\n", "events") == [{}]
