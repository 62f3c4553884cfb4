"""Promise: `try --explain` says what each stage did to a record, in order, and shows nothing that is nobody's business."""

import io
import json
from pathlib import Path

import pytest
import yaml

from sluice.config import load
from sluice.exits import UserError
from sluice.explain import STAGES, run
from sluice.key_file import new_keys_file

CARD = "4111111111111111"
PIPELINE = {
    "from": "raw",
    "schema": "event",
    "enrich": [{"by": ".endpoint.id", "from": "endpoints", "into": ".endpoint"}],
    "drop": [".buffer"],
    "set": {".description": "x"},
    "redact": [{"field": ".user.username", "with": "mask"}],
    "sample": {"one_in": 1000000, "by": ".id", "always": [{"field": ".event", "op": "exists"}]},
    "routes": {"sold": [{"field": ".transaction.result", "op": "equal", "value": True}]},
}
RECORDS = [
    {
        "event": "t",
        "buffer": "b",
        "endpoint": {"id": 5},
        "user": {"username": "zoe"},
        "transaction": {"result": "success"},
    },
    {"id": 1},
    {"event": "t", "device": {"name": CARD}},
    {"event": "t", "id": "x"},
]


def explained(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    settings = {
        "kafka": {"brokers": ["localhost:9092"]},
        "reference": {"endpoints": {"topic": "ref.endpoints"}},
        "pipelines": {"events": PIPELINE},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "endpoints.jsonl").write_text('{"id": 5, "name": "gate", "imei": "356231551541710"}\n')
    source = io.BytesIO(b"\n".join(json.dumps(one).encode() for one in RECORDS) + b"\n")
    run(load(folder / "config.yaml"), "events", source, [f"endpoints={folder / 'endpoints.jsonl'}"])
    out = capsys.readouterr().out
    assert CARD not in out
    assert "zoe" not in out
    return [block.splitlines() for block in out.split("record ")[1:]]


def test_each_stage_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third, fourth = explained(tmp_path, capsys)
    assert [line.split() for line in first] == [
        ["1"],
        ["decode", "outcome", "1"],
        ["enrich", "+", ".endpoint.name", "gate"],
        ["+", ".endpoint.imei", "356231551541710"],
        ["drop", "-", ".buffer", "b"],
        ["set", "+", ".description", "x"],
        ["redact", "~", ".user.username", "<text", "of", "3", "characters>", "→", "<text", "of", "3", "characters>"],
        ["sample", "nothing", "to", "do"],
        ["routes", "takes", "the", "route", "sold"],
        ["gate", "nothing", "to", "do"],
        ["→", "events.sold"],
    ]
    assert second[-1].split() == ["sample", "✗", "left", "out"]
    assert third[-1].split() == ["gate", "✗", "dead", "letter:", "card-number-in-clear", "at", ".device.name"]
    assert fourth[1].split() == ["decode", "✗", "dead", "letter:", "wrong-type", "at", ".id"]


def test_keys_of_open_fields_are_masked_and_so_is_what_is_redacted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = {
        "from": "raw",
        "schema": "event",
        "keep": [".id", ".detail.a", ".endpoint"],
        "redact": [{"field": ".endpoint.name", "with": "mask"}],
    }
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"kafka": {"brokers": ["b:1"]}, "pipelines": {"events": pipeline}})
    )
    inside = {CARD: 1, "a": 2, "\u001b[31mkey": "\u001b]0;title\u0007"}
    record = {"id": 1, "detail": inside, "endpoint": {"name": "Mrs. Secret"}, "description": "\u001b[31mred"}
    run(load(tmp_path / "config.yaml"), "events", io.BytesIO(json.dumps(record).encode()), [])
    out = capsys.readouterr().out
    assert "digits>" in out
    assert CARD not in out
    assert "Secret" not in out
    assert "\u001b" not in out, "a record rules the terminal"


def test_the_reason_is_the_one_that_the_dead_letter_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = {"from": "raw", "schema": "event", "encrypt": [{"field": ".transaction.cc.cc_number", "key": "card"}]}
    keys = {"provider": "file", "path": "keys.yaml"}
    settings = {"kafka": {"brokers": ["b:1"]}, "keys": keys, "pipelines": {"events": pipeline}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    new_keys_file(tmp_path / "keys.yaml", ["card"])
    record = {"transaction": {"cc": {"cc_number": int(CARD)}}}
    run(load(tmp_path / "config.yaml"), "events", io.BytesIO(json.dumps(record).encode()), [])
    out = capsys.readouterr().out
    assert "decode      ✗ dead letter: card-field-not-a-string at .transaction.cc.cc_number" in out
    assert CARD not in out


def test_every_stage_of_a_pipeline_is_explained() -> None:
    from pipeline.config import PipelineConfig  # noqa: PLC0415  # beside what it is compared with

    assert set(PipelineConfig.model_fields) - {"source", "subject", "match"} == set(STAGES)


def test_a_pipeline_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"kafka": {"brokers": ["b:1"]}, "pipelines": {"events": {"from": "r", "schema": "event"}}})
    )
    with pytest.raises(UserError, match="there is no pipeline evnts"):
        run(load(tmp_path / "config.yaml"), "evnts", io.BytesIO(), [])
