"""Avro containers and Parquet hold what was routed, exactly, in the fields of the schema."""

import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.codec import Codec
from schemas.containers import Packing, avro_container, parquet
from schemas.fields import Field
from schemas.subjects import load, names

EXAMPLES = [(name, path) for name in names() for paths in load(name).examples.values() for path in paths]
PACKINGS: tuple[Packing, ...] = ("none", "gzip", "zstd")


def routed(name: str, path: Path) -> bytes:
    codec = Codec(load(name))
    return codec.encode(codec.decode(path.read_bytes()))


def full(fields: tuple[Field, ...], record: dict[str, Any]) -> dict[str, Any]:
    """What a file must give back: every field of the schema, null where the record has none, open fields as values."""
    made: dict[str, Any] = {}
    for field in fields:
        value = record.get(field.name)
        if value is not None and field.kind == "record":
            value = full(field.fields, value)
        made[field.name] = value
    return made


def opened(fields: tuple[Field, ...], row: dict[str, Any]) -> dict[str, Any]:
    """A row with the JSON text of open fields read."""
    for field in fields:
        value = row[field.name]
        if field.kind == "record" and value is not None:
            opened(field.fields, value)
        elif value is not None and (
            field.kind in ("json", "object") or (field.kind == "array" and isinstance(value, str))
        ):
            row[field.name] = json.loads(value, parse_float=Decimal)
    return row


def as_numbers(value: Any) -> Any:
    """Prices as the doubles that they become."""
    if isinstance(value, dict):
        return {key: as_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_numbers(item) for item in value]
    return float(value) if isinstance(value, Decimal) else value


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(("name", "path"), EXAMPLES, ids=lambda value: getattr(value, "stem", value))
def test_an_avro_container_gives_back_every_example(name: str, path: Path, packing: Packing) -> None:
    subject, value = load(name), routed(name, path)
    made = avro_container(subject, [value, b"{}", value], packing)
    rows = list(fastavro.reader(io.BytesIO(made)))
    record = json.loads(value, parse_float=Decimal)
    expected = full(subject.fields, record)
    assert [as_numbers(opened(subject.fields, row)) for row in rows] == [  # type: ignore[arg-type]  # rows are mappings
        as_numbers(expected),
        dict.fromkeys(expected),
        as_numbers(expected),
    ]
    for version in subject.versions:
        read = list(fastavro.reader(io.BytesIO(made), reader_schema=version.parsed))
        assert all(list(row) == [field.name for field in version.fields] for row in read)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(("name", "path"), EXAMPLES, ids=lambda value: getattr(value, "stem", value))
def test_parquet_gives_back_every_example(name: str, path: Path, packing: Packing) -> None:
    subject, value = load(name), routed(name, path)
    table = pq.read_table(io.BytesIO(parquet(subject, [value, b"{}"], packing)))
    assert table.column_names == [field.name for field in subject.fields]
    row, empty = table.to_pylist()
    expected = full(subject.fields, json.loads(value, parse_float=Decimal))
    assert as_numbers(opened(subject.fields, row)) == as_numbers(expected)
    assert set(empty.values()) == {None}


def test_decimals_stay_exact_and_ids_keep_64_bits() -> None:
    subject = load("usage")
    value = b'{"id":9223372036854775807,"volume":{"total":12345678.000001},"cost":1234.0123456789}'
    (avro,) = fastavro.reader(io.BytesIO(avro_container(subject, [value], "none")))
    (row,) = pq.read_table(io.BytesIO(parquet(subject, [value], "none"))).to_pylist()
    for found in (avro, row):
        assert found["id"] == 2**63 - 1  # type: ignore[index,call-overload]
        assert found["volume"]["total"] == Decimal("12345678.000001")  # type: ignore[index,call-overload]
        assert found["cost"] == Decimal("1234.0123456789")  # type: ignore[index,call-overload]


ODD_DECIMALS = {
    b'{"cost":0.00188512000}': ("cost", "0.0018851200"),
    b'{"cost":0.0000000}': ("cost", "0E-10"),
    b'{"cost":0e99999999}': ("cost", "0E-10"),
    b'{"cost":0E+400}': ("cost", "0E-10"),
    b'{"cost":"1.00000000"}': ("cost", "1.0000000000"),
    b'{"cost":1234}': ("cost", "1234.0000000000"),
}


@pytest.mark.parametrize("value", ODD_DECIMALS)
def test_a_decimal_has_the_places_of_its_field_however_it_was_written(value: bytes) -> None:
    subject = load("usage")
    codec = Codec(subject)
    routed_ = codec.encode(codec.decode(value))
    name, expected = ODD_DECIMALS[value]
    (avro,) = fastavro.reader(io.BytesIO(avro_container(subject, [routed_], "none")))
    (row,) = pq.read_table(io.BytesIO(parquet(subject, [routed_], "none"))).to_pylist()
    for found in (avro, row):
        assert str(found[name]) == str(Decimal(expected))  # type: ignore[index,call-overload]


def test_open_fields_keep_every_digit() -> None:
    value = b'{"detail":{"a":0.1234567890123456789012,"b":1.000000,"c":12345678901234567.25}}'
    (avro,) = fastavro.reader(io.BytesIO(avro_container(load("event"), [value], "none")))
    (row,) = pq.read_table(io.BytesIO(parquet(load("event"), [value], "none"))).to_pylist()
    for found in (avro, row):
        assert found["detail"].encode() == value[len(b'{"detail":') : -1]  # type: ignore[index,call-overload]


def test_the_types_of_columns_are_those_of_the_schema() -> None:
    schema = pq.read_schema(io.BytesIO(parquet(load("usage"), [b"{}"], "none")))
    assert schema.field("cost").type == pa.decimal128(14, 10)
    assert schema.field("volume").type.field("total").type == pa.decimal128(14, 6)
    assert schema.field("id").type == pa.int64()
    assert schema.field("start_timestamp").type == pa.string()


def test_what_no_schema_names_is_left_out() -> None:
    subject, value = load("event"), b'{"id":1,"transaction":{"cc":{"number_iv":"x"}},"next":2}'
    (row,) = pq.read_table(io.BytesIO(parquet(subject, [value], "none"))).to_pylist()
    assert "next" not in row
    assert "number_iv" not in row["transaction"]["cc"]
    assert "next" not in next(iter(fastavro.reader(io.BytesIO(avro_container(subject, [value], "none")))))


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (b'{"transaction":5}', ".transaction"),
        (b'{"alert":1}', ".alert"),
        (b'{"id":true}', ".id"),
        (b'{"id":1.0}', ".id"),
        (b'{"transaction":{"total_price":true}}', ".transaction.total_price"),
        (b'{"transaction":{"total_price":"12"}}', ".transaction.total_price"),
        (b'{"description":5}', ".description"),
        (b'{"device":{"location":{}}}', ".device.location"),
    ],
)
def test_what_the_schema_does_not_hold_is_an_error_with_its_path_and_never_another_value(
    value: bytes, path: str
) -> None:
    for made in (avro_container, parquet):
        with pytest.raises(ValueError, match=f"{path} holds no "):
            made(load("event"), [value], "none")
