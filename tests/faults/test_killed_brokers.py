"""Brokers die under load, one after the other or two of three: nothing is lost, doubled or out of order, and routers stay."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sluice.local_kafka import LocalKafka
from tests.e2e.processes import Child, until
from tests.faults.cluster import (
    commits_seen_by,
    controller,
    coordinator,
    ends_seen_by,
    leaders,
    until_in_sync,
    until_led_by_others,
    whole,
)
from tests.faults.stage import Progress, Stage, background, stage

RATE = 1000
"""Records a second: over all these faults far more than 20,000, and little beside what three brokers cost."""
LONGEST_SECONDS = 15.0
"""Without progress, for any one broker."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """Three brokers; every topic is replicated to all of them, and two must be in sync."""
    with LocalKafka(tmp_path_factory.mktemp("cluster") / "kafka", brokers=3) as three:
        yield three


@asynccontextmanager
async def under_load(
    cluster: LocalKafka, folder: Path, name: str, chance: random.Random, session: float = 6
) -> AsyncIterator[tuple[Stage, Progress, Child]]:
    """Two routers in steady work on all brokers. Afterwards the load ends, all is settled, and no router has ended."""
    await whole(cluster)
    async with (
        stage(folder, cluster.bootstrap, name, replication=3, session=session) as on,
        background(on.keep(2)),
        Progress(on.brokers, on.routed, len(on.partitions)) as progress,
    ):
        await until(lambda: len(on.running) == 2 and all("Assigned in" in one.output for one in on.running), 60)
        devices = await on.devices(RATE, seed=chance.randrange(1000))
        await until(lambda: progress.total > RATE, 60, devices.tail)
        yield on, progress, devices
        await whole(cluster)
        await on.stop_devices(devices)
        await on.until_done()
        assert not on.ended, f"routers ended by themselves: {on.ended}\n{on.children[-1].tail()}"


async def role(cluster: LocalKafka, on: Stage, broker: int) -> str:
    """What a broker is: the active controller, coordinator of the group, leader of so many partitions that matter."""
    titles = ["controller"] if controller(cluster)[0] == broker else []
    titles += ["coordinator"] if await coordinator(cluster.bootstrap, on.group) == broker else []
    leading = list((await leaders(cluster.bootstrap, on.raw, *on.routed)).values()).count(broker)
    return " and ".join([*titles, f"leader of {leading}"])


async def acknowledged(cluster: LocalKafka, broker: int, on: Stage) -> tuple[object, object]:
    """What the coordinator of the group, asked alone, has acknowledged: records in the partitions that it leads, and commits."""
    address = cluster.bootstrap.split(",")[broker]
    return await ends_seen_by(address, on.raw, *on.routed), await commits_seen_by(address, broker, on.group)


async def test_each_broker_is_killed_in_turn(
    cluster: LocalKafka, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    rest = seconds(0, 10)
    pauses, killed = [], []
    async with under_load(cluster, tmp_path, name, chance) as (on, progress, _):
        order = [0, 1, 2]
        chance.shuffle(order)
        active, epoch = controller(cluster)
        if seconds(0, 1) == 0:  # the two of them that do more than lead partitions, if they are two
            order = [active, *{await coordinator(cluster.bootstrap, on.group)} - {active}]
        for broker in order:
            was = await role(cluster, on, broker)
            killed.append(was)
            begun = time.monotonic()
            cluster.kill(broker)
            await asyncio.sleep(rest)
            await until_led_by_others(cluster, broker)
            await asyncio.to_thread(cluster.restart, broker)
            await until_in_sync(cluster)
            pauses.append(progress.longest_pause(begun))
            print(f"killed broker {broker} ({was}): {pauses[-1]:.1f} s without progress")
        assert controller(cluster)[1] > epoch, "no controller was elected: the active one was not killed"
        assert any("coordinator" in one for one in killed)
    found = await on.judge()
    assert found.records >= seconds(5_000, 20_000)
    assert max(pauses) <= LONGEST_SECONDS, pauses
    seen("F-06", "kill -9 of brokers, one after the other", found, "; ".join(killed), max(pauses))


async def test_all_brokers_are_restarted_one_after_the_other(
    cluster: LocalKafka, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    rounds, pauses, stopped = int(seconds(1, 3)), [], []
    async with under_load(cluster, tmp_path, name, chance) as (on, progress, _):
        for broker in [0, 1, 2] * rounds:
            before, begun = cluster.pids[broker], time.monotonic()
            was = await role(cluster, on, broker)
            await asyncio.to_thread(cluster.restart, broker)
            assert cluster.pids[broker] not in (None, before), "the broker was not restarted"
            await until_in_sync(cluster)
            pauses.append(progress.longest_pause(begun))
            stopped.append(was)
            print(f"restarted broker {broker} ({was}): {pauses[-1]:.1f} s without progress")
    found = await on.judge()
    assert any("leader of" in one and "leader of 0" not in one for one in stopped), stopped
    assert any("coordinator" in one for one in stopped), stopped
    assert max(pauses) <= LONGEST_SECONDS, pauses
    seen("F-07", "rolling restart of three brokers (SIGTERM)", found, f"{len(pauses)} restarts", max(pauses))


async def test_two_of_three_brokers_are_down_for_a_while(
    cluster: LocalKafka, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    outage = seconds(10, 120)
    async with under_load(cluster, tmp_path, name, chance) as (on, progress, devices):
        left = await coordinator(cluster.bootstrap, on.group)
        for broker in {0, 1, 2} - {left}:
            cluster.kill(broker)
        await asyncio.sleep(4)  # what was acknowledged before becomes visible; then nothing more may be
        looks, end = 0, time.monotonic() + outage
        standing = await acknowledged(cluster, left, on)
        assert standing[0], "the broker that is left leads nothing"
        assert standing[1], "the broker that is left knows of no committed offset"
        while time.monotonic() < end:
            assert await acknowledged(cluster, left, on) == standing, (
                "something was acknowledged with one replica of three"
            )
            looks += 1
            await asyncio.sleep(0.5)
        before = len(progress.samples)
        await whole(cluster)
        back = time.monotonic()
        await until(lambda: len(progress.samples) > before, 60, devices.tail)
        recovered = time.monotonic() - back
        print(f"two of three down for {outage + 4:.0f} s; progress {recovered:.1f} s after all were in sync")
    found = await on.judge()
    pause = progress.longest_pause()
    assert looks >= outage / 2
    assert recovered <= LONGEST_SECONDS
    evidence = f"in {outage:.0f} s the one that was left acknowledged no record and no commit, {looks} looks"
    seen("F-08", "two of three brokers down", found, evidence, pause)


async def test_a_broker_freezes_and_keeps_its_connections(
    cluster: LocalKafka, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    length = seconds(12, 20)
    # A session longer than what a request may take: the workers find the new coordinator before it gives them up.
    async with under_load(cluster, tmp_path, name, chance, session=20) as (on, progress, _):
        frozen = await coordinator(cluster.bootstrap, on.group)
        was = await role(cluster, on, frozen)
        begun = time.monotonic()
        cluster.pause(frozen)
        try:
            await until_led_by_others(cluster, frozen)
            others = ",".join(one for index, one in enumerate(on.brokers.split(",")) if index != frozen)
            before = await on.settled(others)
            await asyncio.sleep(max(0.0, begun + length - time.monotonic()))
            await until(lambda: progress.samples[-1][0] > begun + length, 20)
            after = await on.settled(others)
        finally:
            cluster.resume(frozen)
        pause = progress.longest_pause(begun)
        print(f"froze broker {frozen} ({was}): {pause:.1f} s without progress, {after - before} committed meanwhile")
    found = await on.judge()
    assert after > before, "nothing was committed through another coordinator"
    assert pause <= 2 * LONGEST_SECONDS
    seen("F-06", "a broker frozen (SIGSTOP)", found, f"{was}; commits went on through another", pause)
