"""One worker process: what `sluice worker` runs, from its config to its exit code."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any

from aiokafka import errors
from aiokafka.errors import KafkaError

from agents.key_outage import KeysAway
from schemas.registry import Breaks, RegistryUnavailable
from sinks.aws import Unavailable
from sinks.contract import Conflict, Sink
from sluice import __version__, crashes
from sluice.config import Config
from sluice.exits import Exit, UserError
from sluice.keys import Source, keep, opened, source_of, unfit
from sluice.loading import Loading
from sluice.topics import remedy
from sluice.wiring import Wired, needs, register, topic_specs, wire
from stream import metrics
from stream.app import GROUP_PREFIX, Worker
from stream.assignment import flattened
from stream.connection import KafkaConfig
from stream.diagnosis import Unreachable
from stream.outbox import Outbox, ProduceRefused
from stream.permissions import Need, NotAllowed, Operation
from stream.reference import ReferenceReader
from stream.starting import NeedsStart
from stream.status import StatusServer
from stream.topics import Topics

log = logging.getLogger(__name__)

Background = Callable[[], Awaitable[None]]
START_SECONDS = 60.0
RETRY_SECONDS = 1.0
END_SECONDS = 19.0
"""From SIGTERM to the end, whatever does not close. What starts workers gives them 20 s or more."""


def run(config: Config, names: Sequence[str]) -> None:
    """Work until SIGTERM or SIGINT. Raises UserError for what the user can put right, anything else for a fault of ours."""
    unknown = [name for name in names if name not in config.pipelines and name not in config.streams]
    if unknown:
        known = ", ".join([*config.pipelines, *config.streams])
        raise UserError(f"no pipeline or stream is named {', '.join(unknown)}; known: {known}", Exit.USAGE)
    if len(set(names)) < len(names):
        raise UserError(
            "a name stands there twice; name each pipeline or stream once, and start another worker", Exit.USAGE
        )
    # A batch makes thousands of objects that all die together: collecting in the midst of it costs a third of the time.
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
    # Not asyncio.run: it waits for threads, and one may be stuck in a call to a destination.
    try:
        asyncio.new_event_loop().run_until_complete(_run(config, names))
    except BaseException as error:
        crashes.report(error)
        raise


async def _run(config: Config, names: Sequence[str]) -> None:
    metrics.BUILD_INFO.labels(__version__).set(1)
    stopping = _stop_on_signals()
    source = source_of(config, names)
    try:
        await _patiently(lambda: _look_at_keys(config, source, names), stopping)
        if not stopping.is_set():
            await _run_with(config, names, source, stopping)
    finally:
        source.close()


async def _run_with(config: Config, names: Sequence[str], source: Source, stopping: asyncio.Event) -> None:
    outbox = Outbox(config.kafka, "sluice." + "+".join(names))
    wired = wire(config, names, outbox, source.keys)
    worker = Worker(wired.workloads, config.kafka, last_words=crashes.report)
    # A worker that still reads its references has not joined its groups, so it is not ready either.
    status = StatusServer(config.metrics.listen, worker.ready, worker.live, worker.refresh_gauges)
    await status.start()
    try:
        async with _dependencies(config, names, outbox, wired, stopping):
            if not stopping.is_set():
                await _work(worker, [lambda: keep(config, source)], config.kafka, wired, stopping)
    except BaseException as error:  # a WorkFailed is no Exception
        for one in flattened(error):
            if said := _for_the_user(one, config, names):
                raise said from None
        raise
    finally:
        await status.stop()


def _for_the_user(error: BaseException, config: Config, names: Sequence[str]) -> UserError | None:
    """What ended a worker and can be put right outside of it; None for anything else."""
    kafka = config.kafka
    groups = [f"{GROUP_PREFIX}{name}" for name in names]
    match error:
        case ProduceRefused() | KeysAway():
            return UserError(str(error), Exit.UNAVAILABLE)
        case Unavailable():
            text = f"where {' and '.join(names)} goes on is in its bucket, which does not answer ({error.reason})"
            return UserError(f"{text}; see `sluice check FILE`", Exit.UNAVAILABLE)
        case Conflict():  # of a link in the bucket that says where a partition goes on; others halt their partition alone
            return UserError(f"{' and '.join(names)} cannot go on: {error}", Exit.UNAVAILABLE)
        case NeedsStart() | NotAllowed():
            text = str(error)
        case errors.GroupAuthorizationFailedError():
            text = str(NotAllowed(kafka, [Need("group", group, Operation.READ) for group in groups]))
        case errors.TopicAuthorizationFailedError():
            of_topics = [need for need in needs(config, names) if need.kind == "topic"]
            text = str(NotAllowed(kafka, [need for need in of_topics if need.name in error.args] or of_topics))
        case errors.InvalidSessionTimeoutError():
            text = (
                f"the brokers take no session of {kafka.session_seconds:g} s; set kafka.session_seconds within their "
                "group.min.session.timeout.ms (6 s by default) and group.max.session.timeout.ms"
            )
        case errors.InconsistentGroupProtocolError():
            text = f"in the group {' or '.join(groups)} works something other than Sluice; stop it, or rename yours"
        case _:
            return None
    return UserError(text, Exit.CONFIG)


def _stop_on_signals() -> asyncio.Event:
    """What is set by SIGTERM or SIGINT; then the process has END_SECONDS."""
    stopping = asyncio.Event()

    def stop() -> None:
        if not stopping.is_set():
            asyncio.get_running_loop().call_later(END_SECONDS, end)
        stopping.set()

    def end() -> None:
        log.warning("Not closed in order within %.0f s; what was not committed is done again.", END_SECONDS)
        logging.shutdown()
        os._exit(Exit.DONE)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    return stopping


async def _work(
    worker: Worker, background: Sequence[Background], kafka: KafkaConfig, wired: Wired, stopping: asyncio.Event
) -> None:
    """Run until `stopping` is set, with what has to be done beside the work, once the reference topics are caught up."""
    ending = asyncio.ensure_future(_stop_with(stopping, worker))
    try:
        if wired.references:
            await _work_with_references(worker, background, kafka, wired, stopping)
        else:
            await worker.run(background)
    finally:
        ending.cancel()


async def _stop_with(stopping: asyncio.Event, worker: Worker) -> None:
    await stopping.wait()
    worker.stop()


async def _work_with_references(
    worker: Worker, background: Sequence[Background], kafka: KafkaConfig, wired: Wired, stopping: asyncio.Event
) -> None:
    began = time.monotonic()
    async with ReferenceReader(kafka, wired.references) as reference:
        with Loading() as progress:
            await _unless(stopping, reference.catch_up(progress))
        if not stopping.is_set():
            held = ", ".join(f"{name} {size:,}" for name, size in wired.tables.sizes().items())
            log.info("References are loaded in %.1f s: %s.", time.monotonic() - began, held)
            await worker.run([*background, reference.follow])


@contextlib.asynccontextmanager
async def _dependencies(
    config: Config, names: Sequence[str], outbox: Outbox, wired: Wired, stopping: asyncio.Event
) -> AsyncIterator[None]:
    """What must be there before work starts: brokers, topics, destinations. Tried for 60 s, then it is the user's turn."""
    try:
        await _patiently(lambda: _look_at_topics(config, names), stopping)
        await _patiently(lambda: _look_at_schemas(config, wired), stopping)
        await _patiently(outbox.start, stopping)
        for name, sink in wired.sinks.items():
            await _patiently(lambda name=name, sink=sink: _look_at(name, sink), stopping)  # type: ignore[misc]
        yield
    finally:
        await outbox.stop()
        await wired.registry.close()
        for sink in wired.sinks.values():
            await sink.close()


