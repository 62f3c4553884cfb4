"""Promise: no card number leaves in clear, wherever it stands; and what only looks like one is left alone."""

import json
import random
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.card_search import CardSearch
from pipeline.config import PipelineConfig
from pipeline.encryption import decrypt_field
from pipeline.gate import Gate
from pipeline.keys import Key, Keys
from pipeline.pipeline import Pipeline, Processed
from pipeline.references import Tables
from schemas.codec import Codec
from schemas.subjects import load
from tests.raw import Raw

CARDS = [
    "4111111111111111", "4222222222222", "5555555555554444", "2223003122003222", "378282246310005", "6011111111111117",
    "30569309025904", "3530111333300000", "6200000000000005", "6304000000000000", "4000000000000000006",
]  # fmt: skip
CARD = CARDS[0]


def process(*records: Any, **settings: Any) -> Processed:
    config = PipelineConfig.model_validate({"from": "raw.events", "schema": "event", **settings})
    made = Pipeline("events", config, Keys([Key("k", "1", bytes(32)), Key("h", "1", bytes(range(32)))]), Tables())
    return made.process([one if isinstance(one, Raw) else Raw(json.dumps(one).encode()) for one in records])


def luhn(digits: str) -> bool:
    doubled = [int(d) * (1 + n % 2) for n, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def found(text: str) -> list[str]:
    return [one.digits.decode() for one in CardSearch()([text.encode()])]


@pytest.mark.parametrize("card", CARDS)
def test_every_issuers_numbers_are_seen(card: str) -> None:
    assert found(f'{{"a":"{card}"}}') == [card]
    assert found(card) == [card]
    wrong = card[:-1] + str((int(card[-1]) + 1) % 10)
    assert found(wrong) == []


@pytest.mark.parametrize(
    "text",
    ["4111 1111 1111 1111", "4111-1111-1111-1111", "x4111 1111 1111 1111x", "3782 822463 10005", "3056 930902 5904",
     "4111 1111-1111 1111", "3782-822463 10005",
     "4000-0000-0000-0000-006", "4111-1111-1111-1111-111",
     "4111111111111111D2512101123456789012F", "tag57=4111111111111111d2512101123456789f", "no.4111111111111111",
      "1111-4111-1111-1111-1111", "4111111111111111.00"],
)  # fmt: skip
def test_numbers_in_groups_are_seen(text: str) -> None:
    assert len(found(text)) == 1


@pytest.mark.parametrize(
    "text",
    ["411111111111111", "41111111111111111111", "41111111 11111111", "4111  1111 1111 1111", "1.4111111111111111",
     "1234567812345678", "9111111111111111", "64111111-1111-1111-1111-111111111111", "2023-03-30T16:24:37.393392918+00:00"],
)  # fmt: skip
def test_what_only_looks_like_one_is_left_alone(text: str) -> None:
    assert found(text) == []


@given(st.text(alphabet="0123456789", min_size=13, max_size=19), st.text(alphabet='ab": ,', max_size=4))
def test_luhn_decides(digits: str, around: str) -> None:
    assert set(found(around + digits + around)) <= {digits}
    visa = "4" + digits[1:]
    assert found(visa) == ([visa] if luhn(visa) and len(visa) in (13, 16, 19) else [])


@pytest.mark.parametrize(
    ("record", "path"),
    [
        ({"description": f"paid with {CARD}"}, ".description"),
        ({"device": {"name": "4111 1111 1111 1111"}}, ".device.name"),
        ({"transaction": {"quantity": int(CARD)}}, ".transaction.quantity"),
        ({"detail": {"deep": [{"x": CARD}]}}, ".detail"),
        ({"detail": {CARD: 1}}, ".detail"),
        ({"detail": {"id": CARD}}, ".detail"),
        ({"endpoint": {"tags": f"a,{CARD}"}}, ".endpoint.tags"),
        ({"transaction": {"cc": {"cc_name": CARD}}}, ".transaction.cc.cc_name"),
    ],
)
def test_a_card_number_anywhere_in_a_record_is_a_dead_letter(record: dict[str, Any], path: str) -> None:
    done = process({"id": 1}, record, {"id": 2})
    assert [(at, str(why)) for at, why in done.dead] == [(1, f"card-number-in-clear at {path}")]
    assert list(done.positions) == [0, 2]
    assert done.cards == 1
    assert CARD not in repr(done)
    counted = process({"id": 1}, record, gate="count")
    assert (list(counted.positions), counted.dead, counted.cards) == ([0, 1], [], 1)
    off = process(record, gate=False)
    assert (list(off.positions), off.cards) == ([0], 0)


def test_keys_and_headers_are_looked_at() -> None:
    done = process(
        Raw(b"{}", key=CARD.encode()),
        Raw(b"{}", key=b"device-1"),
        Raw(b"{}", headers=[("trace", b"1"), ("card", CARD.encode())]),
    )
    assert [(at, str(why)) for at, why in done.dead] == [(0, "card-number-in-clear"), (2, "card-number-in-clear")]


def test_other_kinds_of_numbers_pass_though_they_pass_luhn() -> None:
    imei = "3530111333300000"
    assert found(imei) == [imei]
    records = [
        {"endpoint": {"imei": imei}},
        {"id": int(CARD), "endpoint": {"id": int(CARD)}},
        Raw(json.dumps({"endpoint": {"id": -int(CARD)}}).encode(), key=b"-" + CARD.encode()),
        {"detail": {"pdp_context": {"imeisv": "3530111333300000", "imsi": "4111111111111111"}}},
        Raw(json.dumps({"endpoint": {"id": int(CARD)}}).encode(), key=CARD.encode()),
        {"device": {"location": [1.4111111111111111, -66.4111111111111111]}},
    ]
    done = process(*records)
    assert done.dead == []


@pytest.mark.parametrize(
    ("key", "passes"),
    [
        ("imei", True), ("IMEI_sv", True), ("last_imei", True), ("y" * 56 + "imei", True),
        ("y" * 57 + "imei", False), ("card", False), ("imei ", False), ("imei-1", False), ("x.imei", False),
        ("card\u0001imei", False), ("imei\u0001", False), ("\u0001imei", False), ("i\u0000mei", False), ('"imei', True),
    ],
)  # fmt: skip
def test_a_key_is_called_so_in_letters_alone_and_in_no_more_than_60(key: str, passes: bool) -> None:
    first = process({"detail": {key: CARD}})
    later = process({"id": 1, "description": "\u0001"}, {"detail": {"z": 1, key: CARD}})
    assert ([str(why) for _, why in first.dead] == []) is passes
    assert ([at for at, _ in later.dead] == []) is passes


def test_a_name_at_the_end_of_one_record_is_none_of_a_number_that_begins_the_next() -> None:
    type_ = Codec(load("event")).type
    gate = Gate(type_, load("event").fields, [])
    lines = b'{"imei":"\n%b\n' % CARD.encode()
    assert gate([Raw(b""), Raw(b"")], [type_(), type_(description=CARD)], lines) == {1: ".description"}


def test_a_record_with_a_number_in_key_headers_and_value_is_named_by_its_field() -> None:
    record = Raw(json.dumps({"description": CARD}).encode(), key=CARD.encode(), headers=[("h", CARD.encode())])
    beside = Raw(b'{"id":1}', key=b"a\nb", headers=[("h", CARD.encode())])
    assert [(at, why.path) for at, why in process(beside, record, Raw(b"{}")).dead] == [(0, ""), (1, ".description")]


def test_a_field_that_a_rule_covers_passes() -> None:
    record = {"transaction": {"cc": {"cc_number": CARD}, "result": True}, "user": {"name": CARD}}
    settings: dict[str, Any] = {
        "encrypt": [{"field": ".transaction.cc.cc_number", "key": "k"}],
        "redact": [{"field": ".user.name", "with": "last4"}],
    }
    assert process(record, **settings).dead == []
    assert [str(why) for _, why in process(record, encrypt=settings["encrypt"]).dead] == [
        "card-number-in-clear at .user.name"
    ]


def test_what_rules_write_is_never_taken_for_a_card_number() -> None:
    subject = load("event")
    codec = Codec(subject, [("description_iv",)])
    gate = Gate(codec.type, subject.fields, [".description", ".description_iv"])
    record = codec.type(description=CARD, description_iv=f"00{CARD}")
    assert gate([Raw(b"")], [record], codec.encode_lines([record])) == {}
    record.device = codec.type().device
    assert Gate(codec.type, subject.fields, [])([Raw(b"")], [record], codec.encode_lines([record])) == {
        0: ".description"
    }


@pytest.mark.parametrize("field", [".endpoint", ".imsi", ".user"])
def test_a_card_number_beside_an_object_that_is_one_token_is_seen(field: str) -> None:
    inside = {".endpoint": {"id": 1, "imei": CARD}, ".imsi": {"imsi": CARD}, ".user": {"id": int(CARD)}}[field]
    rules = [{"field": field, "key": "k"}]
    sealed, beside = ({field[1:]: inside, "description": text} for text in ("paid", f"paid {CARD}"))
    done = process(sealed, beside, encrypt=rules)
    assert [(at, str(why)) for at, why in done.dead] == [(1, "card-number-in-clear at .description")]
    assert CARD.encode() not in done.values[0]


@pytest.mark.parametrize("code", range(32))
@pytest.mark.parametrize("number", [CARD, "4111 1111 1111 1111"])
def test_a_control_character_before_a_number_hides_nothing(code: int, number: str) -> None:
    """Card readers send them."""
    done = process({"description": f"{chr(code)}{number}"}, {"description": f"{chr(code)}B{number}^DOE/JOHN^2904"})
    assert [str(why) for _, why in done.dead] == ["card-number-in-clear at .description"] * 2


@pytest.mark.parametrize("own", ["iv_field", "key_id_field", "search_field"])
def test_what_a_record_brings_in_place_of_what_rules_add_is_removed(own: str) -> None:
    added = {"iv_field": ".transaction.cc.a", "key_id_field": ".transaction.cc.b", "search_field": ".transaction.cc.c"}
    rule = {
        "field": ".transaction.cc.cc_number",
        "key": "k",
        "algorithm": "AES-256-CFB",
        "encoding": "hex",
        "required_on": [],
        **added,
    }
    name = added[own].rpartition(".")[2]
    brought = {"transaction": {"cc": {name: CARD, "cc_exp": "04/29"}}}
    done = process(brought, encrypt=[{**rule, "search_key": "h"}])
    assert json.loads(done.values[0]) == {"transaction": {"cc": {"cc_exp": "04/29"}}}
    assert done.drift["unknown-field"] == 1
    again = process({**brought, "description": CARD}, encrypt=[{**rule, "search_key": "h"}])
    assert [str(why) for _, why in again.dead] == ["card-number-in-clear at .description"]


@pytest.mark.parametrize(
    "name",
    ["the vector, of it", "ｃc_exp", "cc_numbeｒ", "ﬁx", "ª", "x_612d62", "__dict__", "__debug__", "__x", "def", "é"],
)
def test_what_rules_add_may_be_called_anything_that_json_allows(name: str) -> None:
    rule = {
        "field": ".transaction.cc.cc_number",
        "key": "k",
        "algorithm": "AES-256-CFB",
        "iv_field": f'.transaction.cc["{name}"]',
        "key_id_field": ".transaction.cc.class",
        "required_on": [],
    }
    record = {"transaction": {"cc": {"cc_number": CARD, "cc_exp": "04/29", "class": CARD}}}
    done = process(record, {"alert": 1, **record}, encrypt=[rule])
    made, slowly = (json.loads(value)["transaction"]["cc"] for value in done.values)
    assert made.pop("cc_exp") == slowly.pop("cc_exp") == "04/29"
    assert list(made) == list(slowly) == ["cc_number", name, "class"]
    keys = Keys([Key("k", "1", bytes(32))])
    config = PipelineConfig.model_validate({"from": "r", "schema": "event", "encrypt": [rule]})
    value, vector, key_id = made.values()
    assert decrypt_field(config.encrypt[0], "events", keys, value, vector, key_id) == CARD


def test_an_id_is_one_in_its_field_and_as_a_key_and_nowhere_else() -> None:
    record = {"id": int(CARD), "description": f"paid with {CARD}"}
    assert [why.path for _, why in process(record).dead] == [".description"]
    assert [why.path for _, why in process({"id": int(CARD), "detail": {"x": CARD}}).dead] == []
    assert process(Raw(json.dumps({"id": int(CARD)}).encode(), key=b"x" + CARD.encode())).dead != []
    for text in (
        *(f"{CARD}{behind}" for behind in (" was paid with", ", paid with", "}", "]x", ",")),
        " ".join(CARD[at : at + 4] for at in range(0, 16, 4)),
        json.dumps({"pan": int(CARD)}),
        json.dumps({"pan": CARD}),
    ):
        assert [why.path for _, why in process({"id": int(CARD), "description": text}).dead] == [".description"]


def test_headers_of_ours_are_none_of_a_records() -> None:
    headers = [("sluice-retry", CARD.encode())]
    assert process(Raw(b"{}", headers=headers)).dead == []
    assert process(Raw(b"{}", headers=[(CARD, b"")])).dead != []


def test_ids_hashes_and_traces_are_never_taken_for_card_numbers() -> None:
    chance = random.Random(7)
    values, headers = [], []
    for _ in range(20_000):
        bits = [chance.getrandbits(size) for size in (128, 160, 256, 128, 64)]
        texts = [str(uuid.UUID(int=bits[0], version=4)), f"{bits[1]:040x}", f"{bits[2]:064x}", f"{bits[3]:032X}"]
        values.append(json.dumps({"description": " ".join(texts), "device": {"id": texts[0]}}).encode())
        headers.append([("traceparent", b"00-%032x-%016x-01" % (bits[3], bits[4]))])
    done = process(*map(Raw, values, [None] * len(values), headers))
    assert len(done.dead) <= 3, [str(why) for _, why in done.dead]
