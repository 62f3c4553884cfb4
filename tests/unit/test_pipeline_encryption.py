"""Promises: what leaves a rule decrypts with plain AES, nothing leaves in clear, nobody shares a vector."""

import hashlib
import hmac
import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ciphers import DecryptionFailed
from pipeline.config import EncryptRule
from pipeline.encryption import Encryption, decrypt_field
from pipeline.keys import Key, Keys, UnknownKey
from pipeline.tokens import TOKEN_ALGORITHMS, BatchedTokens, binding, open_token

ONE = Key("one", "1", bytes(range(32)))
TWO = Key("two", "2026-11", bytes(range(32, 64)))
KEYS = Keys([ONE, TWO])
TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=300)


KEY_OF_2027 = Key("two", "2027-01", bytes(32))
Open = type("Open", (), {})


class Card(msgspec.Struct):
    number: str | msgspec.UnsetType | None = msgspec.UNSET
    name: str | msgspec.UnsetType | None = msgspec.UNSET
    number_iv: str | msgspec.UnsetType | None = msgspec.UNSET
    name_iv: str | msgspec.UnsetType | None = msgspec.UNSET
    number_key: str | msgspec.UnsetType | None = msgspec.UNSET
    number_hash: str | msgspec.UnsetType | None = msgspec.UNSET


class Sale(msgspec.Struct):
    card: Card | msgspec.UnsetType | None = msgspec.UNSET
    note: str | msgspec.UnsetType | None = msgspec.UNSET
    note_iv: str | msgspec.UnsetType | None = msgspec.UNSET
    id: int | msgspec.UnsetType | None = msgspec.UNSET
    any: Open | msgspec.UnsetType | None = msgspec.UNSET  # type: ignore[valid-type]


def cfb_rule(field: str = ".card.number", key: str = "one", **more: Any) -> EncryptRule:
    return EncryptRule(
        field=field, key=key, algorithm="AES-256-CFB", iv_field=more.pop("iv_field", f"{field}_iv"), **more
    )


def encoded(record: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(record))


@settings(max_examples=50)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=20), st.sampled_from(["base64", "hex"]))
def test_fields_with_keys_of_their_own(pairs: list[tuple[str, str]], encoding: Any) -> None:
    rules = [cfb_rule(".card.number", encoding=encoding), cfb_rule(".card.name", "two", encoding=encoding)]
    records = [Sale(card=Card(number=number, name=name)) for number, name in pairs]
    assert Encryption(rules, Sale, "p", KEYS)(records, ["success"] * len(records)) == []
    for record, (number, name) in zip(records, pairs, strict=True):
        card = encoded(record)["card"]
        assert decrypt_field(rules[0], "p", KEYS, card["number"], card["number_iv"]) == number
        assert decrypt_field(rules[1], "p", KEYS, card["name"], card["name_iv"]) == name


@settings(max_examples=50)
@given(st.lists(TEXT, min_size=1, max_size=20))
def test_gcm_tokens_have_the_form_of_the_contract_and_decrypt(texts: list[str]) -> None:
    rule = EncryptRule(field=".card.number", key="two")
    records = [Sale(card=Card(number=text)) for text in texts]
    assert Encryption([rule], Sale, "p", KEYS)(records, ["fail"] * len(records)) == []
    tokens = [encoded(record)["card"]["number"] for record in records]
    for token, text in zip(tokens, texts, strict=True):
        assert re.fullmatch(r"enc:v1:AES-256-GCM:2026-11:[\w-]{16}:[\w-]{22,}", token, re.ASCII)
        assert decrypt_field(rule, "p", KEYS, token) == text
    assert len({token.split(":")[4] for token in tokens}) == len(tokens)


def test_a_token_opens_only_where_it_belongs() -> None:
    bound = binding("AES-256-GCM", "p", ".card.number")
    (token,) = BatchedTokens("AES-256-GCM", TWO, bound).encrypt([b"4111111111111111"])
    assert open_token("AES-256-GCM", KEYS, "two", bound, token) == "4111111111111111"
    changed = token[:-3] + ("A" if token[-3] != "A" else "B") + token[-2:]
    attempts = [
        (KEYS, binding("AES-256-GCM", "p", ".card.name"), token),
        (KEYS, binding("AES-256-GCM", "q", ".card.number"), token),
        (Keys([Key("two", "2026-11", bytes(32))]), bound, token),
        (KEYS, bound, changed),
        (KEYS, bound, "enc:v1:AES-256-GCM:2026-11:short:short"),
        (KEYS, bound, "4111111111111111"),
    ]
    for keys, where, what in attempts:
        with pytest.raises(DecryptionFailed) as caught:
            open_token("AES-256-GCM", keys, "two", where, what)
        assert "4111" not in str(caught.value)
    with pytest.raises(UnknownKey, match="2026-11"):
        open_token("AES-256-GCM", Keys([Key("two", "2027-01", bytes(32))]), "two", bound, token)
    with pytest.raises(DecryptionFailed, match="was made with two/2027-01"):
        open_token("AES-256-GCM", Keys([Key("two", "2027-01", TWO.material)]), "two", bound, token)


