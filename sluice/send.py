"""`sluice send`: records of a file into a pipeline's raw topic, all of them checked before the first is sent."""

import asyncio
import contextlib
import itertools
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

from aiokafka.errors import KafkaConnectionError
from aiokafka.partitioner import murmur2
from rich.console import Console
from rich.progress import Progress, TaskID

from schemas.producer import CONTAINER, Checker, InvalidContainer
from schemas.refused import Refused
from sluice import logs
from sluice.config import Config
from sluice.config_rules import meant
from sluice.exits import Exit, UserError
from sluice.topics import cluster
from stream.connection import KafkaConfig
from stream.outbox import Outbox, Packed, ProduceRefused

ROUND_RECORDS = 5000
ROUND_BYTES = 8 * 1024 * 1024
IN_MEMORY_BYTES = 64 * 1024 * 1024
"""Of an input that can be read only once; a longer one is kept in a temporary file until it is checked."""
MOST_SAID = 20


class _Record(NamedTuple):
    number: int
    """Line of the input, or place in the container, from 1."""
    value: bytes
    key: bytes | None


def run(config: Config, pipeline: str, source: BinaryIO) -> None:
    """Send the JSON lines or the Avro container in `source` to the pipeline's raw topic, and print how many were acknowledged.

    Every record is checked first, as the pipeline will: if one would be refused, nothing is sent, and each of them is named
    by its line, with reason and path, never with a value. Empty lines are passed over. Records of one device or endpoint go
    to one partition, in order. Shows its progress on a terminal. Blocks. Raises UserError; then what had been acknowledged
    is said.
    """
    if pipeline not in config.pipelines:
        known = ", ".join(config.pipelines)
        text = f"there is no pipeline {pipeline}{meant(pipeline, config.pipelines)}; known: {known}"
        raise UserError(text, Exit.USAGE)
    logs.silence()
    checker = Checker(config.pipelines[pipeline].subject)
    topic = config.pipelines[pipeline].source
    with _rewindable(source) as (again, start), Progress(console=Console(stderr=True), transient=True) as progress:
        drift, count = _check(checker, again, config.kafka, progress)
        again.seek(start)
        asyncio.run(_send(config.kafka, topic, _records(checker, again), count, progress))
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


def _records(checker: Checker, source: BinaryIO) -> Iterator[_Record]:
    """Every record with its key. Raises Refused for one that would be refused."""
    for number, (value, _) in _values(checker, source):
        yield _Record(number, value, checker(value).key)


def _values(checker: Checker, source: BinaryIO) -> Iterator[tuple[int, tuple[bytes, Mapping[str, int]]]]:
    """Each record with its number, and what was left out to make JSON of it."""
    begins = source.tell()
    head = source.read(len(CONTAINER))
    source.seek(begins)
    if head == CONTAINER:
        yield from enumerate(checker.container(source), 1)
        return
    for number, line in enumerate(source, 1):
        if value := line.rstrip(b"\r\n"):
            yield number, (value, {})


def _check(checker: Checker, source: BinaryIO, kafka: KafkaConfig, progress: Progress) -> tuple[Counter[str], int]:
    """What will be normalised, and how many records there are. Raises UserError, naming all that cannot be sent."""
    outbox, task = Outbox(kafka, "sluice.send"), progress.add_task("checking", total=None)
    refused: list[str] = []
    drift: Counter[str] = Counter()
    count = 0
    values = _values(checker, source)
    while True:
        try:
            number, (value, left_out) = next(values)
        except StopIteration:
            break
        except InvalidContainer as error:
            raise UserError(str(error), Exit.FAILED) from None
        except Refused as why:  # of a container, which cannot be read on behind it
            refused.append(f"record {count + 1}: {why}")
            break
        count += 1
        try:
            if not outbox.fits(None, value, []):
                raise Refused("too-large")
            drift.update(left_out)
            drift.update(checker(value).drift)
        except Refused as why:
            refused.append(f"record {number}: {why}")
        if count % 1000 == 0:
            progress.update(task, completed=count, description=f"checking, {count} records")
    progress.remove_task(task)
    if refused:
        more = f"\n  and {len(refused) - MOST_SAID} more" if len(refused) > MOST_SAID else ""
        said = "\n  ".join(refused[:MOST_SAID])
        raise UserError(
            f"{len(refused)} of {count} records would be refused, so nothing was sent:\n  {said}{more}\n"
            "correct or remove them; docs/producers.md says what each reason means",
            Exit.FAILED,
        )
    return drift, count


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
        size += len(one.value)
        if len(some) >= ROUND_RECORDS or size >= ROUND_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some
