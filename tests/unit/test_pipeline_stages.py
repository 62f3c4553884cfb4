"""Promises: each stage does to a record what its name says, to nothing else, and the same when the record is read again."""

import datetime
import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.config import PipelineConfig
from pipeline.keys import Key, Keys
from pipeline.pipeline import Pipeline, Processed
from pipeline.references import Tables
from tests.raw import Raw

KEY = Key("names", "1", bytes(range(32)))


def pipeline(**settings: Any) -> Pipeline:
    config = PipelineConfig.model_validate({"from": "raw.events", "schema": "event", **settings})
    return Pipeline("events", config, Keys([KEY]), Tables())


def process(made: Pipeline, *records: Any, start: int = 0, partition: int = 0) -> Processed:
    return made.process([Raw(json.dumps(one).encode(), start + n) for n, one in enumerate(records)], partition)


def value(made: Pipeline, record: Any) -> Any:
    (one,) = process(made, record).values
    return json.loads(one)


def problems(**settings: Any) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        pipeline(**settings)
    found: dict[str, str] = {}
    for one in caught.value.errors():
        place = ".".join(map(str, one["loc"]))
        found[place] = f"{found.get(place, '')} {one['msg']}"
    return found


SALE = {
    "id": 7,
    "device": {"id": "d-1", "name": "till", "location": [1.5, 2.5]},
    "user": {"id": 3, "username": "zoë@example.com", "name": "Zoë"},
    "transaction": {"quantity": 2, "total_price": 3.5, "cc": {"cc_number": "4111", "cc_name": "Zoë"}},
    "detail": {"a": {"b": 1, "c": 2}, "list": [{"x": 1, "y": 2}, 5]},
}


def test_keep_removes_everything_else_at_any_depth() -> None:
    kept = value(pipeline(keep=[".id", ".device.name", ".transaction.cc", ".detail.a.b", ".detail.list[0].x"]), SALE)
    assert kept == {
        "id": 7,
        "device": {"name": "till"},
        "transaction": {"cc": SALE["transaction"]["cc"]},  # type: ignore[index]
        "detail": {"a": {"b": 1}, "list": [{"x": 1}]},
    }
    assert value(pipeline(keep=[".id"]), {"device": None, "detail": {}}) == {}
    assert value(pipeline(keep=[".transaction", ".transaction.quantity"]), SALE) == {"transaction": SALE["transaction"]}


def test_set_gives_values_where_their_object_is() -> None:
    made = pipeline(set={".description": None, ".device.name": "x", ".transaction.quantity": 1, ".detail": {"k": [1]}})
    assert value(made, {"device": {}}) == {"description": None, "device": {"name": "x"}, "detail": {"k": [1]}}
    assert value(made, SALE)["transaction"]["quantity"] == 1


def test_set_refuses_what_a_field_does_not_hold() -> None:
    found = problems(
        set={".device.name": 1, ".id": "7", ".id.x": 1, ".device": {}, ".nowhere": 1, ".transaction.total_price": "1"}
    )
    assert set(found) == {
        f"set.{path}" for path in (".device.name", ".id", ".id.x", ".device", ".nowhere", ".transaction.total_price")
    }


def test_rename_is_refused_on_what_is_delivered() -> None:
    assert "its names are a promise" in problems(rename={".id": ".code"})["rename"]


def test_rename_moves_a_field_of_what_is_not_delivered() -> None:
    made = pipeline(schema="endpoint", rename={".name": ".ip_address"})
    assert value(made, {"id": 1, "name": "x", "ip_address": "y"}) == {"id": 1, "ip_address": "x"}
    assert value(made, {"id": 1, "ip_address": "y"}) == {"id": 1, "ip_address": "y"}
    assert "do not hold the same" in problems(schema="endpoint", rename={".name": ".id"})["rename..name"]
    twice = problems(schema="endpoint", rename={".name": ".ip_address", ".imei": ".ip_address"})
    assert all("another field is renamed to as well" in twice[f"rename.{old}"] for old in (".name", ".imei"))


