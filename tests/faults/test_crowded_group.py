"""Routers that come and go all the time, and more routers than partitions: all partitions are worked on, by one each."""

import asyncio
import itertools
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient

from tests.e2e.processes import Child, until
from tests.faults.offsets import Offsets
from tests.faults.stage import Progress, Stage, background, stage

STORM_SECONDS = 3
STANDSTILL_SECONDS = 30.0
"""The longest that a partition may stand still in the storm."""
SESSION = 6.0
"""With 3 s a router that a starved machine holds up is put out again and again, before its first commit."""
TAKEOVER_SECONDS = SESSION + 30
JOINED = "Assigned in generation"


async def storm(on: Stage, chance: random.Random, seconds: float) -> int:
    """A router joins, or one that has joined leaves, by SIGTERM or kill -9, every STORM_SECONDS. How many left."""
    guests: list[Child] = []
    end, left = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        joined = [one for one in guests if JOINED in one.output]
        if joined and (len(guests) == 3 or chance.random() < 0.5):
            guest = chance.choice(joined)
            guests.remove(guest)
            left += 1
            if chance.random() < 0.5:
                on.kill(guest)
            else:
                assert await guest.stop() == 0, guest.tail()
        elif len(guests) < 3:
            guests.append(await on.router())
        await asyncio.sleep(STORM_SECONDS)
    return left


async def test_routers_that_join_and_leave_all_the_time(
    kafka: str, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    moved: dict[int, list[float]] = {}

    async def watch(offsets: Offsets) -> None:
        """When each partition's committed offset last moved."""
        before: dict[int, int] = {}
        while True:
            for tp, at in offsets.now.items():
                if at > before.get(tp.partition, -1):
                    before[tp.partition] = at
                    moved.setdefault(tp.partition, []).append(time.monotonic())
            await asyncio.sleep(0.05)

    async with (
        stage(tmp_path, kafka, name, session=SESSION) as on,
        Progress(kafka, on.routed, len(on.partitions)) as progress,
        Offsets(kafka, on.group) as offsets,
    ):
        steady = await on.router()
        await steady.says(JOINED, 60)
        devices = await on.devices(seconds(800, 2000), seed=chance.randrange(1000))
        await until(lambda: progress.total > 0, 60)
        async with background(watch(offsets)):
            begun = time.monotonic()
            left = await storm(on, chance, seconds(20, 300))
            pause = progress.longest_pause(begun)
            await on.stop_devices(devices)
            await on.until_done(60)
        generations = int(re.findall(rf"{JOINED} (\d+)", steady.output)[-1])
        assert steady.process.returncode is None, steady.tail()
        found = await on.judge()
    assert left >= seconds(1, 10)
    assert generations > left, f"{left} joined and left again, in {generations} generations: no storm"
    assert set(moved) == {tp.partition for tp in on.partitions}
    longest = max(later - at for times in moved.values() for at, later in itertools.pairwise(times))
    assert longest < STANDSTILL_SECONDS
    assert not offsets.backward, offsets.backward
    assert found.records >= seconds(5_000, 20_000)
    seen("F-14", f"a router joins or leaves every {STORM_SECONDS} s", found,
         f"{left} joined and left, {generations} generations; no partition stood still for more than {longest:.1f} s",
         pause)  # fmt: skip


async def members(admin: AIOKafkaAdminClient, group: str) -> set[str]:
    """The member ids of a group."""
    (answer,) = await admin.describe_consumer_groups([group])
    return {member[0] for member in answer.groups[0][5]}


async def test_a_router_that_stood_by_takes_over(
    kafka: str, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    async with (
        stage(tmp_path, kafka, name, partitions=3, session=SESSION) as on,
        Progress(kafka, on.routed, len(on.partitions)) as progress,
        Offsets(kafka, on.group) as offsets,
    ):
        routers = [await on.router() for _ in range(5)]
        await admin.start()
        try:
            await until(lambda: all(place(one) is not None for one in routers), 60)
            await until(lambda: standing_by(routers) == 2, 60)
            devices = await on.devices(seconds(800, 1000), seed=chance.randrange(1000))
            stood, end = await members(admin, on.group), time.monotonic() + seconds(8, 310)
            assert len(stood) == 5
            while time.monotonic() < end:
                assert await members(admin, on.group) == stood, "a member has left, or has another id"
                await asyncio.sleep(0.5)
            took, begun = [], time.monotonic()
            for _ in range(2):  # each of the two that stand by gets its turn
                active = next(one for one in routers if place(one))
                partition = place(active)
                routers.remove(active)
                standby = [one for one in routers if place(one) == ""]
                on.kill(active)
                killed, before = time.monotonic(), dict(offsets.now)
                await until(lambda: any(map(place, standby)), TAKEOVER_SECONDS)  # noqa: B023  # awaited within the turn
                await until(lambda: all(at > before[tp] for tp, at in offsets.now.items()), TAKEOVER_SECONDS)  # noqa: B023
                took.append(time.monotonic() - killed)
                print(f"{on.raw} {partition}: taken over after {took[-1]:.1f} s")
            pause = progress.longest_pause(begun)
            await on.stop_devices(devices)
            await on.until_done(60)
        finally:
            await admin.close()
        found = await on.judge()
    assert max(took) <= TAKEOVER_SECONDS
    assert not offsets.backward, offsets.backward
    seen("F-15", "5 routers for 3 partitions, kill -9 of active ones", found,
         f"2 stood by for {seconds(8, 310):.0f} s; all partitions committed again {max(took):.1f} s after a kill",
         pause)  # fmt: skip


def place(router: Child) -> str | None:
    """The partitions that a router has by its last assignment: "" for none, None before the first."""
    lines = [line for line in router.output.splitlines() if JOINED in line]
    if not lines:
        return None
    return "" if "standing by" in lines[-1] else lines[-1].rpartition(" [")[2].rstrip("].")


def standing_by(routers: list[Child]) -> int:
    return sum(place(one) == "" for one in routers)
