"""The code that docs/consumers.md gives to readers runs, and survives the next field and column."""

import gzip
import io
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import orjson
import pytest

from schemas.codec import Codec
from schemas.containers import parquet
from schemas.projection import CsvRow, csv_header
from schemas.subjects import Subject, load

PAGE = (Path(__file__).parents[2] / "docs" / "consumers.md").read_text()
USAGE: list[dict[str, Any]] = [
    {"id": 1, "endpoint": {"id": 7, "name": '=1+1, "x"\n'}, "volume": {"total": Decimal("0.100000")}},
    {"id": 2, "endpoint": {"id": 7}, "volume": {"total": Decimal("0.200000")}},
    {"id": 3, "endpoint": {"id": 8}, "volume": None},
]


@pytest.fixture
def page() -> dict[str, Any]:
    """Everything that the page's code defines."""
    place: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        exec(block, place)
    return place


def test_the_csv_code_reads_by_name(page: dict[str, Any], tmp_path: Path) -> None:
    subject = load("usage")
    codec, row = Codec(subject), CsvRow(subject)
    values = [codec.encode(codec.decode(orjson.dumps(one, default=float))) for one in USAGE]
    rows = csv_header(subject) + b"".join(map(row, values))
    grown = rows.replace(b'"country_mcc"\n', b'"country_mcc","next"\n')
    for number, content in enumerate((rows, grown)):
        file = tmp_path / f"{number}.csv.gz"
        file.write_bytes(gzip.compress(content))
        assert page["usage_by_endpoint"](file) == {"7": Decimal("0.300000"), "8": 0}


def test_the_json_code_survives_absent_null_and_new_keys(page: dict[str, Any]) -> None:
    lines = [
        b'{"id":1,"transaction":{"result":false,"result_reason":"card_denied","next":{"a":1}},"next":[1]}',
        b'{"id":2,"transaction":{"result":true}}',
        b'{"id":3,"transaction":null}',
        b'{"id":4}',
        b'{"id":5,"transaction":{"result":false}}',
    ]
    assert list(page["failed_payments"](lines)) == [(1, "card_denied"), (5, "unknown")]


def test_the_avro_code_reads_older_and_newer_files(page: dict[str, Any]) -> None:
    versions = load("usage").versions
    for writer in versions:
        for reader in versions:
            out = io.BytesIO()
            fastavro.writer(out, writer.parsed, [{"id": 5}])
            out.seek(0)
            (found,) = page["rows"](out, reader.parsed)
            assert found["id"] == 5
            assert list(found) == [field["name"] for field in reader.schema["fields"]]


def test_the_parquet_code_reads_old_and_new_files_at_once(page: dict[str, Any], tmp_path: Path) -> None:
    now = load("usage")
    files = []
    for count in range(1, len(now.versions) + 1):
        then = Subject(now.name, now.versions[:count], now.columns)
        value = b'{"id":%d,"endpoint":{"id":7,"imei":"3"},"session_id":"s"}' % count
        files.append(str(tmp_path / f"{count}.parquet"))
        Path(files[-1]).write_bytes(parquet(then, [value], "none"))
    table = page["table"](files)
    assert table.column_names == [field.name for field in now.fields]
    rows = table.sort_by("id").to_pylist()
    assert [(row["id"], row["session_id"], row["endpoint"]["imei"]) for row in rows] == [
        (1, None, None),
        (2, None, "3"),
        (3, "s", "3"),
    ]


def test_the_typed_code_ignores_what_it_does_not_know(page: dict[str, Any]) -> None:
    usage = msgspec.json.decode(b'{"id":1,"endpoint":{"id":7,"next":1},"next":{}}', type=page["Usage"])
    assert (usage.id, usage.endpoint.id, usage.endpoint.name) == (1, 7, None)
