"""`sluice generate`: what simulated devices report, to stdout or to a topic, until it is enough or a signal comes."""

import asyncio
import itertools
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import FrameType

from aiokafka.errors import KafkaConnectionError, KafkaError

from sluice import logs
from sluice.devices import Fleet, Message
from sluice.exits import Exit, UserError
from sluice.generate import to_stream, to_topic

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_START = datetime(2026, 11, 2, 12, 0, 0, 125_000, UTC).timestamp()
_STEP = 7.0
"""Seconds from one record on stdout to the next: time as it is would give others for the same seed."""


class _Stopped(Exception):
    """SIGTERM or SIGINT."""


def run(
    kind: str,
    count: int | None,
    rate: float | None,
    seed: int,
    devices: int,
    bad: float,
    target: tuple[str, str] | None,
) -> None:
    """Write `count` messages (without end if None), `rate` a second; `target` is a topic and its brokers, else stdout. Blocks.

    On stdout the same arguments give the same bytes: time begins at a fixed moment and goes on by a fixed step a record. To a
    topic go records of now.
    A signal ends it after a whole record. Raises UserError when the topic cannot be written to.
    """
    clock: Callable[[], float] = itertools.count(_START, _STEP).__next__ if target is None else time.time
    messages = itertools.islice(_messages(kind, Fleet(seed, devices, bad=bad, clock=clock)), count)
    if target is not None:
        logs.silence()
        asyncio.run(_to_topic(messages, *target, rate))
        return
    for number in SIGNALS:
        signal.signal(number, _stop)
    try:
        to_stream(messages, sys.stdout.buffer, rate)
    except _Stopped:
        sys.stdout.buffer.flush()


def _messages(kind: str, fleet: Fleet) -> Iterator[Message]:
    match kind:
        case "events":
            return fleet.events()
        case "usage":
            return fleet.usage()
        case _:
            return itertools.chain.from_iterable(zip(fleet.events(), fleet.usage(), strict=False))


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough: what follows is only the way out
    raise _Stopped


async def _to_topic(messages: Iterator[Message], topic: str, brokers: str, rate: float | None) -> None:
    sent = 0

    def progress(count: int) -> None:
        nonlocal sent
        sent = count

    sending = asyncio.ensure_future(to_topic(messages, topic, brokers, rate, progress=progress))
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, sending.cancel)
    try:
        await sending
    except asyncio.CancelledError:
        pass  # by a signal: what is acknowledged is said below
    except KafkaConnectionError:
        raise UserError(
            f"no Kafka broker answers at {brokers}; start it, or correct --brokers", Exit.UNAVAILABLE
        ) from None
    except KafkaError as error:
        reason = f"topic {topic} at {brokers} takes no records: {type(error).__name__}"
        raise UserError(f"{reason}; make it with `sluice topics FILE`, or correct --topic", Exit.UNAVAILABLE) from None
    finally:
        sys.stderr.write(f"{sent} records acknowledged by {topic}\n")
