"""kill -9 of routers, again and again, under load: every record exactly once after deduplication."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.processes import until
from tests.faults.stage import Progress, Stage, background, stage

WORKERS = 3
RATE = 10_000
"""Records a second that routers take while one of them is always dying."""


async def kills(on: Stage, chance: random.Random, seconds: float, pause: Callable[[], float]) -> int:
    """Kill one of the routers that have joined, again and again; how many were in the midst of work is not known."""
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        await asyncio.sleep(pause())
        joined = [child for child in on.running if "Assigned in generation" in child.output]
        if joined:
            on.kill(chance.choice(joined))
            count += 1
    return count


async def under_kills(
    on: Stage, chance: random.Random, rate: float, seconds: float, pause: Callable[[], float]
) -> tuple[int, Progress]:
    """Devices send, routers are killed and replaced; then all is settled. Returns the kills and how it went forward."""
    async with background(on.keep(WORKERS)), Progress(on.brokers, on.routed, len(on.partitions)) as progress:
        await until(lambda: any("Assigned in generation" in child.output for child in on.running), 60)
        devices = await on.devices(rate, seed=chance.randrange(1000))
        await until(lambda: progress.total > 0, 60)
        steps = [progress.total]
        counted, end = 0, time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            counted += await kills(on, chance, min(20, left), pause)
            steps.append(progress.total)
        await on.stop_devices(devices)
        await on.until_done(120)
        assert all(later > before for before, later in itertools.pairwise(steps)), f"no progress: {steps}"
    assert not on.ended, f"routers ended by themselves: {on.ended}"
    return counted, progress


async def test_a_random_one_of_three_routers_is_killed_every_few_seconds(
    kafka: str, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    length = seconds(25, 300)
    async with stage(tmp_path, kafka, name) as on:
        counted, progress = await under_kills(on, chance, 3000, length, lambda: chance.uniform(1, 8))
        found = await on.judge()
    assert counted >= length / 8
    assert found.repeats > 0, "no kill fell into work: nothing was shown"
    assert found.records >= 20_000
    seen(
        "F-02", "kill -9 of a random one of 3 routers every 1-8 s", found, f"{counted} kills", progress.longest_pause()
    )


async def test_a_router_is_killed_every_two_seconds_at_ten_thousand_records_a_second(
    kafka: str, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    length = seconds(20, 180)
    async with stage(tmp_path, kafka, name, session=1.5) as on:
        counted, progress = await under_kills(on, chance, RATE, length, lambda: 2.0)
        found = await on.judge()
    rate = found.records / length
    assert counted >= 0.4 * length
    assert rate >= 0.9 * RATE, "the devices did not keep the rate: nothing was shown"
    assert found.repeats > 0, "no kill fell into work: nothing was shown"
    seen(
        "F-02",
        f"the same every 2 s at {RATE:,} records/s, session 1.5 s",
        found,
        f"{counted} kills in {length:.0f} s, {rate:,.0f} records/s",
        progress.longest_pause(),
    )
