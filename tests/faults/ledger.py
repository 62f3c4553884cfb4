"""The judge of fault tests: each raw record against what the routed topics and the dead letters hold.

Truth is the raw topic, read committed, and what a second, independent statement of the rules says must become of each record
(`sluice.demo.oracle`, `tests.faults.content`). Readers deduplicate as docs/delivery.md tells them to: one number for each topic,
partition and plan.
"""

import asyncio
import zlib
from array import array
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline.ciphers import DecryptionFailed
from pipeline.dead_letters import unseal
from pipeline.keys import DEAD_LETTERS, Key, Keys, KeysError
from sluice.demo.configuration import CARD_FIELDS
from sluice.demo.ledger import CardNumbers, decrypted
from sluice.demo.oracle import DEAD_LETTER, truth
from stream.reader import Reader
from tests.faults import content

ROUTES = ("success", "fail", "unmatched")
SAMPLE = 97
"""Of every so many routed records the card is decrypted and compared."""
READ_SECONDS = 300


class Unbalanced(AssertionError):
    """A record is missing, there twice, out of order, in the wrong place, changed or in clear."""


@dataclass
class Truth:
    """What was sent: by partition, the offsets that belong in each place, and what every record must hold there."""

    offsets: dict[tuple[int, str], "array[int]"] = field(default_factory=lambda: defaultdict(lambda: array("q")))
    contents: dict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    """A checksum: of what is delivered of a record, card fields apart; of a dead letter, of what was sent."""
    cards: dict[tuple[int, int], tuple[str, ...]] = field(default_factory=dict)
    """Of a sample, by partition and offset."""
    numbers: set[bytes] = field(default_factory=set)
    records: int = 0


@dataclass
class Judgement:
    """A balanced ledger."""

    records: int
    dead_letters: int
    repeats: int
    """Records that stood twice in a routed topic and were recognised."""
    plans: int


async def read_truth(
    brokers: str, raw: str, into: Truth | None = None, start: Mapping[int, int] | None = None
) -> Truth:
    """Read a raw topic, from its beginning or the offsets of `start`; add to `into` if given."""
    known = into or Truth()
    values: list[bytes] = []
    async for partition, record in records_of(brokers, raw, start):
        said = truth("events", "", record.value)
        known.offsets[partition, said.route].append(record.offset)
        known.contents[partition][record.offset] = (
            _sent(record.key, record.value) if said.route == DEAD_LETTER else content.expected(record)
        )
        known.records += 1
        values.append(record.value)
        if said.card is not None and record.offset % SAMPLE == 0:
            known.cards[partition, record.offset] = said.card
    known.numbers |= CardNumbers(values)._numbers
    return known


async def judge(
    brokers: str, name: str, raw: str, keys: Mapping[str, bytes], logs: Iterable[Path] = (), known: Truth | None = None
) -> Judgement:
    """Compare every routed topic and the dead letters of pipeline `name` with the truth, and look into `logs` for card numbers.

    Raises Unbalanced.
    """
    known = known or await read_truth(brokers, raw)
    numbers = CardNumbers([])
    numbers._numbers = known.numbers
    found = Found()
    for route in ROUTES:
        await _read_routed(brokers, raw, f"{name}.{route}", route, known, keys, numbers, found)
    dead = await _read_dead_letters(brokers, name, raw, known, keys, numbers, found)
    for log in logs:
        if clear := numbers.in_clear(log.read_bytes()):
            found.problems.append(f"{log.name}: {clear} card numbers are in clear")
    if known.cards and not found.cards:
        found.problems.append("no card was compared: the sample is empty")
    if found.problems:
        raise Unbalanced("\n".join(found.problems[:40]))
    return Judgement(known.records, dead, found.repeats, len(found.plans))


@dataclass
class Found:
    """What was found in all places."""

    problems: list[str] = field(default_factory=list)
    repeats: int = 0
    cards: int = 0
    plans: set[str] = field(default_factory=set)


async def _read_routed(
    brokers: str, raw: str, topic: str, route: str, known: Truth, keys: Mapping[str, bytes], numbers: CardNumbers,
    found: Found,
) -> None:  # fmt: skip
    readers: dict[int, Reader] = defaultdict(Reader)
    taken: dict[int, array[int]] = defaultdict(lambda: array("q"))
    clear = changed = 0
    async for partition, record in records_of(brokers, topic):
        clear += numbers.in_clear(record.value)
        origin = readers[partition].take(topic, partition, record)
        if origin is None:
            found.repeats += 1
            continue
        offset = int(origin.rpartition("/")[2])
        if origin != f"{raw}/{partition}/{offset}":
            found.problems.append(f"{topic}/{partition}@{record.offset} is from {origin}")
            continue
        taken[partition].append(offset)
        card = known.cards.get((partition, offset))
        found.cards += card is not None
        same = content.found(record) == known.contents[partition].get(offset)
        changed += not same or bool(card and _card(orjson.loads(record.value), keys) != card)
    for partition in {number for number, _ in known.offsets} | set(taken):
        found.problems += _compare(f"{topic}/{partition}", known.offsets[partition, route], taken[partition])
    for reader in readers.values():
        found.plans |= set(reader.seen)
    if clear:
        found.problems.append(f"{topic}: {clear} card numbers are in clear")
    if changed:
        found.problems.append(f"{topic}: {changed} records are not as they were sent")