def test_redact() -> None:
    rules = [
        {"field": ".user.username", "with": "hash", "key": "names"},
        {"field": ".user.name", "with": "mask"},
        {"field": ".device.name", "with": "last4"},
        {"field": ".transaction.cc.cc_number", "with": "last4"},
    ]
    made = pipeline(redact=rules)
    record = {**SALE, "transaction": {"cc": {"cc_number": "4111111111111111"}}}
    redacted = value(made, record)
    wanted = hmac.new(KEY.material, "zoë@example.com".encode(), hashlib.sha256).hexdigest()
    assert redacted["user"] == {"id": 3, "username": wanted, "name": "***"}
    assert redacted["device"]["name"] == "***"
    assert redacted["transaction"]["cc"] == {"cc_number": "************1111"}
    assert value(made, {"user": {"name": None}}) == {"user": {"name": None}}
    assert value(made, {}) == {}


def test_redact_is_checked() -> None:
    encrypt = [{"field": ".device.name", "key": "names"}]
    found = problems(
        drop=[".user"],
        redact=[
            {"field": ".user.name", "with": "mask"},
            {"field": ".id", "with": "mask"},
            {"field": ".device.name", "with": "hash", "key": "names"},
        ],
        encrypt=encrypt,
    )
    assert "is dropped before" in found["redact.0.field"]
    assert "no field that holds text" in found["redact.1.field"]
    assert "use a key of its own" in found["redact.2.key"]
    assert "is redacted before" in found["encrypt.0.field"]
    assert "needs a key" in problems(redact=[{"field": ".user.name", "with": "hash"}])["redact.0.key"]
    twice = problems(redact=[{"field": ".user.name", "with": one} for one in ("mask", "last4")])
    assert twice == {"redact.1.field": " .user.name is redacted already; one rule decides what becomes of it"}


def test_sample_keeps_the_records_of_one_id_together_and_decides_the_same_again() -> None:
    made = pipeline(sample={"one_in": 4, "by": ".device.id"})
    records = [{"id": n, "device": {"id": f"d-{n % 50}"}} for n in range(1000)]
    done = process(made, *records)
    stayed = {n % 50 for n in done.positions}
    assert list(done.positions) == [n for n in range(1000) if n % 50 in stayed]
    assert 2 < len(stayed) < 30
    assert done.left_out["sample"] == 1000 - len(done.positions)
    assert list(process(made, *records, start=5000).positions) == list(done.positions)
    assert list(process(pipeline(sample={"one_in": 4, "by": ".device.id"}), *records).positions) == list(done.positions)


def test_sample_without_a_field_and_what_always_stays() -> None:
    always = [{"field": ".transaction.quantity", "op": "greater", "value": 1}]
    made = pipeline(sample={"one_in": 1000, "by": ".device.id", "always": always})
    records = [{"id": n} for n in range(3000)]
    stays = len(process(made, *records, SALE).positions)
    assert 3000 in process(made, *records, SALE).positions
    assert 1 < stays < 30, "records that lack the field were all treated alike"


def test_deduplicate_leaves_out_what_was_seen_but_never_what_is_read_again() -> None:
    made = pipeline(deduplicate={"by": [".id", ".device.id"], "window": 3})
    one, two, none = {"id": 1, "device": {"id": "a"}}, {"id": 1, "device": {"id": "b"}}, {"device": {"id": "a"}}
    done = process(made, one, two, one, none, none)
    assert list(done.positions) == [0, 1, 3, 4]
    assert done.left_out["deduplicate"] == 1
    again = process(made, one, two, one, none, none)
    assert list(again.positions) == [0, 1, 3, 4], "the same records, read again, were taken for repeats"
    assert list(process(made, one, start=9, partition=1).positions) == [0], "another partition has ids of its own"
    others = [{"id": n, "device": {"id": "a"}} for n in (5, 6, 7)]
    process(made, *others, start=20)
    assert list(process(made, one, start=30).positions) == [0], "the window did not move on"


