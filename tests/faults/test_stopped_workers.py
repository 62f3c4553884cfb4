"""SIGTERM of routers under load: each drains, commits, leaves and exits 0 in time, and the next owner repeats nothing."""

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

from sluice.local_kafka import LocalKafka
from tests.e2e.processes import Child, until
from tests.faults.stage import Progress, Stage, stage

EXIT_SECONDS = 20
ROUTERS = 3
JOINED = "Assigned in generation"


async def ended_after(child: Child) -> tuple[int, float]:
    """SIGTERM: the exit code, and the seconds until the end."""
    begun = time.monotonic()
    code = await child.stop(2 * EXIT_SECONDS)
    return code, time.monotonic() - begun


async def running(on: Stage, count: int) -> list[Child]:
    """`count` routers that have all joined."""
    routers = [await on.router() for _ in range(count)]
    for router in routers:
        await router.says(JOINED, 60)
    return routers


async def test_a_rolling_restart_under_load_repeats_nothing(
    kafka: str, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    stops: list[tuple[int, float]] = []
    async with stage(tmp_path, kafka, name) as on:
        routers = await running(on, ROUTERS)
        async with Progress(kafka, on.routed, len(on.partitions)) as progress:
            devices = await on.devices(seconds(1000, 4000), seed=chance.randrange(1000))
            await until(lambda: progress.total > 0, 30)
            for _ in range(int(seconds(1, 5))):
                for place in chance.sample(range(ROUTERS), ROUTERS):
                    before = progress.total
                    await until(lambda before=before: progress.total > before, 30)  # type: ignore[misc]  # mypy and defaults
                    stops.append(await ended_after(routers[place]))
                    routers[place] = await on.router()
                    await routers[place].says(JOINED, 60)
            await on.stop_devices(devices)
            await on.until_done(60)
        found = await on.judge()
    slowest = max(took for _, took in stops)
    assert [code for code, _ in stops] == [0] * len(stops)
    assert slowest <= EXIT_SECONDS
    assert found.repeats == 0, "a router that was stopped in order left something uncommitted"
    assert found.records >= seconds(3_000, 20_000)
    seen("F-03", "rolling restart of 3 routers by SIGTERM under load", found,
         f"{len(stops)} SIGTERMs, each exit 0, the slowest after {slowest:.1f} s", progress.longest_pause())  # fmt: skip


async def test_a_router_whose_brokers_do_not_answer_exits_in_time(
    name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    with LocalKafka(tmp_path / "kafka") as cluster:
        async with stage(tmp_path, cluster.bootstrap, name) as on:
            stuck = await running(on, ROUTERS)
            async with Progress(cluster.bootstrap, on.routed, len(on.partitions)) as progress:
                devices = await on.devices(count=int(seconds(15_000, 60_000)), seed=chance.randrange(1000))
                await until(
                    lambda: progress.total > 1000, 30
                )  # as fast as they can: something is in flight all the time
                cluster.pause(0)
                try:
                    stops = await asyncio.gather(*(ended_after(one) for one in stuck))
                finally:
                    cluster.resume(0)
                said = [child.output for child in stuck]
                await running(on, 1)
                assert await devices.ends(60) == 0
                await on.until_done(60)
            found = await on.judge()
    slowest = max(took for _, took in stops)
    assert [code for code, _ in stops] == [0] * ROUTERS
    assert slowest <= EXIT_SECONDS
    assert any("did not settle" in one for one in said), "nothing was in flight when the broker stopped answering"
    seen("F-03", f"SIGTERM of {ROUTERS} routers whose broker is frozen", found, f"exit 0, the slowest after {slowest:.1f} s",
         progress.longest_pause())  # fmt: skip
