"""The dead letters of one pipeline or stream, as they lie on `NAME.dlq`: which of them are meant, and reading them.

A letter may lie there more than once, and behind it the mark that it was fed in again; both have its `sluice-id`, in the
partition of that number.
"""

import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from rich.console import Console
from rich.progress import Progress

from pipeline import dead_letters
from pipeline.dead_letters import Envelope, Origin
from schemas.refused import REASONS
from sluice import moments
from sluice.config import Config
from sluice.config_rules import meant
from sluice.exits import Exit, UserError
from sluice.topics import answering, cluster
from stream.id_set import IdSet
from stream.permissions import Need, NotAllowed, Operation
from stream.windows import Window, held, looking, read

Advance = Callable[[int], None]
"""Takes how much more is done."""


@dataclass(frozen=True)
class Choice:
    """Which letters are meant: those with one of these ids, of this reason, with a timestamp at or after `since` (in
    milliseconds). What is not given excludes none."""

    ids: frozenset[Origin] = frozenset()
    reason: str | None = None
    since: int | None = None

    def takes(self, envelope: Envelope, timestamp: int) -> bool:
        if self.ids and envelope.origin not in self.ids:
            return False
        if self.reason is not None and envelope.reason != self.reason:
            return False
        return self.since is None or timestamp >= self.since


def choice(ids: Sequence[str] = (), reason: str | None = None, since: str | None = None) -> Choice:
    """What was asked for on the command line. Raises UserError."""
    origins = {text: Origin.parsed(text) for text in ids}
    if unreadable := [text for text, origin in origins.items() if origin is None]:
        raise UserError(
            f"{unreadable[0]} is no sluice-id; write TOPIC/PARTITION/OFFSET, as `sluice dlq list FILE NAME --each` prints it",
            Exit.USAGE,
        )
    if reason is not None and reason not in REASONS:
        raise UserError(
            f"no reason is called {reason}{meant(reason, REASONS)}; there are {', '.join(REASONS)}", Exit.USAGE
        )
    earliest = None if since is None else max(0, math.ceil(moments.parsed("--since", since).timestamp() * 1000))
    return Choice(frozenset(origin for origin in origins.values() if origin), reason, earliest)


class DeadLetter(NamedTuple):
    """One record on `NAME.dlq`, which is a letter or the mark of one."""

    at: TopicPartition
    record: ConsumerRecord
    envelope: Envelope


@dataclass
class Found:
    """What a choice comes to."""

    ids: IdSet = field(default_factory=IdSet)
    marked: IdSet = field(default_factory=IdSet)
    """Those of which a mark says that they were fed in again; their letters may be gone."""
    again: int = 0
    """How many of `ids` are marked."""
    empty: int = 0
    """Letters without a body: of these there is only where they came from."""
    windows: dict[TopicPartition, Window] = field(default_factory=dict)
    """Where the letters lie, and others between them."""

    def take(self, letter: DeadLetter) -> bool:
        """Note a letter or mark. True for a letter, the first time."""
        at, record, envelope = letter
        if envelope.retried:
            if self.marked.add(envelope.origin):
                self.again += envelope.origin in self.ids
            return False
        start, _ = self.windows.get(at, (record.offset, 0))
        self.windows[at] = (start, record.offset + 1)
        if not self.ids.add(envelope.origin):
            return False
        self.again += envelope.origin in self.marked
        self.empty += record.value is None
        return True


class Letters:
    """The chosen letters and marks that lay on the topic when it was opened."""

    def __init__(
        self, topic: str, choice: Choice, consumer: AIOKafkaConsumer, windows: Mapping[TopicPartition, Window]
    ) -> None:
        self.topic = topic
        self.choice = choice
        self.windows = windows
        self._consumer = consumer

    async def read(
        self, windows: Mapping[TopicPartition, Window], advance: Advance = lambda _: None
    ) -> AsyncIterator[DeadLetter]:
        """Those in these windows, as they lie there, repeats too. Holds one fetch. `advance` is told how many offsets are done.
        Raises KafkaError."""
        at = {tp: start for tp, (start, _) in windows.items()}
        async for tp, records in read(self._consumer, windows):
            for record in records:
                envelope = dead_letters.opened(record.headers)
                if envelope is not None and self.choice.takes(envelope, record.timestamp):
                    yield DeadLetter(tp, record, envelope)
            if records:
                advance(records[-1].offset + 1 - at[tp])
                at[tp] = records[-1].offset + 1

    async def find(self) -> Found:
        """Look through all of it, with progress on a terminal."""
        found = Found()
        with progress(f"looking through {self.topic}", length(self.windows)) as advance:
            async for letter in self.read(self.windows, advance):
                found.take(letter)
        return found

    async def once(self, found: Found, *, again: bool) -> AsyncIterator[DeadLetter]:
        """Each letter that was found, once; without `again` only those that have no mark."""
        seen = IdSet()
        async for letter in self.read(found.windows):
            origin = letter.envelope.origin
            if not letter.envelope.retried and (again or origin not in found.marked) and seen.add(origin):
                yield letter


@asynccontextmanager
async def opened(config: Config, name: str, choice: Choice) -> AsyncIterator[Letters]:
    """The letters of a pipeline or stream. Raises UserError for a name, right or topic that is missing, and for brokers that
    do not answer, inside too."""
    if name not in config.pipelines and name not in config.streams:
        known = [*config.pipelines, *config.streams]
        text = f"no pipeline or stream is named {name}{meant(name, known)}; known: {', '.join(known)}"
        raise UserError(text, Exit.USAGE)
    topic = f"{name}.dlq"
    await see_allowed(config, [Need("topic", topic, Operation.READ)])
    async with answering(config.kafka), looking(config.kafka) as consumer:
        only = {origin.partition for origin in choice.ids} or None
        windows = await held(consumer, topic, only, choice.since)
        yield Letters(topic, choice, consumer, windows)


async def see_allowed(config: Config, needs: Sequence[Need]) -> None:
    """Raises UserError for topics that are not there, and rights that are missing."""
    async with cluster(config.kafka) as topics:
        if missing := await topics.missing_rights(needs):
            raise UserError(str(NotAllowed(config.kafka, missing)), Exit.CONFIG)
        names = {one.name for one in needs}
        if absent := sorted(names - (await topics.partitions(names)).keys()):
            raise UserError(
                f"topics are not there: {', '.join(absent)}; make them with `sluice topics FILE`", Exit.CONFIG
            )


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """A bar on a terminal, gone at the end; elsewhere nothing."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda more: bar.advance(task, more)


def length(windows: Mapping[TopicPartition, Window]) -> int:
    """How many offsets these windows have."""
    return sum(end - start for start, end in windows.values())
