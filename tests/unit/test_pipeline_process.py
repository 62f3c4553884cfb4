"""Promises of a record's way: every position of a batch is in one place, in order, and no card field leaves in clear."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import PipelineConfig
from pipeline.dead_letters import Sealer, letter_headers, unseal
from pipeline.encryption import DecryptionFailed, decrypt_field
from pipeline.keys import Key, Keys, UnknownKey
from pipeline.pipeline import Pipeline, Processed
from pipeline.references import Tables
from schemas.refused import REASONS, Refused

FIELDS = ("cc_number", "cc_exp", "cc_cvv", "cc_zip", "cc_name")
KEYS = Keys([Key(name, "1", bytes([number] * 32)) for number, name in enumerate([*FIELDS, "dead-letters"])])
ROUTES = {
    label: [
        {"field": ".transaction.result", "op": "equal", "value": value},
        {"field": ".transaction.total_price", "op": "greater_or_equal", "value": 0},
    ]
    for label, value in (("success", True), ("fail", False))
}
WORKSHOP: dict[str, Any] = {
    "from": "raw.events",
    "schema": "event",
    "drop": [".buffer"],
    "routes": ROUTES,
    "encrypt": [
        {"field": f".transaction.cc.{f}", "key": f, "algorithm": "AES-256-CFB", "iv_field": f".transaction.cc.{f}_iv"}
        for f in FIELDS
    ],
}


RULES = dict(zip(FIELDS, PipelineConfig.model_validate(WORKSHOP).encrypt, strict=True))


class Raw:
    """A record as the consumer gives it."""

    def __init__(self, value: bytes | None, offset: int = 0) -> None:
        self.value = value
        self.offset = offset
        self.timestamp = 0
        self.key: bytes | None = b"key"
        self.headers: Sequence[tuple[str, bytes]] = [("trace", b"1")]


def workshop(**changes: Any) -> Pipeline:
    return Pipeline("events", PipelineConfig.model_validate({**WORKSHOP, **changes}), KEYS, Tables())


def raw(*records: Any) -> list[Raw]:
    values = [one if isinstance(one, bytes | None) else json.dumps(one).encode() for one in records]
    return [Raw(value, offset) for offset, value in enumerate(values)]


def sale(result: Any = True, total: Any = 1, **card: Any) -> dict[str, Any]:
    cc = {
        "cc_number": "4111111111111111",
        "cc_exp": "12/29",
        "cc_cvv": "123",
        "cc_zip": "90210",
        "cc_name": "Zoë Müller",
    }
    return {
        "event": "transaction",
        "buffer": "b",
        "transaction": {"result": result, "total_price": total, "cc": {**cc, **card}},
    }


def where(done: Processed) -> dict[int, str]:
    """The place of each position; fails if one is in two places or out of order."""
    dead = [position for position, _ in done.dead]
    assert list(done.positions) == sorted(done.positions)
    assert dead == sorted(dead)
    assert not set(dead) & set(done.positions)
    return dict(zip(done.positions, done.routes, strict=True)) | dict.fromkeys(dead, "dead")


def values(done: Processed) -> dict[int, Any]:
    return {position: json.loads(value) for position, value in zip(done.positions, done.values, strict=True)}


def cleared(card: dict[str, str]) -> dict[str, str]:
    return {f: decrypt_field(RULES[f], "events", KEYS, card[f], card[f + "_iv"]) for f in FIELDS}


@pytest.mark.parametrize("exponent", ["99999999999999999999", "-99999999999999999999"])
def test_a_number_that_no_decimal_holds_costs_the_others_nothing(exponent: str) -> None:
    records = [*raw(sale()), Raw(b'{"detail":{"a":1e%s}}' % exponent.encode(), 1), Raw(b"{}", 2)]
    done = workshop().process(records)
    assert where(done) == {0: "success", 1: "dead", 2: "unmatched"}


def test_the_workshop() -> None:
    done = workshop().process(
        raw(
            sale(),
            sale(False),
            sale(total=-1),
            {"event": "access", "buffer": "b"},
            sale("success"),
            sale("fail", 0),
            sale(None),
        )
    )
    assert where(done) == {
        0: "success",
        1: "fail",
        2: "unmatched",
        3: "unmatched",
        4: "success",
        5: "fail",
        6: "unmatched",
    }
    for position, value in values(done).items():
        assert "buffer" not in value
        if position != 3:
            assert cleared(value["transaction"]["cc"]) == {f: sale()["transaction"]["cc"][f] for f in FIELDS}
    assert values(done)[3] == {"event": "access"}
    assert done.drift == {"outcome": 2}
    vectors = [v["transaction"]["cc"][f + "_iv"] for p, v in values(done).items() if p != 3 for f in FIELDS]
    assert len(set(vectors)) == 30


def test_bad_input_is_in_one_place_and_the_others_are_unaffected() -> None:
    good = sale()
    bad: list[tuple[Any, str]] = [
        (b"not json", "not-json"),
        (None, "null-value"),
        (b"null", "not-an-object"),
        (b"[1]", "not-an-object"),
        (b"\xff{}", "not-json"),
        (b'{"transaction":{"total_price":NaN}}', "not-json"),
        (b'{"detail":' + b'{"a":' * 200 + b"1" + b"}" * 201, "too-deep"),
        (b"", "not-json"),
        (b"\x00\x00\x00\x00\x63x", "unknown-schema-id"),
        (b"x" * 10_000_000, "not-json"),
        ({"transaction": "4111111111111111"}, "wrong-type"),
        (sale(cc_number=4111111111111111), "card-field-not-a-string"),
        (sale(cc_cvv=123), "card-field-not-a-string"),
        (sale(cc_number=None), "card-field-not-a-string"),
        (sale(total=-1, cc_name=None), "card-field-not-a-string"),
        ({"transaction": {"result": True, "total_price": 1}}, "card-field-missing"),
        ({"transaction": {"result": False, "total_price": 1, "cc": None}}, "card-field-missing"),
        ({"transaction": {"result": True, "total_price": 1, "cc": {"cc_number": "1"}}}, "card-field-missing"),
    ]
    batch = [good]
    for record, _ in bad:
        batch += [record, good]
    done = workshop().process(raw(*batch))
    places = where(done)
    assert sorted(places) == list(range(len(batch)))
    for number, (_, reason) in enumerate(bad):
        assert places[2 * number + 1] == "dead"
        assert dict(done.dead)[2 * number + 1].reason == reason
    assert all(places[position] == "success" for position in range(0, len(batch), 2))
    assert "4111111111111111" not in json.dumps([values(done), [str(why) for _, why in done.dead]])


@pytest.mark.parametrize("batch", [[], [b"x"], [b"x", b"y"], [b"x", {}], [{}, b"x"], [b"x", b"y", {}, b"z"], [{}] * 3])
def test_every_mix_of_good_and_bad_is_accounted_for(batch: list[Any]) -> None:
    done = workshop().process(raw(*batch))
    assert where(done) == {at: "unmatched" if isinstance(one, dict) else "dead" for at, one in enumerate(batch)}


def test_a_refusal_holds_no_trace_of_the_record() -> None:
    done = workshop().process(raw(sale(cc_number=4111111111111111), {"id": "4111111111111111"}))
    for _, refused in done.dead:
        assert refused.__cause__ is None
        assert refused.__context__ is None
        assert refused.__traceback__ is None
        assert "4111" not in repr(refused)


def test_missing_on_unmatched_is_no_fault() -> None:
    done = workshop().process(raw({"transaction": {"total_price": -1, "cc": {"cc_number": "4111111111111111"}}}))
    assert where(done) == {0: "unmatched"}
    assert set(values(done)[0]["transaction"]["cc"]) == {"cc_number", "cc_number_iv"}


VECTORS = workshop()
TOKENS = workshop(encrypt=[{"field": f".transaction.cc.{f}", "key": f} for f in FIELDS])
# A marker makes each generated card field unmistakable in an output, whatever else is in it.
MARKED = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=300).map(lambda text: f"«CLEAR»{text}")
CARD = st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, MARKED | st.none() | st.integers()))
SALES = st.fixed_dictionaries(
    {},
    optional={
        "result": st.sampled_from([True, False, None, "success", "fail", "odd"]),
        "total_price": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5),
        "cc": CARD | st.none(),
        "cc_number2": MARKED,
    },
)


@settings(max_examples=150)
@given(st.lists(st.fixed_dictionaries({"transaction": SALES | st.none()}), max_size=12), st.booleans())
def test_no_card_field_leaves_in_clear_on_any_route(records: list[Any], tokens: bool) -> None:
    done = (TOKENS if tokens else VECTORS).process(raw(*records))
    assert sorted(where(done)) == list(range(len(records)))
    written = json.dumps([values(done), [[str(why), repr(why)] for _, why in done.dead]], ensure_ascii=False)
    assert "CLEAR" not in written
    for position, value in values(done).items():
        card = (value.get("transaction") or {}).get("cc") or {}
        sent = records[position]["transaction"]["cc"] if card else {}
        if not tokens:
            found = {f: decrypt_field(RULES[f], "events", KEYS, card[f], card[f + "_iv"]) for f in FIELDS if f in card}
            assert found == sent


def test_what_is_unexpected_stops_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = workshop()

    def broken(*_: Any) -> Any:
        raise OSError("no randomness")

    monkeypatch.setattr("os.urandom", broken)
    with pytest.raises(OSError, match="no randomness"):
        pipeline.process(raw(sale()))


def test_without_routes_all_that_is_valid_is_success() -> None:
    config = PipelineConfig.model_validate({"from": "raw.usage", "schema": "usage"})
    pipeline = Pipeline("usage", config, Keys.none(), Tables())
    assert pipeline.routes == ("success",)
    done = pipeline.process(raw({"id": 1, "volume": {"total": 0.219933}}, b"x", {}))
    assert where(done) == {0: "success", 1: "dead", 2: "success"}
    assert done.values[0] == b'{"id":1,"volume":{"total":0.219933}}'


def test_vectors_go_where_the_user_says() -> None:
    rule = {**WORKSHOP["encrypt"][0], "iv_field": ".transaction.cc.my_vector"}
    done = workshop(encrypt=[rule]).process(raw(sale()))
    card = values(done)[0]["transaction"]["cc"]
    assert list(card)[-1] == "my_vector"
    assert card["cc_number"] != "4111111111111111"


def test_keys_that_nobody_has_stop_the_pipeline_at_its_start() -> None:
    with pytest.raises(UnknownKey) as caught:
        Pipeline("events", PipelineConfig.model_validate(WORKSHOP), Keys.none(), Tables())
    assert len(caught.value.problems) == 5


def test_a_plan_changes_with_the_config_and_not_with_keys_or_defaults() -> None:
    plan = workshop().plan_hash()
    other = Keys([Key(key.name, "2", bytes(32)) for key in KEYS])
    assert plan == Pipeline("events", PipelineConfig.model_validate(WORKSHOP), other, Tables()).plan_hash()
    assert plan == workshop(enrich=[]).plan_hash()
    assert len(plan) == 12
    turned = {"fail": ROUTES["fail"], "success": ROUTES["success"]}
    others = [workshop(drop=[]), workshop(routes=turned), workshop(**{"from": "raw.other"}), workshop(encrypt=[])]
    assert len({plan, *(one.plan_hash() for one in others)}) == 5


@pytest.mark.parametrize("places", [[0, 1], [1, 0], [0, 2], [2, 1, 0]])
def test_places_of_one_list_are_dropped_as_they_came_in_whatever_order_they_are_written(places: list[int]) -> None:
    pipeline = workshop(drop=[f".detail.list[{place}]" for place in places], routes={}, encrypt=[])
    processed = pipeline.process([Raw(b'{"detail":{"list":["a","b","c","d"]}}')])
    left = [letter for place, letter in enumerate("abcd") if place not in places]
    assert json.loads(processed.values[0])["detail"]["list"] == left


def test_drop_reaches_into_open_fields_and_changes_nothing_else() -> None:
    pipeline = workshop(drop=[".detail.a.b", ".detail.c", ".device.name", ".user", ".sim.id"], routes={}, encrypt=[])
    records = [
        {"detail": {"a": {"b": 1, "d": 2}, "c": 3, "e": 4}, "device": {"id": "x", "name": "y"}},
        {"detail": {"a": 1}},
        {},
    ]
    written = values(pipeline.process(raw(*records, {"detail": None, "user": {"id": 1}, "sim": {"id": 1}})))
    assert list(written.values()) == [
        {"device": {"id": "x"}, "detail": {"a": {"d": 2}, "e": 4}},
        {"detail": {"a": 1}},
        {},
        {"sim": {}, "detail": None},
    ]


def test_sealed_dead_letters_open_with_the_key_and_nothing_else() -> None:
    record = raw(sale(cc_number=4111111111111111))[0]
    sealed = Sealer(KEYS).seal(record, 10_000)
    assert sealed is not None
    assert b"4111" not in sealed
    assert b"trace" not in sealed
    letter = unseal(sealed, KEYS)
    assert (letter.key, letter.value, letter.headers) == (record.key, record.value, [("trace", b"1")])
    for changed in (sealed[:-1] + bytes([sealed[-1] ^ 1]), b"x" + sealed, sealed[:20], b""):
        with pytest.raises(DecryptionFailed):
            unseal(changed, KEYS)
    with pytest.raises(UnknownKey):
        unseal(sealed, Keys.none())
    with pytest.raises(DecryptionFailed):
        unseal(sealed, Keys([Key("dead-letters", "1", bytes(32))]))


def test_a_dead_letter_that_does_not_fit_or_has_no_key_has_no_body() -> None:
    record = raw(sale())[0]
    sealed = Sealer(KEYS).seal(record, 10_000)
    assert sealed is not None
    assert Sealer(KEYS).seal(record, len(sealed)) is not None
    assert Sealer(KEYS).seal(record, len(sealed) - 1) is None
    assert Sealer(Keys.none()).seal(record, 10_000) is None
    tombstone = Sealer(KEYS).seal(Raw(None), 10_000)
    assert tombstone is not None
    assert unseal(tombstone, KEYS).value is None


@pytest.mark.parametrize("reason", REASONS)
def test_headers_of_a_dead_letter_say_where_and_why_and_no_value(reason: Any) -> None:
    record = raw(sale())[0]
    headers = dict(letter_headers("raw.events", 3, record, Refused(reason, ".transaction.cc"), "decode"))
    assert headers["sluice-reason"] == reason.encode()
    assert headers["sluice-id"] == b"raw.events/3/0"
    assert headers["__connect.errors.topic"] == b"raw.events"
    assert headers["__connect.errors.exception.message"] == f"{reason} at .transaction.cc".encode()
    assert b"4111" not in repr(headers).encode()


def test_keys_that_were_rotated_are_used_from_the_next_batch_on_and_counted() -> None:
    rules = [
        {"field": ".transaction.cc.cc_number", "key": "one"},
        {"field": ".transaction.cc.cc_exp", "key": "one", "algorithm": "AES-256-CFB", "iv_field": ".transaction.cc.cc_exp_iv",
         "key_id_field": ".transaction.cc.cc_exp_key"},
    ]  # fmt: skip
    redact = [{"field": ".transaction.cc.cc_name", "with": "hash", "key": "two"}]
    old, names = Key("one", "1", bytes(range(32))), Key("two", "1", bytes(range(32, 64)))
    keys = Keys([old, names])
    config = PipelineConfig.model_validate({"from": "raw", "schema": "event", "encrypt": rules, "redact": redact})
    pipeline = Pipeline("events", config, keys, Tables())
    first = values(pipeline.process(raw(sale(), sale())))[0]["transaction"]["cc"]
    new = Key("one", "2", bytes(range(64, 96)))
    keys.replace([new, Key("one", "1", old.material, active=False), Key("two", "2", bytes(range(96, 128)))])
    second = values(pipeline.process(raw(sale())))[0]["transaction"]["cc"]
    assert [card["cc_number"].split(":")[3] for card in (first, second)] == ["1", "2"]
    assert [card["cc_exp_key"] for card in (first, second)] == ["1", "2"]
    assert first["cc_name"] != second["cc_name"]
    assert keys.take_uses() == {("one", "1"): 4, ("one", "2"): 2}
    for card in (first, second):
        assert decrypt_field(config.encrypt[0], "events", keys, card["cc_number"]) == "4111111111111111"
        found = decrypt_field(config.encrypt[1], "events", keys, card["cc_exp"], card["cc_exp_iv"], card["cc_exp_key"])
        assert found == "12/29"