def test_a_record_that_is_refused_does_not_take_the_place_of_the_good_one() -> None:
    made = pipeline(deduplicate={"by": [".id"]}, encrypt=[{"field": ".transaction.cc.cc_number", "key": "names"}])
    bad, good = {"id": 1, "transaction": {"cc": {}}}, {"id": 1, "transaction": {"cc": {"cc_number": "4111"}}}
    assert process(made, bad, start=5).dead
    assert list(process(made, good, start=6).positions) == [0]
    assert list(process(made, good, start=7).positions) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["good", "lacks", "in clear"])), max_size=30))
def test_of_each_id_that_has_a_good_record_in_a_batch_one_is_delivered(sent: list[tuple[int, str]]) -> None:
    made = pipeline(deduplicate={"by": [".id"]}, encrypt=[{"field": ".transaction.cc.cc_number", "key": "names"}])
    cc = {"good": {"cc_number": "4111"}, "lacks": {}, "in clear": {"cc_number": "4111", "cc_name": "4111111111111111"}}
    records = [{"id": id_, "transaction": {"cc": cc[kind]}} for id_, kind in sent]
    done = process(made, *records)
    assert {sent[at][0] for at in done.positions} == {id_ for id_, kind in sent if kind == "good"}
    assert all(sent[at][1] == "good" for at in done.positions)
    assert len(done.positions) + len(done.dead) + done.left_out["deduplicate"] == len(sent)
    later = process(made, *[{"id": id_, "transaction": {"cc": cc["good"]}} for id_ in range(4)], start=len(sent))
    assert {*later.positions} == {*range(4)} - {sent[at][0] for at in done.positions}


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=25),
    st.lists(st.integers(0, 25), min_size=2, max_size=2),
    st.integers(0, 25),
)
def test_every_id_of_a_partition_reaches_a_reader_whenever_a_worker_crashes(
    sent: list[tuple[int, int]], settled: list[int], crash: int
) -> None:
    """Records (partition, id) come in this order; the worker dies after some, with less of each partition settled than it had
    written; its heir goes on from there. A reader drops what is not above the offset it saw last.
    """
    logs: list[list[int]] = [[], []]
    order = []
    for partition, id_ in sent:
        order.append((partition, len(logs[partition])))
        logs[partition].append(id_)
    read: list[list[int]] = [[], []]
    highest = [-1, -1]

    def work(made: Pipeline, partition: int, offset: int) -> None:
        done = process(made, {"id": logs[partition][offset]}, start=offset, partition=partition)
        if list(done.positions) and offset > highest[partition]:
            highest[partition] = offset
            read[partition].append(logs[partition][offset])

    first = pipeline(deduplicate={"by": [".id"], "window": 1000})
    for partition, offset in order[:crash]:
        work(first, partition, offset)
    heir = pipeline(deduplicate={"by": [".id"], "window": 1000})
    for partition in (1, 0):
        written = sum(one == partition for one, _ in order[:crash])
        for offset in range(min(settled[partition], written), len(logs[partition])):
            work(heir, partition, offset)
    for partition in (0, 1):
        assert set(read[partition]) == set(logs[partition])


@given(st.lists(st.integers(0, 6), max_size=40), st.integers(0, 40))
def test_nothing_is_lost_by_deduplication_when_a_worker_goes_back(ids: list[int], back: int) -> None:
    """Whatever is read again from an offset on, each id was let through at least once."""
    made = pipeline(deduplicate={"by": [".id"], "window": 2})
    records = [{"id": id_} for id_ in ids]
    process(made, *records)
    again = process(made, *records[back:], start=back)
    first_there = {id_: n for n, id_ in reversed(list(enumerate(ids)))}
    let_through = {ids[back + n] for n in again.positions}
    assert let_through >= {id_ for id_, n in first_there.items() if n >= back}


def test_match_all_gives_every_route_a_copy() -> None:
    routes = {
        "large": [{"field": ".transaction.quantity", "op": "greater", "value": 1}],
        "till": [{"field": ".device.name", "op": "equal", "value": "till"}],
    }
    encrypt = [{"field": ".transaction.cc.cc_number", "key": "names"}]
    made = pipeline(routes=routes, match="all", encrypt=encrypt)
    done = process(made, SALE, {"device": {"name": "till"}}, {"id": 1})
    assert list(done.positions) == [0, 0, 2]
    assert done.routes == ["large", "till", "unmatched"]
    assert done.values[0] == done.values[1]
    assert b"4111" not in done.values[0]
    assert [(n, why.reason) for n, why in done.dead] == [(1, "card-field-missing")]


