"""Promise: what is put right for a batch at once becomes, and is counted, as if each record had been looked at by itself."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import PipelineConfig
from pipeline.keys import Keys
from pipeline.pipeline import Pipeline
from pipeline.references import Tables
from schemas.codec import Codec
from schemas.refused import Refused
from schemas.subjects import load
from tests.raw import Raw

FORMS = [
    "2021-10-27T08:38:02.000Z", "2021-10-27T08:38:02Z", "2024-02-29T23:59:60Z", "2021-10-27 08:38:02", "2021-10-27T10:38:02+02",
    "2021-10-27T08:38:02z", "yesterday", "", "\n", "2021-10-27T08:38:02Z\n", "2021-10-27T08:38:02Z\n2021-10-27T08:38:02Z",
    "2021-13-27T08:38:02Z", "2021-02-30T00:00:00Z", "٢٠٢١-10-27T08:38:02Z",
]  # fmt: skip
timestamps = st.one_of(st.sampled_from(FORMS), st.none())
severities = st.sampled_from(["INFO", "WARN", "CRITICAL", "Info", "FATAL", "info", "", None])
quotas = st.dictionaries(
    st.sampled_from(["autoRefill", "auto_refill", "volume", "Volume"]), st.sampled_from(["1.5", "x", 2])
)
records = st.fixed_dictionaries(
    {"id": st.integers(0, 9)},
    optional={
        "timestamp": timestamps,
        "event_severity": st.one_of(st.none(), st.fixed_dictionaries({"description": severities})),
        "sim": st.one_of(st.none(), st.fixed_dictionaries({}, optional={"production_date": timestamps})),
        "detail": st.one_of(
            st.none(), st.fixed_dictionaries({}, optional={"quota": st.one_of(quotas, st.just("much"))})
        ),
        "transaction": st.fixed_dictionaries({"result": st.sampled_from(["success", "fail", True, None])}),
        "alert": st.sampled_from([True, 0, 1]),  # the last two take the other way
    },
)


@given(st.lists(records, max_size=8))
def test_both_ways_make_the_same_of_records(given_records: list[dict[str, Any]]) -> None:
    values = [json.dumps(one).encode() for one in given_records]
    fast, slow = Codec(load("event")), Codec(load("event"))
    expected = [slow.encode(slow.decode_slowly(value)) for value in values]
    assert [fast.encode(fast.decode(value)) for value in values] == expected
    assert fast.drift == slow.drift
    pipeline = Pipeline("p", PipelineConfig.model_validate({"from": "r", "schema": "event"}), Keys.none(), Tables())
    done = pipeline.process([Raw(value) for value in values])
    assert done.values == expected
    assert done.drift == fast.drift


@given(st.lists(st.sampled_from([
    b'{"id":1,"detail":{"a":{"b":[9223372036854775807,-9223372036854775808,1.5]}}}',
    b'{"id":2,"detail":{"quota":{"volume":"1.5"}},"alert":1}',
    b'{"id":3,"timestamp":"2021-10-27 08:38:02"}',
    b'{"id":4,"detail":{"a":[9223372036854775808]}}',
    b'{"id":5,"detail":{"quota":{"autoRefill":true},"a":{"b":-1e999}}}',
    b'{"id":6,"detail":' + b'{"a":' * 99 + b"1" + b"}" * 99 + b',"timestamp":"2021-10-27 08:38:02"}',
    b'{"id":7,"detail":' + b'{"a":' * 98 + b"1" + b"}" * 98 + b"}",
    b"no JSON",
]), max_size=8))  # fmt: skip
def test_an_object_with_what_none_may_hold_costs_the_others_of_its_batch_nothing(values: list[bytes]) -> None:
    together, apart = Codec(load("event")), Codec(load("event"))
    batch, refused = together.decode_batch(values)
    taken, reasons = [], []
    for position, value in enumerate(values):
        try:
            taken.append(apart.encode(apart.decode(value)))
        except Refused as why:
            reasons.append((position, why.reason, why.path))
    assert [together.encode(record) for record in batch] == taken
    assert [(position, why.reason, why.path) for position, why in refused] == reasons
    assert together.drift == apart.drift
    wrong = {4: ("wrong-type", ".detail"), 5: ("wrong-type", ".detail"), 6: ("too-deep", "")}
    for position, *reason in reasons:
        number = int(values[position][6:7]) if values[position][:1] == b"{" else 0
        assert tuple(reason) == wrong.get(number, ("not-json", ""))
