"""`sluice send`: records of a file into a pipeline's raw topic, all of them checked before the first is sent."""

import asyncio
import contextlib
import itertools
import secrets
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import BinaryIO

from aiokafka.errors import KafkaConnectionError
from aiokafka.partitioner import murmur2
from rich.console import Console
from rich.progress import Progress, TaskID

from pipeline.keys import Key, Keys
from pipeline.pipeline import Pipeline
from pipeline.references import Tables
from schemas.producer import CONTAINER, Checker, InvalidContainer
from schemas.refused import Refused
from sluice import logs
from sluice.config import Config
from sluice.config_rules import meant
from sluice.exits import Exit, UserError
from sluice.keys import sizes_used
from sluice.topics import cluster
from stream.connection import KafkaConfig
from stream.outbox import Outbox, Packed, ProduceRefused
from stream.reader import ID_HEADER, PLAN_HEADER
from stream.records import Headers

ROUND_RECORDS = 5000
ROUND_BYTES = 8 * 1024 * 1024
IN_MEMORY_BYTES = 64 * 1024 * 1024
"""Of an input that can be read only once; a longer one is kept in a temporary file until it is checked."""
MOST_SAID = 20
PLAN_BYTES = 40
"""No header sluice-plan, `<epoch>.<hash>`, is longer."""


@dataclass(slots=True)
class _Record:
    """One record of the input, as one of the raw topic."""

    offset: int
    """Line of the input, or place in the container, from 1."""
    value: bytes | None
    left_out: Mapping[str, int]
    """What was left out to make JSON of it, by kind."""
    key: bytes | None = None
    timestamp: int = 0
    headers: Headers = ()


def run(config: Config, pipeline: str, source: BinaryIO) -> None:
    """Send the JSON lines or the Avro container in `source` to the pipeline's raw topic, and print how many were acknowledged.

    Every record is checked first, by the pipeline itself, the card fields that it encrypts included: if one would be refused,
    nothing is sent, and each of them is named by its line, with reason and path, never with a value. Empty lines are passed
    over. Records of one device or endpoint go to one partition, in order. Shows its progress on a terminal. Blocks. Raises
    UserError; then what had been acknowledged is said.
    """
    if pipeline not in config.pipelines:
        known = ", ".join(config.pipelines)
        text = f"there is no pipeline {pipeline}{meant(pipeline, config.pipelines)}; known: {known}"
        raise UserError(text, Exit.USAGE)
    logs.silence()
    checker = Checker(config.pipelines[pipeline].subject)
    topic = config.pipelines[pipeline].source
    with _rewindable(source) as (again, start), Progress(console=Console(stderr=True), transient=True) as progress:
        drift, count = _check(_without_keys(config, pipeline), topic, checker, again, config.kafka, progress)
        again.seek(start)
        asyncio.run(_send(config.kafka, topic, _with_keys(checker, again), count, progress))
    normalised = ", ".join(f"{kind} {times}" for kind, times in sorted(drift.items()))
    sys.stdout.write(f"{count} records acknowledged by {topic}\n")
    if normalised:
        sys.stderr.write(f"{pipeline} will normalise or leave out: {normalised}\n")


@contextlib.contextmanager
def _rewindable(source: BinaryIO) -> Iterator[tuple[BinaryIO, int]]:
    """The source, or what it holds, and where it begins: somebody may have read the first lines of a file already."""
    if source.seekable():
        yield source, source.tell()
        return
    with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as kept:
        while data := source.read(1 << 20):
            kept.write(data)
        kept.seek(0)
        yield kept, 0  # type: ignore[misc]  # a BinaryIO in all that is used of it


def _without_keys(config: Config, name: str) -> Pipeline:
    """The pipeline itself, to see what it refuses. A producer has no keys: what these encrypt is thrown away. Nor has it
    references: which ids they lack is not looked at."""
    sizes = sizes_used(config, [name])
    keys = Keys(Key(one, "none", secrets.token_bytes(size)) for one, size in sizes.items())
    settings = config.pipelines[name]
    joins = [rule.model_copy(update={"on_missing": "null"}) for rule in settings.enrich]
    return Pipeline(name, settings.model_copy(update={"enrich": joins}), keys, Tables())


def _with_keys(checker: Checker, source: BinaryIO) -> Iterator[_Record]:
    """Every record with its key. Raises Refused for one that would be refused."""
    for one in _records(checker, source):
        one.key = checker(one.value).key
        yield one


