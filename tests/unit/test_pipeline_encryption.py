"""Promises: what leaves a rule decrypts with plain AES, nothing leaves in clear, nobody shares a vector."""

import base64
import re
import subprocess
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ciphers import BatchedCfb, BatchedGcm, DecryptionFailed, binding, gcm_decrypt
from pipeline.config import EncryptRule
from pipeline.encryption import Encryption, decrypt_field
from pipeline.keys import Key, Keys, UnknownKey

ONE = Key("one", "1", bytes(range(32)))
TWO = Key("two", "2026-11", bytes(range(32, 64)))
KEYS = Keys([ONE, TWO])
TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=300)


class Card(msgspec.Struct):
    number: str | msgspec.UnsetType | None = msgspec.UNSET
    name: str | msgspec.UnsetType | None = msgspec.UNSET
    number_iv: str | msgspec.UnsetType | None = msgspec.UNSET
    name_iv: str | msgspec.UnsetType | None = msgspec.UNSET


class Sale(msgspec.Struct):
    card: Card | msgspec.UnsetType | None = msgspec.UNSET
    note: str | msgspec.UnsetType | None = msgspec.UNSET
    note_iv: str | msgspec.UnsetType | None = msgspec.UNSET


def cfb_rule(field: str = ".card.number", key: str = "one", **more: Any) -> EncryptRule:
    return EncryptRule(
        field=field, key=key, algorithm="AES-256-CFB", iv_field=more.pop("iv_field", f"{field}_iv"), **more
    )


def one_at_a_time(key: Key, ciphertext: bytes, vector: bytes) -> bytes:
    decryptor = Cipher(algorithms.AES(key.material), CFB(vector)).decryptor()
    return decryptor.update(ciphertext) + decryptor.finalize()


def encoded(record: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(record))


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXT, max_size=40))
def test_batched_cfb_is_what_one_at_a_time_decrypts(texts: list[str]) -> None:
    plains = [text.encode()[:300] for text in texts]
    ciphertexts, vectors = BatchedCfb(ONE).encrypt(plains)
    assert [one_at_a_time(ONE, *pair) for pair in zip(ciphertexts, vectors, strict=True)] == plains
    assert len(set(vectors)) == len(plains)


def test_ten_thousand_fields_of_every_length() -> None:
    plains = [bytes([number % 251]) * (number % 301) for number in range(10_000)]
    cfb = BatchedCfb(ONE)
    ciphertexts, vectors = cfb.encrypt(plains)
    assert all(one_at_a_time(ONE, c, v) == p for c, v, p in zip(ciphertexts, vectors, plains, strict=True))
    _, more = cfb.encrypt(plains)
    assert len({*vectors, *more}) == 20_000, "two fields share a vector"


@pytest.mark.parametrize(
    ("key", "vector", "plain", "ciphertext"),
    [
        ("6B58703273357638792F423F4528482B", base64.b64decode("FmXUb0OPOWm1A2kw6diKYw=="), "bar", "vFza"),
        ("01234567890123456789012345678912", b"0123456789012345", "data", "c/dIOA=="),
    ],
)
def test_published_vectors(
    key: str, vector: bytes, plain: str, ciphertext: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.urandom", lambda size: vector * (size // 16))
    written, _ = BatchedCfb(Key("k", "1", key.encode())).encrypt([plain.encode()])
    assert base64.b64encode(written[0]).decode() == ciphertext
    keys = Keys([Key("one", "1", key.encode())])
    assert decrypt_field(cfb_rule(), "p", keys, ciphertext, base64.b64encode(vector).decode()) == plain


def test_openssl_decrypts_it(tmp_path: Any) -> None:
    openssl = subprocess.run(["which", "openssl"], capture_output=True, text=True, check=False).stdout.strip()
    if not openssl:
        pytest.skip("no openssl here")
    for text in ("4111111111111111", "Zoë Ødegård-Featherstonehaugh 王", ""):
        (ciphertext,), (vector,) = BatchedCfb(ONE).encrypt([text.encode()])
        command = [openssl, "enc", "-d", "-aes-256-cfb", "-K", ONE.material.hex(), "-iv", vector.hex()]
        assert subprocess.run(command, input=ciphertext, capture_output=True, check=True).stdout.decode() == text


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=20), st.sampled_from(["base64", "hex"]))
def test_fields_with_keys_of_their_own(pairs: list[tuple[str, str]], encoding: Any) -> None:
    rules = [cfb_rule(".card.number", encoding=encoding), cfb_rule(".card.name", "two", encoding=encoding)]
    records = [Sale(card=Card(number=number, name=name)) for number, name in pairs]
    assert Encryption(rules, Sale, "p", KEYS)(records, ["success"] * len(records)) == []
    for record, (number, name) in zip(records, pairs, strict=True):
        card = encoded(record)["card"]
        assert decrypt_field(rules[0], "p", KEYS, card["number"], card["number_iv"]) == number
        assert decrypt_field(rules[1], "p", KEYS, card["name"], card["name_iv"]) == name


@settings(max_examples=50, deadline=None)
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
    bound = binding("p", ".card.number")
    (token,) = BatchedGcm(TWO, bound).encrypt([b"4111111111111111"])
    assert gcm_decrypt(KEYS, "two", bound, token) == "4111111111111111"
    changed = token[:-3] + ("A" if token[-3] != "A" else "B") + token[-2:]
    attempts = [
        (KEYS, binding("p", ".card.name"), token),
        (KEYS, binding("q", ".card.number"), token),
        (Keys([Key("two", "2026-11", bytes(32))]), bound, token),
        (KEYS, bound, changed),
        (KEYS, bound, "enc:v1:AES-256-GCM:2026-11:short:short"),
        (KEYS, bound, "4111111111111111"),
    ]
    for keys, where, what in attempts:
        with pytest.raises(DecryptionFailed) as caught:
            gcm_decrypt(keys, "two", where, what)
        assert "4111" not in str(caught.value)
    with pytest.raises(UnknownKey, match="2026-11"):
        gcm_decrypt(Keys([Key("two", "2027-01", TWO.material)]), "two", bound, token)


def test_one_field_cannot_pass_for_another_by_where_its_name_is_cut() -> None:
    assert binding("a", "b.c") != binding("ab", ".c")


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
        (5, "card-field-missing", ".card.number"),
        (6, "card-field-not-a-string", ".card.number"),
        (7, "card-field-not-a-string", ".card.number"),
    ]
    assert "4111111111111111" not in repr([encoded(records[at]) for at in (0, 1, 4, 8)])
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
    assert Encryption([cfb_rule(), EncryptRule(field=".note", key="one")], Sale, "p", KEYS)([], []) == []
    assert SimpleNamespace(x=BatchedCfb(ONE).encrypt([])).x == ([], ())