class _Unavailable(Exception):
    """Not there yet: worth another look."""


async def _patiently(look: Callable[[], Coroutine[Any, Any, None]], stopping: asyncio.Event) -> None:
    deadline = time.monotonic() + START_SECONDS
    said = False
    clients = logging.getLogger("aiokafka")
    while not stopping.is_set():
        before = clients.level
        if before > logging.DEBUG:
            clients.setLevel(logging.CRITICAL)  # a line for each attempt to connect, which says less than ours
        try:
            await _unless(stopping, look())
            return
        except (KafkaError, OSError, _Unavailable) as error:
            reason = str(error) or type(error).__name__
        finally:
            clients.setLevel(before)
        if time.monotonic() > deadline:
            raise UserError(f"gave up after {START_SECONDS:.0f} s: {reason}", Exit.UNAVAILABLE)
        if not said:
            log.warning("Waiting up to %.0f s: %s", START_SECONDS, reason)
            said = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), RETRY_SECONDS)


async def _unless(stopping: asyncio.Event, looking: Coroutine[Any, Any, None]) -> None:
    """Wait for `looking`; give it up as soon as `stopping` is set. Raises what it raises."""
    task, stop = asyncio.ensure_future(looking), asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        task.cancel()
        stop.cancel()


async def _look_at_topics(config: Config, names: Sequence[str]) -> None:
    try:
        async with Topics(config.kafka) as topics:
            if missing := await topics.missing_rights(needs(config, names)):
                raise NotAllowed(config.kafka, missing)
            states = await topics.compare(topic_specs(config, names))
    except Unreachable as error:
        if error.final:
            raise UserError(str(error), Exit.CONFIG) from None
        raise _Unavailable(str(error)) from None
    wrong = [f"{one.name}: {one.detail}{remedy(one)}" for one in states if one.state == "differs"]
    if wrong:
        raise UserError("the topics are not as the config needs them:\n  " + "\n  ".join(wrong), Exit.CONFIG)
    absent = [one.name for one in states if one.state == "missing"]
    if absent:
        raise _Unavailable(f"topics are not there: {', '.join(absent)}; make them with `sluice topics FILE`")


async def _look_at_keys(config: Config, source: Source, names: Sequence[str]) -> None:
    try:
        await asyncio.to_thread(opened, config, source)
    except UserError as error:
        if error.code == Exit.UNAVAILABLE:
            raise _Unavailable(str(error)) from None
        raise
    if problems := list(unfit(config, source.keys, names)):
        raise UserError("\n".join(problems), Exit.CONFIG)
    for warning in source.keys.warnings:
        log.warning("%s.", warning)


async def _look_at_schemas(config: Config, wired: Wired) -> None:
    try:
        await register(config, wired)
    except RegistryUnavailable as error:
        raise _Unavailable(str(error)) from None
    except Breaks as error:
        raise UserError(str(error), Exit.CONFIG) from None


async def _look_at(name: str, sink: Sink) -> None:
    for finding in await sink.check():
        text = f"{name}: {finding.text}; {finding.remedy}"
        if finding.level == "unavailable":
            raise _Unavailable(text)
        if finding.level == "error":
            raise UserError(text, Exit.CONFIG)