def test_unlike_comparisons_are_counted() -> None:
    routes = {"a": [{"field": ".detail.n", "op": "greater", "value": 1}]}
    done = process(pipeline(routes=routes), {"detail": {"n": "5"}}, {"detail": {"n": 5}}, {"detail": {}})
    assert (done.routes, done.unlike) == (["unmatched", "a", "unmatched"], 1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"op": "equal", "value": 1}, {"op": "equal", "value": 2}),
        ({"op": "equal", "value": 1}, {"op": "in", "value": [2, 3]}),
        ({"op": "equal", "value": 1}, {"op": "not_equal", "value": 1}),
        ({"op": "less", "value": 1}, {"op": "greater_or_equal", "value": 1}),
        ({"op": "less_or_equal", "value": 1}, {"op": "greater_or_equal", "value": 1.5}),
        ({"op": "is_null"}, {"op": "greater", "value": 1}),
    ],
)
def test_routes_that_never_match_are_refused(one: dict[str, Any], other: dict[str, Any]) -> None:
    for pair in ([one, other], [other, one]):
        conditions = [{"field": ".transaction.quantity", **each} for each in pair]
        assert "exclude each other" in problems(routes={"a": conditions})["routes.a"]
        assert "exclude each other" in problems(routes={"a": [{"all": conditions}]})["routes.a"]
        pipeline(routes={"a": [{"any": conditions}]})


@pytest.mark.parametrize(
    ("op", "value", "ignore_case", "meets"),
    [
        ("starts_with", "Sale", False, True),
        ("starts_with", "sale", False, False),
        ("starts_with", "sale", True, True),
        ("ends_with", "Sale", False, False),
        ("contains", "1", False, True),
        ("contains", "2", True, False),
        ("matches", "^sale [0-9]$", True, True),
        ("matches", "^sale", False, False),
    ],
)
def test_a_text_that_a_route_demands_must_meet_the_other_tests_of_it(
    op: str, value: str, ignore_case: bool, meets: bool
) -> None:
    conditions = [
        {"field": ".event", "op": "equal", "value": "Sale 1"},
        {"field": ".event", "op": op, "value": value, "ignore_case": ignore_case},
    ]
    if meets:
        made = pipeline(routes={"a": conditions})
        assert process(made, {"event": "Sale 1"}).routes == ["a"]
    else:
        assert "exclude each other" in problems(routes={"a": conditions})["routes.a"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"op": "equal", "value": 1}, {"op": "in", "value": [1, 3]}),
        ({"op": "less_or_equal", "value": 1}, {"op": "greater_or_equal", "value": 1}),
        ({"op": "is_null"}, {"op": "exists"}),
        ({"op": "equal", "value": 1}, {"op": "is_number"}),
    ],
)
def test_routes_that_may_match_are_not(one: dict[str, Any], other: dict[str, Any]) -> None:
    pipeline(routes={"a": [{"field": ".transaction.quantity", **each} for each in (one, other)]})


def test_a_route_behind_one_that_takes_all_of_its_records_is_refused() -> None:
    wide = {"field": ".transaction.quantity", "op": "greater", "value": 1}
    narrow = {"field": ".device.name", "op": "equal", "value": "x"}
    found = problems(routes={"wide": [wide], "narrow": [narrow, wide]})
    assert "wide stands before it" in found["routes.narrow"]
    pipeline(routes={"narrow": [narrow, wide], "wide": [wide]})
    pipeline(routes={"wide": [wide], "narrow": [narrow, wide]}, match="all")


