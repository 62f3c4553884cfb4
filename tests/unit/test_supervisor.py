"""`sluice up`: what ends is started again, what cannot run is given up loudly, and nothing outlives the supervisor."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sluice.supervisor import Patience, Supervisor

QUICK = Patience(first=0.02, longest=0.05, healthy=60, no_progress=10, attempts=5, drain=10)
STARTED = "import pathlib, os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n');"
WAITS = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0));" + STARTED + "time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + STARTED + "time.sleep(60)"


class Crew:
    """Worker programs, each of which writes its process id into a file of its name when it starts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs: dict[str, str] = {}

    def add(self, name: str, program: str) -> str:
        self._programs[name] = program
        return name

    def command(self, name: str) -> list[str]:
        return [sys.executable, "-I", "-S", "-c", self._programs[name], str(self._folder / name)]

    def started(self, name: str) -> list[int]:
        file = self._folder / name
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0.01)


@pytest.fixture
def crew(tmp_path: Path) -> Crew:
    return Crew(tmp_path)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def run(
    crew: Crew, names: list[str], patience: Patience, during: Callable[[], Awaitable[None]] | None = None
) -> int:
    running = asyncio.ensure_future(Supervisor(names, crew.command, patience).run())
    if during is not None:
        await during()
        os.kill(os.getpid(), signal.SIGTERM)
    code = await asyncio.wait_for(running, 30)
    assert not [pid for name in names for pid in crew.started(name) if is_running(pid)], "somebody is left behind"
    return code


async def test_all_run_until_sigterm_and_then_it_ends_with_0(crew: Crew) -> None:
    names = [crew.add("a", WAITS), crew.add("b", WAITS), "b"]

    async def until_all_run() -> None:
        await crew.until(lambda: len(crew.started("a")) == 1 and len(crew.started("b")) == 2)

    assert await run(crew, names, QUICK, until_all_run) == 0


async def test_what_is_killed_is_started_again_and_the_others_do_not_notice(crew: Crew) -> None:
    names = [crew.add("a", WAITS), crew.add("b", WAITS)]

    async def kill_one() -> None:
        for times in (1, 2, 3):
            await crew.until(lambda times=times: len(crew.started("a")) == times)  # type: ignore[misc]
            os.kill(crew.started("a")[-1], signal.SIGKILL)
        await crew.until(lambda: len(crew.started("a")) == 4 and len(crew.started("b")) == 1)

    assert await run(crew, names, QUICK, kill_one) == 0
    assert len(crew.started("b")) == 1


async def test_a_wrong_config_is_given_up_at_once_with_its_code(crew: Crew, caplog: pytest.LogCaptureFixture) -> None:
    names = [crew.add("a", WAITS), crew.add("wrong", STARTED + "sys.exit(78)")]
    with caplog.at_level(logging.ERROR):
        assert await run(crew, names, QUICK) == 78
    assert len(crew.started("wrong")) == 1
    assert "Giving up: wrong ended (exit code 78)" in caplog.text


@pytest.mark.parametrize(("end", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 70), ("sys.exit(0)", 70)])
async def test_what_ends_five_times_without_progress_is_given_up(crew: Crew, end: str, code: int) -> None:
    name = crew.add("a", STARTED + end)
    assert await run(crew, [name], QUICK) == code
    assert len(crew.started(name)) == 5


async def test_what_finds_something_unavailable_is_tried_for_ever(crew: Crew) -> None:
    name = crew.add("a", STARTED + "sys.exit(69)")

    async def for_long() -> None:
        await crew.until(lambda: len(crew.started(name)) > 8)

    assert await run(crew, [name], QUICK, for_long) == 0


async def test_waits_double_up_to_a_limit(crew: Crew) -> None:
    name = crew.add("a", STARTED + "sys.exit(1)")
    start = time.monotonic()
    await run(crew, [name], Patience(first=0.2, longest=0.5, no_progress=10, attempts=5))
    assert time.monotonic() - start >= 0.2 + 0.4 + 0.5 + 0.5


async def test_one_that_does_not_stop_is_killed_and_that_is_no_success(crew: Crew) -> None:
    names = [crew.add("a", STUBBORN), crew.add("b", WAITS)]

    async def until_all_run() -> None:
        await crew.until(lambda: bool(crew.started("a") and crew.started("b")))

    assert await run(crew, names, Patience(drain=0.5), until_all_run) == 70


