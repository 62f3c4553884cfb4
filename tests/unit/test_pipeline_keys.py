"""Promises: a key file that is not safe or not right is refused, and no message, repr or pickle shows material."""

import base64
import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pipeline.keys import Key, Keys, KeysConfig, KeysError, UnknownKey, load_keys, new_keys_file, parse_keys

SECRET = "6B58703273357638792F423F4528482C"
BASE64 = base64.b64encode(SECRET.encode()).decode()


def written(path: Path, data: Any, mode: int = 0o400) -> KeysConfig:
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data), encoding="utf-8")
    path.chmod(mode)
    return KeysConfig(path=path)


def test_versions_by_state_and_id(tmp_path: Path) -> None:
    keys = load_keys(
        written(
            tmp_path / "keys.yaml",
            {
                "card-number": [
                    {"id": "2025-03", "state": "decrypt-only", "text": SECRET},
                    {"id": "2026-11", "state": "active", "base64": base64.b64encode(bytes(32)).decode()},
                ],
                "dead-letters": [{"id": "1", "state": "active", "base64": BASE64}],
            },
        )
    )
    assert keys.active("card-number").material == bytes(32)
    assert keys.find("card-number", "2025-03").material == SECRET.encode()
    assert keys.names == ["card-number", "dead-letters"]
    assert keys.warnings == []
    with pytest.raises(UnknownKey, match="2024-01"):
        keys.find("card-number", "2024-01")
    with pytest.raises(UnknownKey, match="sluice keys new"):
        keys.active("card-exp")


def test_a_new_file_loads_and_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    new_keys_file(path, ["card-number", "dead-letters"])
    assert path.stat().st_mode & 0o777 == 0o400
    keys = load_keys(KeysConfig(path=path))
    assert keys.active("card-number").material != keys.active("dead-letters").material
    with pytest.raises(FileExistsError):
        new_keys_file(path, ["card-number"])


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o644, 0o620])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    config = written(tmp_path / "keys.yaml", {"k": [{"id": "1", "state": "active", "text": SECRET}]}, mode)
    with pytest.raises(KeysError, match="chmod 0400"):
        load_keys(config)


def test_a_writable_file_is_warned_about(tmp_path: Path) -> None:
    config = written(tmp_path / "keys.yaml", {"k": [{"id": "1", "state": "active", "text": SECRET}]}, 0o600)
    assert ["chmod 0400" in warning for warning in load_keys(config).warnings] == [True]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, "holds no keys"),
        ([], "holds no keys"),
        ({"k": []}, "k: must be a list"),
        ({"k": SECRET}, "k: must be a list"),
        ({SECRET + "!": []}, "a key's name cannot be used"),
        ({"k": [SECRET]}, r"k\[0\]: must be a mapping"),
        ({"k": [{"id": "1", "state": "active", "text": SECRET + "x"}]}, "k.*holds 33 bytes.*openssl rand -base64 32"),
        ({"k": [{"id": "1", "state": "active", "text": SECRET[:-1] + "é"}]}, "holds 33 bytes"),
        ({"k": [{"id": "1", "state": "active", "base64": BASE64[:-4]}]}, r"k\[0\].base64: holds 30 bytes"),
        ({"k": [{"id": "1", "state": "active", "base64": SECRET + "!==="}]}, "is not base64"),
        ({"k": [{"id": "1", "state": "active", "base64": BASE64, "text": SECRET}]}, "either base64 or text"),
        ({"k": [{"id": "1", "state": "active", "text": int(SECRET, 16)}]}, "either base64 or text"),
        ({"k": [{"id": 1, "state": "active", "text": SECRET}]}, r"k\[0\].id: must be text in quotes"),
        ({"k": [{"id": "a:b", "state": "active", "text": SECRET}]}, r"k\[0\].id"),
        ({"k": [{"id": "1", "state": "retired", "text": SECRET}]}, "active or decrypt-only"),
        ({"k": [{"id": "1", "state": "decrypt-only", "text": SECRET}]}, "0 versions are active"),
        ({"k": [{"id": i, "state": "active", "text": SECRET} for i in "12"]}, "2 versions are active"),
        ({"k": [{"id": "1", "state": s, "text": SECRET} for s in ("active", "decrypt-only")]}, "stands twice"),
        ({"k": [{"id": "1", "state": "active", "text": SECRET, SECRET: 1}]}, "not known"),
    ],
)
def test_what_is_wrong_is_named_without_the_material(data: Any, expected: str) -> None:
    with pytest.raises(KeysError, match=expected) as caught:
        parse_keys(data)
    assert SECRET not in str(caught.value)
    assert BASE64[:-4] not in str(caught.value)


def test_all_problems_at_once() -> None:
    with pytest.raises(KeysError) as caught:
        parse_keys({"a": [], "b": [{"id": "1", "state": "x", "text": "short"}]})
    assert len(caught.value.problems) == 3


def test_broken_yaml_is_not_quoted(tmp_path: Path) -> None:
    config = written(tmp_path / "keys.yaml", f"k: [{{text: {SECRET}\n")
    with pytest.raises(KeysError, match="is not YAML") as caught:
        load_keys(config)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_material_stays_in_the_process() -> None:
    key = Key("k", "1", SECRET.encode())
    keys = Keys([key])
    assert SECRET not in f"{key!r} {key} {keys!r} {vars(keys)}"
    for copier in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="stays in this process"):
            copier(key)
    with pytest.raises(TypeError, match="stays in this process"):
        pickle.dumps(keys)


@pytest.mark.parametrize("provider", ["env", "aws-kms"])
def test_providers_that_do_not_work_yet_say_so(provider: str) -> None:
    with pytest.raises(ValidationError, match="not supported yet; use provider: file"):
        KeysConfig.model_validate({"provider": provider})