def test_one_field_cannot_pass_for_another_by_where_its_name_is_cut() -> None:
    assert binding("AES-256-GCM", "a", "b.c") != binding("AES-256-GCM", "ab", ".c")


@pytest.mark.parametrize("algorithm", ["AES-256-CFB", "AES-256-GCM"])
def test_fails_closed(algorithm: str) -> None:
    rule = cfb_rule() if algorithm == "AES-256-CFB" else EncryptRule(field=".card.number", key="one")
    no_text: Any = 4111111111111111
    records = [
        Sale(card=Card(number="4111111111111111")),
        Sale(),
        Sale(),
        Sale(card=None),
        Sale(card=Card(name="kept")),
        Sale(card=Card(name="kept")),
        Sale(card=Card(number=None)),
        Sale(card=Card(number=no_text)),
        Sale(card=Card(number="")),
    ]
    routes = [
        "success",
        "unmatched",
        "success",
        "fail",
        "unmatched",
        "own-route",
        "unmatched",
        "unmatched",
        "unmatched",
    ]
    refused = Encryption([rule], Sale, "p", KEYS)(records, routes)
    assert [(at, why.reason, why.path) for at, why in refused] == [
        (2, "card-field-missing", ".card.number"),
        (3, "card-field-missing", ".card.number"),
        (6, "card-field-not-a-string", ".card.number"),
        (7, "card-field-not-a-string", ".card.number"),
    ]
    assert "4111111111111111" not in repr([encoded(records[at]) for at in (0, 1, 4, 5, 8)])
    cleartext = [
        decrypt_field(rule, "p", KEYS, card["number"], card.get("number_iv"))
        for card in (encoded(records[0])["card"], encoded(records[8])["card"])
    ]
    assert cleartext == ["4111111111111111", ""]
    assert encoded(records[4]) == {"card": {"name": "kept"}}


def test_a_vector_may_stand_in_an_object_around_the_field() -> None:
    rule = cfb_rule(iv_field=".note_iv")
    records = [Sale(note="a"), Sale(card=Card(number="4111")), Sale(card=Card(name="b"))]
    assert Encryption([rule], Sale, "p", KEYS)(records, ["unmatched"] * 3) == []
    first, second, third = map(encoded, records)
    assert first == {"note": "a"}
    assert third == {"card": {"name": "b"}}
    assert decrypt_field(rule, "p", KEYS, second["card"]["number"], second["note_iv"]) == "4111"


def test_a_field_of_the_record_itself() -> None:
    rule = cfb_rule(".note")
    records = [Sale(note="a"), Sale()]
    refused = Encryption([rule], Sale, "p", KEYS)(records, ["unmatched", "success"])
    assert [at for at, _ in refused] == [1]
    assert decrypt_field(rule, "p", KEYS, encoded(records[0])["note"], encoded(records[0])["note_iv"]) == "a"


def test_every_missing_key_is_named() -> None:
    with pytest.raises(UnknownKey) as caught:
        Encryption([cfb_rule(key="x"), cfb_rule(".note", "y"), cfb_rule(".card.name")], Sale, "p", KEYS)
    assert [problem[:20] for problem in caught.value.problems] == ["there is no key 'x',", "there is no key 'y',"]


def test_cfb_says_what_it_needs() -> None:
    for value, vector in (("vFza", None), ("vFza", "AAAA"), ("!", "FmXUb0OPOWm1A2kw6diKYw==")):
        with pytest.raises(DecryptionFailed):
            decrypt_field(cfb_rule(), "p", KEYS, value, vector)


def test_an_empty_batch() -> None:
    rules = [cfb_rule(key_id_field=".card.number_key"), EncryptRule(field=".note", key="one", bind=[".id"])]
    assert Encryption(rules, Sale, "p", KEYS)([], []) == []


@pytest.mark.parametrize("algorithm", TOKEN_ALGORITHMS)
def test_a_token_of_an_object_or_a_number_opens_as_its_json(algorithm: Any) -> None:
    rules = [EncryptRule(field=field, key="one", algorithm=algorithm) for field in (".card", ".id", ".any")]
    any_: Any = {"a": [1, None]}
    records = [Sale(card=Card(number="4111", name=None), id=7, any=any_), Sale(card=None), Sale()]
    refused = Encryption(rules, Sale, "p", KEYS)(records, ["success", "success", "unmatched"])
    assert [(at, str(why)) for at, why in refused] == [(1, "card-field-missing at .card")]
    sealed = encoded(records[0])
    assert all(sealed[name].startswith(f"enc:v1:{algorithm}:1:") for name in ("card", "id", "any"))
    opened = [decrypt_field(rule, "p", KEYS, sealed[rule.field[1:]]) for rule in rules]
    assert list(map(json.loads, opened)) == [{"number": "4111", "name": None}, 7, any_]
    assert encoded(records[2]) == {}


