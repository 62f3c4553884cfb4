"""Producers are told before sending what a pipeline would say after, and write Avro that it reads."""

import copy
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pytest

from schemas.codec import Codec
from schemas.drift import DRIFT_KINDS
from schemas.fields import Field
from schemas.producer import Checker, InvalidContainer, avro_form, framed
from schemas.refused import Refused
from schemas.subjects import load, names

EXAMPLES = [(name, path) for name in names() for paths in load(name).examples.values() for path in paths]


@pytest.mark.parametrize(("name", "path"), EXAMPLES, ids=lambda value: getattr(value, "stem", value))
def test_every_example_is_taken_and_only_drift_is_named(name: str, path: Path) -> None:
    checked = Checker(name)(path.read_bytes())
    assert bool(checked.drift) == path.stem.startswith("drift-")


def test_the_key_is_the_device_or_the_endpoint() -> None:
    check = Checker("event")
    assert check(b'{"device":{"id":"a-1"},"endpoint":{"id":7}}').key == b"a-1"
    assert check(b'{"endpoint":{"id":7}}').key == b"7"
    assert check(b'{"endpoint":null,"device":{"id":null}}').key is None
    assert Checker("usage")(b'{"endpoint":{"id":9}}').key == b"9"
    assert Checker("operator")(b'{"name":"x"}').key is None


def test_one_record_s_drift_is_not_another_s() -> None:
    check = Checker("event")
    assert check(b'{"alert":1}').drift == {"flag": 1}
    assert check(b'{"alert":true}').drift == {}
    assert check(b'{"alert":0}').drift == {"flag": 1}


def test_a_refusal_names_reason_and_path_and_no_value() -> None:
    with pytest.raises(Refused) as caught:
        Checker("event")(b'{"transaction":{"quantity":"4111111111111111"}}')
    assert str(caught.value) == "wrong-type at .transaction.quantity"


def of_version(fields: tuple[Field, ...], record: dict[str, Any]) -> dict[str, Any]:
    """What Avro of a version holds of a record: its fields, at any depth, without nulls."""
    made = {}
    for field in fields:
        value = record.get(field.name)
        if value is not None:
            made[field.name] = of_version(field.fields, value) if field.kind == "record" else value
    return made


@pytest.mark.parametrize(("name", "path"), EXAMPLES, ids=lambda value: getattr(value, "stem", value))
def test_what_is_framed_is_read_as_the_same_record_whole(name: str, path: Path) -> None:
    codec, check = Codec(load(name)), Checker(name)
    checked = check(path.read_bytes())
    taken = json.loads(codec.encode(codec.decode(path.read_bytes())), parse_float=Decimal)
    for version in load(name).versions:
        again = json.loads(codec.encode(codec.decode(framed(version, checked))), parse_float=Decimal)
        assert again == of_version(version.fields, taken)
    assert check(framed(load(name).latest, checked)).drift == {}


@pytest.mark.parametrize(
    ("came", "goes"),
    [
        (b'{"event_source":{"name":"API"}}', {"event_source": {"description": "API"}}),
        (b'{"alert":1}', {"alert": True}),
        (b'{"timestamp":"2021-10-06 10:42:58"}', {"timestamp": "2021-10-06T10:42:58Z"}),
        (b'{"transaction":{"total_price":12}}', {"transaction": {"total_price": 12.0}}),
        (b'{"detail":"{\\"a\\":1.50}"}', {"detail": '{"a":1.50}'}),
        (b'{"user":null,"strange":1}', {}),
    ],
)
def test_avro_is_made_of_the_record_as_a_pipeline_takes_it(came: bytes, goes: dict[str, Any]) -> None:
    version, checked = load("event").latest, Checker("event")(came)
    assert avro_form(version, checked) == goes
    codec = Codec(load("event"))
    assert codec.encode(codec.decode(checked.value)) == checked.value == codec.encode(codec.decode(came))
    assert not any(text in repr(checked) for text in ("API", "2021", "12", "1.50", "strange")), "a record shows"


@pytest.mark.parametrize(
    "value", [b'{"transaction":{"total_price":true}}', b'{"transaction":{"total_price":"12"}}', b'{"transaction":5}']
)
def test_what_a_pipeline_refuses_never_becomes_avro(value: bytes) -> None:
    with pytest.raises(Refused):
        framed(load("event").latest, Checker("event")(value))


