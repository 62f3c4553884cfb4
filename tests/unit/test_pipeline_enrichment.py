"""Promises: a join gives a record what the reference knows and nothing else, follows its topic, and shares nothing between
records; what becomes of a record whose id is unknown is up to its rule."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import enrichment
from pipeline.config import PipelineConfig
from pipeline.keys import Key, Keys
from pipeline.pipeline import Pipeline
from pipeline.references import Table, Tables
from schemas.codec import Codec
from schemas.structs import record_type
from schemas.subjects import load

EVENTS = {
    "from": "raw.events",
    "schema": "event",
    "enrich": [
        {"by": ".endpoint.id", "from": "endpoints", "into": ".endpoint"},
        {"by": ".sim.id", "from": "sims", "into": ".sim"},
    ],
}
UNKNOWN_ENDPOINT = {"name": None, "imei": None, "ip_address": None, "tags": None}
USAGE: dict[str, Any] = {
    "from": "raw.usage",
    "schema": "usage",
    "enrich": [{"by": ".operator.id", "from": "operators", "into": ".operator"}],
}


def made(config: Any, tables: Tables) -> Pipeline:
    return Pipeline("p", PipelineConfig.model_validate(config), Keys.none(), tables)


def entry(key: bytes | None, value: bytes | None) -> Any:
    return SimpleNamespace(key=key, value=value)


def put(tables: Tables, name: str, id_: Any, value: Any) -> None:
    encoded = None if value is None else json.dumps(value).encode()
    assert tables.apply(name, [entry(str(id_).encode(), encoded)]) == 0


def raw(*records: Any) -> list[Any]:
    return [SimpleNamespace(value=json.dumps(record).encode(), key=None, headers=()) for record in records]


def run(pipeline: Pipeline, *records: Any) -> list[Any]:
    return [json.loads(value) for value in pipeline.process(raw(*records)).values]


def test_fills_in_what_is_null_or_absent_only() -> None:
    tables = Tables()
    pipeline = made(EVENTS, tables)
    put(
        tables,
        "endpoints",
        7,
        {"id": 7, "name": "Meter", "imei": "960407272413998", "tags": {"a": [1]}, "colour": "red"},
    )
    out = run(
        pipeline,
        {"endpoint": {"id": 7}},
        {"endpoint": {"id": 7, "name": None, "imei": "own", "tags": None, "ip_address": None}},
        {"endpoint": {"id": 8, "name": None}},
        {"endpoint": {"id": None}},
        {"endpoint": None},
        {},
    )
    assert out == [
        {"endpoint": {"id": 7, "name": "Meter", "imei": "960407272413998", "tags": {"a": [1]}}},
        {"endpoint": {"id": 7, "name": "Meter", "imei": "own", "ip_address": None, "tags": {"a": [1]}}},
        {"endpoint": {"id": 8, **UNKNOWN_ENDPOINT}},
        {"endpoint": {"id": None}},
        {"endpoint": None},
        {},
    ]


def test_an_unknown_id_gives_null_for_what_is_absent_and_changes_nothing_else() -> None:
    tables = Tables()
    pipeline = made(EVENTS, tables)
    records = [{"endpoint": {"id": 8, "name": "own", "tags": {"a": 1}}}, {"endpoint": {"id": 8}, "event": "x"}]
    assert run(pipeline, *records) == [
        {"endpoint": {"id": 8, **UNKNOWN_ENDPOINT, "name": "own", "tags": {"a": 1}}},
        {"endpoint": {"id": 8, **UNKNOWN_ENDPOINT}, "event": "x"},
    ]


def test_of_an_unknown_id_only_what_the_reference_provides_is_null() -> None:
    tables = Tables()
    endpoint = {"by": ".endpoint.id", "from": "endpoints", "into": ".endpoint"}
    pipeline = made({**USAGE, "enrich": [*USAGE["enrich"], endpoint]}, tables)
    records = [
        {"operator": {"id": 5}, "endpoint": {"id": 7}},  # an endpoint's balance is no part of its reference
        {"operator": {"id": 5, "country": {"id": 75}}},
        {"operator": {"id": 5, "country": None}},
    ]
    assert run(pipeline, *records) == [
        {"operator": {"id": 5, "name": None, "country": None, "mnc": None}, "endpoint": {"id": 7, **UNKNOWN_ENDPOINT}},
        {"operator": {"id": 5, "name": None, "country": {"id": 75, "name": None, "mcc": None}, "mnc": None}},
        {"operator": {"id": 5, "name": None, "country": None, "mnc": None}},
    ]


def test_an_unknown_id_makes_no_dead_letter_of_a_record_with_encrypted_fields() -> None:
    tables, keys = Tables(), Keys([Key("k", "1", bytes(32))])
    config: dict[str, Any] = {**EVENTS, "encrypt": [{"field": ".sim.msisdn", "key": "k"}]}
    config["routes"] = {"success": [{"field": ".event", "op": "equal", "value": "x"}]}
    pipeline = Pipeline("p", PipelineConfig.model_validate(config), keys, tables)
    done = pipeline.process(raw({"sim": {"id": 1}}))
    assert not done.dead
    assert json.loads(done.values[0]) == {"sim": {"id": 1, "iccid": None, "production_date": None}}


def test_objects_within_are_filled_in_and_never_shared() -> None:
    tables = Tables()
    pipeline = made({**USAGE, "drop": [".operator.country.name"]}, tables)
    put(tables, "operators", 5, {"name": "O2", "mnc": "07", "country": {"id": 74, "mcc": "262", "name": "Germany"}})
    record = {"operator": {"id": 5, "country": {"id": 75}}}
    for _ in range(2):
        assert run(pipeline, record, {"operator": {"id": 5}}) == [
            {"operator": {"id": 5, "name": "O2", "country": {"id": 75, "mcc": "262"}, "mnc": "07"}},
            {"operator": {"id": 5, "name": "O2", "country": {"id": 74, "mcc": "262"}, "mnc": "07"}},
        ]


def test_dropping_inside_a_filled_in_value_leaves_the_table_alone() -> None:
    tables = Tables()
    dropping = made({**EVENTS, "drop": [".endpoint.tags.a"]}, tables)
    keeping = made(EVENTS, tables)
    put(tables, "endpoints", 7, {"tags": {"a": 1, "b": 2}})
    assert run(dropping, {"endpoint": {"id": 7}}) == [{"endpoint": {"id": 7, "tags": {"b": 2}}}]
    for pipeline, tags in ((keeping, {"a": 1, "b": 2}), (dropping, {"b": 2})):
        assert run(pipeline, {"endpoint": {"id": 7}})[0]["endpoint"]["tags"] == tags


def test_follows_the_topic() -> None:
    tables = Tables()
    pipeline = made(EVENTS, tables)
    names = []
    for value in ({"name": "one"}, {"name": "two"}, None, {"name": "three"}):
        put(tables, "endpoints", 7, value)
        names += [one["endpoint"].get("name") for one in run(pipeline, {"endpoint": {"id": 7}})]
    assert names == ["one", "two", None, "three"]
    assert tables.sizes() == {"endpoints": 1, "sims": 0}


def test_unknown_ids_are_counted() -> None:
    tables = Tables()
    pipeline = made(EVENTS, tables)
    put(tables, "sims", 1, {"msisdn": "423"})
    done = pipeline.process(raw({"endpoint": {"id": 1}, "sim": {"id": 1}}, {"sim": {"id": 2}}, {"sim": {"id": 2}}, {}))
    assert done.unknown == {"endpoints": 1, "sims": 2}


def test_an_entry_whose_object_holds_what_none_may_is_ignored_and_costs_the_others_nothing() -> None:
    table = Table(record_type(load("event")), load("event").fields)
    entries = [
        (b"1", b'{"id":1,"detail":{"a":1}}'),
        (b"2", b'{"id":2,"detail":{"a":9223372036854775808}}'),
        (b"3", b'{"id":3}'),
    ]
    assert table.apply([entry(id_, value) for id_, value in entries]) == 1
    assert sorted(table.entries) == [1, 3]


def test_bad_values_are_counted_and_ignored() -> None:
    tables = Tables()
    pipeline = made(EVENTS, tables)
    put(tables, "endpoints", 7, {"name": "good"})
    bad = [
        b"x",
        b"[]",
        b"null",
        b"\xff",
        b'{"a":' * 5000,
        b'{"a":NaN}',
        b'{"name":8}',
        b'{"tags":1e99999999999999999999}',
    ]
    bad += [b'{"tags":%s1%s}' % (b"[" * 99, b"]" * 99), b'{"id":"7"}']
    for value in bad:
        assert tables.apply("endpoints", [entry(b"7", value)]) == 1, value[:20]
    assert tables.apply("endpoints", [entry(b"\xff", b"{}"), *(entry(b"7", value) for value in bad)]) == len(bad) + 1
    assert run(pipeline, {"endpoint": {"id": 7}}) == [{"endpoint": {"id": 7, "name": "good"}}]
    assert tables.apply("endpoints", [entry(b"8", b'{"name":8}')]) == 1
    assert run(pipeline, {"endpoint": {"id": 8}}) == [{"endpoint": {"id": 8, **UNKNOWN_ENDPOINT}}]


def test_what_drifts_in_a_reference_is_normalised() -> None:
    tables = Tables()
    pipeline = made(EVENTS, tables)
    put(tables, "sims", 1, {"production_date": "2019-01-21 08:45:01"})
    assert run(pipeline, {"sim": {"id": 1}}) == [{"sim": {"id": 1, "production_date": "2019-01-21T08:45:01Z"}}]


def test_an_id_as_text_and_an_object_that_is_not_there() -> None:
    tables = Tables()
    by_text = {"by": ".device.id", "from": "devices", "into": ".endpoint"}
    pipeline = made({"from": "raw", "schema": "event", "enrich": [by_text]}, tables)
    put(tables, "devices", "dev-1", {"id": 7, "name": "Till"})
    expected = {"endpoint": {"id": 7, "name": "Till"}, "device": {"id": "dev-1"}}
    assert run(pipeline, {"device": {"id": "dev-1"}}, {"device": {"id": "dev-2"}}) == [
        expected,
        {"endpoint": None, "device": {"id": "dev-2"}},
    ]
    put(tables, "devices", "dev-1", None)
    assert run(pipeline, {"device": {"id": "dev-1"}}, {"device": {}}) == [
        {"endpoint": None, "device": {"id": "dev-1"}},
        {"device": {}},
    ]


def rule(name: str, **more: Any) -> dict[str, Any]:
    """A rule of the data streamer: `endpoints` by `.endpoint.id` into `.endpoint`."""
    at = f".{name.removesuffix('s')}"
    return {"by": f"{at}.id", "from": name, "into": at, **more}


KNOWN = {
    "endpoints": {"id": 7, "name": "Meter", "imei": "960407272413998", "ip_address": "10.0.0.7", "tags": "V1"},
    "sims": {"id": 7, "iccid": "8988303", "msisdn": "4236639", "production_date": "2020-09-09T06:42:59Z"},
    "imsis": {"id": 7, "imsi": "295050901064821", "import_date": "2020-12-23T13:02:11.000Z"},
    "users": {"id": 7, "username": "zoe@example.com", "name": "Zoë"},
    "operators": {"id": 7, "name": "O2", "country": {"id": 74, "name": "Germany", "mcc": "262"}, "mnc": "07"},
}
BESIDE = {"balance": {"amount": 5}, "organisation": {"id": 1}, "iso_code": "de", "colour": "red"}


def test_records_get_exactly_the_fields_of_the_upgrade() -> None:
    """And of a reference that holds more nothing else, where the record's own schema has it too (a balance, in usage)."""
    tables = Tables()
    events = made(
        {"from": "r", "schema": "event", "enrich": list(map(rule, ["endpoints", "sims", "imsis", "users"]))}, tables
    )
    usage = made(
        {"from": "r", "schema": "usage", "enrich": list(map(rule, ["endpoints", "sims", "operators"]))}, tables
    )
    for name, known in KNOWN.items():
        country = {"country": known["country"] | BESIDE} if "country" in known else {}
        put(tables, name, 7, known | BESIDE | country)
    ids = {name: {"id": 7} for name in ("endpoint", "sim", "imsi", "user")}
    assert run(events, ids) == [
        {
            "endpoint": KNOWN["endpoints"],
            "sim": KNOWN["sims"],
            "imsi": KNOWN["imsis"],
            "user": KNOWN["users"],
        }
    ]
    before = {"operator": {"id": 7, "country": {"id": 74}}, "endpoint": {"id": 7}, "sim": {"id": 7, "iccid": "8988303"}}
    assert run(usage, before | {"imsi": "295050901064821", "imsi_id": 7}) == [
        {
            "operator": KNOWN["operators"],
            "endpoint": KNOWN["endpoints"],
            "imsi": "295050901064821",
            "sim": KNOWN["sims"],
            "imsi_id": 7,
        }
    ]


