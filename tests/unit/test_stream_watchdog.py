"""What counts as standing still, and what the stacks of the waiting tasks show."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from stream import watchdog
from stream.watchdog import Stage, Stalls, Watchdog, stacks


def test_a_stage_that_does_not_get_on_is_over_the_limit_after_so_long_and_not_before() -> None:
    stalls = Stalls()
    for _ in range(10):
        stalls.look({"fetch": Stage(1)}, 1.0)
    assert not stalls.over(10)
    stalls.look({"fetch": Stage(1)}, 1.0)
    assert list(stalls.over(10)) == ["fetch"]


def test_a_stage_that_gets_on_or_has_nothing_to_do_begins_anew() -> None:
    stalls = Stalls()
    for step in range(100):
        stalls.look({"gets on": Stage(step)} | ({"has a pause": Stage(1)} if step % 9 else {}), 1.0)
    assert not stalls.over(10)


def test_a_step_that_said_how_long_it_takes_is_granted_that_on_top() -> None:
    stalls = Stalls()
    for _ in range(21):
        stalls.look({"work": Stage(1, allowance=30)}, 1.0)
    assert not stalls.over(10)
    for _ in range(20):
        stalls.look({"work": Stage(1, allowance=30)}, 1.0)
    assert stalls.over(10)


class Ended(Exception):
    pass


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the watchdog would have ended the process for."""
    found: list[str] = []

    def end(self: Watchdog, stuck: BaseException, at: object) -> None:
        found.append(str(stuck))
        raise Ended

    monkeypatch.setattr(Watchdog, "_end", end)
    return found


async def test_brokers_are_asked_first_and_while_they_are_out_nobody_is_blamed(ends: list[str]) -> None:
    answers = ["raw/0 has no leader"] * 5 + [None] * 100

    async def outage(seconds: float) -> str | None:
        return answers.pop(0)

    dog = Watchdog(0.2, lambda: {"fetch of raw/0": Stage(1)}, outage, lambda _: None)
    with pytest.raises(Ended):
        await asyncio.wait_for(dog.run(), 10)
    assert len(answers) < 100, "it was ended before the brokers were back"
    assert ends == ["fetch of raw/0 has not got on for 0 s"]


async def test_a_process_that_waits_for_brokers_stays_calm_and_one_that_stands_still_does_not(ends: list[str]) -> None:
    missing: str | None = "raw/0 has no leader"
    asked = 0

    async def outage(seconds: float) -> str | None:
        nonlocal asked
        asked += 1
        return missing

    dog = Watchdog(0.4, lambda: {"fetch of raw/0": Stage(1)}, outage, lambda _: None)
    running = asyncio.create_task(dog.run())
    async with asyncio.timeout(10):
        while asked < 20:
            assert dog.calm()
            await asyncio.sleep(0.01)
        missing = None
        while dog.calm():
            await asyncio.sleep(0.01)
        assert not running.done(), "it was ended before /live said so"
        with pytest.raises(Ended):
            await running


async def test_what_got_on_while_the_brokers_were_asked_is_not_stuck(ends: list[str]) -> None:
    signs, asked = 0, asyncio.Event()

    async def outage(seconds: float) -> str | None:
        nonlocal signs
        signs += 1
        asked.set()
        return None

    dog = Watchdog(0.2, lambda: {"work on raw/0": Stage(signs)}, outage, lambda _: None)
    running = asyncio.create_task(dog.run())
    await asyncio.wait_for(asked.wait(), 10)
    asked.clear()
    await asyncio.wait_for(asked.wait(), 10)
    assert not running.done()
    assert not ends
    running.cancel()


async def test_the_stack_of_a_waiting_task_reaches_into_its_generators_and_shows_no_value() -> None:
    async def waits_for_ever(secret: str) -> None:
        await asyncio.Event().wait()

    async def batches() -> AsyncIterator[int]:
        await waits_for_ever("4111111111111111")
        yield 1

    async def work() -> None:
        async for _ in batches():
            pass

    task = asyncio.create_task(work(), name="raw/0")
    await asyncio.sleep(0)
    line = next(one for one in stacks(asyncio.get_running_loop()) if one.startswith("task raw/0"))
    assert "work > " in line
    assert "batches > " in line
    assert "waits_for_ever > " in line
    assert "4111" not in line
    task.cancel()


def test_the_exit_code_is_the_one_that_the_commands_document() -> None:
    assert watchdog.os.EX_SOFTWARE == 70  # type: ignore[attr-defined]
