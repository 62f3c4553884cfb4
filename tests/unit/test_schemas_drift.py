"""What producers are known to write differently comes out in the form of the contract, counted by kind."""

import json
from collections import Counter
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import Codec
from schemas.refused import Refused
from schemas.subjects import load
from schemas.timestamps import in_utc


@pytest.mark.parametrize(
    ("came", "goes", "counted"),
    [
        ('{"alert":1}', '{"alert":true}', {"flag": 1}),
        ('{"alert":0}', '{"alert":false}', {"flag": 1}),
        ('{"transaction":{"result":"success"}}', '{"transaction":{"result":true}}', {"outcome": 1}),
        ('{"transaction":{"result":"fail"}}', '{"transaction":{"result":false}}', {"outcome": 1}),
        ('{"event_severity":{"description":"WARN"}}', '{"event_severity":{"description":"Warn"}}', {"severity": 1}),
        ('{"event_severity":{"description":"INFO"}}', '{"event_severity":{"description":"Info"}}', {"severity": 1}),
        (
            '{"event_severity":{"description":"CRITICAL"}}',
            '{"event_severity":{"description":"Critical"}}',
            {"severity": 1},
        ),
        ('{"event_severity":{"description":"ODD"}}', '{"event_severity":{"description":"ODD"}}', {}),
        ('{"event_source":{"id":1,"name":"API"}}', '{"event_source":{"id":1,"description":"API"}}', {"source-name": 1}),
        (
            '{"event_source":{"name":"API","description":null}}',
            '{"event_source":{"description":"API"}}',
            {"source-name": 1},
        ),
        (
            '{"event_source":{"description":null,"name":null}}',
            '{"event_source":{"description":null}}',
            {"source-name": 1},
        ),
        (
            '{"event_source":{"name":"x","description":"y"}}',
            '{"event_source":{"description":"y"}}',
            {"unknown-field": 1},
        ),
        ('{"timestamp":"2021-10-27T08:38:02.000Z"}', '{"timestamp":"2021-10-27T08:38:02.000Z"}', {}),
        ('{"timestamp":"2021-10-27T15:17:23Z"}', '{"timestamp":"2021-10-27T15:17:23Z"}', {}),
        ('{"timestamp":"2021-10-06 10:42:58"}', '{"timestamp":"2021-10-06T10:42:58Z"}', {"timestamp": 1}),
        ('{"timestamp":"2017-10-26T07:28:00.000+0000"}', '{"timestamp":"2017-10-26T07:28:00.000Z"}', {"timestamp": 1}),
        ('{"timestamp":"2017-10-26T07:28:00+0000"}', '{"timestamp":"2017-10-26T07:28:00Z"}', {"timestamp": 1}),
        ('{"timestamp":"2021-10-06 10:42:58.123"}', '{"timestamp":"2021-10-06T10:42:58.123Z"}', {"timestamp": 1}),
        ('{"timestamp":"2021-10-06T10:42:58"}', '{"timestamp":"2021-10-06T10:42:58Z"}', {"timestamp": 1}),
        ('{"timestamp":"2021-10-27T15:17:23.123456789Z"}', '{"timestamp":"2021-10-27T15:17:23.123456789Z"}', {}),
        ('{"timestamp":"2017-10-26T07:28:00.000+0200"}', '{"timestamp":"2017-10-26T05:28:00.000Z"}', {"timestamp": 1}),
        ('{"timestamp":"2021-12-31t22:42:60.5-05:30"}', '{"timestamp":"2022-01-01T04:12:60.5Z"}', {"timestamp": 1}),
        ('{"timestamp":"2021-10-06T10:42:58z"}', '{"timestamp":"2021-10-06T10:42:58Z"}', {"timestamp": 1}),
        ('{"timestamp":"2021-10-06T10:42:58+00"}', '{"timestamp":"2021-10-06T10:42:58Z"}', {"timestamp": 1}),
        ('{"sim":{"production_date":"yesterday"}}', '{"sim":{"production_date":"yesterday"}}', {"timestamp-unread": 1}),
        ('{"detail":"{\\"a\\":[1.50]}"}', '{"detail":{"a":[1.50]}}', {"detail-text": 1}),
        (
            '{"detail":"{\\"expiry_date\\": 2022-03-31T00:00:00Z}"}',
            '{"detail":{"expiry_date":"2022-03-31T00:00:00Z"}}',
            {"detail-text": 1},
        ),
        ('{"detail":"no JSON"}', '{"detail":{"text":"no JSON"}}', {"detail-text": 1}),
        ('{"detail":"[1]"}', '{"detail":{"text":"[1]"}}', {"detail-text": 1}),
        (
            '{"detail":{"quota":{"expiryDate":"x","autoRefill":true,"volume":"1.000000"}}}',
            '{"detail":{"quota":{"expiry_date":"x","auto_refill":true,"volume":1.000000}}}',
            {"camel-case": 2, "number-text": 1},
        ),
        (
            '{"detail":{"quota":{"expiryDate":"a","expiry_date":"b","trafficType":1,"trafficTYPE":2}}}',
            '{"detail":{"quota":{"expiryDate":"a","expiry_date":"b","traffic_type":1,"trafficTYPE":2}}}',
            {"camel-case": 1},
        ),
        ('{"detail":{"quota":{"X":1,"x":2}}}', '{"detail":{"quota":{"X":1,"x":2}}}', {}),
        ('{"detail":{"quota":{"Volume":1}}}', '{"detail":{"quota":{"Volume":1}}}', {}),
        ('{"detail":{"quota":{"volume":"much"}}}', '{"detail":{"quota":{"volume":"much"}}}', {}),
        ('{"detail":{"quota":{"volume":1.000000}}}', '{"detail":{"quota":{"volume":1.000000}}}', {}),
        ('{"detail":{"sim_batch":{"camelCase":1}}}', '{"detail":{"sim_batch":{"camelCase":1}}}', {}),
        ('{"device":{"location":["48.2","16.3"]}}', '{"device":{"location":["48.2","16.3"]}}', {}),
        ('{"datetime":"2023-03-30T16:24:37.393392"}', '{"datetime":"2023-03-30T16:24:37.393392"}', {}),
        ('{"keen":{"id":1},"sim":{"id":1,"colour":"red"}}', '{"sim":{"id":1}}', {"unknown-field": 2}),
        ('{"transaction":{"cc":{"cc_number2":"4"}}}', '{"transaction":{"cc":{}}}', {"unknown-field": 1}),
    ],
)
def test_known_drift_of_events(came: str, goes: str, counted: dict[str, int]) -> None:
    codec = Codec(load("event"))
    assert codec.encode(codec.decode(came.encode())).decode() == goes
    assert codec.drift == counted


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "2021-10-06", "2021-10-06T10:42Z", "2021-13-06T10:42:58Z", "2021-13-46T99:99:99Z", "2021-04-31T10:42:58Z",
        "2021-02-30T10:42:58Z", "2021-10-06T24:00:00Z", "2021-10-06T10:42:58Z\n", "2021-10-06T10:42:58.Z",
        "2021-10-06T10:42:58+02:00Z", "2021-10-06T10:42:58+24:00", "2021-02-29T10:42:58+01:00", "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-00:01", "abcdefghijTthis is text ending in Z", "٢٠٢١-10-06T10:42:58Z",
    ],
)  # fmt: skip
def test_a_timestamp_that_nobody_can_read_goes_as_it_came_and_is_counted(text: str) -> None:
    codec = Codec(load("event"))
    assert codec.decode(json.dumps({"timestamp": text}).encode()).timestamp == text
    assert codec.drift == {"timestamp-unread": 1}


