"""The demo from its first to its last second: set up, send, watch, let everything arrive, and strike the balance."""

import asyncio
import importlib.util
import logging
import random
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import orjson
from rich.console import Console

from sluice.demo import configuration
from sluice.demo.audit import audit
from sluice.demo.flow import Flow, Reading
from sluice.demo.ledger import Ledger
from sluice.demo.processes import Process, ProcessEnded
from sluice.demo.stage import Stage, standing
from sluice.demo.view import Picture, View, print_ledger, view_for
from sluice.demo.workers import Workers, chaos
from sluice.devices import Fleet
from sluice.exits import Exit, UserError

T = TypeVar("T")

READY_SECONDS = 60.0
STILL_SECONDS = 60.0
"""Without any progress for so long, what has not arrived counts as missing."""
_READ_SECONDS = 0.5
_SENDING_MAY_TAKE = 3
"""Times the seconds asked for; then this machine cannot send so fast."""


@dataclass(frozen=True)
class Settings:
    """The options of `sluice demo`. `rate` is in records a second, all devices together."""

    seconds: int
    rate: int
    devices: int
    seed: int
    chaos: bool
    keep: Path | None
    as_json: bool


def run(settings: Settings) -> bool:
    """Run the demo and print its ledger; True if nothing is missing, too much or in clear.

    Whatever happens, Ctrl-C and kill -9 included, no process stays behind. Raises UserError, Missing, BrokerFailed,
    KafkaError, KeyboardInterrupt.
    """
    if importlib.util.find_spec("moto") is None:
        raise UserError(
            "moto is not installed; get it with `pip install 'sluice[demo]'`, or use `make demo`", Exit.UNAVAILABLE
        )
    logging.getLogger("aiokafka").setLevel(logging.ERROR)  # that a new topic has no leader yet is no news
    with ExitStack() as stack:
        root = settings.keep
        if root is None:
            root = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-demo-", ignore_cleanup_errors=True))
            )
        view = stack.enter_context(view_for(settings.as_json))
        try:
            ledger = asyncio.run(_until_signal(_demo(settings, root, view)))
        except ProcessEnded as error:
            raise UserError(str(error), Exit.INTERNAL) from None
    _print(ledger, settings.as_json)
    return ledger.ok


async def _until_signal(work: Coroutine[Any, Any, Ledger]) -> Ledger:
    """SIGTERM ends the demo in order, as Ctrl-C does."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _print(ledger: Ledger, as_json: bool) -> None:
    if as_json:
        for problem in ledger.problems:
            sys.stderr.write(f"✗ {problem}\n")
        sys.stdout.write(orjson.dumps(ledger.as_json()).decode() + "\n")
    else:
        print_ledger(ledger, Console())


async def _demo(settings: Settings, root: Path, view: View) -> Ledger:
    view.show(Picture("Starting Kafka, S3, Kinesis and an HTTP receiver"))
    async with standing(root, Fleet(settings.seed, settings.devices)) as stage:
        workers = Workers(stage.config_file, configuration.CREW, stage.logs, root / "targets.json")
        try:
            return await _act(settings, stage, workers, view)
        finally:
            workers.kill_all()


async def _act(settings: Settings, stage: Stage, workers: Workers, view: View) -> Ledger:
    async with Flow(stage.config) as flow:
        watch = _Watch(flow, workers, view, settings.seconds * settings.rate)
        crew = asyncio.ensure_future(workers.run())
        try:
            watch.phase("Starting workers")
            await _unless_over(crew, workers.wait_until_ready(READY_SECONDS))
            await _unless_over(crew, _send(settings, stage, workers, watch))
            problems = await _unless_over(crew, watch.until_arrived())
        finally:
            crew.cancel()
        watch.phase("Ending workers")
        problems += await workers.stop()
    watch.phase("Reading everything back")
    if workers.restarts:
        problems.append(f"workers ended by themselves and were started again, {workers.restarts} times: see their logs")
    keep = stage.root / "s3" if settings.keep is not None else None
    ledger = await audit(stage, settings.chaos, workers.kills, problems, keep)
    if settings.keep is not None:
        (stage.root / "ledger.json").write_bytes(orjson.dumps(ledger.as_json(), option=orjson.OPT_INDENT_2))
    return ledger


async def _unless_over(watched: "asyncio.Future[None]", work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; the exception of `watched` as soon as it has one."""
    doing = asyncio.ensure_future(work)
    try:
        both: list[asyncio.Future[Any]] = [watched, doing]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if watched.done():
            watched.result()
        return await doing
    finally:
        doing.cancel()


async def _send(settings: Settings, stage: Stage, workers: Workers, watch: "_Watch") -> None:
    """Let the devices send, and kill workers meanwhile if that is wanted. Raises ProcessEnded if not all was sent."""
    arguments = {
        "brokers": stage.brokers, "events": configuration.RAW_EVENTS, "usage": configuration.RAW_USAGE,
        "seconds": settings.seconds, "rate": settings.rate, "devices": settings.devices, "seed": settings.seed,
    }  # fmt: skip
    sender = Process(
        "the devices", ["-m", "sluice.demo.sender", orjson.dumps(arguments).decode()], stage.logs / "devices.log"
    )
    killing = None
    if settings.chaos:
        draw = random.Random(f"{settings.seed} chaos")  # noqa: S311  a simulation
        killing = asyncio.ensure_future(chaos(workers, draw))
    watch.phase("Devices send")
    deadline = time.monotonic() + READY_SECONDS + _SENDING_MAY_TAKE * settings.seconds
    try:
        while sender.exit_code is None and time.monotonic() < deadline:
            await watch.look()
            await asyncio.sleep(_READ_SECONDS)
    finally:
        if killing is not None:
            killing.cancel()
        sender.kill()
    if sender.exit_code != 0:
        raise ProcessEnded(f"the devices ended with {sender.exit_code}, before all was sent:\n{sender.last_lines()}")


class _Watch:
    """Reads where the records are, and shows it."""

    def __init__(self, flow: Flow, workers: Workers, view: View, total: int) -> None:
        self._flow, self._workers, self._view = flow, workers, view
        self._picture = Picture(total=total)
        self._before: tuple[float, Reading] = (0.0, Reading())

    def phase(self, phase: str) -> None:
        self._show(replace(self._picture, phase=phase))

    async def look(self) -> Reading:
        """Read and show."""
        reading = await self._flow.read()
        now = time.monotonic()
        then, before = self._before
        if now - then >= 2:
            passed = now - then
            rates = {name: (at - before.settled.get(name, 0)) / passed for name, at in reading.settled.items()}
            self._before = (now, reading)
            self._picture = replace(self._picture, rates=rates if then else {})
        self._show(replace(self._picture, reading=reading))
        return reading

    async def until_arrived(self) -> list[str]:
        """Return when nothing waits any more, or when nothing has moved for too long: then what waits where."""
        self.phase("Waiting until everything has arrived")
        last, moved = Reading(), time.monotonic()
        while not (reading := await self.look()).done:
            if reading.settled != last.settled:
                last, moved = reading, time.monotonic()
            if time.monotonic() - moved > STILL_SECONDS:
                waiting = ", ".join(f"{count} for {name}" for name, count in reading.lag.items() if count)
                return [f"nothing has moved for {STILL_SECONDS:.0f} s, and records wait: {waiting}"]
            await asyncio.sleep(_READ_SECONDS)
        return []

    def _show(self, picture: Picture) -> None:
        self._picture = replace(
            picture,
            kills=self._workers.kills,
            restarts=self._workers.restarts,
            workers=len(self._workers.addresses()),
        )
        self._view.show(self._picture)
