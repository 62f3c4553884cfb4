"""The demo's ledger finds every way in which a record can be lost, doubled, spoilt or shown; its oracle knows every route."""

import base64
import csv
import hmac
import io
import itertools
import os
from typing import Any

import orjson
import pytest
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from sluice.demo import readback
from sluice.demo.configuration import CARD_FIELDS, CREW, demo_config, key_name
from sluice.demo.ledger import Account, CardNumbers, Delivered, Ledger, pipeline_balance
from sluice.demo.oracle import DEAD_LETTER, STREAMS, Truth, truth
from sluice.demo.receiver import is_signed
from sluice.devices import HARMLESS, Fleet

KEYS = {key_name(field): os.urandom(32) for field in CARD_FIELDS}
CARD = ("4111111111111111", "07/34", "549", "Noor 王", "13237")
STREAM = "s3-fin-transactions"


def sold(number: int = 7, **changes: Any) -> dict[str, Any]:
    paid = {
        "quantity": 1,
        "total_price": 9.5,
        "result": True,
        "cc": dict(zip(CARD_FIELDS, CARD, strict=True)),
    } | changes
    return {"id": number, "event": "transaction", "transaction": paid}


def true(record: Any) -> Truth:
    return truth("events", "raw.events/0/3", orjson.dumps(record))


def encrypted(card: dict[str, str]) -> dict[str, str]:
    fields = {}
    for field, value in card.items():
        iv = os.urandom(16)
        data = Cipher(AES(KEYS[key_name(field)]), CFB(iv)).encryptor().update(value.encode())
        fields |= {field: base64.b64encode(data).decode(), f"{field}_iv": base64.b64encode(iv).decode()}
    return fields


def line(record: dict[str, Any], **changes: str) -> bytes:
    """As an object in S3 has it, with its card encrypted; `changes` replace card fields after that."""
    paid = record["transaction"] | {"cc": encrypted(record["transaction"]["cc"]) | changes}
    return orjson.dumps(record | {"transaction": paid}) + b"\n"


def account_of(content: bytes, *records: dict[str, Any], stream: str = STREAM) -> Account:
    """The account when `records` were sent and `content` was found."""
    account = Account(stream, {record["id"]: true(record) for record in records}, KEYS)
    account.clear += CardNumbers([orjson.dumps(record) for record in records]).in_clear(content)
    for one in readback._objects(content):
        account.take(one)
    return account


def test_what_is_there_as_it_was_sent_is_in_order() -> None:
    records = [sold(number) for number in (1, 2, 3)]
    account = account_of(b"".join(map(line, records)), *records)
    assert account.as_json() == {
        "expected": 3, "delivered": 3, "missing": 0, "duplicates": 0, "clear_card_fields": 0,
    }  # fmt: skip
    assert account.problems(exactly_once=True) == []


def test_a_lost_record_is_missing_and_named_by_its_origin() -> None:
    account = account_of(line(sold(1)), sold(1), sold(2))
    assert account.as_json()["missing"] == 1
    (problem,) = account.problems(exactly_once=True)
    assert "id 2 from raw.events/0/3" in problem


def test_a_record_that_is_there_twice_is_a_fault_only_where_once_was_promised() -> None:
    account = account_of(line(sold(1)) + line(sold(1)), sold(1))
    assert account.as_json()["duplicates"] == 1
    assert account.as_json()["missing"] == 0
    assert account.problems(exactly_once=True)
    assert not account.problems(exactly_once=False)


@pytest.mark.parametrize("field", CARD_FIELDS)
def test_a_card_field_in_clear_is_found_and_never_quoted(field: str) -> None:
    value = dict(zip(CARD_FIELDS, CARD, strict=True))[field]
    account = account_of(line(sold(1), **{field: value}), sold(1))
    assert account.as_json()["clear_card_fields"] == 1
    assert not any(value in problem for problem in account.problems(exactly_once=True))


def test_a_card_field_in_clear_is_found_beside_its_place_too() -> None:
    record = sold(1)
    content = line(record | {"extra": {"note": [CARD[2]]}, "device": {"id": f"card {CARD[0]}"}})
    assert account_of(content, record).as_json()["clear_card_fields"] == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"cc_number": base64.b64encode(os.urandom(16)).decode()},  # encrypted with another key, or cut
        {"cc_exp": ""},
        {"cc_zip_iv": "AAAA"},
        {"cc_name": "no base64!"},
    ],
)
def test_a_card_that_does_not_decrypt_to_what_was_sent_counts_as_missing(changes: dict[str, str]) -> None:
    account = account_of(line(sold(1), **changes), sold(1))
    assert account.as_json()["missing"] == 1
    assert account.as_json()["delivered"] == 0


def test_a_record_without_its_card_counts_as_missing() -> None:
    account = account_of(orjson.dumps({"id": 1, "transaction": {"total_price": 9.5}}), sold(1))
    assert account.as_json()["missing"] == 1


def test_records_that_nobody_sent_or_that_belong_elsewhere_are_a_fault() -> None:
    account = account_of(line(sold(1)) + line(sold(99)) + b"{}\n", sold(1))
    assert account.as_json()["missing"] == 0
    assert account.problems(exactly_once=True) == [f"{STREAM}: 2 records do not belong there"]


def test_a_wrong_origin_is_a_fault() -> None:
    account = Account("kinesis-events", {1: true(sold(1))}, KEYS)
    card = encrypted(sold(1)["transaction"]["cc"])
    account.take(Delivered(1, "raw.events/0/4", card, ()))
    assert account.problems(exactly_once=False)


