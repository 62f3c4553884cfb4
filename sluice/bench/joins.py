"""The data-streamer's work by hand: four joins over references in dicts, and what has no place there dropped.

It takes well-formed records alone and checks nothing. References are read once, before the first record, and not followed.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer

JOINS = {"endpoint": "endpoints", "sim": "sims", "imsi": "imsis", "user": "users"}
"""The object of a record that holds the id, and the reference that knows the rest of it."""
DROPPED = ("buffer", "transaction")
_FILLED = {
    "endpoint": ("name", "imei", "ip_address", "tags"),
    "sim": ("iccid", "msisdn", "production_date"),
    "imsi": ("imsi", "import_date"),
    "user": ("username", "name"),
}
References = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""The entries of each reference by id."""


def reference_topics(topic: str) -> dict[str, str]:
    """The reference topics that stand beside an input topic, by reference."""
    return {name: f"{topic}-{name}" for name in JOINS.values()}


async def read_references(brokers: str, topic: str) -> References:
    """Everything that the reference topics beside `topic` hold. Raises KafkaError."""
    sources = {source: name for name, source in reference_topics(topic).items()}
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in sources.values()}
    consumer = AIOKafkaConsumer(*sources, bootstrap_servers=brokers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        ends = await consumer.end_offsets(consumer.assignment())
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for tp, records in (await consumer.getmany(timeout_ms=200)).items():
                found[sources[tp.topic]].update((int(record.key), orjson.loads(record.value)) for record in records)
    finally:
        await consumer.stop()
    return found


def join_each(values: list[bytes], references: References) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records with what the references know and they lack, in order, each with the index of its one route. Each is made when
    it is asked for: one at a time stays in the processor's cache."""
    joins = [(name, references[table], _FILLED[name]) for name, table in JOINS.items()]
    for value in values:
        record = orjson.loads(value)
        for name in DROPPED:
            record.pop(name, None)
        for name, entries, filled in joins:
            held = record.get(name)
            if held:
                known = entries.get(held["id"])
                for field in filled:
                    if held.get(field) is None and (known is None or known.get(field) is not None):
                        held[field] = known and known[field]
        yield 0, record