def test_pipelines_that_join_the_same_reference_hold_it_once() -> None:
    tables = Tables()
    for subject in ("event", "usage"):
        made({"from": "r", "schema": subject, "enrich": [rule("endpoints")]}, tables)
    (shared,) = tables._tables.values()
    assert len(shared) == 1


texts = st.text(st.characters(codec="utf-8"), max_size=40)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
values = st.recursive(
    st.none() | numbers | texts, lambda below: st.lists(below, max_size=3) | st.dictionaries(texts, below, max_size=3)
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "name": st.none() | texts,
        "imei": st.none() | texts,
        "ip_address": texts,
        "tags": values,
        "else": values,
    },
)


@given(entries)
def test_a_record_is_as_if_it_had_brought_itself_what_the_reference_knows(known: dict[str, Any]) -> None:
    tables = Tables()
    pipeline = made(
        {**EVENTS, "enrich": [rule("endpoints")], "gate": "off"}, tables
    )  # some number is a card's by chance
    put(tables, "endpoints", 7, known)
    brought = {
        "endpoint": {"id": 7, **{key: value for key, value in known.items() if value is not None and key != "else"}}
    }
    codec = Codec(load("event"))
    assert pipeline.process(raw({"endpoint": {"id": 7}})).values == [
        codec.encode(codec.decode(json.dumps(brought).encode()))
    ]


