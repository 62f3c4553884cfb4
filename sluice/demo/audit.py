"""Makes the ledger: reads everything back, asks the oracle, and compares."""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from aiokafka import ConsumerRecord

from sluice.demo.flow import whole_topic
from sluice.demo.ledger import ROUTES, Account, CardNumbers, Ledger, pipeline_balance
from sluice.demo.oracle import STREAMS, Truth, truth
from sluice.demo.readback import read_all
from sluice.demo.stage import Stage


async def audit(stage: Stage, chaos: bool, kills: int, problems: Sequence[str], keep: Path | None) -> Ledger:
    """The ledger of what is there now, when nobody writes any more. `problems` were seen before, and stand first.

    Takes about 30 s for a million records. Raises KafkaError, OSError and botocore's errors for what cannot be read back.
    """
    found = list(problems)
    if chaos and not kills:
        found.append("no worker was killed, so --chaos has shown nothing: let it run longer with --seconds")
    raw = {name: await whole_topic(stage.config.kafka, one.source) for name, one in stage.config.pipelines.items()}
    truths = {name: [_truth(name, record) for record in records] for name, records in raw.items()}
    numbers = CardNumbers(record.value for records in raw.values() for record in records)
    sent_at = [record.timestamp for records in raw.values() for record in records]
    seconds = (max(sent_at) - min(sent_at)) / 1000
    del raw
    pipelines = {}
    for name in stage.config.pipelines:
        pipelines[name], wrong = await _pipeline(stage, name, truths[name], numbers)
        found += wrong
    found += await _dead_letters_of_streams(stage, numbers)
    accounts = {stream: Account(stream, expected(stream, truths), stage.keys) for stream in STREAMS}
    await asyncio.to_thread(read_all, stage, accounts, numbers, keep)
    for stream, account in accounts.items():
        found += account.problems(exactly_once=stage.config.streams[stream].s3 is not None)
    found += _in_logs(stage.logs, numbers)
    streams = {stream: account.as_json() for stream, account in accounts.items()}
    return Ledger(seconds, pipelines, streams, kills, tuple(found))


def expected(stream: str, truths: dict[str, list[Truth]]) -> dict[int, Truth]:
    """What must be at a stream's destination, by the records' ids."""
    return {one.id: one for every in truths.values() for one in every if stream in one.streams and one.id is not None}


def _truth(pipeline: str, record: ConsumerRecord) -> Truth:
    """The raw topics alone say what was sent, not what somebody believes to have sent."""
    return truth(pipeline, f"{record.topic}/{record.partition}/{record.offset}", record.value)


async def _pipeline(
    stage: Stage, name: str, truths: Iterable[Truth], numbers: CardNumbers
) -> tuple[dict[str, int], list[str]]:
    routed: dict[str, list[str]] = {}
    clear = []
    for route in stage.config.pipelines[name].route_names():
        records = await whole_topic(stage.config.kafka, f"{name}.{route}")
        routed[route] = [_origin(record) for record in records]
        clear += _in_topic(f"{name}.{route}", records, numbers)
    letters = await whole_topic(stage.config.kafka, f"{name}.dlq")
    counts, problems = pipeline_balance(name, truths, routed, map(_origin, letters))
    assert routed.keys() <= set(ROUTES), "the demo's config has no other routes"
    return counts, problems + clear + _in_topic(f"{name}.dlq", letters, numbers)


async def _dead_letters_of_streams(stage: Stage, numbers: CardNumbers) -> list[str]:
    """The stand-ins take everything, so a stream has no reason for a dead letter."""
    problems = []
    for stream in STREAMS:
        letters = await whole_topic(stage.config.kafka, f"{stream}.dlq")
        if letters:
            problems.append(f"{stream}.dlq: holds {len(letters)} records, none was expected")
        problems += _in_topic(f"{stream}.dlq", letters, numbers)
    return problems


def _origin(record: ConsumerRecord) -> str:
    return next((value.decode(errors="replace") for name, value in record.headers if name == "sluice-id"), "")


def _in_topic(topic: str, records: Iterable[ConsumerRecord], numbers: CardNumbers) -> list[str]:
    count = sum(
        numbers.in_clear(b"\n".join(part for part in (record.key, record.value, *_header_values(record)) if part))
        for record in records
    )
    return [f"{topic}: {count} card numbers are in clear"] if count else []


def _header_values(record: ConsumerRecord) -> Iterable[bytes]:
    return (value for _, value in record.headers)


def _in_logs(logs: Path, numbers: CardNumbers) -> list[str]:
    counts = {log.name: numbers.in_clear(log.read_bytes()) for log in sorted(logs.iterdir())}
    return [f"the log {name}: {count} card numbers are in clear" for name, count in counts.items() if count]
