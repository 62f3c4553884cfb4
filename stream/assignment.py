"""What a worker does under one assignment of its consumer group, and how that ends.

Everything read, in work and committed belongs to one `Assignment`: the partitions of one generation. When the group
rebalances, the assignment is drained or abandoned as a whole, and nothing of it can settle or commit into the next one.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from aiokafka import TopicPartition

from stream.commits import Commits, Committed, Fenced, Pin
from stream.offsets import Span, Watermark
from stream.records import Record, RecordBatch, take_joined

log = logging.getLogger(__name__)


class Hole(Exception):
    """Records of a partition are missing on their way into work. A fault of Sluice; the process ends uncommitted."""


@dataclass(frozen=True, slots=True)
class InWork:
    """What of a partition is taken in and not settled: the offsets `[offset, end)`."""

    topic: str
    partition: int
    offset: int
    end: int

    @property
    def name(self) -> str:
        return f"{self.topic}/{self.partition}"

    def __str__(self) -> str:
        return f"{self.name}, offsets {self.offset} to {max(self.offset, self.end - 1)}"


class WorkFailed(BaseExceptionGroup[BaseException]):
    """Why the work on a partition failed, and where: what is in work there is not settled, and one of it may be the cause."""

    at: InWork

    def __new__(cls, at: InWork, error: BaseException) -> "WorkFailed":
        made = super().__new__(cls, f"in work: {at}", [error])
        made.at = at
        return made

    def __init__(self, at: InWork, error: BaseException) -> None:
        super().__init__(self.message, self.exceptions)


class Partition:
    """One assigned partition: batches come in, spans begin and settle, the watermark is committed."""

    def __init__(self, assignment: "Assignment", tp: TopicPartition, at: Committed, topic_id: str = "") -> None:
        self.tp = tp
        self.topic_id = topic_id
        """Of the topic that is read, to be committed with its offsets; "" where brokers have none."""
        self.topic: str = tp.topic
        self.number: int = tp.partition
        self.fetched_to = self._batched_to = at.offset
        self.delivered_to = at.offset
        """All before this offset has come to the work, as far as there are records."""
        self.held_bytes = 0
        """Bytes of this partition's records in this process, from fetch to settlement."""
        self.needed_to: int | None = None
        """Work that was decided before cannot be done with less than all up to this offset: see `Assignment.feeds`."""
        self._assignment = assignment
        self._watermark = Watermark(at.offset, at.note)
        self._committed = at
        self._inbox: deque[RecordBatch] = deque()
        self._arrived = asyncio.Event()
        self.closed = False
        self._settles_gaps = False
        self._ending = asyncio.Event()
        self._arrivals: deque[tuple[int, float]] = deque()
        """Of each batch that is not settled: one past its last record, and when it was fetched (time.monotonic())."""
        self.steps = 0
        """Counts what the work does: it asks for a batch, begins, settles, waits to try again."""
        self.expected_seconds = 0.0
        """How long the present step may take, as far as it said so."""

    # The way in

    def fetched(self, records: Sequence[Record], start: int, end: int) -> RecordBatch | None:
        """Called by the transport for each fetch: the records of the offsets `[start, end)`. None if there is no record.

        Raises Hole if the fetch does not go on where the last one ended: what lies between would be settled unread.
        """
        if start != self.fetched_to:
            raise Hole(f"{self.topic}/{self.number}: fetched from {start}, expected {self.fetched_to}")
        self.fetched_to = end
        if not records:
            self._pass_gap()
            return None
        batch = RecordBatch(self.topic, self.number, records, self._batched_to, end)
        self._batched_to = end
        self._arrivals.append((records[-1].offset + 1, time.monotonic()))
        self.held_bytes += batch.bytes
        self._assignment.held_bytes += batch.bytes
        return batch

    def deliver(self, batch: RecordBatch) -> None:
        """Called by the agent for each batch of this partition, in order. Does nothing once the assignment has ended.

        Ends the process if a batch was lost on its way through Faust's queues: the next would settle its records unread.
        """
        if self.closed:
            return
        if batch.start != self.delivered_to:
            self._assignment.crash(Hole(f"{batch!r} came, expected one from {self.delivered_to}"))
            return
        self.delivered_to = batch.end
        self._inbox.append(batch)
        self._arrived.set()

    async def next(self, seconds: float | None = None) -> RecordBatch | None:
        """What waits, as one batch (or the first of it); None when no more will come. Raises TimeoutError after `seconds` without
        any."""
        self.expect(0)
        async with asyncio.timeout(seconds):
            while not self._inbox:
                if self.closed:
                    return None
                self._arrived.clear()
                await self._arrived.wait()
        return take_joined(self._inbox)

    def __aiter__(self) -> AsyncIterator[RecordBatch]:
        return self

    async def __anext__(self) -> RecordBatch:
        batch = await self.next()
        if batch is None:
            raise StopAsyncIteration
        return batch

    def close(self) -> None:
        """No more batches come in; those that wait are dropped, for they are not begun and will be read again."""
        self.closed = True
        self._ending.set()
        self._inbox.clear()
        self._arrived.set()

    @property
    def on_its_way(self) -> bool:
        """Whether a batch was fetched that has not come to the work yet."""
        return not self.closed and self.delivered_to < self._batched_to

    @property
    def fed(self) -> bool:
        """Whether more records are fetched at present; not when those that are held take all the memory there is for them."""
        return self._assignment.feeds(self)

    async def pause(self, seconds: float) -> bool:
        """Wait; False as soon as the partition has ended, when there is nothing to wait for any more."""
        self.expect(seconds)
        try:
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        except TimeoutError:
            return True
        return False

    def expect(self, seconds: float) -> None:
        """A step begins that may take so long, such as a call to a destination: the watchdog grants it that on top."""
        self.steps += 1
        self.expected_seconds = seconds

    # Offsets

    @property
    def offset(self) -> int:
        """The first offset that is not settled."""
        return self._watermark.offset

    @property
    def note(self) -> str:
        """The commit metadata at `offset`, "" for none."""
        return self._watermark.note

    @property
    def idle(self) -> bool:
        """Nothing of this partition is here: all that was fetched is settled."""
        return self.held_bytes == 0 and self._watermark.unsettled == 0

    def begin(self, end: int) -> Span:
        """Take everything before offset `end` into work."""
        self.expect(0)
        return self._watermark.begin(end)

    def settle(self, span: Span, note: str, released: int) -> None:
        """All that the span led to is acknowledged. `note` is the commit metadata from there; `released` bytes leave memory."""
        self.expect(0)
        self._watermark.settle(span, note)
        while self._arrivals and self._arrivals[0][0] <= self.offset:
            self._arrivals.popleft()
        self.release(released)
        self._pass_gap()

    def settle_gaps(self) -> None:
        """From now on offsets that hold no record settle with no record behind them: transaction markers, what was aborted.

        Else retention may take them from under a committed offset, and the next start finds it out of range with nothing lost.
        Not for who keeps the offsets of its cuts elsewhere, as the S3 chain does: a cut begins where the one before it ended.
        """
        self._settles_gaps = True
        self._pass_gap()

    def _pass_gap(self) -> None:
        if self._settles_gaps and self.idle and self.fetched_to > self.offset:
            self._watermark.settle(self._watermark.begin(self.fetched_to), self.note)
            self._batched_to = self.delivered_to = self.fetched_to

    def release(self, count: int) -> None:
        """`count` bytes of this partition's records are no longer held."""
        self.held_bytes -= count
        self._assignment.released(count)

    def in_work(self) -> InWork:
        """What is taken in and not settled."""
        return InWork(self.topic, self.number, self.offset, self.fetched_to)

    def unsettled_seconds(self, now: float) -> float:
        """How long the oldest record that is not settled has been here, 0 without one. `now`: time.monotonic()."""
        return now - self._arrivals[0][1] if self._arrivals else 0.0

    def uncommitted(self) -> Committed | None:
        """What is to be committed, None if nothing has changed."""
        at = Committed(self._watermark.offset, self._watermark.note)
        return None if at == self._committed else at

    def committed(self, at: Committed) -> None:
        """The broker has stored `at`."""
        self._committed = at

    async def adopt(self, note: str) -> None:
        """Commit `note` at the present offset before any work, and return once the broker has it. Raises Fenced."""
        self._watermark.note = note
        await self._assignment.commit({self.tp: Committed(self.offset, note)})


