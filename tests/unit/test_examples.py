"""The example inputs are what they claim: good records, odd forms that are taken in, and lines that nobody can read."""

from collections import Counter
from pathlib import Path

import orjson
import pytest

from schemas.codec import Codec
from schemas.refused import Refused
from schemas.subjects import load

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def _lines(name: str) -> list[bytes]:
    return (EXAMPLES / name).read_bytes().splitlines()


@pytest.mark.parametrize(
    ("name", "subject", "good", "refused"),
    [
        ("events.jsonl", "event", 184, {"not-an-object": 4, "not-json": 5, "wrong-type": 3, "too-deep": 1}),
        ("usage.jsonl", "usage", 64, {"not-an-object": 1, "not-json": 1, "wrong-type": 1}),
    ],
)
def test_the_schema_takes_the_good_lines_and_refuses_the_others(
    name: str, subject: str, good: int, refused: dict[str, int]
) -> None:
    codec, seen = Codec(load(subject)), Counter[str]()
    for line in _lines(name):
        try:
            codec.decode(line)
        except Refused as refusal:
            seen[refusal.reason] += 1
        else:
            seen["good"] += 1
    assert seen == {"good": good, **refused}


def test_every_id_is_there_once() -> None:
    for name in ("events.jsonl", "usage.jsonl"):
        ids = []
        for line in _lines(name):
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(record, dict) and "id" in record:
                ids.append(record["id"])
        assert len(ids) == len(set(ids)) > 60


def test_the_references_know_what_the_generated_records_name() -> None:
    tables = {
        path.stem: {row["id"] for row in map(orjson.loads, path.read_bytes().splitlines())}
        for path in (EXAMPLES / "references").glob("*.jsonl")
    }
    assert tables.keys() == {"endpoints", "sims", "imsis", "operators", "users"}
    named = [orjson.loads(line).get("endpoint") for line in _lines("events.jsonl")[:165]]
    ids = [endpoint["id"] for endpoint in named if endpoint]
    assert sum(number in tables["endpoints"] for number in ids) >= 0.95 * len(ids) > 50
