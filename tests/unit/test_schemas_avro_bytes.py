"""Bytes that no Avro writer makes are told from those that any does."""

import io
import struct
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.avro_bytes import compiled

SCHEMA = fastavro.parse_schema(
    {
        "type": "record",
        "name": "t.R",
        "fields": [
            {"name": "flag", "type": "boolean"},
            {"name": "number", "type": ["null", "long"]},
            {"name": "text", "type": ["null", "string"]},
            {"name": "raw", "type": "bytes"},
            {"name": "kind", "type": {"type": "enum", "name": "E", "symbols": ["A", "B", "C"]}},
            {"name": "four", "type": {"type": "fixed", "name": "F", "size": 4}},
            {"name": "half", "type": "float"},
            {"name": "whole", "type": "double"},
            {"name": "again", "type": ["null", "F"]},
            {"name": "next", "type": ["null", "R"]},
        ],
    },
    {},
)
END = compiled(SCHEMA)
record = st.fixed_dictionaries(
    {
        "flag": st.booleans(),
        "number": st.none() | st.integers(-(2**63), 2**63 - 1),
        "text": st.none() | st.text(max_size=4),
        "raw": st.binary(max_size=4),
        "kind": st.sampled_from("ABC"),
        "four": st.binary(min_size=4, max_size=4),
        "half": st.floats(width=32, allow_nan=False),
        "whole": st.floats(allow_nan=False),
        "again": st.none() | st.binary(min_size=4, max_size=4),
    }
)
records = st.recursive(
    record.map(lambda one: one | {"next": None}),
    lambda inner: st.builds(lambda one, next_: one | {"next": next_}, record, inner),
    max_leaves=3,
)


def written(value: Any, schema: Any = SCHEMA) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, value)
    return out.getvalue()


def fits(data: bytes, schema: Any = SCHEMA) -> bool:
    try:
        return (END if schema is SCHEMA else compiled(fastavro.parse_schema(schema, {})))(data, 0) == len(data)
    except (ValueError, IndexError, RecursionError):
        return False


@given(records)
def test_whatever_a_writer_writes_fits(value: Any) -> None:
    data = written(value)
    assert fits(data)
    assert not fits(data + b"\0")
    assert not any(fits(data[:length]) for length in range(len(data)))


@settings(max_examples=500)
@given(records, st.data())
def test_what_fits_after_damage_is_what_a_writer_would_have_written(value: Any, data: st.DataObject) -> None:
    """Lists and unions of two kinds of number aside, which may be written in several ways; there are none in this schema."""
    damaged = bytearray(written(value))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    if not fits(bytes(damaged)):
        return
    try:
        read = fastavro.schemaless_reader(io.BytesIO(damaged), SCHEMA)
    except UnicodeDecodeError:
        return
    assert b"nan" in repr(read).encode() or written(read) == damaged


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ("boolean", [b"\0", b"\1"], [b"\2", b"\xff", b""]),
        ("long", [b"\0", b"\x80\1", b"\xff" * 9 + b"\1"], [b"\x80\0", b"\x80" * 9 + b"\2", b"\x80" * 10 + b"\1", b"\x80"]),
        ("int", [b"\xff\xff\xff\xff\x0f"], [b"\xff\xff\xff\xff\x1f", b"\xff" * 9 + b"\1"]),
        ("string", [b"\0", b"\2a"], [b"\1", b"\4a", b"\x80\0"]),
        (["null", "long"], [b"\0", b"\2\2"], [b"\1\2", b"\4", b"\x82\0\2"]),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, [b"\0"], [b"\1", b"\2"]),
        (
            {"type": "array", "items": "long"},
            [b"\0", b"\4\2\4\0", b"\2\2\2\4\0", b"\3\4\2\4\0", b"\1\2\2\2\4\0"],
            [b"\4\2\0", b"\3\6\2\4\0", b"\3\2\2\4\0", b"\3\1\2\4\0", b"\2\2", b"\xff" * 9 + b"\1\0"],
        ),
        ({"type": "array", "items": "null"}, [b"\2\0"], [b"\xfe\xff\xff\xff\x0f\0"]),
        ({"type": "map", "values": "boolean"}, [b"\2\2a\1\0"], [b"\2\2a\2\0", b"\2\2a\0"]),
        ("double", [struct.pack("<d", 1.5)], [b"\0" * 7]),
    ],
)  # fmt: skip
def test_each_type_to_the_letter(schema: Any, good: list[bytes], bad: list[bytes]) -> None:
    assert [data for data in good if not fits(data, schema)] == []
    assert [data for data in bad if fits(data, schema)] == []


def test_a_record_without_end_is_none() -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": "next", "type": "R"}]}
    assert not fits(b"", schema)
    deep = {"type": "record", "name": "R", "fields": [{"name": "next", "type": ["null", "R"]}]}
    assert fits(b"\2" * 50 + b"\0", deep)
    assert not fits(b"\2" * 100_000 + b"\0", deep)