@given(st.datetimes(timezones=st.timezones()), st.sampled_from(["seconds", "milliseconds", "microseconds"]))
def test_any_offset_is_converted_to_the_same_moment_in_utc(moment: datetime, precision: str) -> None:
    came = moment.isoformat(timespec=precision)
    goes = in_utc(came)
    offset = moment.utcoffset()
    assert offset is not None
    if offset.total_seconds() % 60:  # local mean times, before there were zones
        assert goes is None
    elif goes is None:
        assert moment.year in (1, 9999)
    else:
        assert datetime.fromisoformat(goes) == datetime.fromisoformat(came)
        assert len(goes) == len(came) - len("+00:00") + 1, "all places are kept"


@given(
    st.dictionaries(st.text("abB_1", max_size=4) | st.just("volume"), st.integers(0, 9) | st.just("1.50"), max_size=6)
)
def test_no_value_of_a_quota_is_lost_and_both_paths_agree(quota: dict[str, object]) -> None:
    codec = Codec(load("event"))
    value = json.dumps({"detail": {"quota": quota}})
    written = codec.encode(codec.decode(value.encode()))
    assert len(json.loads(written)["detail"]["quota"]) == len(quota)
    assert codec.encode(codec.decode(value.replace("{", '{"strange":0,', 1).encode())) == written
    assert codec.encode(codec.decode_fast(written)) == written, "what is written is within the contract"


@pytest.mark.parametrize("field", ["total", "rx", "tx"])
def test_a_volume_as_text_becomes_the_number_with_its_digits(field: str) -> None:
    codec = Codec(load("usage"))
    assert (
        codec.encode(codec.decode(b'{"volume":{"%s":"1.000000"}}' % field.encode()))
        == b'{"volume":{"%s":1.000000}}' % field.encode()
    )
    assert codec.drift == {"number-text": 1}


def test_a_drift_that_is_not_known_for_a_field_is_refused_there() -> None:
    codec = Codec(load("event"))
    for text, path in (
        ('{"alert":"success"}', ".alert"),
        ('{"transaction":{"result":1}}', ".transaction.result"),
        ('{"transaction":{"quantity":"7"}}', ".transaction.quantity"),
    ):
        with pytest.raises(Refused) as caught:
            codec.decode(text.encode())
        assert (caught.value.reason, caught.value.path) == ("wrong-type", path)


@given(st.lists(st.sampled_from(["alert", "outcome", "clean", "unknown"]), max_size=20))
def test_counts_add_up_over_records(kinds: list[str]) -> None:
    texts = {
        "alert": {"alert": 1},
        "outcome": {"transaction": {"result": "fail"}},
        "clean": {"alert": True},
        "unknown": {"strange": 1},
    }
    codec = Codec(load("event"))
    for kind in kinds:
        codec.decode(json.dumps(texts[kind]).encode())
    names = {"alert": "flag", "outcome": "outcome", "unknown": "unknown-field"}
    assert codec.drift == Counter(names[kind] for kind in kinds if kind in names)
