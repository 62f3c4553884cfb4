"""`sluice keys`: keys are added and never lost, never shown, and never readable by others."""

import os
import re
import stat
from datetime import date
from multiprocessing import get_context
from pathlib import Path

import pytest
import yaml

from pipeline.keys import load_keys
from sluice.config import Config, load
from sluice.exits import UserError
from sluice.keys import new, show

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
    return {(key.name, key.id): key.material for key in load_keys(config.keys)}


def states(config: Config) -> list[tuple[str, str, bool]]:
    assert config.keys is not None
    return [(key.name, key.id, key.active) for key in load_keys(config.keys)]


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
        'card-number:\n  - {id: "2025-03", state: active, text: "6B58703273357638792F423F4528482B"}\n'
    )
    config.keys.path.chmod(0o600)
    new(config, "card-number", TODAY)
    assert material(config)["card-number", "2025-03"] == b"6B58703273357638792F423F4528482B"
    assert states(config) == [("card-number", "2026-11-05", True), ("card-number", "2025-03", False)]


def test_no_key_is_ever_shown(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    new(config, None, TODAY)
    new(config, "other", TODAY)
    show(config)
    said = capsys.readouterr().out
    assert "no rule of this config uses it yet" in said
    assert "other         2026-11-05  active" in said
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
