"""The network between routers and the broker is cut or loses the answers: the one that was cut off moves no foreign offset."""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from sluice.local_kafka import LocalKafka, _free_ports
from tests.e2e.processes import Child, until
from tests.faults.offsets import Offsets
from tests.faults.proxy import OFFSET_COMMIT, PRODUCE, Proxy
from tests.faults.stage import WORKER, Progress, Stage, background, stage

RATE = 2000
SESSION = 3.0
BACK_SECONDS = 30.0
"""From the end of a fault to progress: a request that nobody answered is waited for 10 s, and a connection then 10 s more."""


class Ways(NamedTuple):
    """Two ways to one broker."""

    direct: str
    proxied: int
    """The port that the broker advertises to whoever comes through the proxy: where the proxy has to listen."""
    behind: int


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    kafka = LocalKafka(tmp_path_factory.mktemp("far") / "kafka")
    behind, proxied = _free_ports(2)
    usual = kafka._broker_properties(0)
    kafka._properties |= {
        "listeners": f"{usual['listeners']},FAR://127.0.0.1:{behind}",
        "advertised.listeners": f"{usual['advertised.listeners']},FAR://127.0.0.1:{proxied}",
        "listener.security.protocol.map": f"{usual['listener.security.protocol.map']},FAR:PLAINTEXT",
    }
    with kafka:
        yield Ways(kafka.bootstrap, proxied, behind)


@asynccontextmanager
async def behind_the_proxy(
    ways: Ways,
    folder: Path,
    name: str,
    chance: random.Random,
    routers: int,
    session: float = SESSION,
    rate: float = RATE,
) -> AsyncIterator[tuple[Stage, Proxy, Progress]]:
    """`routers` at steady work through the proxy. Afterwards the load ends and all is settled; no offset went back."""
    async with (
        Proxy(ways.proxied, ways.behind) as proxy,
        stage(folder, ways.direct, name, session=session, worker_brokers=f"127.0.0.1:{ways.proxied}") as on,
        background(on.keep(routers)),
        Progress(on.brokers, on.routed, len(on.partitions)) as progress,
        Offsets(on.brokers, on.group) as offsets,
    ):
        await until(lambda: len(on.running) == routers and all(map(assigned, on.running)), 60)
        devices = await on.devices(rate, seed=chance.randrange(1000))
        await until(lambda: progress.total > rate, 60, devices.tail)
        yield on, proxy, progress
        await on.stop_devices(devices)
        await on.until_done()
        assert offsets.looks > 10
        assert not offsets.backward, f"committed offsets went back: {offsets.backward}"
        assert not on.ended, f"routers ended by themselves: {on.ended}\n{on.children[-1].tail()}"


def assigned(child: Child) -> bool:
    return "Assigned in generation" in child.output


async def direct_router(on: Stage) -> Child:
    """A router that does not go through the proxy, in the same group."""
    settings = yaml.safe_load(on.file.read_text())
    settings["kafka"]["brokers"] = on.brokers.split(",")
    file = on.folder / f"{on.name}-direct.yaml"
    file.write_text(yaml.safe_dump(settings))
    return await on.start("router-direct", *WORKER, str(file), on.name)


async def progress_is_back(progress: Progress, since: float) -> float:
    """Seconds until the routed topics grow again after `since`. Fails after BACK_SECONDS."""
    await until(lambda: progress.samples[-1][0] > since, BACK_SECONDS)
    return next(at for at, _ in progress.samples if at > since) - since


async def cut_off_and_replaced(
    ways: Ways, folder: Path, name: str, chance: random.Random, length: float, seen: Callable[..., None]
) -> None:
    rate = min(RATE, 100_000 / length)  # the judge reads all of it
    async with behind_the_proxy(ways, folder, name, chance, 1, rate=rate) as (on, proxy, progress):
        heir = await direct_router(on)
        await heir.says("Assigned in generation")
        near = on.running[0]
        await near.says("Assigned in generation", times=2)  # shared between the two
        await asyncio.sleep(2)
        begun = time.monotonic()
        proxy.set("blackhole")
        # Takes over within session and rebalance, long before the other one is back; and gets on alone.
        await heir.says("[0, 1, 2, 3, 4, 5]", seconds=SESSION + 25)
        taken = time.monotonic() - begun
        total = progress.total
        await until(lambda: progress.total > total, 20)
        await asyncio.sleep(max(0.0, begun + length - time.monotonic()))
        proxy.set("pass")
        await near.says("abandoned", seconds=60)
        assert proxy.held > 0, "nothing was held up"
        await near.says("Assigned in generation", times=3, seconds=60)
        assert heir.process.returncode is None, heir.tail()
        print(f"cut off for {length:.0f} s: taken over after {taken:.1f} s; {proxy.held} pieces held up")
    found = await on.judge()
    refused = re.search(r"abandoned: (\w+) for ", near.output)
    why = f"its commit: {refused.group(1)}" if refused else "it was told by its heartbeat"
    seen("F-10", f"a router cut off for {length:.0f} s, another takes over", found, why, progress.longest_pause())


