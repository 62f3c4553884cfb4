"""A CSV row holds what the record holds: any CSV reader gets it back, column for column."""

import csv
import io
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.codec import Codec
from schemas.projection import CsvRow, csv_header
from schemas.subjects import load

SUBJECTS = {name: (load(name), Codec(load(name)), CsvRow(load(name))) for name in ("event", "usage")}


def row(name: str, text: str) -> dict[str, str]:
    subject, codec, to_row = SUBJECTS[name]
    line = to_row(codec.encode(codec.decode(text.encode())))
    return dict(zip((column.name for column in subject.columns), cells(line), strict=True))


def cells(line: bytes) -> list[str]:
    [read] = csv.reader(io.StringIO(line.decode(), newline=""), strict=True)
    return read


def test_the_row_of_the_documents_example() -> None:
    text = json.dumps(
        json.loads(next(p for p in load("usage").examples["v2"]).read_text(), parse_float=Decimal), default=str
    )
    codec, to_row = SUBJECTS["usage"][1:]
    assert to_row(codec.encode(codec.decode(text.encode()))).decode() == (
        '"442726400000001","2021-05-11T11:17:25Z","2021-05-11T11:19:51Z","19000","81000000","9673000","1500000",'
        '"89882806660010000000","901405101000000","4","EPlus","74","Germany","5","Data","0.000741","0.000395","0.000346",'
        '"0.0007410000","1","EUR","€","442","1NCE Production 01 - 1Mbps","2100","Rate Zone 1 (DE)","89882806660010000000",'
        '"192.0.2.17",,"359339075910000","882285101000000","2019-01-21T08:45:01Z","03","262"\n'
    )


def test_missing_and_null_are_empty_without_quotes_and_empty_text_has_quotes() -> None:
    to_row = SUBJECTS["event"][2]
    columns = len(load("event").columns)
    assert to_row(b"{}") == b"," * (columns - 1) + b"\n"
    assert (
        to_row(b'{"id":null,"endpoint":null,"description":"","detail":null}')
        == b",,," + b'""' + b"," * (columns - 4) + b"\n"
    )
    assert csv_header(load("event")).count(b",") == columns - 1


@pytest.mark.parametrize(
    ("text", "column", "cell"),
    [
        ('{"alert":true}', "alert", "true"),
        ('{"alert":false}', "alert", "false"),
        ('{"description":"say \\"hi\\", then\\ngo"}', "description", 'say "hi", then\ngo'),
        ('{"description":"null"}', "description", "null"),
        ('{"description":"a,null,b","user":null}', "description", "a,null,b"),
        ('{"description":"=1+1"}', "description", "=1+1"),
        ('{"event_source":{"description":"API"}}', "event_source_name", "API"),
        ('{"endpoint":{"tags":"V1"}}', "endpoint_tags", "V1"),
        ('{"endpoint":{"tags":{"a":"x\\"y"}}}', "endpoint_tags", '{"a":"x\\"y"}'),
        ('{"endpoint":{"tags":false}}', "endpoint_tags", "false"),
        ('{"device":{"location":[-66.875,"x"]}}', "device_location", '[-66.875,"x"]'),
        ('{"detail":{"a":null,"b":[1.50,"x"]}}', "detail", '{"a":null,"b":[1.50,"x"]}'),
        ('{"detail":{}}', "detail", "{}"),
        ('{"transaction":{"cc":{"cc_number":"4","cc_number_iv":"i"}}}', "transaction_cc_cc_number_iv", "i"),
        ('{"transaction":{"unit_price":12.34}}', "transaction_unit_price", "12.34"),
        ('{"id":-9223372036854775808}', "id", "-9223372036854775808"),
    ],
)
def test_values_of_events(text: str, column: str, cell: str) -> None:
    assert row("event", text)[column] == cell


@pytest.mark.parametrize(
    ("written", "cell"),
    [
        ("0.00188512", "0.0018851200"),
        ("9999.9999999999", "9999.9999999999"),
        ("0.0000000001", "0.0000000001"),
        ("7", "7.0000000000"),
    ],
)
def test_decimals_have_all_their_places(written: str, cell: str) -> None:
    assert row("usage", f'{{"cost":{written}}}')["cost"] == cell
    assert row("usage", f'{{"imsi":"\\u0001","cost":{written}}}')["cost"] == cell


@given(st.integers(-(10**14) + 1, 10**14 - 1), st.sampled_from([("cost", 10), ("volume", 6)]))
def test_a_decimal_is_never_rounded(digits: int, form: tuple[str, int]) -> None:
    column, scale = form
    number = Decimal(digits).scaleb(-scale)
    text = '{"cost":%s}' if column == "cost" else '{"volume":{"total":%s}}'
    assert row("usage", text % format(number, "f"))[column] == format(number, "f")


texts = st.text(st.characters(codec="utf-8"), max_size=12)


@given(texts, texts, st.none() | texts, st.dictionaries(texts, texts | st.none() | st.integers(0, 9), max_size=3))
@example('","', "\\", None, {'"': '\\"'})
def test_a_csv_reader_gets_back_what_the_record_holds(
    one: str, other: str, tags: str | None, detail: dict[str, Any]
) -> None:
    record = {"id": 1, "description": one, "endpoint": {"name": other, "tags": tags}, "user": None, "detail": detail}
    read = row("event", json.dumps(record))
    assert (read["id"], read["description"], read["endpoint_name"], read["endpoint_tags"]) == (
        "1",
        one,
        other,
        tags or "",
    )
    assert json.loads(read["detail"]) == detail


def test_a_key_without_a_column_is_left_out() -> None:
    line = SUBJECTS["event"][2](b'{"sluice_id":"raw.events/0/1","id":1,"transaction":{"cc":{"own_iv":"x"}}}')
    assert line == b'"1"' + b"," * (len(load("event").columns) - 1) + b"\n"


def test_a_subject_without_columns_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="deliver it as json"):
        CsvRow(load("sim"))
