"""JSON as the streamer of 2019 wrote it, for receivers that were built then.

Timestamps are `2021-10-06 10:42:58`, UTC, in whole seconds; `alert` is 0 or 1; the severity is `WARN`; what reported an event
is its source's `name`; and the keys of an event stand as they did. Names and order keep the same promise: what came later stands
at the end.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from schemas.drift import parsed
from schemas.fields import Field
from schemas.settling import SEVERITIES
from schemas.subjects import Subject
from schemas.timestamps import UTC

_ORDER = (
    "id", "timestamp", "event_source", "event_severity", "event_type", "organisation", "user", "alert", "description",
    "endpoint", "sim", "imsi", "detail",
)  # fmt: skip
"""Of the keys of an event (the documented examples of 2021). Usage has no other order than today's."""
_LONGEST = len("2021-10-06T10:42:58")
_IN_CAPITALS = list(SEVERITIES.values())
_is_utc = re.compile(UTC).fullmatch
_encode = msgspec.json.Encoder(decimal_format="number").encode


def json_2019(subject: Subject) -> Callable[[bytes], bytes]:
    """Turns records, JSON as the codec writes it, into that of 2019. About 5 us a record.

    What is no timestamp in a timestamp field, or no source and severity as the schema has them, stays as it is; so does what
    somebody else wrote into the topic and is no JSON object.
    """
    fields = subject.fields
    is_event = any(field.name == "event_severity" for field in fields)

    def convert(value: bytes) -> bytes:
        try:
            record = parsed(value)
        except (ValueError, ArithmeticError, RecursionError):
            return value
        if type(record) is not dict:
            return value
        _timestamps(fields, record)
        return _encode(_event(record) if is_event else record)

    return convert


def _timestamps(fields: tuple[Field, ...], record: dict[str, Any]) -> None:
    for field in fields:
        value = record.get(field.name)
        if field.kind == "timestamp" and type(value) is str and _is_utc(value):
            record[field.name] = f"{value[:10]} {value[11:_LONGEST]}"
        elif field.kind == "record" and type(value) is dict:
            _timestamps(field.fields, value)


def _event(record: dict[str, Any]) -> dict[str, Any]:
    if type(record.get("alert")) is bool:
        record["alert"] = int(record["alert"])
    severity, source = record.get("event_severity"), record.get("event_source")
    if type(severity) is dict and severity.get("description") in _IN_CAPITALS:
        severity["description"] = severity["description"].upper()
    if type(source) is dict and "description" in source and "name" not in source:
        record["event_source"] = {"name" if key == "description" else key: item for key, item in source.items()}
    return {name: record[name] for name in _ORDER if name in record} | record
