"""Receivers that were built for the streamer of 2019 get what it wrote, byte for byte, and keys that came later at the end."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.codec import Codec
from schemas.json_2019 import json_2019
from schemas.subjects import load, names
from sluice.config import StreamConfig

EXAMPLES = [(name, path) for name in names() for paths in load(name).examples.values() for path in paths]


def test_the_documented_example_of_2021_comes_out_as_it_was() -> None:
    """It is one of the drifts that pipelines put right on the way in (formats of 2019 to 2021)."""
    folder = Path(__file__).parents[2] / "schemas/event/examples/v4"
    then = (folder / "drift-organisation-blocked-2021.json").read_bytes()
    codec = Codec(load("event"))
    routed = codec.encode(codec.decode(then))
    assert routed != then
    assert json_2019(load("event"))(routed) == json.dumps(json.loads(then), separators=(",", ":")).encode()


def test_what_came_later_stands_at_the_end() -> None:
    made = json_2019(load("event"))(
        b'{"id":1,"datetime":"2023-03-30T16:24:37.393392918Z","device":{"id":"a"},"detail":{"x":1}}'
    )
    assert made == b'{"id":1,"detail":{"x":1},"datetime":"2023-03-30T16:24:37.393392918Z","device":{"id":"a"}}'


def test_usage_keeps_its_order_and_its_decimals() -> None:
    value = b'{"id":1,"start_timestamp":"2022-04-26T11:53:43.260Z","volume":{"total":0.219000},"cost":0.0018851200}'
    assert json_2019(load("usage"))(value) == value.replace(b"2022-04-26T11:53:43.260Z", b"2022-04-26 11:53:43")


@pytest.mark.parametrize(("name", "path"), EXAMPLES, ids=lambda value: getattr(value, "stem", value))
def test_every_example_is_read_back_as_the_same_record(name: str, path: Path) -> None:
    codec = Codec(load(name))
    routed = codec.encode(codec.decode(path.read_bytes()))
    again = json.loads(codec.encode(codec.decode(json_2019(load(name))(routed))))
    assert again == without_fractions(json.loads(routed))


def without_fractions(value: Any) -> Any:
    """Timestamps of the schema in whole seconds; what lies in `detail` is left alone."""
    if isinstance(value, dict):
        return {key: item if key == "detail" else without_fractions(item) for key, item in value.items()}
    if isinstance(value, str) and value[10:11] == "T" and value.endswith("Z"):
        return f"{value[:19]}Z"
    return value


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[1]",
        b"nonsense",
        b"5",
        b"{",
        b'{"event_source":[],"event_severity":5,"alert":"x"}',
        b'{"event_source":{"description":"x","name":"y"}}',
        b'{"event_severity":{"description":[1]}}',
        '{"event_severity":{"description":"Straße"}}'.encode(),
        b'{"event_severity":{"description":"info"}}',
        b'{"timestamp":"abcdefghijTthis is text ending in Z"}',
        b'{"timestamp":"2021-10-06T10:42Z"}',
        b'{"timestamp":"2021-10-06T10:42:58+02:00Z"}',
        b'{"timestamp":"2021-10-06T10:42:58Z\\n"}',
    ],
)
def test_what_somebody_else_wrote_stays_as_it_is(value: bytes) -> None:
    assert json_2019(load("event"))(value) == value


@pytest.mark.parametrize("style", [2019, "2019"])
def test_the_config_takes_the_year_and_refuses_it_where_there_is_no_json(style: object) -> None:
    kinesis = {"from": ["events.success"], "json_style": style, "kinesis": {"stream": "x"}}
    assert StreamConfig.model_validate(kinesis).json_style == 2019
    with pytest.raises(ValidationError, match="json_style is about JSON, and s3 writes csv"):
        StreamConfig.model_validate({"from": ["x"], "json_style": style, "s3": {"bucket": "abc", "format": "csv"}})
    with pytest.raises(ValidationError):
        StreamConfig.model_validate({"from": ["x"], "json_style": 2020, "kinesis": {"stream": "x"}})
