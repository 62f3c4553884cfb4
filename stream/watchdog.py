"""Ends a process that stands still with exit code 70 and all stacks in the log: its successor does what it left undone.

Two look: a thread at the event loop, which may be blocked, and a task in the loop at the work, which may wait for ever. Both
count the time in which they were themselves awake, so that a process that was frozen (SIGSTOP, a suspended machine) is not blamed
for the time that it slept through. A thread cannot run while C code holds Python's lock: such a hang is not seen from inside.
"""

import asyncio
import contextlib
import faulthandler
import gc
import inspect
import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import NamedTuple, NoReturn

from stream.assignment import InWork, WorkFailed

log = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
"""Brokers that have not answered by then are out."""
SAY_SECONDS = 60.0
FLUSH_SECONDS = 5.0
"""The process ends after so long even if its log takes nothing more."""


class Stuck(Exception):
    """Something should have got on, and has not. The text names it."""


class Stage(NamedTuple):
    """Something that should get on now."""

    signs: object
    """Different from the last look's if it has got on."""
    allowance: float = 0.0
    """Seconds that what is under way may take on top of the limit."""
    at: InWork | None = None


class Stalls:
    """For how long each stage has not got on. Pure: it is told what is, and how much time has passed."""

    def __init__(self) -> None:
        self._stages: dict[str, tuple[Stage, float]] = {}

    def look(self, stages: Mapping[str, Stage], seconds: float) -> None:
        """`stages`: what should get on now, by name. `seconds` have passed since the last look."""
        before, self._stages = self._stages, {}
        for name, stage in stages.items():
            stalled = 0.0
            if name in before and before[name][0].signs == stage.signs:
                stalled = before[name][1] + seconds
            self._stages[name] = stage, stalled

    def over(self, limit: float) -> dict[str, Stage]:
        """The stages that have not got on for `limit` seconds."""
        return {name: stage for name, (stage, stalled) in self._stages.items() if stalled >= limit + stage.allowance}

    def forget(self) -> None:
        """Count anew."""
        self._stages.clear()


class Watchdog:
    """Watches one event loop and what should get on in it."""

    def __init__(
        self,
        limit: float,
        stages: Callable[[], Mapping[str, Stage]],
        outage: Callable[[float], Awaitable[str | None]],
        last_words: Callable[[BaseException], None],
    ) -> None:
        """`limit`: seconds without a sign of life. `outage` is asked, and given so many seconds to find out, whether what is
        missing is the brokers' part. `last_words` is called with the error before the end, in any thread; it must not block.
        """
        self._limit = limit
        self._interval = min(1.0, limit / 10)
        self._stages = stages
        self._outage = outage
        self._last_words = last_words
        self._stalls = Stalls()
        self._beats = 0
        self._over = threading.Event()
        self._said = float("-inf")
        self._asked = float("-inf")
        self._calm = True

    def start(self) -> None:
        """Begin to look at the running loop: `beat` has to be called from it. Ends with `stop`."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._look_at_the_loop, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def beat(self) -> None:
        """The loop turns."""
        self._beats += 1

    def calm(self) -> bool:
        """Nothing has stood still for half the limit that the brokers are not to blame for."""
        return self._calm

    async def run(self) -> None:
        """Look at the stages until cancelled."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(self._interval)
            self._stalls.look(self._stages(), self._awake(before))
            if not self._stalls.over(self._limit / 2):
                self._calm = True
                continue
            if not self._stalls.over(self._limit) and time.monotonic() - self._asked < self._limit / 8:
                continue
            missing = await self._outage(ANSWER_SECONDS)
            self._asked = time.monotonic()
            if missing is None:
                self._stalls.look(self._stages(), 0.0)  # asking took a while, in which something may have got on
                self._calm = not self._stalls.over(self._limit / 2)
                for name, stage in self._stalls.over(self._limit).items():
                    self._end(Stuck(f"{name} has not got on for {self._limit:.0f} s"), stage.at)
                continue
            self._calm = True
            if time.monotonic() - self._said >= SAY_SECONDS:
                self._said = time.monotonic()
                log.warning("Nothing gets on: %s; waiting until it is back.", missing)
            await self._until_back()

    async def _until_back(self) -> None:
        while (missing := await self._outage(ANSWER_SECONDS)) is not None:
            if time.monotonic() - self._said >= SAY_SECONDS:
                self._said = time.monotonic()
                log.warning("Still waiting: %s.", missing)
            await asyncio.sleep(self._limit / 20)
        self._stalls.forget()

    def _look_at_the_loop(self) -> None:
        beats, stalled, before = self._beats, 0.0, time.monotonic()
        while not self._over.wait(self._interval):
            stalled = stalled + self._awake(before) if beats == self._beats else 0.0
            beats, before = self._beats, time.monotonic()
            if stalled >= self._limit:
                self._end(Stuck(f"the event loop has not turned for {self._limit:.0f} s"), self._in_hand())

    def _in_hand(self) -> InWork | None:
        """What the loop works on while it does not turn, if it is a partition: their tasks have their names."""
        with contextlib.suppress(Exception):  # the loop's own state, seen from another thread
            task = asyncio.current_task(self._loop)
            for stage in self._stages().values() if task is not None else ():
                if task is not None and stage.at is not None and stage.at.name == task.get_name():
                    return stage.at
        return None

    def _awake(self, before: float) -> float:
        """Seconds since `before`, without those in which the machine or the process stood."""
        return min(time.monotonic() - before, 2 * self._interval)

    def _end(self, stuck: Stuck, at: InWork | None) -> NoReturn:
        last_resort = threading.Timer(FLUSH_SECONDS, os._exit, (os.EX_SOFTWARE,))
        last_resort.daemon = True
        last_resort.start()
        with contextlib.suppress(Exception):
            self._last_words(stuck if at is None else WorkFailed(at, stuck))
        with contextlib.suppress(Exception):
            where = f" In work: {at}." if at else ""
            log.error("Stuck: %s.%s The process ends, uncommitted. Where it stood:", stuck, where)
            for line in stacks(self._loop):
                log.error("%s", line)
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
        os._exit(os.EX_SOFTWARE)


def stacks(loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    """Where each task of a loop waits, a line each: file, line and function of every frame; never a value."""
    for task in asyncio.all_tasks(loop):
        name = task.get_name()
        if name.startswith("<"):  # mode names a task by what it runs, which the frames say
            name = "of Faust"
        # Task.get_stack() shows the outermost frame of a task that waits.
        yield f"task {name}: {' > '.join(_frames(task.get_coro())) or 'not begun'}"


def _frames(awaited: object) -> Iterator[str]:
    """The frames of a chain of awaited coroutines, outermost first."""
    while awaited is not None:
        for kind in ("cr", "gi", "ag"):
            if (frame := getattr(awaited, f"{kind}_frame", None)) is not None:
                yield f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
                awaited = getattr(awaited, f"{kind}_await" if kind != "gi" else "gi_yieldfrom")
                break
        else:
            if asyncio.isfuture(awaited):
                return
            # What stands between a coroutine and an asynchronous generator has no name for the generator (before Python 3.14).
            awaited = next((one for one in gc.get_referents(awaited) if inspect.isasyncgen(one)), None)
