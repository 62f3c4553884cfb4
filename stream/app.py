"""One Faust app for each pipeline or stream, and the process that runs some of them together."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import faust
from aiokafka import TopicPartition
from faust.app.base import BootStrategy
from mode.supervisors import CrashingSupervisor

from stream import metrics, transport
from stream.assignment import Assignment, Work, WorkFailed, flattened
from stream.connection import KafkaConfig
from stream.outage import outage
from stream.progress import stages
from stream.starting import Starts, as_set
from stream.watchdog import Stage, Watchdog

log = logging.getLogger(__name__)

GROUP_PREFIX = "sluice."
BEAT_SECONDS = 0.25
LIVE_SECONDS = 10
BUDGET_BYTES = 64 * 1024 * 1024
"""Of records held. What is made of them (a request's body, packed batches) is as much again at most, and what aiokafka has
fetched comes on top: with 90 MB for the program a worker stays below 300 MB (tests/faults/test_memory.py)."""
STOP_SECONDS = 18
"""From SIGTERM to the end, whatever a sink does. Kubernetes and compose give more."""
STUCK_SECONDS = 120.0
"""Longer than any request to a broker may take, and than a rebalance with the default session."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A pipeline or stream, as the engine sees it: which topics it reads, and what it does with a partition."""

    name: str
    topics: Sequence[str]
    work: Work
    starts: Starts = as_set
    outputs: Sequence[str] = ()
    """The topics that it writes to: while one of them takes nothing, the work is not to blame for standing still."""


class _ConsumerOnly(BootStrategy):  # type: ignore[misc]  # Faust is not typed for --strict
    """The services of an app without Faust's producer, web server, leader election and reply consumer."""

    def kafka_producer(self) -> Iterable[Any]:
        return []

    def kafka_consumer(self) -> Iterable[Any]:
        return [self.app.consumer]

    def web_server(self) -> Iterable[Any]:
        return []


class _App(faust.App):  # type: ignore[misc]  # Faust is not typed for --strict
    BootStrategy = _ConsumerOnly
    feed: transport.Feed

    def _create_directories(self) -> None:
        """Faust keeps tables in a directory; nothing here has tables."""


def make_app(
    workload: Workload, kafka: KafkaConfig, budget_bytes: int, crash: Callable[[BaseException], None]
) -> faust.App:
    """The Faust app of a workload, with its one agent. The consumer group is `sluice.NAME`."""
    transport.register()
    app = _App(
        GROUP_PREFIX + workload.name,
        broker=f"{transport.SCHEME}://{kafka.brokers[0]}",  # the driver takes addresses and security from the feed
        autodiscover=False,
        agent_supervisor=CrashingSupervisor,
        broker_commit_interval=transport.COMMIT_SECONDS,
        # How long `perform_seek` may take: after it Faust drops the assignment without a word. The watchdog looks at it instead.
        broker_request_timeout=2_000_000.0,
        broker_session_timeout=kafka.session_seconds,
        stream_wait_empty=False,
        stream_buffer_maxsize=100_000,  # batches; memory is bounded in bytes by the assignment
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
    )
    app.feed = transport.Feed(workload.name, kafka, workload.work, crash, budget_bytes, workload.starts)
    topic = app.topic(*workload.topics, schema=transport.BatchSchema(), acks=False)

    @app.agent(topic, name=workload.name)  # type: ignore[untyped-decorator]
    async def agent(batches: Any) -> None:
        """Hands each batch to its partition, where a task of its own works: one that is stuck does not hold up the others."""
        async for fetched in batches:
            fetched.partition.deliver(fetched.batch)

    return app


class Worker:
    """Runs workloads in this process until it is told to stop or one of them crashes."""

    def __init__(
        self,
        workloads: Sequence[Workload],
        kafka: KafkaConfig,
        budget_bytes: int = BUDGET_BYTES,
        stuck_seconds: float = STUCK_SECONDS,
        last_words: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        """`stuck_seconds`: after so long without progress, or two sessions if that is more, the process ends at once with exit
        code 70; `last_words` is called before that, in any thread, and must not block.
        """
        self._stop = asyncio.Event()
        self._crash: BaseException | None = None
        share = budget_bytes // len(workloads)
        self._apps = {one.name: make_app(one, kafka, share, self.crash) for one in workloads}
        self._beat: float | None = None
        topics = sorted({topic for one in workloads for topic in (*one.topics, *one.outputs)})
        groups = [GROUP_PREFIX + name for name in self._apps]
        self._watchdog = Watchdog(
            max(stuck_seconds, 2 * kafka.session_seconds),
            self._stages,
            lambda seconds: outage(kafka, topics, groups, seconds),
            last_words,
        )

    def crash(self, error: BaseException) -> None:
        """End the process uncommitted: nothing that was in work is skipped. The first error is the one that is told."""
        if self._crash is None:
            self._crash = error
            for one in flattened(error):  # its text may quote a record: who ends the process decides what to show of it
                log.error("The worker ends: %s", type(one).__name__)
            if isinstance(error, WorkFailed):
                log.error("In work, not settled: %s.", error.at)
        self._stop.set()

    def stop(self) -> None:
        """Begin to drain, from a signal handler."""
        self._stop.set()

    def ready(self) -> bool:
        """Every workload is a member of its group, with partitions or standing by."""
        return all(app.consumer.joined for app in self._apps.values())

    def live(self) -> bool:
        """The event loop turns, and nothing has stood still for half of `stuck_seconds`; before `run`, yes: whoever waits for
        dependencies is bounded by its own patience.
        """
        return self._beat is None or (time.monotonic() - self._beat < LIVE_SECONDS and self._watchdog.calm())

    async def run(self, background: Sequence[Callable[[], Awaitable[None]]] = ()) -> None:
        """Start, run and stop. Raises what crashed it; returns after `stop()` and a clean drain. Stuck, it ends the process.

        `background` runs beside the workloads, and its end or error ends the worker.
        """
        self._watchdog.start()
        heart = asyncio.ensure_future(self._heart())
        tasks = [asyncio.ensure_future(self._watch(one)) for one in (*background, self._watchdog.run)]
        starts = [asyncio.ensure_future(self._start(app)) for app in self._apps.values()]
        try:
            await self._stop.wait()
        finally:
            for task in (*tasks, *starts):
                task.cancel()
            if self._crash is None:
                await self._drain()
            else:
                leaves = [asyncio.ensure_future(app.consumer.leave()) for app in self._apps.values()]
                await asyncio.wait(leaves, timeout=2 * transport.LEAVE_SECONDS)
            heart.cancel()
            self._watchdog.stop()
        if self._crash is not None:
            raise self._crash

    async def _start(self, app: faust.App) -> None:
        try:
            await app.start()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.crash(error)

    async def _watch(self, one: Callable[[], Awaitable[None]]) -> None:
        try:
            await one()
            raise RuntimeError(f"{one!r} ended by itself; this is a fault of Sluice")
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.crash(error)

    async def _heart(self) -> None:
        while True:
            self._beat = time.monotonic()
            self._watchdog.beat()
            for name, app in self._apps.items():
                if app._crashed.is_set():
                    self.crash(app.crash_reason or RuntimeError(f"the app of {name} crashed"))
            await asyncio.sleep(BEAT_SECONDS)

    def _stages(self) -> Mapping[str, Stage]:
        return {key: stage for name, app in self._apps.items() for key, stage in stages(name, app.consumer).items()}

    async def _drain(self) -> None:
        """What is in work settles, is committed, and the groups are left."""
        for app in self._apps.values():
            app.rebalancing = False  # Faust restarts its fetcher when it is cancelled in the midst of a rebalance
        stops = [asyncio.ensure_future(app.stop()) for app in self._apps.values()]
        done, late = await asyncio.wait(stops, timeout=STOP_SECONDS)
        for task in late:
            task.cancel()
            log.warning(
                "A workload did not stop within %s s; what it had in work is done again by its next owner.",
                STOP_SECONDS,
            )
        for task in done:
            with contextlib.suppress(asyncio.CancelledError):
                task.result()

    def refresh_gauges(self) -> None:
        """Set the gauges that are read off state: lag by partition, and the oldest batch in work."""
        oldest = 0.0
        now = time.monotonic()
        lags: dict[TopicPartition, int] = {}  # of several workloads on one partition, the one that is furthest behind
        for app in self._apps.values():
            for tp, lag in app.consumer.lags().items():
                lags[tp] = max(lag, lags.get(tp, 0))
            assignment: Assignment | None = app.consumer.current
            if assignment is not None:
                ages = (partition.unsettled_seconds(now) for partition in assignment.partitions.values())
                oldest = max(oldest, *ages, 0.0)
        metrics.LAG.clear()
        for tp, lag in lags.items():
            metrics.LAG.labels(tp.topic, tp.partition).set(lag)
        metrics.OLDEST_UNSETTLED.set(oldest)