async def _read_dead_letters(
    brokers: str, name: str, raw: str, known: Truth, keys: Mapping[str, bytes], numbers: CardNumbers, found: Found
) -> int:
    opening = Keys([Key(DEAD_LETTERS, "demo", keys[DEAD_LETTERS])])
    expected = {
        f"{raw}/{p}/{offset}" for (p, route), at in known.offsets.items() if route == DEAD_LETTER for offset in at
    }
    there, clear, changed = set(), 0, 0
    async for partition, record in records_of(brokers, f"{name}.dlq"):
        origin = dict(record.headers)["sluice-id"].decode()
        there.add(origin)
        clear += numbers.in_clear(record.value or b"") + sum(numbers.in_clear(value) for _, value in record.headers)
        if origin in expected:
            offset = int(origin.rpartition("/")[2])
            same = _unsealed(record.value, opening) == known.contents[partition].get(offset)
            changed += not same or origin != f"{raw}/{partition}/{offset}"
    if clear:
        found.problems.append(f"{name}.dlq: {clear} card numbers are in clear")
    if changed:
        found.problems.append(f"{name}.dlq: {changed} letters do not hold what was sent, or are in another partition")
    if lost := sorted(expected - there):
        found.problems.append(f"{name}.dlq: {len(lost)} are missing: {lost[:5]}")
    if strange := sorted(there - expected):
        found.problems.append(f"{name}.dlq: {len(strange)} do not belong there: {strange[:5]}")
    return len(there)


def _sent(key: bytes | None, value: bytes | None) -> int:
    return zlib.crc32(repr((key, value)).encode())


def _unsealed(letter: bytes | None, keys: Keys) -> int | None:
    """The checksum of what a dead letter holds; None for one that holds nothing or cannot be opened."""
    try:
        held = unseal(letter or b"", keys)
    except (DecryptionFailed, KeysError):
        return None
    return _sent(held.key, held.value)


def _compare(place: str, expected: "array[int]", taken: "array[int]") -> list[str]:
    if expected == taken:
        return []
    problems = []
    if lost := sorted(set(expected) - set(taken)):
        problems.append(
            f"{place}: {len(lost)} of {len(expected)} records are missing, raw offsets {lost[:5]} ... {lost[-1]}"
        )
    if strange := sorted(set(taken) - set(expected)):
        problems.append(f"{place}: {len(strange)} records do not belong there: {strange[:5]}")
    if len(set(taken)) < len(taken):
        problems.append(f"{place}: {len(taken) - len(set(taken))} records are there again, and were not recognised")
    return problems or [f"{place}: all records are there, but not in the order of the raw topic"]


def _card(value: dict[str, Any], keys: Mapping[str, bytes]) -> tuple[str | None, ...]:
    card = value["transaction"]["cc"]
    return tuple(decrypted(card, name, keys) for name in CARD_FIELDS)


async def records_of(
    brokers: str, topic: str, start: Mapping[int, int] | None = None
) -> AsyncIterator[tuple[int, Any]]:
    """Every committed record that a topic holds now, with its partition: those of a partition in order."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=brokers, enable_auto_commit=False, auto_offset_reset="earliest",
        isolation_level="read_committed", max_partition_fetch_bytes=4 * 1024 * 1024,
    )  # fmt: skip
    await consumer.start()
    try:
        await consumer._client._wait_on_metadata(topic)
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        consumer.assign(partitions)
        ends, begins = await consumer.end_offsets(partitions), await consumer.beginning_offsets(partitions)
        for tp in partitions:
            consumer.seek(tp, max(begins[tp], (start or {}).get(tp.partition, 0)))
        waiting = {tp for tp in partitions if ends[tp] > begins[tp]}
        async with asyncio.timeout(READ_SECONDS):
            while waiting:
                for tp, records in (await consumer.getmany(timeout_ms=200, max_records=5000)).items():
                    for record in records:
                        if record.offset < ends[tp]:
                            yield tp.partition, record
                waiting = {tp for tp in waiting if await consumer.position(tp) < ends[tp]}
    finally:
        await consumer.stop()
