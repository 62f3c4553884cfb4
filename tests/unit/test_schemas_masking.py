"""Whoever looks at a record sees what the schema names and does not mark; never what is sensitive, never a card number."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.masking import Mask, described, visible, without_numbers
from schemas.subjects import load, names

PAN = "4111111111111111"
FIELDS = [field for top in load("event").fields for field in top.walk()]
MASK = Mask(load("event").fields)


def shown(value: Any, mask: Mask = MASK) -> Any:
    """What is shown of a record, as JSON."""
    return json.loads(mask(json.dumps(value).encode()))


def digits(text: str) -> str:
    return "".join(one for one in text if one.isdigit())


def at(path: tuple[str, ...], value: Any) -> Any:
    for name in reversed(path):
        value = {name: value}
    return value


def found(record: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        record = record[name]
    return record


@pytest.mark.parametrize("field", [one for one in FIELDS if one.sensitive], ids=lambda one: one.text_path)
@pytest.mark.parametrize("value", ["Ada Lovelace", 4111111111111111, 0.5, True, ["Ada"], {"Ada": "Lovelace"}, "", 7])
def test_of_a_sensitive_field_only_kind_and_size_are_shown(field: Any, value: Any) -> None:
    said = found(shown(at(field.path, value)), field.path)
    assert re.fullmatch(r"<[a-z ]+( [\d,]+)?( characters)?>", said)
    assert "Ada" not in said
    assert found(shown(at(field.path, None)), field.path) is None, "that it is null may be why it is refused"


@pytest.mark.parametrize("depth", range(1, 4))
def test_what_holds_a_sensitive_field_in_another_form_is_not_shown(depth: int) -> None:
    path = (".transaction", ".transaction.cc", ".user")[depth - 1][1:].split(".")
    card = {"cc_name": "Ada Lovelace", "cc_cvv": "987"}
    for value in (json.dumps(card), [card], "987"):
        assert "Ada" not in MASK(json.dumps(at(tuple(path), value)).encode())
        assert "987" not in MASK(json.dumps(at(tuple(path), value)).encode())


def test_what_no_schema_names_is_not_shown_and_its_name_is() -> None:
    record = {"Transaction": {"cc": {"cc_name": "Ada"}}, "transaction": {"cc": {"holder": "Ada"}, "ccName": "Ada"}}
    assert shown(record) == {
        "Transaction": "<an object of 1>",
        "transaction": {"cc": {"holder": "<text of 3 characters>"}, "ccName": "<text of 3 characters>"},
    }


def test_inside_open_fields_sensitive_names_are_hidden_in_any_spelling() -> None:
    detail = {
        "a": [{"ccName": "Ada", "USERNAME": "ada", "quota": 5}],
        "cc-number": 1,
        "text": '{"cc_name": "Ada"}',
        "n": None,
    }
    assert shown({"detail": detail})["detail"] == {
        "a": [{"ccName": "<text of 3 characters>", "USERNAME": "<text of 3 characters>", "quota": 5}],
        "cc-number": "<a number>",
        "text": "<text of 18 characters>",
        "n": None,
    }


@pytest.mark.parametrize("name", ["cvv", "CVV2", "cvc", "cc-cvv", "cvcCode", "security_code", "Track_2", "pin"])
def test_security_codes_are_hidden_wherever_they_are(name: str) -> None:
    assert shown({"detail": {"card": {name: "123", "kind": "debit"}}})["detail"] == {
        "card": {name: "<text of 3 characters>", "kind": "debit"}
    }


def test_what_a_pipeline_encrypts_is_hidden_with_all_that_is_in_it() -> None:
    mask = Mask(load("event").fields, [("device", "name"), ("access",), ("detail", "quota")])
    record = {
        "device": {"id": "d", "name": "Ada"},
        "access": {"action": "login"},
        "detail": {"quota": {"id": 1}, "x": 1},
    }
    assert shown(record, mask) == {
        "device": {"id": "d", "name": "<text of 3 characters>"},
        "access": "<an object of 1>",
        "detail": {"quota": "<an object of 1>", "x": 1},
    }


@pytest.mark.parametrize("subject", names())
def test_every_example_is_shown_but_for_what_is_marked(subject: str) -> None:
    fields = [field for top in load(subject).fields for field in top.walk()]
    hidden = {field.path for field in fields if field.sensitive}

    known = {field.path for field in fields}

    def compare(value: Any, seen: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict) and isinstance(seen, dict):
            assert list(seen) == list(value)
            for name in value:
                compare(value[name], seen[name], (*path, name))
        elif seen == value:
            assert path not in hidden or value is None, path
        else:
            assert "<" in seen
            inside = path in known and path[:1] != ("detail",)
            assert path in hidden or not inside or "<" in without_numbers(str(value)), path

    for path in (path for paths in load(subject).examples.values() for path in paths):
        record = json.loads(Path(path).read_text())
        compare(record, shown(record, Mask(load(subject).fields)), ())


NUMBERS = {
    "imei": (("endpoint", "imei"), "357995277345191"),
    "iccid": (("sim", "iccid"), "8988303000000000017"),
    "msisdn": (("sim", "msisdn"), "4915123456789"),
    "imsi": (("imsi", "imsi"), "295090000000001"),
    "id": (("id",), 1697107630311),
    "an id in text": (("id",), "1697107630311"),
}


@pytest.mark.parametrize(("path", "value"), NUMBERS.values(), ids=NUMBERS)
def test_numbers_of_another_kind_are_shown_where_the_schema_says_so_and_nowhere_else(path: Any, value: Any) -> None:
    assert found(shown(at(path, value)), path) == value
    assert "<" in str(shown({"description": value})["description"])
    assert PAN not in MASK(json.dumps(at(path, PAN)).encode())
    assert PAN not in MASK(json.dumps(at(path, int(PAN))).encode())


@pytest.mark.parametrize(
    "card", [PAN, "5555555555554444", "2223003122003222", "378282246310005", "6011111111111117", "30569309025904",
             "3530111333300000", "6200000000000005", "4222222222222"]
)  # fmt: skip
def test_no_card_number_passes_for_another_kind_of_number(card: str) -> None:
    assert card not in MASK(json.dumps({"endpoint": {"imei": card}, "id": int(card)}).encode())


SEPARATED = [
    PAN,
    *(
        PAN[:4] + by + PAN[4:8] + by + PAN[8:12] + by + PAN[12:]
        for by in (" ", "-", ".", "  ", "\n\t", "\u00a0", "\u2011", "\u200b")
    ),
    " ".join(PAN),
    f"pan={PAN};",
    f"000{PAN}00",
    "４１１１１１１１１１１１１１１１",
    "x" * 295 + PAN,
]


@pytest.mark.parametrize("text", SEPARATED)
@pytest.mark.parametrize("place", ["name", "value", "open", "list", "unknown", "number"])
def test_no_run_of_digits_as_long_as_a_card_number_is_shown(text: str, place: str) -> None:
    records: dict[str, Any] = {
        "name": {text: 1, "detail": {text: {text: 1}}},
        "value": {"description": text, "event": text},
        "open": {"detail": {"a": [text, {"b": text}]}, "alert": text},
        "list": {"device": {"location": [text, [text]]}},
        "unknown": {"other": {"deeper": text}, "transaction": text},
        "number": {"alert": int(PAN), "transaction": {"total_price": float(PAN), "quantity": int(PAN)}},
    }
    said = MASK(json.dumps(records[place]).encode())
    assert max((len(digits(run)) for run in re.findall(r"[\d\s.\-]+", said)), default=0) < 13, said
    assert PAN not in digits(without_numbers(text))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.just(PAN),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text() | st.sampled_from([f.name for f in FIELDS]), below),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_any_json_is_shown_without_a_card_number_and_as_json(value: Any) -> None:
    said = MASK(json.dumps(value).encode())
    assert PAN not in said
    if isinstance(value, dict) and "<" not in said[:1]:
        assert isinstance(json.loads(said), dict)
    assert visible(said) == said


@given(st.binary())
def test_what_is_no_json_is_described_and_never_shown(value: bytes) -> None:
    said = MASK(value)
    if said.startswith("<"):
        assert re.fullmatch(r"<[A-Za-z0-9,:' -]+>", said)
    else:
        assert isinstance(json.loads(value), dict)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "<no value, a tombstone>"),
        (b"", "<0 bytes, no JSON to its end: it is cut off>"),
        (b"secret", "<6 bytes, no JSON from byte 0 on>"),
        (b'{"a": 1, "b": secret}', "<21 bytes, no JSON from byte 14 on>"),
        (b'{"a": "secret', "<13 bytes, no JSON to its end: it is cut off>"),
        (b'{"a": "\xff\xfe"}', "<11 bytes, no UTF-8>"),
        (b"\0\0\0\x0f\xffsecret", "<11 bytes, framed as Avro with schema id 4095>"),
        (b'["secret", 2]', "<13 bytes, JSON, but no object: a list of 2>"),
        (b'"secret"', "<8 bytes, JSON, but no object: text of 6 characters>"),
        (b"null", "<4 bytes, JSON, but no object: null>"),
        (b'{"a":' * 100_000, "<500,000 bytes, nested too deep to be shown>"),
        (b'{"a": NaN}', "<10 bytes, no JSON from byte 6 on>"),
    ],
)
def test_a_value_that_cannot_be_read_says_where_it_breaks(value: bytes | None, said: str) -> None:
    assert MASK(value) == said


def test_a_hundred_levels_are_shown_and_long_texts_are_cut() -> None:
    deep: Any = 1
    for _ in range(100):
        deep = {"a": deep}
    assert shown({"detail": deep})["detail"] == deep
    assert shown({"description": "y" * 10_000})["description"] == "y" * 300 + "<10,000 characters>"


def test_what_a_terminal_would_obey_is_shown_as_its_code() -> None:
    said = MASK(json.dumps({"event": "\x1b[2J\x9b2J\u202egnp.exe", "\x07": 1}).encode())
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", said)
    assert visible("Zoë\n\x9b") == "Zoë\n\\u009b"
    assert json.loads(visible('"\U000e0041"')) == "\U000e0041"


def test_described_is_for_values_of_any_kind() -> None:
    assert described(b"{}") == "<2 bytes, JSON, but no object: an object of 0>"
