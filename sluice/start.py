"""`sluice start`: where a stopped pipeline or stream goes on, said by a person."""

import asyncio
import math
import sys
import time as wall
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Literal

from aiokafka import TopicPartition

from sinks.aws import Unavailable
from sinks.s3 import S3Sink
from sinks.s3_chain import Beginning, Epochs
from sluice import logs, moments
from sluice.config import Config
from sluice.config_rules import meant
from sluice.exits import Exit, UserError
from sluice.topics import answering, cluster
from sluice.wiring import make_sink, needs
from stream.app import GROUP_PREFIX
from stream.commits import Committed
from stream.group import Busy, Group
from stream.notes import Note, parsed
from stream.permissions import NotAllowed, Operation
from stream.starting import named

Place = Literal["beginning", "end"] | datetime
"""Where to begin; a time with its zone."""


def run(config: Config, name: str, where: str) -> None:
    """Set every partition of a pipeline or stream to `where` (see `parsed_place`), and print what that means. Blocks.

    Raises UserError for an unknown name, a `where` that says nothing, topics that are missing, workers that are alive, and
    a cluster that does not answer; then nothing is changed.
    """
    if name not in config.pipelines and name not in config.streams:
        known = [*config.pipelines, *config.streams]
        raise UserError(
            f"no pipeline or stream is named {name}{meant(name, known)}; known: {', '.join(known)}", Exit.USAGE
        )
    place = parsed_place(where)
    logs.silence()
    before, after = asyncio.run(set_offsets(config, name, place))
    for line in lines(before, after):
        sys.stdout.write(line + "\n")
    sys.stdout.write(_meaning(config, name, place, next(iter(after.values())).note) + "\n")


def parsed_place(text: str) -> Place:
    """`beginning`, `end`, or a time in ISO 8601 with Z or an offset; a date alone is its midnight in UTC. Raises UserError."""
    match text:
        case "beginning" | "end":
            return text
    return moments.parsed("--from", text, "beginning, end")


async def set_offsets(
    config: Config, name: str, place: Place
) -> tuple[Mapping[TopicPartition, Committed], Mapping[TopicPartition, Committed]]:
    """`run`, without a word: the offsets of the group before, and those that are set."""
    topics = [config.pipelines[name].source] if name in config.pipelines else config.streams[name].topics
    group_id = GROUP_PREFIX + name
    rights = [
        one for one in needs(config, [name]) if one.operation is Operation.READ and one.name in (*topics, group_id)
    ]
    async with cluster(config.kafka) as known:
        if lacking := await known.missing_rights(rights):
            raise UserError(str(NotAllowed(config.kafka, lacking)), Exit.CONFIG)
    async with answering(config.kafka), Group(config.kafka, group_id) as group:
        found = await group.partitions(topics)
        if missing := [topic for topic in topics if topic not in found]:
            raise UserError(
                f"topics are not there: {', '.join(missing)}; make them with `sluice topics FILE`", Exit.CONFIG
            )
        if count := await group.members():
            raise _busy(config, name, count)
        before = await group.committed()
        offsets = await _offsets(group, [tp for some in found.values() for tp in some], place)
        sink = make_sink(config, name) if name in config.streams else None
        try:
            if isinstance(sink, S3Sink) and sink.exactly_once:
                after = await _set_epoch(group, sink.epochs(), offsets)
            else:
                after = {tp: Committed(offset, "") for tp, offset in offsets.items()}
                await group.set(after)
        except Busy:
            raise _busy(config, name, 1) from None
        except Unavailable as error:
            text = f"the bucket of {name} does not answer ({error.reason})"
            raise UserError(f"{text}; see `sluice check FILE`, then start it again", Exit.UNAVAILABLE) from None
        finally:
            if sink is not None:
                await sink.close()
    return before, after


async def _set_epoch(
    group: Group, epochs: Epochs, offsets: Mapping[TopicPartition, int]
) -> dict[TopicPartition, Committed]:
    """Begin a new chain in every partition. The offsets first: a start that is refused must leave nothing in the bucket."""
    epoch = max(int(wall.time()), await epochs.newest() + 1)
    after = {tp: Committed(offset, Note(v=1, epoch=epoch).text()) for tp, offset in offsets.items()}
    await group.set(after)
    places: dict[str, dict[int, int]] = defaultdict(dict)
    for tp, offset in offsets.items():
        places[tp.topic][tp.partition] = offset
    await epochs.begin(epoch, Beginning(offsets=places))
    return after


async def _offsets(group: Group, partitions: Sequence[TopicPartition], place: Place) -> dict[TopicPartition, int]:
    if place == "beginning":
        return await group.beginnings(partitions)
    if place == "end":
        return await group.ends(partitions)
    return await group.at(partitions, max(0, math.ceil(place.timestamp() * 1000)))


def _busy(config: Config, name: str, count: int) -> UserError:
    workers = "a worker" if count == 1 else f"{count} workers"
    return UserError(
        f"{workers} of {name} may still be at work; stop all of them first. One that was killed counts for"
        f" {config.kafka.session_seconds:g} s (kafka.session_seconds). Nothing was changed",
        Exit.FAILED,
    )


def lines(before: Mapping[TopicPartition, Committed], after: Mapping[TopicPartition, Committed]) -> Iterable[str]:
    """A line for each run of partitions with the same offsets: `raw.events/0-3: none → 0`."""

    def change(tp: TopicPartition) -> tuple[str, str, int]:
        return tp.topic, str(before[tp].offset) if tp in before else "none", after[tp].offset

    for (_, old, new), partitions in groupby(sorted(after), change):
        yield f"{named(partitions)}: {old} → {new}"


def _meaning(config: Config, name: str, place: Place, note: str) -> str:
    if name in config.pipelines:
        what = "a new plan begins there at the next start: streams take every record again that it writes"
    elif (s3 := config.streams[name].s3) is not None and s3.exactly_once:
        what = f"every record from there is written again, under {s3.prefix}replay-{parsed(note).epoch}/"
    else:
        what = f"{config.streams[name].kind} gets every record from there again"
    if place == "end":
        what += "; what lies before it is never processed, unless it was already"
    elif place != "beginning":
        what += "; what lies before it and was not processed never is"
    return f"{name}: {what}."
