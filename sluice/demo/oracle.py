"""What should become of each record, said a second time in few lines: it shares no code with the product.

It knows the demo's config by heart: the routes and streams of `configuration.py`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from sluice.demo.configuration import CARD_FIELDS

Card = tuple[str, ...]
"""The card fields in clear, in the order of CARD_FIELDS."""

STREAMS = ("s3-fin-transactions", "s3-general", "s3-usage", "kinesis-events", "http-usage")
DEAD_LETTER = "dead-letter"
_DEEPEST = 100


class Truth(NamedTuple):
    """One record as it was sent, and where it must be in the end."""

    origin: str
    """`<raw topic>/<partition>/<offset>`"""
    id: int | None
    """None for what is no record at all."""
    pipeline: str
    route: str
    """success, fail, unmatched or dead-letter"""
    card: Card | None
    streams: frozenset[str]


def truth(pipeline: str, origin: str, value: bytes | None) -> Truth:
    """What must become of a raw message. Raises nothing, whatever `value` is."""
    try:
        record = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        record = None
    if not isinstance(record, dict):
        return Truth(origin, None, pipeline, DEAD_LETTER, None, frozenset())
    paid = record.get("transaction")
    route = "success"
    if pipeline == "events":
        route = DEAD_LETTER if (value or b"").count(b"{") > _DEEPEST else _route(paid)
    card = tuple(paid["cc"][field] for field in CARD_FIELDS) if paid and route != DEAD_LETTER else None
    return Truth(origin, record["id"], pipeline, route, card, frozenset(_streams(pipeline, route, record)))


def _route(paid: Any) -> str:
    if paid is None:
        return "unmatched"
    if not all(isinstance(paid.get("cc", {}).get(field), str) for field in CARD_FIELDS):
        return DEAD_LETTER
    if not isinstance(paid["quantity"], int):
        return DEAD_LETTER
    if paid["total_price"] < 0:
        return "unmatched"
    return {True: "success", "success": "success", False: "fail", "fail": "fail"}.get(paid["result"], "unmatched")


def _streams(pipeline: str, route: str, record: dict[str, Any]) -> Iterator[str]:
    if route == DEAD_LETTER:
        return
    if pipeline == "usage":
        yield from ("s3-usage", "http-usage")
        return
    yield "s3-general"
    if route != "unmatched":
        yield "s3-fin-transactions"
    if (record.get("organisation") or {}).get("id") == 1825 or (
        (record.get("transaction") or {}).get("result") in (False, "fail")
    ):
        yield "kinesis-events"