@example(-375_584_670_144_419)
@given(st.integers(-(2**63), 2**63 - 1))
def test_every_number_is_found_by_what_is_written_in_the_key(id_: int) -> None:
    tables = Tables()
    pipeline = made({**EVENTS, "enrich": [rule("endpoints")]}, tables)
    put(tables, "endpoints", id_, {"name": "it"})
    assert run(pipeline, {"endpoint": {"id": id_}})[0]["endpoint"].get("name") == "it"
    put(tables, "endpoints", id_, None)
    assert tables.sizes() == {"endpoints": 0}


@pytest.mark.parametrize("key", ["007", "+7", " 7", "7_0", "7.0", "-0", "７", "", "seven"])
def test_a_key_that_is_no_number_is_text_and_found_as_it_is(key: str) -> None:
    tables = Tables()
    by_text = {"by": ".device.id", "from": "devices", "into": ".endpoint"}
    pipeline = made(
        {"from": "r", "schema": "event", "enrich": [by_text, rule("devices", by=".sim.id", into=".sim")]}, tables
    )
    put(tables, "devices", key, {"id": 1})
    assert run(pipeline, {"device": {"id": key}, "sim": {"id": 7}}) == [
        {
            "endpoint": {"id": 1},
            "sim": {"id": 7, "iccid": None, "msisdn": None, "production_date": None},
            "device": {"id": key},
        }
    ]