def test_a_version_of_another_subject_is_refused() -> None:
    with pytest.raises(ValueError, match="checked as event, and usage/v1 is no version of that"):
        framed(load("usage").versions[0], Checker("event")(b'{"id":1}'))


def test_a_container_of_any_version_gives_json_that_is_taken() -> None:
    subject = load("usage")
    for version in subject.versions:
        out = io.BytesIO()
        fastavro.writer(out, version.parsed, [{"id": number, "cost": Decimal("0.5")} for number in range(3)])
        out.seek(0)
        assert [value for value, _ in Checker("usage").container(out)] == [
            b'{"id":%d,"cost":0.5000000000}' % number for number in range(3)
        ]


@pytest.mark.parametrize(
    "spoil", [lambda data: b"Obj\x01" + b"\xff" * 50, lambda data: data[:-40], lambda data: data[:5]]
)
def test_a_file_that_is_cut_off_or_something_else_is_an_error_with_a_remedy(spoil: object) -> None:
    out = io.BytesIO()
    fastavro.writer(out, load("usage").latest.parsed, [{"id": 4111111111111111}] * 100)
    with pytest.raises(InvalidContainer, match=r"write it with schemas/usage/v3\.avsc") as caught:
        list(Checker("usage").container(io.BytesIO(spoil(out.getvalue()))))  # type: ignore[operator]
    assert "4111" not in str(caught.value)


def patched(count: int) -> bytes:
    """A container of two blocks of three records, the first of which claims to hold another number."""
    out = io.BytesIO()
    version = load("usage").latest
    fastavro.writer(out, version.parsed, [{"id": number} for number in range(3)], sync_marker=b"s" * 16)
    begins = out.getvalue().index(b"s" * 16) + 16
    fastavro.writer(out, None, [{"id": number} for number in range(3, 6)])
    whole = bytearray(out.getvalue())
    assert whole[begins] == 3 * 2  # zigzag
    whole[begins] = count * 2 if count >= 0 else -count * 2 - 1
    return bytes(whole)


def test_a_block_is_read_only_if_it_holds_as_many_records_as_it_says() -> None:
    check = Checker("usage")
    assert len(list(check.container(io.BytesIO(patched(3))))) == 6
    for count in (0, -1, -3, 2, 4, 63):
        with pytest.raises(InvalidContainer, match="other records than it says"):
            list(check.container(io.BytesIO(patched(count))))


def test_a_container_that_is_cut_off_anywhere_but_between_blocks_is_not_taken() -> None:
    out, sync, records = io.BytesIO(), b"s" * 16, [{"id": number} for number in range(100)]
    fastavro.writer(out, load("usage").latest.parsed, records, sync_marker=sync)
    fastavro.writer(out, None, records)
    whole, check = out.getvalue(), Checker("usage")
    header, first, _, _ = whole.split(sync)
    between = len(header + sync + first + sync)
    for length in range(len(header + sync) + 1, len(whole)):
        if length != between:
            with pytest.raises(InvalidContainer):
                list(check.container(io.BytesIO(whole[:length])))


def test_a_container_of_another_subject_is_not_taken() -> None:
    out = io.BytesIO()
    fastavro.writer(out, load("usage").latest.parsed, [{"id": 1}])
    out.seek(0)
    with pytest.raises(InvalidContainer):
        list(Checker("event").container(out))


def test_avro_fields_that_no_schema_here_names_are_counted_as_in_json() -> None:
    schema = copy.deepcopy(dict(load("usage").latest.schema))
    schema["fields"].append({"name": "next", "type": ["null", "string"], "default": None})
    out = io.BytesIO()
    fastavro.writer(out, fastavro.parse_schema(schema, {}), [{"id": 1, "next": "x"}, {"id": 2}])
    out.seek(0)
    check = Checker("usage")
    assert list(check.container(out)) == [(b'{"id":1}', {"unknown-field": 1}), (b'{"id":2}', {})]


def test_the_page_for_producers_names_every_kind_of_drift() -> None:
    page = (Path(__file__).parents[2] / "docs/producers.md").read_text()
    assert [kind for kind in DRIFT_KINDS if f"`{kind}`" not in page] == []