Work = Callable[[Partition], Awaitable[None]]
"""What an agent does with a partition, from its assignment to its end. Cancelled when the assignment is abandoned."""


class Assignment:
    """The partitions that the group gave to this worker in one generation."""

    def __init__(
        self, pin: Pin, commits: Commits, work: Work, crash: Callable[[BaseException], None], budget_bytes: int
    ) -> None:
        self.pin = pin
        self.partitions: dict[TopicPartition, Partition] = {}
        self.ended = False
        self.held_bytes = 0
        self.relief = asyncio.Event()
        """Set whenever memory is released: a paused partition may be hungry again."""
        self._commits = commits
        self._work = work
        self.crash = crash
        self._budget_bytes = budget_bytes
        self._tasks: dict[asyncio.Task[None], Partition] = {}

    def open(self, tp: TopicPartition, at: Committed, topic_id: str = "") -> None:
        """Start the work on a partition whose committed (or chosen) offset is `at`."""
        partition = self.partitions[tp] = Partition(self, tp, at, topic_id)
        task = asyncio.create_task(self._run(partition), name=f"{tp.topic}/{tp.partition}")
        self._tasks[task] = partition
        task.add_done_callback(self._tasks.pop)

    async def _run(self, partition: Partition) -> None:
        try:
            await self._work(partition)
            if not partition.closed:
                raise RuntimeError(
                    f"the work on {partition.topic}/{partition.number} ended by itself; this is a fault of Sluice"
                )
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if any(isinstance(one, Fenced) for one in flattened(error)):
                self.abandon("its commit was fenced")
            else:
                self.crash(WorkFailed(partition.in_work(), error))

    # Memory

    def hungry(self) -> list[TopicPartition]:
        """The partitions to fetch from now."""
        return [tp for tp, partition in self.partitions.items() if self.feeds(partition)]

    def feeds(self, partition: Partition) -> bool:
        """Whether a partition is fetched from now: it may hold an equal share of the process's budget. One that holds nothing
        gets a batch even if the others have taken all, so that nobody is held up by them; and where all is taken, one after
        the other may hold what it needs, until that is settled."""
        needs_more = partition.needed_to is not None and partition.fetched_to < partition.needed_to
        if needs_more and (self.held_bytes < self._budget_bytes or partition is self._first_in_need()):
            return True
        if partition.held_bytes == 0:
            return True
        share = self._budget_bytes // len(self.partitions)
        return partition.held_bytes < share and self.held_bytes < self._budget_bytes

    def _first_in_need(self) -> Partition | None:
        return next((one for one in self.partitions.values() if one.needed_to and one.offset < one.needed_to), None)

    def released(self, count: int) -> None:
        self.held_bytes -= count
        self.relief.set()

    # Offsets

    async def commit(self, offsets: Mapping[TopicPartition, Committed] | None = None) -> None:
        """Commit what has settled since the last time (or `offsets`). Raises Fenced, after abandoning, and CommitRefused."""
        if self.ended:
            raise Fenced("the assignment has ended")
        if offsets is None:
            offsets = {tp: at for tp, one in self.partitions.items() if (at := one.uncommitted())}
        if not offsets:
            return
        try:
            await self._commits.commit(self.pin, offsets)
        except Fenced as fenced:
            self.abandon(str(fenced))
            raise
        for tp, at in offsets.items():
            self.partitions[tp].committed(at)

    # The end

    def abandon(self, why: str) -> None:
        """Stop at once and commit nothing more: what is in work here is somebody else's now."""
        if not self.ended:
            self.ended = True
            log.warning("The assignment of generation %s is abandoned: %s.", self.pin.generation, why)
        for partition in self.partitions.values():
            partition.close()
        current = asyncio.current_task()
        for task in list(self._tasks):
            if task is not current:
                task.cancel()

    async def drain(self, seconds: float) -> None:
        """Take nothing new in, let what is in work settle for at most `seconds`, commit, and end, whatever happens.

        What has not settled by then is dropped unsettled: its next owner reads it again. Raises CommitRefused.
        """
        for partition in self.partitions.values():
            partition.close()
        deadline = time.monotonic() + seconds
        try:
            if self._tasks and not self.ended:
                _, late = await asyncio.wait(self._tasks, timeout=seconds)
                if late:
                    names = ", ".join(sorted(task.get_name() for task in late))
                    log.warning("Work on %s did not settle in %.0f s; its next owner does it again.", names, seconds)
            async with asyncio.timeout(max(1.0, deadline - time.monotonic())):
                await self.commit()
        except (Fenced, TimeoutError) as error:
            log.warning(
                "The last commit of generation %s did not get through (%s).",
                self.pin.generation,
                str(error) or "timed out",
            )
        finally:
            self.ended = True
            await self._cancel_tasks()

    async def _cancel_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def flattened(error: BaseException) -> Iterable[BaseException]:
    """The exceptions in `error`, which may be a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from flattened(one)
    else:
        yield error