def test_overwrite_replaces_what_the_reference_has_and_nothing_else() -> None:
    tables = Tables()
    rules = [rule("endpoints", mode="overwrite"), rule("operators", mode="overwrite")]
    pipeline = made({"from": "r", "schema": "usage", "enrich": rules}, tables)
    put(tables, "endpoints", 7, {"id": 8, "name": "new", "imei": None, "tags": {"a": 1}})
    put(tables, "operators", 5, {"name": "O2", "country": {"id": 74, "mcc": "262"}, "mnc": "07"})
    record = {
        "operator": {"id": 5, "name": "old", "country": {"id": 75, "name": "kept", "mcc": "1"}},
        "endpoint": {"id": 7, "name": "old", "ip_address": "own", "imei": "own", "tags": None},
    }
    assert run(pipeline, record) == [
        {
            "operator": {"id": 5, "name": "O2", "country": {"id": 74, "name": "kept", "mcc": "262"}, "mnc": "07"},
            "endpoint": {"id": 7, "name": "new", "ip_address": "own", "tags": {"a": 1}, "imei": "own"},
        }
    ]
    assert run(pipeline, {"endpoint": {"id": 8, "name": "old"}})[0]["endpoint"]["name"] == "old"


def test_overwriting_around_the_id_leaves_the_id() -> None:
    tables = Tables()
    inner = {"by": ".operator.country.id", "from": "networks", "into": ".operator", "mode": "overwrite"}
    pipeline = made({"from": "r", "schema": "usage", "enrich": [inner]}, tables)
    put(tables, "networks", 74, {"id": 1, "country": {"id": 99, "name": "Germany"}})
    assert run(pipeline, {"operator": {"id": 5, "country": {"id": 74}}}) == [
        {"operator": {"id": 1, "country": {"id": 74, "name": "Germany"}}}
    ]


