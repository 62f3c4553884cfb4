"""Promises: a join fills in what a record lacks and nothing else, follows its topic, and shares nothing between records."""

import json
from types import SimpleNamespace
from typing import Any

from pipeline.config import PipelineConfig
from pipeline.enrichment import Tables
from pipeline.keys import Key, Keys
from pipeline.pipeline import Pipeline

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


def put(tables: Tables, name: str, id_: Any, entry: Any) -> None:
    tables.apply(name, str(id_).encode(), None if entry is None else json.dumps(entry).encode())


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
    put(tables, "endpoints", 7, {"name": "before the pipeline"})
    pipeline = made(EVENTS, tables)
    names = []
    for entry in ({"name": "one"}, {"name": "two"}, None, {"name": "three"}):
        names += [one["endpoint"].get("name") for one in run(pipeline, {"endpoint": {"id": 7}})]
        put(tables, "endpoints", 7, entry)
    names += [one["endpoint"].get("name") for one in run(pipeline, {"endpoint": {"id": 7}})]
    assert names == ["before the pipeline", "one", "two", None, "three"]
    assert tables.size("endpoints") == 1


def test_unknown_ids_are_counted() -> None:
    tables = Tables()
    pipeline = made(EVENTS, tables)
    put(tables, "sims", 1, {"msisdn": "423"})
    done = pipeline.process(raw({"endpoint": {"id": 1}, "sim": {"id": 1}}, {"sim": {"id": 2}}, {"sim": {"id": 2}}, {}))
    assert done.unknown == {"endpoints": 1, "sims": 2}


def test_bad_values_are_counted_and_ignored() -> None:
    tables = Tables()
    pipeline = made(EVENTS, tables)
    put(tables, "endpoints", 7, {"name": "good"})
    for bad in (b"x", b"[]", b"null", b"\xff", b'{"a":' * 5000, b'{"a":NaN}', b'{"a":1e99999999999999999999}'):
        tables.apply("endpoints", b"7", bad)
    tables.apply("endpoints", b"\xff", b"{}")
    tables.apply("endpoints", None, b"{}")
    assert run(pipeline, {"endpoint": {"id": 7}}) == [{"endpoint": {"id": 7, "name": "good"}}]
    assert tables.bad_values["endpoints"] >= 8
    before = tables.bad_values["endpoints"]
    put(tables, "endpoints", 8, {"name": 8})
    for _ in range(2):
        assert run(pipeline, {"endpoint": {"id": 8}}) == [{"endpoint": {"id": 8, **UNKNOWN_ENDPOINT}}]
    assert tables.bad_values["endpoints"] == before + 1


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
