"""The codec takes every accepted form and keeps it as it was; it refuses the rest with reason and path, never a value."""

import io
import json
import traceback
from contextlib import suppress
from decimal import Decimal
from typing import Any

import fastavro
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import UNTAKEN, Codec
from schemas.drift import DRIFT_KINDS
from schemas.fields import Field
from schemas.refused import REASONS, Refused
from schemas.settling import OUTCOMES
from schemas.structs import record_type
from schemas.subjects import UnknownSubject, load
from schemas.values import fits

EVENT = Codec(load("event"))
USAGE = Codec(load("usage"))
CARD = "4111111111111111"


def again(codec: Codec, text: bytes | str) -> str:
    return codec.encode(codec.decode(text.encode() if isinstance(text, str) else text)).decode()


def refusal(codec: Codec, value: bytes | None) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        codec.decode(value)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None or isinstance(error.__context__, Refused) or error.__suppress_context__
    return error.reason, error.path


def nested(levels: int, key: str = "detail") -> bytes:
    """An event of so many levels of objects, itself included."""
    return b'{"%s":' % key.encode() + b'{"a":' * (levels - 2) + b"{}" + b"}" * (levels - 1)


@pytest.mark.parametrize(
    ("value", "reason", "path"),
    [
        (None, "null-value", ""),
        (b"", "not-json", ""),
        (b"hello", "not-json", ""),
        (b'{"id":1', "not-json", ""),
        (b'{"id":1}x', "not-json", ""),
        (b"\xef\xbb\xbf{}", "not-json", ""),
        (b'{"description":"a\nb"}', "not-json", ""),
        (b'{"description":"\xff\xfe"}', "not-json", ""),
        (b'{"\xff":1}', "not-json", ""),
        (b'{"description":"\xed\xa0\x80"}', "not-json", ""),
        (b'{"description":"\\ud800"}', "not-json", ""),
        (b'{"description":"\\udc00\\ud800"}', "not-json", ""),
        (b'{"detail":{"a":"\\ud83d"}}', "not-json", ""),
        (b'{"transaction":{"total_price":NaN}}', "not-json", ""),
        (b'{"transaction":{"total_price":-Infinity}}', "not-json", ""),
        (b'{"detail":{"a":NaN}}', "not-json", ""),
        (b"null", "not-an-object", ""),
        (b"[]", "not-an-object", ""),
        (b'"text"', "not-an-object", ""),
        (b"17", "not-an-object", ""),
        (b"x" * 10_000_000, "not-json", ""),
        (b'{"id":"1"}', "wrong-type", ".id"),
        (b'{"id":1.0}', "wrong-type", ".id"),
        (b'{"id":true}', "wrong-type", ".id"),
        (b'{"id":9223372036854775808}', "wrong-type", ".id"),
        (b'{"id":-9223372036854775809}', "wrong-type", ".id"),
        (b'{"id":123456789012345678901234567890}', "wrong-type", ".id"),
        (b'{"id":' + b"9" * 5000 + b"}", "wrong-type", ""),
        (b'{"alert":2}', "wrong-type", ".alert"),
        (b'{"alert":"true"}', "wrong-type", ".alert"),
        (b'{"endpoint":[]}', "wrong-type", ".endpoint"),
        (b'{"endpoint":{"imei":1}}', "wrong-type", ".endpoint.imei"),
        (b'{"transaction":{"total_price":"87.12"}}', "wrong-type", ".transaction.total_price"),
        (b'{"transaction":{"total_price":1e400}}', "wrong-type", ".transaction.total_price"),
        (b'{"transaction":{"total_price":9007199254740993}}', "wrong-type", ".transaction.total_price"),
        (b'{"transaction":{"total_price":9007199254740993.0}}', "wrong-type", ".transaction.total_price"),
        (b'{"transaction":{"total_price":-9007199254740991.9}}', "wrong-type", ".transaction.total_price"),
        (b'{"transaction":{"total_price":12345678901234567890.12}}', "wrong-type", ".transaction.total_price"),
        (b'{"device":{"location":[9223372036854775808]}}', "wrong-type", ".device.location"),
        (b'{"transaction":{"total_price":123456789012345678901234567890}}', "wrong-type", ".transaction.total_price"),
        (b'{"transaction":{"total_price":1' + b"0" * 400 + b"}}", "wrong-type", ".transaction.total_price"),
        (b'{"transaction":{"result":"maybe"}}', "wrong-type", ".transaction.result"),
        (b'{"transaction":{"cc":{"cc_number":4111111111111111}}}', "wrong-type", ".transaction.cc.cc_number"),
        (b'{"transaction":{"cc":"4111111111111111"}}', "wrong-type", ".transaction.cc"),
        (b'{"device":{"location":[1,null]}}', "wrong-type", ".device.location"),
        (b'{"device":{"location":"here"}}', "wrong-type", ".device.location"),
        (b'{"detail":[]}', "wrong-type", ".detail"),
        (b'{"detail":{"a":[123456789012345678901234567890]}}', "wrong-type", ".detail"),
        (b'{"detail":{"a":1e400}}', "wrong-type", ".detail"),
        (b'{"endpoint":{"tags":1e400}}', "wrong-type", ".endpoint.tags"),
        (nested(100), "too-deep", ""),
        (nested(200), "too-deep", ""),
        (nested(100_000), "too-deep", ""),
        (nested(100, "no-such-key"), "too-deep", ""),
        (b'{"endpoint":{"tags":' + b"[" * 98 + b"]" * 98 + b"}}", "too-deep", ""),
        (b"\0", "not-avro", ""),
        (b"\0\0\0\0\x04", "not-avro", ""),
        (b"\0\0\0\0\x04garbage", "not-avro", ""),
        (b"\0\xff\xff\xff\xff\x00", "unknown-schema-id", ""),
        (b"\0\0\0\0\x05\x00", "wrong-schema", ""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_taken_is_refused_with_reason_and_path(value: bytes | None, reason: str, path: str) -> None:
    assert refusal(EVENT, value) == (reason, path)


@pytest.mark.parametrize(
    "value",
    [
        '{"volume":{"total":"NaN"}}',
        '{"volume":{"total":"Infinity"}}',
        '{"volume":{"total":"1e3"}}',
        '{"volume":{"total":true}}',
        '{"volume":{"total":1e99999}}',
        '{"volume":{"total":0.1234567}}',
        '{"volume":{"total":123456789.0}}',
        '{"volume":{"total":"123456789"}}',
        '{"volume":{"total":"٣"}}',
    ],
)
def test_a_decimal_that_does_not_fit_is_refused(value: str) -> None:
    assert refusal(USAGE, value.encode()) == ("wrong-type", ".volume.total")


@pytest.mark.parametrize(
    "value",
    [
        '{"volume":{"total":12345678.123456,"rx":0.000000,"tx":-1.5},"cost":0.0007410000}',
        '{"cost":9999.9999999999}',
        '{"volume":{"total":0.12345600000}}',
        '{"volume":{"total":1,"rx":0}}',
    ],
)
def test_decimals_keep_the_digits_that_were_written(value: str) -> None:
    assert again(USAGE, value) == value
    assert USAGE.encode(USAGE.decode_fast(value.encode())).decode() == value


@pytest.mark.parametrize(
    "number",
    ["9007199254740992", "-9007199254740994", "18014398509481984", "1e30", "1" + "0" * 23, "0.1", "0", "5e-324"],
)
def test_numbers_whose_digits_a_double_keeps_are_taken_as_they_are(number: str) -> None:
    record = EVENT.decode(b'{"transaction":{"total_price":%b}}' % number.encode())
    assert record.transaction.total_price == float(number)
    written = json.loads(EVENT.encode(record), parse_float=Decimal, parse_int=Decimal)
    assert written["transaction"]["total_price"] == Decimal(number)


@pytest.mark.parametrize(
    ("came", "goes"),
    [
        ("0.12345678901234567890123", "0.12345678901234568"),
        ("9007199254740991.4", "9007199254740991.0"),
        ("1e-400", "0.0"),
        ("-1e-400", "-0.0"),
    ],
)
def test_what_docs_schemas_says_is_rounded_is_rounded_alike_on_both_paths(came: str, goes: str) -> None:
    for beside in ("", ',"strange":1'):
        assert again(EVENT, f'{{"transaction":{{"total_price":{came}{beside}}}}}') == (
            f'{{"transaction":{{"total_price":{goes}}}}}'
        )


def test_99_levels_are_taken() -> None:
    assert again(EVENT, nested(99)) == nested(99).decode()
    assert EVENT.decode_fast(nested(99)) == EVENT.decode(nested(99))


def test_keys_come_out_in_schema_order_absent_stays_absent_and_null_stays_null() -> None:
    text = (
        '{"transaction":{"cc":{"cc_zip":"1","cc_cvv":"4"},"tax":1.0},"user":null,"id":1,"sim":{"msisdn":null,"id":2}}'
    )
    ordered = (
        '{"id":1,"sim":{"id":2,"msisdn":null},"user":null,"transaction":{"tax":1.0,"cc":{"cc_cvv":"4","cc_zip":"1"}}}'
    )
    assert again(EVENT, text) == ordered
    assert again(EVENT, "{}") == "{}"


def test_of_duplicate_keys_the_last_wins_on_both_paths() -> None:
    assert again(EVENT, '{"id":1,"id":2}') == '{"id":2}'
    assert again(EVENT, '{"id":1,"strange":0,"id":2}') == '{"id":2}'


def test_open_fields_keep_their_numbers_and_text_as_written() -> None:
    text = '{"endpoint":{"tags":["V1",{"a":1.50}]},"detail":{"volume":1.000000,"text":"\\u0000é😀","none":null,"yes":true}}'
    assert again(EVENT, text) == text


def test_extra_fields_are_appended_to_their_records_and_nothing_else_changes() -> None:
    path = ("transaction", "cc", "number_iv")
    codec = Codec(
        load("event"), [path, path, ("transaction", "cc", "class"), ("transaction", "cc", "é -iv"), ("seal",)]
    )
    text = '{"transaction":{"cc":{"cc_number":"x","number_iv":"y","class":"z","é -iv":"u"}},"detail":{},"seal":"s"}'
    assert again(codec, text) == text
    assert refusal(codec, b'{"transaction":{"cc":{"number_iv":1}}}') == ("wrong-type", ".transaction.cc.number_iv")
    assert codec.type.__struct_fields__ == (*EVENT.type.__struct_fields__, "seal")


@pytest.mark.parametrize(
    "path", [("no", "iv"), ("transaction", "result", "iv"), (), ("transaction", 'a"b'), ("detail", "iv")]
)
def test_an_extra_field_that_has_no_place_is_refused_with_its_path(path: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="cannot add"):
        record_type(load("event"), [path])


def test_an_unknown_subject_names_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(UnknownSubject, match=r"'evnt'. Did you mean event\? Known are: endpoint, event, imsi"):
        load("evnt")


def test_no_value_of_a_record_shows_in_a_refusal() -> None:
    for text in (
        '{"transaction":{"cc":{"cc_number":%s}}}',
        '{"id":"%s"}',
        '{"id":%s%s}',
        '{"%s":1,"id":"x"}',
        '{"transaction":{"result":"%s"}}',
        '{"detail":"%s","id":"%s"}',
        '{"description":"%s',
        '{"event_severity":{"description":"%s"},"alert":"%s"}',
    ):
        value = (text % ((CARD,) * text.count("%s"))).encode()
        for codec_input in (value, b"\0\0\0\0\x04" + value):
            with pytest.raises(Refused) as caught:
                EVENT.decode(codec_input)
            assert CARD not in "".join(traceback.format_exception(caught.value)).replace(__file__, "")
            assert CARD not in repr(caught.value)


def test_a_record_shows_which_fields_it_has_but_no_value() -> None:
    record = EVENT.decode(b'{"id":1,"transaction":{"cc":{"cc_number":"%s"}}}' % CARD.encode())
    assert repr(record) == "<Event with id, transaction>"
    assert repr(record.transaction.cc) == "<TransactionCc with cc_number>"
    assert CARD not in f"{record} {list(record.__rich_repr__())}"


def test_drift_of_a_refused_record_is_not_counted() -> None:
    codec = Codec(load("event"))
    refusal(codec, b'{"alert":1,"strange":1,"id":"x"}')
    assert not codec.drift
    codec.decode(b'{"alert":1,"strange":1,"id":1}')
    assert codec.drift == {"flag": 1, "unknown-field": 1}


def avro(number: int, record: dict[str, Any]) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, load("event").versions[number - 1].parsed, record)
    return b"\0" + number.to_bytes(4, "big") + body.getvalue()


def test_avro_leaves_null_fields_out_and_opens_json_text() -> None:
    record = {
        "id": 1,
        "endpoint": {"tags": '["a", 1.50]'},
        "detail": '{"a": {"b": 1}}',
        "device": {"location": [1, 2.5, "x"]},
    }
    expected = '{"id":1,"endpoint":{"tags":["a",1.50]},"device":{"location":[1,2.5,"x"]},"detail":{"a":{"b":1}}}'
    assert again(EVENT, avro(4, record)) == expected
    assert again(EVENT, avro(4, {"endpoint": {"tags": "V1"}})) == '{"endpoint":{"tags":"V1"}}'


@pytest.mark.parametrize(
    ("record", "reason", "path"),
    [
        ({"transaction": {"total_price": float("nan")}}, "wrong-type", ".transaction.total_price"),
        ({"transaction": {"total_price": float("inf")}}, "wrong-type", ".transaction.total_price"),
        ({"detail": "[1]"}, "wrong-type", ".detail"),
        ({"detail": '{"a":' + "[" * 97 + "]" * 97 + "}"}, None, ""),
        ({"detail": '{"a":' + "[" * 98 + "]" * 98 + "}"}, "too-deep", ".detail"),
        ({"endpoint": {"tags": "[" * 5000 + "]" * 5000}}, "too-deep", ".endpoint.tags"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_avro_is_held_to_the_same_limits(record: dict[str, Any], reason: str | None, path: str) -> None:
    if reason is None:
        EVENT.decode(avro(4, record))
    else:
        assert refusal(EVENT, avro(4, record)) == (reason, path)


def test_avro_with_bytes_left_over_or_missing_is_refused() -> None:
    whole = avro(4, {"id": 1, "description": "text"})
    assert refusal(EVENT, whole + b"\0") == ("not-avro", "")
    for length in range(5, len(whole)):
        assert refusal(EVENT, whole[:length]) == ("not-avro", "")


@pytest.mark.parametrize(
    ("text", "means", "counted"),
    [
        ("V1", '"V1"', {"bare-text": 1}),
        ('"V1"', '"V1"', {}),
        ("123", "123", {}),
        ('"123"', '"123"', {}),
        ("1e99999999999999999999", '"1e99999999999999999999"', {"bare-text": 1}),
        ("null", "null", {}),
        ("", '""', {"bare-text": 1}),
    ],
)
def test_avro_text_of_an_open_field_is_json_and_other_text_is_counted(
    text: str, means: str, counted: dict[str, int]
) -> None:
    codec = Codec(load("event"))
    assert again(codec, avro(4, {"endpoint": {"tags": text}})) == f'{{"endpoint":{{"tags":{means}}}}}'
    assert codec.drift == counted


def test_bare_text_of_a_refused_record_is_not_counted() -> None:
    codec = Codec(load("event"))
    refusal(codec, avro(4, {"endpoint": {"tags": "V1"}, "detail": "[1]"}))
    assert not codec.drift


def test_avro_that_no_writer_makes_is_damaged_and_refused() -> None:
    whole = avro(4, {"id": 1, "alert": True})
    start = whole[:5]
    assert whole[5:10] == b"\2\2\0\2\1"  # the branch of the id, the id, no timestamp, the branch of the alert, true
    for damaged in (b"\2\x82\0\0\2\1", b"\1\2\0\2\1", b"\2\2\0\2\2"):
        assert refusal(EVENT, start + damaged + whole[10:]) == ("not-avro", "")


def test_avro_lists_may_be_written_in_several_blocks_with_their_sizes() -> None:
    whole = avro(4, {"device": {"location": [1, "x"]}})
    items = b"\0\2", b"\4\2x"
    one, several = b"\4" + b"".join(items) + b"\0", b"\1\4" + items[0] + b"\2" + items[1] + b"\0"
    assert whole.count(one) == 1
    assert EVENT.decode(whole.replace(one, several)) == EVENT.decode(whole)


def test_every_reason_is_distinct_and_says_where() -> None:
    assert len(set(REASONS)) == len(REASONS)
    assert str(Refused("wrong-type", ".a.b")) == "wrong-type at .a.b"
    assert str(Refused("not-json")) == "not-json"


# What comes in at random: JSON built near the schema, so that it gets past the first field.

names = sorted({field.name for codec in (EVENT, USAGE) for top in codec.subject.fields for field in top.walk()})
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["success", "WARN", "1.000000", "NaN", '{"a":1}', "{"])
    | st.sampled_from(["2021-10-06 10:42:58", "2021-10-06T10:42:58.1+02:00", "2021-13-06T10:42:58Z"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(names) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=20,
)


def exact(value: bytes) -> Any:
    return json.loads(value, parse_float=Decimal)


def assert_kept(fields: tuple[Field, ...], came: dict[str, Any], goes: dict[str, Any]) -> None:
    """What the fast path takes goes as it came: no key more or less, and no value changed but a double's last digits."""
    assert came.keys() == goes.keys()
    for field in fields:
        was, now = came.get(field.name), goes.get(field.name)
        if field.kind == "record" and was is not None:
            assert_kept(field.fields, was, now)
        elif field.kind in ("double", "array") and was is not None:
            for one, other in zip(*((each if field.kind == "array" else [each]) for each in (was, now)), strict=True):
                assert other == one or (isinstance(one, Decimal) and float(one) == float(other) and abs(one) < 2**53)
        elif field.drift == "outcome":
            assert now == OUTCOMES.get(was, was)
        else:
            assert now == was
            assert isinstance(now, bool) == isinstance(was, bool)


def taken_or_refused(codec: Codec, value: bytes) -> None:
    try:
        record = codec.decode(value)
    except Refused:
        return
    written = codec.encode(record)
    assert codec.drift.keys() <= set(DRIFT_KINDS)
    with suppress(*UNTAKEN):
        codec.decode_fast(value)
        assert_kept(codec.subject.fields, exact(value), exact(written))
        if written != b"{}":
            slowly = codec.decode(value.replace(b"{", b'{"strange":0,', 1))
            assert codec.encode(slowly) == written, "both paths give the same"
    assert type(record) is codec.type
    json.loads(written.decode("utf-8"), parse_constant=lambda name: pytest.fail(f"wrote {name}"))
    codec.drift.clear()
    assert codec.decode(written) == record
    assert codec.encode(codec.decode(written)) == written
    assert codec.drift.keys() <= {"timestamp-unread"}, "what is written needs no normalising"


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(names), values, max_size=6), st.sampled_from([EVENT, USAGE]))
def test_what_is_taken_can_be_written_and_read_again(record: dict[str, Any], codec: Codec) -> None:
    taken_or_refused(codec, json.dumps(record).encode())
    taken_or_refused(codec, json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass"))


EXPONENTS = ("e400", "e-400", "e99999999999999999999", "e-99999999999999999999", "E+18446744073709551616")


@settings(max_examples=300)
@given(
    st.sampled_from([".id", ".cost", ".volume", ".transaction.total_price", ".detail.a", ".endpoint.tags", ".nowhere"]),
    st.sampled_from(["1", "0", "-1", "0.5", "9007199254740993", "12345678901234567890.12", "0.1234567890123456789"]),
    st.sampled_from([*EXPONENTS, "", ".0", "e1", "e15", "e-15"]),
    st.sampled_from([EVENT, USAGE]),
)
def test_numbers_of_any_exponent_are_taken_or_refused(path: str, digits: str, exponent: str, codec: Codec) -> None:
    *above, name = path[1:].split(".")
    value = f'{{"{name}":{digits}{"" if exponent == ".0" and "." in digits else exponent}}}'
    for outer in reversed(above):
        value = f'{{"{outer}":{value}}}'
    taken_or_refused(codec, value.encode())


@settings(max_examples=300)
@given(st.binary(max_size=60), st.sampled_from([b"", b"\0\0\0\0\x04", b"\0\0\0\0\x01", b"\0\0\0\0\x07", b'{"detail":']))
def test_random_bytes_are_taken_or_refused(value: bytes, start: bytes) -> None:
    for codec in (EVENT, USAGE):
        taken_or_refused(codec, start + value)


@settings(max_examples=100)
@given(st.data())
def test_a_flipped_byte_of_avro_is_taken_or_refused(data: st.DataObject) -> None:
    whole = bytearray(
        avro(4, {"id": 7, "description": "text", "endpoint": {"tags": "[1]"}, "device": {"location": [1, 2.5]}})
    )
    whole[data.draw(st.integers(5, len(whole) - 1))] = data.draw(st.integers(0, 255))
    taken_or_refused(EVENT, bytes(whole))


@given(st.decimals(allow_nan=True), st.sampled_from([(14, 6), (14, 10)]))
def test_both_paths_agree_on_which_decimals_fit(number: Decimal, form: tuple[int, int]) -> None:
    precision, scale = form
    exact = fits(number, precision, scale)
    if exact:
        assert abs(number) < 10 ** (precision - scale)
        assert number * 10**scale == int(number * 10**scale)
    if number.is_finite():
        text = b'{"volume":{"total":%s}}' if scale == 6 else b'{"cost":%s}'
        value = text.replace(b"%s", str(number).encode())
        try:
            USAGE.decode_fast(value)
            fast = True
        except msgspec.ValidationError:
            fast = False
        assert fast == exact