async def all_cut_off(
    ways: Ways, folder: Path, name: str, chance: random.Random, length: float, seen: Callable[..., None]
) -> None:
    async with behind_the_proxy(ways, folder, name, chance, 2) as (on, proxy, progress):
        proxy.set("blackhole")
        await asyncio.sleep(length)
        proxy.set("pass")
        back = await progress_is_back(progress, time.monotonic())
        assert proxy.held > 0, "nothing was held up"
        print(f"all cut off for {length:.0f} s: progress {back:.1f} s after; {proxy.held} pieces held up")
    found = await on.judge()
    assert progress.longest_pause() >= length * 0.9, "there was progress while all were cut off"
    seen(
        "F-10",
        f"all routers cut off for {length:.0f} s",
        found,
        f"{proxy.held} pieces held up",
        progress.longest_pause(),
    )


async def test_a_router_is_cut_off_for_longer_than_its_session_and_another_takes_over(
    ways: Ways, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    for number, length in enumerate([6] if seconds(0, 1) == 0 else [10, 45, 300]):
        folder = tmp_path / str(number)
        folder.mkdir()
        await cut_off_and_replaced(ways, folder, f"{name}-{number}", chance, length, seen)


async def test_all_routers_are_cut_off(
    ways: Ways, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    await all_cut_off(ways, tmp_path, name, chance, seconds(6, 45), seen)


async def test_answers_are_lost_while_requests_arrive(
    ways: Ways, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    times, lost = int(seconds(3, 15)), []
    async with behind_the_proxy(ways, tmp_path, name, chance, 2, session=10) as (on, proxy, progress):
        for _ in range(times):
            before = proxy.lost.copy()
            proxy.swallow_from(PRODUCE)
            # It is written on the broker, and its sender does not know.
            await until(lambda before=before: proxy.lost[PRODUCE] > before[PRODUCE], 20)  # type: ignore[misc]  # mypy and defaults
            await asyncio.sleep(chance.uniform(0.5, 3))
            proxy.set("pass")
            lost.append(proxy.lost - before)
            await progress_is_back(progress, time.monotonic())
            await asyncio.sleep(chance.uniform(0.5, 2))
    found = await on.judge()
    assert len(lost) == times
    writes, commits = (sum(one[kind] for one in lost) for kind in (PRODUCE, OFFSET_COMMIT))
    evidence = f"{times} times; the answers to {writes} writes and {commits} commits lost"
    seen("F-11", "requests arrive, answers are lost", found, evidence, progress.longest_pause())


async def lose_the_answer_to_a_commit(proxy: Proxy, offsets: Offsets, partitions: set[int]) -> float:
    """Swallow answers from when a commit of these partitions has arrived meanwhile: it is stored, and who sent it does not know.

    The answers go on being lost. Returns when it was stored, time.monotonic().
    """
    for _ in range(20):
        proxy.set("swallow")
        looks, end = offsets.looks, time.monotonic() + SESSION / 2
        await until(lambda looks=looks: offsets.looks > looks + 1)  # type: ignore[misc]  # mypy and defaults
        before = {tp: at for tp, at in offsets.now.items() if tp.partition in partitions}
        while time.monotonic() < end:
            if any(offsets.now[tp] > at for tp, at in before.items()):
                return time.monotonic()
            await asyncio.sleep(0.02)
        proxy.set("pass")  # all had been committed already, and without answers nothing more settles
        await until(lambda before=before: any(offsets.now[tp] > at for tp, at in before.items()), 60)  # type: ignore[misc]
        await asyncio.sleep(0.3)
    raise AssertionError("no commit fell into the time without answers")


async def test_a_commit_whose_answer_was_lost_is_repeated_after_the_group_has_moved_on(
    ways: Ways, name: str, tmp_path: Path, chance: random.Random, seen: Callable[..., None]
) -> None:
    async with (
        behind_the_proxy(ways, tmp_path, name, chance, 1) as (on, proxy, _),
        Offsets(on.brokers, on.group) as offsets,
    ):
        near = on.running[0]
        heir = await direct_router(on)
        await heir.says("Assigned in generation", 60)
        await near.says("Assigned in generation", 60, times=2)
        mine = set(map(int, re.findall(r"Assigned in .* \[([\d, ]+)\]", near.output)[-1].split(",")))
        begun = await lose_the_answer_to_a_commit(proxy, offsets, mine)
        await heir.says("[0, 1, 2, 3, 4, 5]", seconds=SESSION + 25)
        moved_on = time.monotonic() - begun
        taken = dict(offsets.now)
        await until(lambda: all(at > taken[tp] for tp, at in offsets.now.items()), 20)
        assert "abandoned" not in near.output
        proxy.set("pass")
        refused = re.compile(r"abandoned: ((?:UnknownMemberId|IllegalGeneration)Error) for")
        await until(lambda: refused.search(near.output) is not None, 30, near.tail)
        error = refused.findall(near.output)[0]
        await near.says("Assigned in generation", times=3, seconds=60)
        print(f"the group moved on {moved_on:.1f} s after the answer was lost; then: {error}")
    found = await on.judge()
    assert not offsets.backward, offsets.backward
    assert proxy.lost[OFFSET_COMMIT] > 0
    seen("F-13", "the answer to a commit is lost, the group moves on", found, f"the commit sent again: {error}")