@settings(max_examples=30)
@given(st.lists(st.tuples(TEXT, st.integers(-(2**63), 2**63 - 1)), min_size=2, max_size=9))
def test_a_bound_token_opens_only_beside_the_values_of_its_record(held: list[tuple[str, int]]) -> None:
    rule = EncryptRule(field=".card.number", key="two", bind=[".id", ".note"])
    records = [Sale(card=Card(number=text), id=id_, note=text[:3]) for text, id_ in held]
    assert Encryption([rule], Sale, "p", KEYS)([Sale(), *records], ["unmatched"] * (1 + len(records))) == []
    sealed = [(encoded(record)["card"]["number"], [record.id, record.note]) for record in records]
    for (text, _), (token, bound) in zip(held, sealed, strict=True):
        assert decrypt_field(rule, "p", KEYS, token, bound=bound) == text
        for _, other in sealed:
            if other != bound:
                with pytest.raises(
                    DecryptionFailed, match=r"another field or pipeline, or beside another \.id and \.note"
                ):
                    decrypt_field(rule, "p", KEYS, token, bound=other)
        with pytest.raises(DecryptionFailed):
            decrypt_field(rule, "p", KEYS, token, bound=[None, None])


def test_a_token_that_would_be_bound_to_nothing_is_not_written() -> None:
    """It would open beside any other record that lacks the same."""
    rule = EncryptRule(field=".card.number", key="two", bind=[".id", ".note"], required_on=[])
    whole, no_id, no_note, no_card = Sale(id=1, note="null"), Sale(note="n"), Sale(id=1, note=None), Sale()
    for record in (whole, no_id, no_note):
        record.card = Card(number="4111")
    refused = Encryption([rule], Sale, "p", KEYS)([whole, no_id, no_note, no_card], ["unmatched"] * 4)
    assert [(at, str(why)) for at, why in refused] == [
        (1, "card-field-missing at .id"),
        (2, "card-field-missing at .note"),
    ]


def test_where_a_field_is_required_can_be_said() -> None:
    rule = cfb_rule(required_on=["success"])
    routes = ["success", "fail", "unmatched", "fail+success", "fail+unmatched"]
    refused = Encryption([rule], Sale, "p", KEYS)([Sale() for _ in routes], routes)
    assert [at for at, _ in refused] == [0, 3]
    refused = Encryption([cfb_rule()], Sale, "p", KEYS)([Sale() for _ in routes], routes)
    assert [at for at, _ in refused] == [0, 1, 3, 4]


def test_the_key_id_stands_beside_and_finds_a_retired_version() -> None:
    rule = cfb_rule(key="two", key_id_field=".card.number_key")
    record = Sale(card=Card(number="4111"))
    Encryption([rule], Sale, "p", KEYS)([record], ["success"])
    card = encoded(record)["card"]
    assert card["number_key"] == "2026-11"
    rotated = Keys([Key("two", "2027-01", bytes(32)), Key("two", "2026-11", TWO.material, active=False)])
    assert decrypt_field(rule, "p", rotated, card["number"], card["number_iv"], card["number_key"]) == "4111"
    with pytest.raises(UnknownKey, match="2026-11"):
        decrypt_field(rule, "p", Keys([KEY_OF_2027]), card["number"], card["number_iv"], card["number_key"])


@pytest.mark.parametrize("algorithm", ["AES-256-CFB", "AES-256-GCM"])
def test_search_tokens_are_equal_for_equal_texts_and_for_no_others(algorithm: str) -> None:
    more: dict[str, Any] = {"search_field": ".card.number_hash", "search_key": "two"}
    rule = cfb_rule(**more) if algorithm == "AES-256-CFB" else EncryptRule(field=".card.number", key="one", **more)
    records = [Sale(card=Card(number=text)) for text in ("4111", "4112", "4111", "")]
    Encryption([rule], Sale, "p", KEYS)(records, ["success"] * 4)
    cards = [encoded(record)["card"] for record in records]
    first, second, third, empty = [card["number_hash"] for card in cards]
    assert first == third == hmac.new(TWO.material, b"4111", hashlib.sha256).hexdigest()
    assert len({first, second, empty}) == 3
    assert cards[0]["number"] != cards[2]["number"]
    assert decrypt_field(rule, "p", KEYS, cards[0]["number"], cards[0].get("number_iv")) == "4111"