async def test_one_that_is_being_started_when_all_are_to_stop_drains_too(
    crew: Crew, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, reached, go_on = crew.add("a", WAITS), asyncio.Event(), asyncio.Event()
    start = asyncio.create_subprocess_exec

    async def slowly(*command: str, **how: Any) -> asyncio.subprocess.Process:
        reached.set()
        await go_on.wait()
        return await start(*command, **how)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slowly)

    async def until_one_starts() -> None:
        await reached.wait()
        asyncio.get_running_loop().call_later(0.2, go_on.set)

    with caplog.at_level(logging.ERROR):
        await run(crew, [name], QUICK, until_one_starts)
    assert "is killed" not in caplog.text


def test_nothing_outlives_a_supervisor_that_is_killed(crew: Crew, tmp_path: Path) -> None:
    crew.add("a", STUBBORN)
    script = f"""
import asyncio
from sluice.supervisor import Patience, Supervisor
asyncio.run(Supervisor(["a"] * 3, lambda name: {crew.command("a")!r}, Patience()).run())
"""
    place = {**os.environ, "TMPDIR": str(tmp_path)}  # it cannot take away what it has made
    supervisor = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL, env=place)
    deadline = time.monotonic() + 20
    while len(crew.started("a")) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    supervisor.kill()
    supervisor.wait()
    while any(map(is_running, crew.started("a"))):
        assert time.monotonic() < deadline
        time.sleep(0.01)


CRASHES = STARTED + "import json; open(os.environ['SLUICE_CRASH_FILE'], 'w').write(json.dumps({report})); sys.exit(70)"
"""Its run, from 0, is `n`."""
RUN = "(n := len(open(sys.argv[1]).readlines()) - 1)"
PATIENT = Patience(first=0.02, longest=0.05, healthy=0, no_progress=0, attempts=5, drain=10)
"""No run is too short to count as one that got somewhere."""


def crash_at(partition: str, offset: str) -> str:
    report = f"({RUN}, dict(topic='raw.events', partition={partition}, offset={offset}, end=200))[1]"
    return CRASHES.replace("{report}", report)


async def test_five_crashes_at_one_offset_are_given_up_with_its_name_and_what_to_do(
    crew: Crew, caplog: pytest.LogCaptureFixture
) -> None:
    names = [crew.add("events", crash_at("3", "100")), crew.add("other", WAITS)]
    assert await run(crew, names, PATIENT) == 70
    assert len(crew.started("events")) == 5
    assert "Giving up: events ended (exit code 70) 5 times with raw.events/3, offsets 100 to 199 in work" in caplog.text
    assert "never getting past offset 100. How to go on: docs/operating.md" in caplog.text


async def test_two_workers_that_trip_over_one_offset_in_turn_count_together(crew: Crew) -> None:
    name = crew.add("events", crash_at("3", "100"))
    assert await run(crew, [name, name], PATIENT) == 70
    assert len(crew.started(name)) <= 6, "each was counted for itself"


async def test_an_offset_that_goes_back_is_no_other_place(crew: Crew) -> None:
    """What was settled and not committed before a crash is done again after it."""
    name = crew.add("events", crash_at("3", "100 + 50 * (n % 2)"))
    assert await run(crew, [name], PATIENT) == 70
    assert len(crew.started(name)) <= 6


async def test_two_offsets_that_crash_in_turn_are_found_out_too(crew: Crew) -> None:
    name = crew.add("events", crash_at("n % 2", "100"))
    assert await run(crew, [name], PATIENT) == 70
    assert len(crew.started(name)) == 9


@pytest.mark.parametrize(
    "program",
    [
        crash_at("3", "100 + n"),
        crash_at("3", "100 + n // 4"),
        crash_at("3", "100").replace("sys.exit(70)", "sys.exit(69)"),
        CRASHES.replace("{report}", "'nonsense'"),
        STARTED + "os.kill(os.getpid(), 9)",
    ],
    ids=["gets on", "gets on at the fifth", "unavailable", "unreadable report", "no report"],
)
async def test_crashes_that_get_on_or_are_nobody_s_fault_are_tried_for_ever(crew: Crew, program: str) -> None:
    name = crew.add("events", program)

    async def for_long() -> None:
        await crew.until(lambda: len(crew.started(name)) > 12)

    assert await run(crew, [name], PATIENT, for_long) == 0
