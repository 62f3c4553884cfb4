"""`sluice up`: a worker process for every pipeline and stream of a config on this host, started again when it ends."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sluice import crashes
from sluice.config import Config
from sluice.exits import Exit
from sluice.private_memory import keep_memory_private
from sluice.tether import tethered
from stream.assignment import InWork

log = logging.getLogger(__name__)

CommandOf = Callable[[str], Sequence[str]]
"""The command line of the worker of a pipeline or stream: an absolute path, then arguments."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often what ends is started again, in seconds."""

    first: float = 1.0
    """Before the first restart; doubled with each one after it."""
    longest: float = 30.0
    healthy: float = 60.0
    """A worker that ran so long begins anew with `first`."""
    no_progress: float = 10.0
    """A worker that ended sooner has done nothing."""
    attempts: int = 5
    """So many runs in a row without progress, or crashes at one offset, and the whole of `up` gives up."""
    drain: float = 20.0
    """From SIGTERM to SIGKILL."""


def run(file: Path, config: Config, workers: int) -> int:
    """Run `workers` processes of each pipeline and stream until SIGTERM or SIGINT; return the exit code. Blocks.

    0: stopped by a signal, and all workers have drained. 70: stopped, but one had to be killed (its work is done again at the
    next start). Otherwise the code of the worker that was given up on: one that says that its config is wrong (78), that ended
    five times in a row within ten seconds, or that crashed five times at the same topic, partition and offset, however long it
    ran and whichever of several workers of that name it was. One that found something unavailable (69) is never given up on.
    """
    if config.keys is not None and config.keys.provider == "env":
        keep_memory_private()  # the keys are in this process's environment too
    names = [name for name in (*config.pipelines, *config.streams) for _ in range(workers)]
    # -P: a folder named `schemas` or `agents` where `up` was called must not stand in for ours.
    arguments = [sys.executable, "-P", "-m", "sluice.cli", "worker", str(file.resolve())]
    return asyncio.run(Supervisor(names, lambda name: [*arguments, name], Patience()).run())


class Supervisor:
    """Keeps one process running for each of `names` (a name may stand there several times). Runs once."""

    def __init__(self, names: Sequence[str], command: CommandOf, patience: Patience) -> None:
        self._names = names
        self._command = command
        self._patience = patience
        self._running: set[asyncio.subprocess.Process] = set()
        self._crashes: dict[tuple[str, str, int], tuple[int, int]] = {}
        """For a name, topic and partition: the furthest offset that its workers crashed at, and how often since."""

    async def run(self) -> int:
        """See `run` of this module. To be called in the main thread: its signal handlers are replaced."""
        self._stopping = asyncio.Event()
        self._code: int = Exit.DONE
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        log.info("Starting %d workers; Ctrl-C stops them.", len(self._names))
        with tempfile.TemporaryDirectory(prefix="sluice-up-") as folder:
            async with asyncio.TaskGroup() as group:
                self._keeping = [
                    group.create_task(self._keep(name, Path(folder) / f"{slot}.json"))
                    for slot, name in enumerate(self._names)
                ]
                group.create_task(self._stop())
        return self._code

    async def _keep(self, name: str, report: Path) -> None:
        """One worker after the other, until all are to stop. A worker that crashes writes `report`."""
        patience, delay, in_vain = self._patience, self._patience.first, 0
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._one_run(name, report)
            if self._stopping.is_set():
                return
            lasted = time.monotonic() - started
            if lasted >= patience.healthy:
                delay = patience.first
            in_vain = 0 if lasted >= patience.no_progress or code == Exit.UNAVAILABLE else in_vain + 1
            at = crashes.take(report)
            if code == Exit.UNAVAILABLE:
                at = None
            if at is not None and self._times_there(name, at) >= patience.attempts:
                why = (
                    f"{patience.attempts} times with {at} in work, never getting past offset {at.offset}. How to go on: "
                    'docs/operating.md, "A worker that crashes again and again"'
                )
            elif code == Exit.CONFIG:
                why = "and its config is wrong"
            elif in_vain >= patience.attempts:
                why = f"and it ended {patience.attempts} times without progress"
            else:
                why = None
            if why is not None:
                self._give_up(name, code, why)
                return
            log.warning("%s ended (%s) after %.0f s; starting it again in %.0f s.", name, _said(code), lasted, delay)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            delay = min(patience.longest, 2 * delay)

    def _times_there(self, name: str, at: InWork) -> int:
        """Count a crash, and return how many there were at this offset since the partition last got on."""
        partition = name, at.topic, at.partition
        furthest, times = self._crashes.get(partition, (at.offset, 0))
        # What was settled beyond a committed offset is done again: a lower offset is no other place.
        times = times + 1 if at.offset <= furthest else 1
        self._crashes[partition] = max(furthest, at.offset), times
        return times

    async def _one_run(self, name: str, report: Path) -> int:
        # Sessions of their own: Ctrl-C reaches the supervisor alone, who then decides the order of things.
        command = tethered(self._command(name))
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, crashes.VARIABLE: str(report)},
        )
        self._running.add(process)
        try:
            if self._stopping.is_set():  # it was set while the process started, and may have missed this one
                _terminate(process)
            return await process.wait()
        finally:
            self._running.discard(process)

    def _give_up(self, name: str, code: int, why: str) -> None:
        log.error(
            "Giving up: %s ended (%s) %s. What it said stands above; stopping the others.", name, _said(code), why
        )
        self._code = self._code or (code if code > 0 else Exit.INTERNAL)
        self._stopping.set()

    async def _stop(self) -> None:
        await self._stopping.wait()
        log.info("Stopping %d workers, up to %.0f s.", len(self._running), self._patience.drain)
        for process in self._running:
            _terminate(process)
        # Not those that run now: one that is being started is terminated as soon as it is there.
        await asyncio.wait(self._keeping, timeout=self._patience.drain)
        for process in list(self._running):
            log.error("Worker %d did not stop in %.0f s and is killed.", process.pid, self._patience.drain)
            self._code = self._code or Exit.INTERNAL
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def _terminate(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()


def _said(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
