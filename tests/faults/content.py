"""What is delivered of a record, said a second time: it shares no code with the product. Card fields are compared elsewhere."""

import zlib
from typing import Any, Protocol

import orjson

from sluice.demo.configuration import CARD_FIELDS

_OUTCOMES = {"success": True, "fail": False}
_SEVERITIES = {"INFO": "Info", "WARN": "Warn", "CRITICAL": "Critical"}
_IN_NO_SCHEMA = ("firmware_channel",)
"""What devices send beside the fields of the schema."""


class Record(Protocol):
    key: bytes | None
    timestamp: int
    value: bytes


def expected(record: Record) -> int:
    """A checksum of key, timestamp and content that must be delivered of a device's record."""
    return _checksum(record, _as_delivered(orjson.loads(record.value)))


def found(record: Record) -> int:
    """The same of a record that was delivered."""
    return _checksum(record, orjson.loads(record.value))


def _checksum(record: Record, content: dict[str, Any]) -> int:
    card = (content.get("transaction") or {}).get("cc") or {}
    for name in CARD_FIELDS:
        card.pop(name, None)
        card.pop(f"{name}_iv", None)
    value = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return zlib.crc32(value, zlib.crc32(b"%d %b" % (record.timestamp, record.key or b"")))


def _as_delivered(record: dict[str, Any]) -> dict[str, Any]:
    """The record, in place, with known drift put right and dropped fields gone."""
    for name in ("buffer", *_IN_NO_SCHEMA):
        record.pop(name, None)
    if "alert" in record:
        record["alert"] = bool(record["alert"])
    text = record.get("timestamp")
    if isinstance(text, str) and text[10:11] == " ":
        record["timestamp"] = f"{text[:10]}T{text[11:]}Z"
    severity = record.get("event_severity")
    if severity and severity["description"] in _SEVERITIES:
        severity["description"] = _SEVERITIES[severity["description"]]
    source = record.get("event_source")
    if source and "name" in source:
        source["description"] = source.pop("name")
    quota = (record.get("detail") or {}).get("quota")
    if quota:
        if isinstance(quota.get("volume"), str):
            quota["volume"] = float(quota["volume"])
        if "autoRefill" in quota:
            quota["auto_refill"] = quota.pop("autoRefill")
    paid = record.get("transaction")
    if paid and isinstance(paid.get("result"), str):
        paid["result"] = _OUTCOMES.get(paid["result"], paid["result"])
    return record