def test_an_unknown_id_may_make_a_dead_letter() -> None:
    tables = Tables()
    pipeline = made({**EVENTS, "enrich": [rule("endpoints", on_missing="dead-letter"), rule("sims")]}, tables)
    put(tables, "endpoints", 7, {"name": "Meter"})
    records = [
        {"endpoint": {"id": 8}},
        {"endpoint": {"id": 7}},
        {"endpoint": {}},
        {"endpoint": {"id": 9}, "sim": {"id": 1}},
    ]
    done = pipeline.process([*raw(*records), SimpleNamespace(value=b"x"), *raw({})])
    assert [(at, why.reason, why.path) for at, why in done.dead] == [
        (0, "reference-missing", ".endpoint.id"),
        (3, "reference-missing", ".endpoint.id"),
        (4, "not-json", ""),
    ]
    assert list(done.positions) == [1, 2, 5]
    assert list(map(json.loads, done.values)) == [{"endpoint": {"id": 7, "name": "Meter"}}, {"endpoint": {}}, {}]
    assert len(done.routes) == 3
    assert done.unknown == {"endpoints": 2, "sims": 1}
    assert not done.awaited


def test_what_waits_for_an_id_is_processed_again_when_it_is_there() -> None:
    tables = Tables(live=True)
    rules = [rule("endpoints", on_missing="wait"), rule("sims", on_missing="wait", wait_seconds=5)]
    pipeline = made({**EVENTS, "enrich": rules}, tables)
    put(tables, "endpoints", 7, {"name": "Meter"})
    records = raw(
        {"endpoint": {"id": 7}, "sim": {"id": 1}}, {"endpoint": {"id": 8}, "sim": {"id": 2}}, {"sim": {"id": 2}}
    )
    done = pipeline.process(records)
    assert [(join.source, join.wait_seconds, ids) for join, ids in done.awaited] == [
        ("endpoints", 60, {8}),
        ("sims", 5, {1, 2}),
    ]
    (endpoints, _), (sims, ids) = done.awaited
    put(tables, "endpoints", 8, {"name": "late"})
    put(tables, "sims", 2, {"msisdn": "423"})
    assert (endpoints.awaited({8}), sims.awaited(ids)) == (set(), {1})
    sims.give_up({1})
    done = pipeline.process(records)
    assert not done.awaited
    assert [(at, why.reason, why.path) for at, why in done.dead] == [(0, "reference-missing", ".sim.id")]
    assert [json.loads(value)["sim"] for value in done.values] == [{"id": 2, "msisdn": "423"}] * 2
    # For an id that was given up nobody waits again, but it is found when it comes.
    assert not pipeline.process(records).awaited
    put(tables, "sims", 1, {"msisdn": "late"})
    assert not pipeline.process(records).dead


def test_without_a_topic_behind_it_nothing_is_worth_waiting_for() -> None:
    pipeline = made({**EVENTS, "enrich": [rule("endpoints", on_missing="wait")]}, Tables())
    done = pipeline.process(raw({"endpoint": {"id": 8}}))
    assert ([why.reason for _, why in done.dead], done.awaited) == (["reference-missing"], [])


def test_ids_that_were_given_up_are_forgotten_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrichment, "MOST_GIVEN_UP", 3)
    pipeline = made({**EVENTS, "enrich": [rule("endpoints", on_missing="wait")]}, Tables(live=True))
    ((join, _),) = pipeline.process(raw({"endpoint": {"id": 1}})).awaited
    join.give_up({1, 2, 3})
    assert join.awaited({1, 2, 3}) == set()
    join.give_up({4})
    assert join.awaited({1, 2, 3, 4}) == {1, 2, 3}


def test_an_entry_shows_nothing_of_itself() -> None:
    """Objects of entries lie in the frames of a traceback."""
    subject = load("user")
    table = Table(Codec(subject).type, subject.fields)
    table.apply([entry(b"7", b'{"username":"zoe@example.com"}')])
    made_of_it = table.read(table.entries[7])
    assert made_of_it.username == "zoe@example.com"
    assert "zoe" not in f"{made_of_it!r} {made_of_it}"


def test_an_entry_is_held_in_few_bytes() -> None:
    """The fields that joins need and no others, whatever else a topic holds; 500 MB are enough for a million endpoints."""
    subject = load("endpoint")
    table = Table(Codec(subject).type, subject.fields)
    known = KNOWN["endpoints"]
    table.apply([entry(b"7", json.dumps({**known, "history": ["x" * 1000] * 50}, indent=4).encode())])
    ((id_, held),) = table.entries.items()
    assert (id_, len(held)) == (7, len(json.dumps(list(known.values()), separators=(",", ":"))))