def _records(checker: Checker, source: BinaryIO) -> Iterator[_Record]:
    begins = source.tell()
    head = source.read(len(CONTAINER))
    source.seek(begins)
    if head == CONTAINER:
        for number, (value, left_out) in enumerate(checker.container(source), 1):
            yield _Record(number, value, left_out)
        return
    for number, line in enumerate(source, 1):
        if value := line.rstrip(b"\r\n"):
            yield _Record(number, value, {})


def _check(
    pipeline: Pipeline, topic: str, checker: Checker, source: BinaryIO, kafka: KafkaConfig, progress: Progress
) -> tuple[Counter[str], int]:
    """What will be normalised, and how many records there are. Raises UserError, naming all that cannot be sent."""
    outbox, task = Outbox(kafka, "sluice.send"), progress.add_task("checking", total=None)
    added = [(ID_HEADER, f"{topic}/{2**31}/{2**63}".encode()), (PLAN_HEADER, b" " * PLAN_BYTES)]
    refused: list[tuple[int, Refused]] = []
    drift: Counter[str] = Counter()
    count = 0
    for some in _rounds(_readable(_records(checker, source), refused)):
        processed = pipeline.process(some)
        refused += [(some[at].offset, why) for at, why in processed.dead]
        for at, routed in zip(processed.positions, processed.values, strict=True):
            one = some[at]
            key = checker(one.value).key
            if not (outbox.fits(key, one.value, []) and outbox.fits(key, routed, added)):
                refused.append((one.offset, Refused("too-large")))
        drift.update(processed.drift)
        for one in some:
            drift.update(one.left_out)
        count += len(some)
        progress.update(task, completed=count, description=f"checking, {count} records")
    progress.remove_task(task)
    if refused:
        said = [f"record {number}: {why}" for number, why in sorted(refused, key=itemgetter(0))]
        more = f"\n  and {len(said) - MOST_SAID} more" if len(said) > MOST_SAID else ""
        listed = "\n  ".join(said[:MOST_SAID])
        raise UserError(
            f"{len(refused)} of {count} records would be refused, so nothing was sent:\n  {listed}{more}\n"
            "correct or remove them; docs/producers.md says what each reason means",
            Exit.FAILED,
        )
    return drift, count


def _readable(records: Iterator[_Record], refused: list[tuple[int, Refused]]) -> Iterator[_Record]:
    """Up to the first record of a container that makes no JSON, which is added to `refused`: it cannot be read on behind it."""
    number = 0
    try:
        for one in records:
            number = one.offset
            yield one
    except InvalidContainer as error:
        raise UserError(str(error), Exit.FAILED) from None
    except Refused as why:
        refused.append((number + 1, why))


async def _send(kafka: KafkaConfig, topic: str, records: Iterator[_Record], count: int, progress: Progress) -> None:
    task: TaskID = progress.add_task("sending", total=count)
    async with cluster(kafka) as topics:
        partitions = (await topics.partitions([topic])).get(topic)
        if partitions is None:
            raise UserError(f"topic {topic} is not there; make it with `sluice topics FILE`", Exit.CONFIG)
        outbox, sent = Outbox(kafka, "sluice.send"), 0
        await outbox.start()
        try:
            turns = itertools.cycle(range(partitions))
            for some in _rounds(records):
                by_partition: dict[int, list[Packed]] = defaultdict(list)
                now = int(time.time() * 1000)
                for one in some:
                    place = next(turns) if one.key is None else (murmur2(one.key) & 0x7FFFFFFF) % partitions
                    by_partition[place].append((now, one.key, one.value, []))
                async with asyncio.TaskGroup() as group:
                    for place, packed in by_partition.items():
                        group.create_task(outbox.send(topic, place, outbox.pack(packed)))
                sent += len(some)
                progress.update(task, completed=sent)
        except (Refused, InvalidContainer):
            text = f"the input was changed while it was sent. The first {sent} of {count} records are acknowledged"
            raise UserError(text, Exit.FAILED) from None
        except (ExceptionGroup, KafkaConnectionError) as error:
            raise _stopped(error, sent, count) from None
        finally:
            await outbox.stop()


def _stopped(error: Exception, sent: int, count: int) -> UserError:
    one: Exception = error
    while isinstance(one, ExceptionGroup):
        one = one.exceptions[0]
    code = Exit.UNAVAILABLE if isinstance(one, ProduceRefused | KafkaConnectionError) else Exit.CONFIG
    why = str(one) or type(one).__name__
    return UserError(f"{why}. The first {sent} of {count} records are acknowledged; some behind them may be", code)


def _rounds(records: Iterator[_Record]) -> Iterator[list[_Record]]:
    some: list[_Record] = []
    size = 0
    for one in records:
        some.append(one)
        size += len(one.value or b"")
        if len(some) >= ROUND_RECORDS or size >= ROUND_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some
