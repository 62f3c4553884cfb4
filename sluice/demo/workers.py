"""The demo's worker processes: started, watched, started again when they end, and killed on purpose with --chaos."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson

from sluice.demo.processes import Process, ProcessEnded

STOP_SECONDS = 30.0
"""A worker that is told to end has so long to settle what it holds."""
_LOOK_SECONDS = 0.1
_HEALTHY_SECONDS = 20.0
_GIVE_UP_AFTER = 4
"""So many ends in a row, each soon after a start, and nobody expects another start to help."""


@dataclass
class _Place:
    """One worker's place in the crew: whoever fills it."""

    title: str
    names: tuple[str, ...]
    process: Process | None = None
    started: float = 0.0
    failures: int = 0
    start_at: float = 0.0
    killed: bool = False


class Workers:
    """Runs `sluice worker CONFIG NAME...` for each entry of a crew, and starts again what ends.

    `targets` is kept current for Prometheus (file_sd): the metrics addresses of the workers that run now.
    """

    def __init__(self, config: Path, crew: Sequence[tuple[str, ...]], logs: Path, targets: Path) -> None:
        self._config, self._logs, self._targets = config, logs, targets
        self._places = [_Place(f"{number}-{names[0]}", names) for number, names in enumerate(crew, 1)]
        self._written: object = None
        self.kills = 0
        self.restarts = 0
        """Starts after an end that nobody had ordered."""

    async def run(self) -> None:
        """Keep all places filled until cancelled. Raises ProcessEnded when a worker ends again and again."""
        while True:
            for place in self._places:
                self._look_after(place)
            self._write_targets()
            await asyncio.sleep(_LOOK_SECONDS)

    async def wait_until_ready(self, seconds: float) -> None:
        """Return when every worker has said on /ready that it is a member of its groups.

        Raises ProcessEnded after so many seconds. Needs `run` beside it.
        """
        deadline = time.monotonic() + seconds
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2), trust_env=False) as session:
            for place in self._places:
                while not (place.process is not None and await _is_ready(session, place.process)):
                    if time.monotonic() > deadline:
                        lines = place.process.last_lines() if place.process else ""
                        raise ProcessEnded(f"worker {place.title} was not ready after {seconds:.0f} s:\n{lines}")
                    await asyncio.sleep(_LOOK_SECONDS)

    def addresses(self) -> dict[str, str]:
        """`host:port` of the metrics of each worker that has logged it, by its title."""
        running = ((place.title, place.process) for place in self._places if place.process is not None)
        return {title: process.address for title, process in running if process.address is not None}

    def pids(self) -> list[int]:
        return [place.process.pid for place in self._places if place.process is not None]

    def kill_one(self, draw: random.Random) -> str | None:
        """kill -9 of a worker that works, and at once another in its place; its title, or None if none works yet."""
        working = [place for place in self._places if place.process is not None and place.process.address]
        if not working:
            return None
        place = draw.choice(working)
        assert place.process is not None, "as chosen above"
        place.killed = True
        if not place.process.kill():
            return None  # it had ended by itself a moment before: not our doing
        self.kills += 1
        self._look_after(place)
        return place.title

    async def stop(self) -> list[str]:
        """SIGTERM to all; what does not end in time is killed. Returns what was not as it should be, in sentences."""
        problems = []
        running = [(place.title, place.process) for place in self._places if place.process is not None]
        for _, process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for title, process in running:
            code = await process.wait(deadline - time.monotonic())
            if code is None:
                process.kill()
                problems.append(f"worker {title} did not end within {STOP_SECONDS:.0f} s of SIGTERM")
            elif code != 0:
                problems.append(f"worker {title} ended with {code} on SIGTERM, not with 0: see {process.log}")
        for place in self._places:
            place.process = None
        self._write_targets()
        return problems

    def kill_all(self) -> None:
        """For the way out when something went wrong."""
        for place in self._places:
            if place.process is not None:
                place.process.kill()

    def _look_after(self, place: _Place) -> None:
        now = time.monotonic()
        if place.process is not None and place.process.exit_code is not None:
            self._judge(place, place.process, now)
            place.process = None
        if place.process is None and now >= place.start_at:
            arguments = ["-m", "sluice.cli", "worker", str(self._config), *place.names]
            place.process = Process(f"worker {place.title}", arguments, self._logs / f"worker-{place.title}.log")
            place.started, place.killed = now, False

    def _judge(self, place: _Place, ended: Process, now: float) -> None:
        """When to start again, after an end."""
        place.start_at = now
        if place.killed:
            return
        self.restarts += 1
        place.failures = place.failures + 1 if now - place.started < _HEALTHY_SECONDS else 1
        if place.failures == _GIVE_UP_AFTER:
            raise ProcessEnded(
                f"worker {place.title} ended {_GIVE_UP_AFTER} times in a row, last with {ended.exit_code}:\n"
                f"{ended.last_lines()}"
            )
        place.start_at = now + 0.25 * 2**place.failures

    def _write_targets(self) -> None:
        targets = [
            {"targets": [address], "labels": {"worker": title}} for title, address in sorted(self.addresses().items())
        ]
        if targets != self._written:
            beside = self._targets.with_suffix(".new")
            beside.write_bytes(orjson.dumps(targets, option=orjson.OPT_INDENT_2))
            beside.replace(self._targets)  # a reader never sees half of it
            self._written = targets


async def _is_ready(session: aiohttp.ClientSession, process: Process) -> bool:
    if process.address is None:
        return False
    try:
        async with session.get(f"http://{process.address}/ready") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def chaos(workers: Workers, draw: random.Random) -> None:
    """Kill a random worker every few seconds, until cancelled."""
    while True:
        await asyncio.sleep(draw.uniform(2, 4))
        workers.kill_one(draw)