def test_what_decides_about_a_record_must_be_there_and_steady() -> None:
    enrich = [{"by": ".endpoint.id", "from": "endpoints", "into": ".endpoint"}]
    found = problems(
        enrich=enrich,
        keep=[".id", ".device.name"],
        redact=[{"field": ".device.name", "with": "mask"}],
        sample={"one_in": 2, "by": ".endpoint.name"},
        deduplicate={"by": [".device.name", ".detail"]},
        routes={"a": [{"field": ".user.id", "op": "equal", "value": 1}]},
        encrypt=[{"field": ".transaction.cc.cc_number", "key": "names"}],
    )
    assert "filled in by enrich" in found["sample.by"]
    assert "is redacted before" in found["deduplicate.by.0"]
    assert "name a field that holds" in found["deduplicate.by.1"]
    assert "not among what is kept" in found["routes.a.0.field"]
    assert "not among what is kept" in found["encrypt.0.field"]
    alike = problems(set={".device.name": "x"}, deduplicate={"by": [".device.name"]})
    assert "all records would be alike" in alike["deduplicate.by"]
    pipeline(set={".device.name": "x"}, deduplicate={"by": [".id", ".device.name"]})


def test_a_path_is_the_same_however_it_is_written() -> None:
    quoted = '.transaction.cc["cc_number_iv"]'
    rules = [
        {"field": f".transaction.cc.{name}", "key": "names", "algorithm": "AES-256-CFB", "iv_field": path}
        for name, path in (("cc_number", quoted), ("cc_exp", ".transaction.cc.cc_number_iv"))
    ]
    assert "is an iv_field already" in problems(encrypt=rules)["encrypt.1.iv_field"]
    made = pipeline(encrypt=[{"field": '["transaction"]["cc"].cc_number', "key": "names"}])
    (_, why), *_ = process(made, {"transaction": {"cc": {"cc_number": 4111}}}).dead
    assert (why.reason, why.path) == ("card-field-not-a-string", ".transaction.cc.cc_number")


def test_a_renamed_field_is_gone_for_what_comes_after() -> None:
    found = problems(
        schema="sim",
        rename={".iccid": ".msisdn"},
        redact=[{"field": ".iccid", "with": "mask"}],
        encrypt=[{"field": ".iccid", "key": "names"}],
    )
    assert "is renamed before" in found["redact.0.field"]
    assert "is renamed before" in found["encrypt.0.field"]
    swapped = problems(schema="sim", rename={".iccid": ".msisdn", ".msisdn": ".iccid"})
    assert all("is renamed itself" in swapped[f"rename.{path}"] for path in (".iccid", ".msisdn"))


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (".timestamp", "yesterday", "write it like"),
        (".timestamp", "2021-10-27 08:38:02", "write 2021-10-27T08:38:02Z"),
        (".event_severity.description", "WARN", "write Warn"),
        (".detail", {"quota": {"autoRefill": 1}}, "another form"),
        (".detail", {"a": [2**63]}, "64 bits"),
    ],
)
def test_set_gives_no_value_in_another_form_than_records_leave_in(path: str, value: Any, says: str) -> None:
    assert says in problems(set={path: value})[f"set.{path}"]
    pipeline(set={".timestamp": "2021-10-27T08:38:02.5Z", ".detail": {"quota": {"auto_refill": 1}}})


def test_set_gives_open_fields_what_yaml_reads() -> None:
    made = pipeline(set={".detail": {"since": datetime.date(2021, 1, 1)}, ".endpoint.tags": datetime.date(2021, 1, 2)})
    assert process(made, {"endpoint": {}}).values == [
        b'{"endpoint":{"tags":"2021-01-02"},"detail":{"since":"2021-01-01"}}'
    ]


def test_set_gives_decimals_their_fractions() -> None:
    made = pipeline(schema="usage", set={".cost": 0.1})
    assert process(made, {"id": 1}).values == [b'{"id":1,"cost":0.1}']


@pytest.mark.parametrize("op", ["equal", "in", "contains"])
@pytest.mark.parametrize("field", [".device.location", ".detail.l"])
def test_fractions_are_equal_in_lists_and_open_fields(op: str, field: str) -> None:
    at = field if op == "contains" else f"{field}[0]"
    routes = {"a": [{"field": at, "op": op, "value": [48.1] if op == "in" else 48.1}]}
    done = process(pipeline(routes=routes), {"device": {"location": [48.1, 2]}, "detail": {"l": [48.1]}}, {})
    assert done.routes == ["a", "unmatched"]
