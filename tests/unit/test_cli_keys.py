"""`sluice keys`: keys are added and never lost, never shown, and never readable by others."""

import asyncio
import json
import os
import re
import stat
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice.config import Config, load
from sluice.exits import Exit, UserError
from sluice.key_commands import new, rotate, show
from sluice.key_file import KeyFile, read
from sluice.keys import keep, loaded, sizes_used, source_of
from stream import metrics

TODAY = date(2026, 11, 5)
CONFIG = """
kafka: {brokers: [localhost:9092]}
keys: {provider: file, path: keys.yaml}
pipelines:
  events:
    from: raw.events
    schema: event
    encrypt:
      - {field: .transaction.cc.cc_number, key: card-number}
      - {field: .transaction.cc.cc_exp, key: card-exp}
      - {field: .transaction.cc.cc_zip, key: card-exp}
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "config.yaml").write_text(CONFIG)
    return load(tmp_path / "config.yaml")


def material(config: Config) -> dict[tuple[str, str], bytes]:
    assert config.keys is not None
    return {(key.name, key.id): key.material for key in read(config.keys.path)}


def states(config: Config) -> list[tuple[str, str, bool]]:
    assert config.keys is not None
    return [(key.name, key.id, key.active) for key in read(config.keys.path)]


def test_all_makes_what_the_config_uses_and_no_more(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    new(config, None, TODAY)
    assert states(config) == [(name, "2026-11-05", True) for name in ("card-number", "card-exp", "dead-letters")]
    assert len(set(material(config).values())) == 3
    assert config.keys is not None
    assert stat.S_IMODE(config.keys.path.stat().st_mode) == 0o400
    before = config.keys.path.read_bytes()
    new(config, None, TODAY)
    assert config.keys.path.read_bytes() == before
    assert "has every key that the config uses" in capsys.readouterr().out


def test_a_new_version_leaves_the_old_one_to_decrypt_with(config: Config) -> None:
    new(config, None, TODAY)
    before = material(config)
    new(config, "card-exp", TODAY)
    new(config, "card-exp", date(2027, 1, 1))
    assert [one for one in states(config) if one[0] == "card-exp"] == [
        ("card-exp", "2027-01-01", True),
        ("card-exp", "2026-11-05.2", False),
        ("card-exp", "2026-11-05", False),
    ]
    after = material(config)
    assert {key: after[key] for key in before} == before
    assert len(set(after.values())) == 5


def test_keys_given_as_text_are_kept(config: Config) -> None:
    assert config.keys is not None
    config.keys.path.write_text(
        'card-number:\n  - {id: "2025-03", state: active, text: "6B58703273357638792F423F4528482C"}\n'
    )
    config.keys.path.chmod(0o600)
    new(config, "card-number", TODAY)
    assert material(config)["card-number", "2025-03"] == b"6B58703273357638792F423F4528482C"
    assert states(config) == [("card-number", "2026-11-05", True), ("card-number", "2025-03", False)]


def test_no_key_is_ever_shown(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    new(config, None, TODAY)
    new(config, "other", TODAY)
    show(config)
    said = capsys.readouterr().out
    assert "no rule of this config uses it yet" in said
    assert "other         2026-11-05  active  32 bytes\n" in said
    assert config.keys is not None
    written = yaml.safe_load(config.keys.path.read_text())
    keys = [version["base64"] for versions in written.values() for version in versions]
    assert len(keys) == 4
    assert not any(key in said or key.rstrip("=") in said for key in keys)
    assert not re.search(r"[A-Za-z0-9+/]{30,}", said.replace(str(config.keys.path), ""))


def test_a_file_that_is_wrong_is_left_as_it_is(config: Config) -> None:
    assert config.keys is not None
    for content in ("card-exp: 5", "[", 'a: [{id: "1", state: active, base64: "c2hvcnQ="}]'):
        config.keys.path.write_text(content)
        config.keys.path.chmod(0o600)
        with pytest.raises(UserError, match=r"keys\.yaml"):
            new(config, "card-exp", TODAY)
        assert config.keys.path.read_text() == content
    assert sorted(one.name for one in config.keys.path.parent.iterdir()) == ["config.yaml", "keys.yaml"]


def test_a_name_that_cannot_be_used_is_refused_before_anything_is_written(config: Config) -> None:
    with pytest.raises(UserError, match="use letters, digits"):
        new(config, "a b", TODAY)
    assert config.keys is not None
    assert not config.keys.path.exists()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.replace("path: keys.yaml", "path: no/keys.yaml"))
    with pytest.raises(UserError, match=r"make the folder, or correct keys\.path"):
        new(load(tmp_path / "config.yaml"), None, TODAY)


def test_without_a_keys_section_it_says_what_to_add(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "kafka: {brokers: [localhost:9092]}\npipelines: {events: {from: raw.events, schema: event}}"
    )
    with pytest.raises(UserError, match="add `keys:"):
        new(load(tmp_path / "config.yaml"), "a", TODAY)


# Lengths


def sizes(config: Config) -> dict[str, int]:
    assert config.keys is not None
    keys = read(config.keys.path)
    return {name: len(keys.active(name).material) for name in keys.names}


def test_a_key_is_as_long_as_it_was_asked_for_as_its_rules_want_or_as_it_was(config: Config) -> None:
    new(config, None, TODAY)
    new(config, "short", TODAY, size=16)
    new(config, "usual", TODAY)
    assert sizes(config) == dict.fromkeys(("card-number", "card-exp", "dead-letters", "usual"), 32) | {"short": 16}
    new(config, "short", TODAY)
    rotate(config, "short", TODAY)
    assert sizes(config)["short"] == 16
    new(config, "short", TODAY, size=24)
    assert sizes(config)["short"] == 24


def test_lengths_are_those_of_the_rules_algorithms(config: Config) -> None:
    assert sizes_used(config) == {"card-number": 32, "card-exp": 32, "dead-letters": 32}
    assert sizes_used(config, ["a-stream"]) == {"dead-letters": 32}


def test_a_key_that_is_too_short_for_its_rule_stops_every_command_that_would_use_it(config: Config) -> None:
    new(config, None, TODAY)
    new(config, "card-exp", TODAY, size=16)
    with pytest.raises(UserError) as caught:
        loaded(config)
    said = str(caught.value).splitlines()
    assert [line.partition(": ")[0] for line in said] == [
        f"pipelines.events.encrypt[{number}].key" for number in (1, 2)
    ]
    assert "card-exp/2026-11-05.2 has 16 bytes, which is AES-128, and AES-256-GCM needs 32" in said[0]
    assert "dead-letters" in loaded(config, ["a-stream"]), "whose rules are not asked for does not mind"


def test_all_missing_keys_are_named_with_their_rules(config: Config) -> None:
    new(config, "dead-letters", TODAY)
    with pytest.raises(UserError) as caught:
        loaded(config)
    assert str(caught.value).count("which is not there; run `sluice keys new FILE card-") == 3


# Rotation


def test_rotation_replaces_the_active_version_and_keeps_the_others(config: Config, capsys: Any) -> None:
    new(config, None, TODAY)
    before = material(config)
    rotate(config, "card-exp", TODAY)
    rotate(config, "card-exp", date(2027, 1, 1))
    assert [one for one in states(config) if one[0] == "card-exp"] == [
        ("card-exp", "2027-01-01", True),
        ("card-exp", "2026-11-05.2", False),
        ("card-exp", "2026-11-05", False),
    ]
    after = material(config)
    assert {key: after[key] for key in before} == before
    assert len(set(after.values())) == 5
    assert config.keys is not None
    assert stat.S_IMODE(config.keys.path.stat().st_mode) == 0o400
    assert "card-exp: new active key 2027-01-01 in " in capsys.readouterr().out


def test_a_rotation_that_changes_hashes_and_search_tokens_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = "      - {field: .user.username, key: users, search_field: .user.hash, search_key: users-search}\n"
    (tmp_path / "config.yaml").write_text(CONFIG + rules)
    config = load(tmp_path / "config.yaml")
    new(config, None, TODAY)
    rotate(config, "users", TODAY)
    assert "match no older ones" not in capsys.readouterr().out
    rotate(config, "users-search", TODAY)
    assert "users-search: hashes and search tokens are others from then on" in capsys.readouterr().out


def test_only_what_is_there_is_rotated(config: Config) -> None:
    with pytest.raises(
        UserError, match=r"no key 'card-exp' to rotate, known are: none; make it with `sluice keys new FILE"
    ):
        rotate(config, "card-exp", TODAY)
    new(config, "card-number", TODAY)
    with pytest.raises(UserError, match="known are: card-number"):
        rotate(config, "card-exp", TODAY)


async def test_a_worker_takes_a_rotated_key_and_counts_its_uses(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluice.keys.LOOK_SECONDS", 0.01)
    new(config, None, TODAY)
    source = source_of(config)
    assert isinstance(source, KeyFile)
    source.open()
    keys = source.keys
    keys.used(keys.active("card-exp"), 3)
    keeping = asyncio.create_task(keep(config, source))
    rotate(config, "card-exp", TODAY)
    async with asyncio.timeout(10):
        while keys.active("card-exp").id != "2026-11-05.2":
            await asyncio.sleep(0.01)
        keys.used(keys.active("card-exp"), 4)
        while uses("card-exp") != {"2026-11-05": 3, "2026-11-05.2": 4}:
            await asyncio.sleep(0.01)
    keeping.cancel()


async def test_a_worker_says_once_that_a_key_was_used_half_as_often_as_it_may(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sluice.keys.LOOK_SECONDS", 0.01)
    new(config, None, TODAY)
    source = source_of(config)
    source.open()
    key = source.keys.active("card-number")
    counted = uses("card-number").get(key.id, 0.0)
    keeping = asyncio.create_task(keep(config, source))
    for count, said in ((2**27 - 1, 0), (1, 1), (2**27, 1)):
        source.keys.used(key, count)
        counted += count
        async with asyncio.timeout(10):
            while uses("card-number").get(key.id) != counted:
                await asyncio.sleep(0.01)
        assert len(caplog.messages) == said
    keeping.cancel()
    assert caplog.messages[0].startswith(f"card-number/{key.id} encrypted 134217728 values in this process alone")


def uses(name: str) -> dict[str, float]:
    samples = (one for metric in metrics.KEY_USES.collect() for one in metric.samples)
    return {one.labels["id"]: one.value for one in samples if one.labels["key"] == name}


# Keys that no file holds


@pytest.fixture
def from_environment(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    new(config, None, TODAY)
    monkeypatch.setenv("SLUICE_KEYS", (tmp_path / "keys.yaml").read_text())
    (tmp_path / "config.yaml").write_text(CONFIG.replace("provider: file, path: keys.yaml", "provider: env"))
    (tmp_path / "keys.yaml").unlink()
    return load(tmp_path / "config.yaml")


def test_keys_from_the_environment_are_those_of_a_file_with_a_warning(
    from_environment: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = loaded(from_environment)
    assert keys.names == ["card-number", "card-exp", "dead-letters"]
    assert ["/proc/PID/environ, in crash dumps" in warning for warning in keys.warnings] == [True]
    show(from_environment)
    said = capsys.readouterr().out
    assert "card-exp      2026-11-05  active  32 bytes\n" in said
    assert "! SLUICE_KEYS holds keys" in said


def test_keys_from_the_environment_may_be_json(from_environment: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_KEYS", json.dumps(yaml.safe_load(os.environ["SLUICE_KEYS"])))
    assert loaded(from_environment).names == ["card-number", "card-exp", "dead-letters"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "SLUICE_KEYS is not set; put the content of a key file there"),
        ("keys.yaml", "SLUICE_KEYS: holds no keys"),
        ("[", "SLUICE_KEYS: is not YAML"),
        ("card-exp: []\ncard-number: []", "SLUICE_KEYS: card-exp: must be a list"),
    ],
)
def test_an_environment_without_keys_says_what_to_do(
    from_environment: Config, monkeypatch: pytest.MonkeyPatch, value: str, said: str
) -> None:
    monkeypatch.setenv("SLUICE_KEYS", value)
    with pytest.raises(UserError, match=said) as caught:
        loaded(from_environment)
    assert caught.value.code == Exit.CONFIG


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("provider: env", "keys come from SLUICE_KEYS, which this cannot change"),
        ("provider: aws-kms, kms_key: alias/sluice", "data keys come from KMS key alias/sluice"),
    ],
)
def test_keys_that_are_in_no_file_are_not_changed_here(tmp_path: Path, keys: str, said: str) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.replace("provider: file, path: keys.yaml", keys))
    config = load(tmp_path / "config.yaml")
    for change in (lambda: new(config, "card-exp"), lambda: new(config, None), lambda: rotate(config, "card-exp")):
        with pytest.raises(UserError, match=said):
            change()
    assert [one.name for one in tmp_path.iterdir()] == ["config.yaml"]


def add(file: Path, name: str) -> None:
    os.close(1)
    os.open(os.devnull, os.O_WRONLY)
    new(load(file), name, TODAY)


def test_keys_that_are_added_at_once_are_all_there(config: Config, tmp_path: Path) -> None:
    context = get_context("fork")
    processes = [context.Process(target=add, args=(tmp_path / "config.yaml", f"key-{number}")) for number in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert sorted(name for name, _, _ in states(config)) == [f"key-{number}" for number in range(6)]