def test_csv_and_json_are_read_back_alike() -> None:
    record = sold(5)
    delivered = orjson.loads(line(record))
    columns = {"id": "5", **{f"transaction_cc_{name}": text for name, text in delivered["transaction"]["cc"].items()}}
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([columns.keys(), columns.values()])
    (one,) = readback._rows(text.getvalue().encode())
    account = Account(STREAM, {5: true(record)}, KEYS)
    account.take(one)
    assert account.problems(exactly_once=True) == []
    (clear,) = readback._rows(text.getvalue().replace(columns["transaction_cc_cc_cvv"], CARD[2]).encode())
    account.take(clear)
    assert account.clear == 1


def test_a_bulk_body_is_an_array_of_records() -> None:
    body = orjson.dumps([{"id": 2, "sluice_id": "raw.usage/0/0"}, {"id": 4, "sluice_id": "raw.usage/1/9"}])
    assert [(one.id, one.origin) for one in readback._objects(body)] == [(2, "raw.usage/0/0"), (4, "raw.usage/1/9")]


def test_the_oracle_sends_every_oddity_to_the_dead_letters_but_the_harmless() -> None:
    messages = itertools.islice(Fleet(5, 4, bad=1.0).events(), 600)
    seen = set()
    for message in messages:
        found = truth("events", "raw.events/0/0", message.value)
        seen.add(message.oddity)
        assert (found.route != DEAD_LETTER) == (message.oddity in HARMLESS), message.oddity
        assert bool(found.streams) == (found.route != DEAD_LETTER)
    assert len(seen) == 13


@pytest.mark.parametrize(
    ("changes", "route", "streams"),
    [
        ({}, "success", {"s3-fin-transactions", "s3-general"}),
        ({"result": "success"}, "success", {"s3-fin-transactions", "s3-general"}),
        ({"total_price": 0}, "success", {"s3-fin-transactions", "s3-general"}),
        ({"result": False}, "fail", {"s3-fin-transactions", "s3-general", "kinesis-events"}),
        ({"result": "fail"}, "fail", {"s3-fin-transactions", "s3-general", "kinesis-events"}),
        ({"total_price": -1}, "unmatched", {"s3-general"}),
        ({"total_price": -1, "result": "fail"}, "unmatched", {"s3-general", "kinesis-events"}),
        ({"cc": {"cc_number": "4111111111111111"}}, DEAD_LETTER, set()),
    ],
)
def test_the_oracle_knows_routes_and_streams(changes: dict[str, Any], route: str, streams: set[str]) -> None:
    found = true(sold(1, **changes))
    assert (found.route, set(found.streams)) == (route, streams)


def test_the_oracle_knows_the_streams_of_the_config() -> None:
    config = demo_config("h:1", 1, "http://127.0.0.1:1", "http://127.0.0.1:2/usage", "whsec_x")
    assert set(config["streams"]) == set(STREAMS)
    assert {name for names in CREW for name in names} == {*config["streams"], *config["pipelines"]}


def test_each_record_must_be_in_exactly_the_place_that_the_oracle_names() -> None:
    truths = [
        Truth(f"raw/0/{n}", n, "p", route, None, frozenset())
        for n, route in enumerate(("success", "fail", DEAD_LETTER))
    ]
    good = {"success": ["raw/0/0", "raw/0/0"], "fail": ["raw/0/1"], "unmatched": []}
    counts, problems = pipeline_balance("p", truths, good, ["raw/0/2"])
    assert counts == {"in": 3, "success": 1, "fail": 1, "unmatched": 0, "dead_letters": 1}
    assert problems == []
    for wrong, dead in [
        (good | {"fail": []}, ["raw/0/2"]),  # lost
        (good | {"unmatched": ["raw/0/1"]}, ["raw/0/2"]),  # in two places
        (good | {"fail": ["raw/0/1", "raw/0/9"]}, ["raw/0/2"]),  # from nowhere
        (good, []),  # a dead letter lost
        (good, ["raw/0/2", ""]),  # one without origin
    ]:
        assert pipeline_balance("p", truths, wrong, dead)[1]


def test_card_numbers_are_found_wherever_they_stand() -> None:
    raw = [b'{"cc_number":"4111111111111111"', b'{"cc":{"cc_number": 4222222222222222}}', None, b"\xff"]
    numbers = CardNumbers(raw)
    assert len(numbers) == 2
    assert numbers.in_clear(b"... 4111111111111111,4222222222222222 4333333333333333") == 2
    assert numbers.in_clear(b"") == 0


def test_a_ledger_with_a_problem_is_not_ok() -> None:
    counts = {"in": 100, "success": 100, "fail": 0, "unmatched": 0, "dead_letters": 0}
    ledger = Ledger(20.0, {"events": counts}, {}, 3, ())
    assert ledger.as_json() == {
        "ok": True, "seconds": 20.0, "records_per_second": 5.0, "pipelines": {"events": counts}, "streams": {}, "kills": 3,
    }  # fmt: skip
    assert not Ledger(20.0, {}, {}, 0, ("anything",)).as_json()["ok"]


def test_the_receiver_takes_only_what_is_signed_and_recent() -> None:
    key, body, now = os.urandom(32), b"[]", 1_700_000_000.0
    secret = "whsec_" + base64.b64encode(key).decode()
    signature = base64.b64encode(hmac.digest(key, b"msg_1.1700000000." + body, "sha256")).decode()
    headers = {"webhook-id": "msg_1", "webhook-timestamp": "1700000000", "webhook-signature": f"v1,AAAA v1,{signature}"}
    assert is_signed(headers, body, secret, now)
    assert not is_signed(headers, b"[1]", secret, now)
    assert not is_signed(headers, body, secret, now + 3600)
    assert not is_signed(headers | {"webhook-id": "msg_2"}, body, secret, now)
    assert not is_signed(headers | {"webhook-timestamp": "now"}, body, secret, now)
    assert not is_signed({}, body, secret, now)
