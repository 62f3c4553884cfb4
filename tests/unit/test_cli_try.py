"""`sluice try`: one line out for each line in, in order, whatever the line is; and what a router would write, to the byte."""

import base64
import csv
import io
import json
import os
import pty
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.refused import REASONS
from schemas.subjects import load as load_subject
from sluice import trial
from sluice.config import Config, load
from sluice.exits import UserError
from sluice.key_commands import new

ROOT = Path(__file__).resolve().parents[2]
CARD = {"cc_number": "4111111111111111", "cc_exp": "11/28", "cc_cvv": "123", "cc_zip": "90210", "cc_name": "Zoë Müller"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples with keys of their own."""
    folder = tmp_path_factory.mktemp("try") / "examples"
    shutil.copytree(ROOT / "examples", folder, ignore=shutil.ignore_patterns("keys.yaml"))
    new(load(folder / "workshop.yaml"), None)
    return folder


@pytest.fixture(scope="module")
def workshop(folder: Path) -> Config:
    return load(folder / "workshop.yaml")


@pytest.fixture(scope="module")
def streamer(folder: Path) -> Config:
    return load(folder / "data-streamer.yaml")


def attempt(config: Config, content: bytes, pipeline: str = "events", *references: str) -> list[dict[str, Any]]:
    out = io.BytesIO()
    trial.run(config, pipeline, io.BytesIO(content), out, references=references)
    return [json.loads(line) for line in out.getvalue().split(b"\n")[:-1]]


def transaction(**fields: Any) -> dict[str, Any]:
    return {"id": 1, "buffer": "b", "transaction": {"total_price": 1.5, "result": True, "cc": CARD, **fields}}


def refused(line: dict[str, Any]) -> str:
    assert line["value"] is None
    assert line["route"] == "dead-letter"
    assert line["topic"] == "events.dlq"
    reason: str = line["error"]["reason"]
    return reason


def test_each_line_has_its_answer_in_its_place(workshop: Config) -> None:
    records = [
        transaction(),
        transaction(result="fail"),
        transaction(total_price=-1),
        {"event": "access", "access": {"action": "login"}},
        transaction(cc=None),
    ]
    lines = attempt(workshop, b"".join(json.dumps(one).encode() + b"\n" for one in records))
    assert [line["route"] for line in lines] == ["success", "fail", "unmatched", "unmatched", "dead-letter"]
    assert [line["topic"] for line in lines[:3]] == ["events.success", "events.fail", "events.unmatched"]
    assert all(line["error"] is None for line in lines[:4])
    assert refused(lines[4]) == "card-field-missing"
    assert lines[4]["error"]["path"].startswith(".transaction.cc")
    assert not any("buffer" in line["value"] for line in lines[:4])
    assert all(list(line) == ["route", "topic", "value", "error"] for line in lines)


@pytest.mark.parametrize("result", [True, False, "success", "fail"])
@pytest.mark.parametrize("price", [-0.01, 0, 99.5])
def test_openssl_reads_every_card_field_on_every_route(workshop: Config, result: Any, price: float) -> None:
    line = json.dumps(transaction(result=result, total_price=price)).encode()
    (answer,) = attempt(workshop, line)
    assert answer["route"] == ("unmatched" if price < 0 else "success" if result in (True, "success") else "fail")
    assert workshop.keys is not None
    keys = yaml.safe_load(workshop.keys.path.read_text())
    found = answer["value"]["transaction"]["cc"]
    for field, clear in CARD.items():
        key = base64.b64decode(keys[field.replace("cc_", "card-")][0]["base64"]).hex()
        iv = base64.b64decode(found[f"{field}_iv"]).hex()
        command = ["openssl", "enc", "-d", "-aes-256-cfb", "-a", "-A", "-K", key, "-iv", iv]
        done = subprocess.run(command, input=found[field].encode(), capture_output=True, check=True)
        assert done.stdout.decode() == clear
    assert not any(clear in json.dumps(answer, ensure_ascii=False) for clear in CARD.values() if len(clear) > 3)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "null-value"),
        (b" ", "not-json"),
        (b"hello", "not-json"),
        (b"null", "not-an-object"),
        (b"[]", "not-an-object"),
        (b'{"id":1', "not-json"),
        (b'{"id":NaN}', "not-json"),
        (b'{"id":"\xff\xfe"}', "not-json"),
        (b"\x00\x00\x00\x00\x01", "not-avro"),
        (b"x" * 10_000_000, "not-json"),
        (b"y" * 13_000_000, "too-large"),
        (b"[" * 100_000, "too-deep"),
        (json.dumps(transaction(cc={**CARD, "cc_number": 4111111111111111})).encode(), "card-field-not-a-string"),
        (json.dumps(transaction(cc={**CARD, "cc_number": None}, result=False)).encode(), "card-field-missing"),
        (json.dumps({"id": 1, "transaction": {"total_price": 1, "result": True}}).encode(), "card-field-missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_bad_line_is_a_dead_letter_and_costs_its_neighbours_nothing(
    workshop: Config, line: bytes, reason: str, end: bytes
) -> None:
    good = json.dumps(transaction()).encode()
    lines = attempt(workshop, end.join([good, line, good, b""]))
    assert [one["route"] for one in lines] == ["success", "dead-letter", "success"]
    found = refused(lines[1])
    assert found in REASONS
    assert found == reason or (reason == "card-field-missing" and found == "card-field-not-a-string")
    assert "4111111111111111" not in json.dumps(lines)


def test_the_last_line_needs_no_line_end_and_no_input_gives_no_output(workshop: Config) -> None:
    good = json.dumps(transaction()).encode()
    assert len(attempt(workshop, good + b"\n" + good)) == 2
    assert attempt(workshop, b"") == []
    assert [refused(line) for line in attempt(workshop, b"\n\n")] == ["null-value", "null-value"]


def test_order_is_kept_over_many_batches(workshop: Config) -> None:
    content = b"".join(b'{"id":%d}\n' % number if number % 7 else b"bad\n" for number in range(5000))
    lines = attempt(workshop, content)
    assert [None if line["error"] else line["value"]["id"] for line in lines] == [
        n if n % 7 else None for n in range(5000)
    ]


def test_the_examples_are_what_they_say(workshop: Config, folder: Path) -> None:
    content = (folder / "events.jsonl").read_bytes()
    lines = attempt(workshop, content)
    assert len(lines) == len(content.splitlines())
    assert {line["route"] for line in lines} == {"success", "fail", "unmatched", "dead-letter"}


def test_references_fill_in_what_records_lack(streamer: Config, tmp_path: Path) -> None:
    file = tmp_path / "endpoints.jsonl"
    file.write_text('{"id": 7, "name": "Meter 7", "imei": "357995277345191"}\n\n{"id": 8, "name": "Meter 8"}\n')
    content = (
        b'{"id":1,"endpoint":{"id":7}}\n{"id":2,"endpoint":{"id":8,"name":"mine"}}\n{"id":3,"endpoint":{"id":9}}\n'
    )
    lines = attempt(streamer, content, "events", f"endpoints={file}")
    names = [line["value"]["endpoint"].get("name") for line in lines]
    assert names == ["Meter 7", "mine", None]
    assert [line["route"] for line in lines] == ["success"] * 3


def test_an_entry_that_a_worker_would_ignore_is_named_and_ignored(
    streamer: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "endpoints.jsonl"
    file.write_text('{"id": 7, "name": "Meter 7"}\n{"id": 7, "name": 4111111111111111}\n')
    (line,) = attempt(streamer, b'{"endpoint":{"id":7}}', "events", f"endpoints={file}")
    assert line["value"]["endpoint"]["name"] == "Meter 7"
    said = capsys.readouterr().err
    assert f"{file}, line 2 holds a field of the wrong type and is ignored" in said
    assert "4111" not in said


@pytest.mark.parametrize("on_missing", ["wait", "dead-letter"])
def test_an_id_that_the_reference_lacks_is_a_dead_letter_at_once(
    tmp_path: Path, workshop: Config, on_missing: str
) -> None:
    join = {"by": ".endpoint.id", "from": "endpoints", "into": ".endpoint", "on_missing": on_missing}
    pipeline = {"from": "raw.events", "schema": "event", "enrich": [join]}
    config = Config.model_validate(
        {
            "kafka": {"brokers": ["localhost:9092"]},
            "reference": {"endpoints": {"topic": "ref.endpoints"}, "sims": {"topic": "ref.sims"}},
            "pipelines": {"events": pipeline},
        }
    )
    for name in ("endpoints", "sims"):  # the pipeline asks only one of them
        (tmp_path / name).write_text('{"id": 7, "name": "Meter 7"}\n')
    files = [f"{name}={tmp_path / name}" for name in ("endpoints", "sims")]
    known, unknown = attempt(config, b'{"endpoint":{"id":7}}\n{"endpoint":{"id":8}}\n', "events", *files)
    assert known["value"]["endpoint"]["name"] == "Meter 7"
    assert unknown["error"] == {"reason": "reference-missing", "path": ".endpoint.id"}
    assert refused(unknown) == "reference-missing"


@pytest.mark.parametrize("line", ["[]", '{"name": "x"}', "{", '{"id": true}', '{"id": {}}'])
def test_a_reference_that_is_none_is_named_with_its_line(streamer: Config, tmp_path: Path, line: str) -> None:
    file = tmp_path / "endpoints.jsonl"
    file.write_text('{"id": 1}\n' + line)
    with pytest.raises(UserError, match="line 2 is no JSON object with an id"):
        attempt(streamer, b"", "events", f"endpoints={file}")


def test_csv_is_what_s3_would_hold(streamer: Config, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = io.BytesIO()
    with (folder / "usage.jsonl").open("rb") as source:
        trial.run(streamer, "usage", source, out, as_csv=True)
    header, *rows = csv.reader(io.StringIO(out.getvalue().decode()))
    assert header == [column.name for column in load_subject("usage").columns]
    assert header[:4] == ["id", "event_start_timestamp", "event_stop_timestamp", "organisation_id"]
    assert len(rows) == 64
    assert {len(row) for row in rows} == {len(header)}
    assert capsys.readouterr().err.startswith("3 lines are dead letters")


@pytest.mark.parametrize("subject", ["event", "usage"])
def test_every_known_example_is_taken_and_every_drift_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], subject: str
) -> None:
    """A pipeline that encrypts nothing, so that nothing but the form of a record can be refused."""
    config = tmp_path / "config.yaml"
    pipelines = {"all": {"from": "raw", "schema": subject, "gate": "off"}}
    config.write_text(yaml.safe_dump({"kafka": {"brokers": ["localhost:9092"]}, "pipelines": pipelines}))
    paths = [path for some in load_subject(subject).examples.values() for path in some]
    lines = [json.dumps(json.loads(path.read_text())).encode() for path in paths]
    found = attempt(load(config), b"\n".join([*lines, b'{"description":"a raw\nnewline"}', b"{no json"]) + b"\n", "all")
    assert [one["route"] for one in found[: len(lines)]] == ["success"] * len(lines)
    assert {one["error"]["reason"] for one in found[len(lines) :]} == {"not-json"}
    kinds = set(re.findall(r"([a-z-]+) \d+", capsys.readouterr().err))
    assert kinds == {
        "event": {
            "camel-case", "detail-text", "flag", "number-text", "outcome", "severity", "source-name", "timestamp",
            "unknown-field",
        },
        "usage": {"number-text", "timestamp"},
    }[subject]  # fmt: skip


@pytest.mark.parametrize("options", [[], ["--csv"]])
def test_a_terminal_is_told_nothing_by_a_record(folder: Path, options: list[str]) -> None:
    record = json.dumps({"id": 1, "event_type": {"description": "\x1b[2J\x9b2J Zoë"}}, ensure_ascii=False).encode()
    command = [ROOT / ".venv/bin/sluice", "try", folder / "data-streamer.yaml", "events", *options]
    terminal, end = pty.openpty()
    done = subprocess.run(command, input=record, stdout=end, stderr=subprocess.PIPE, timeout=60, check=True)
    os.close(end)
    shown = os.read(terminal, 10_000).decode()
    os.close(terminal)

    assert done.stderr == b""
    assert r"\u001b[2J\u009b2J Zoë" in shown
    assert not set(shown) & {"\x1b", "\x9b"}
    piped = subprocess.run(command, input=record, capture_output=True, timeout=60, check=True).stdout.decode()
    assert "\x9b2J Zoë" in piped
