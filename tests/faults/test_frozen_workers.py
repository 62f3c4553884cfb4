"""SIGSTOP of an owner of partitions for longer than its session, then SIGCONT: a zombie moves no offset of its heir."""

import asyncio
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from aiokafka import TopicPartition

from sluice.local_kafka import LocalKafka
from tests.e2e.processes import Child, until
from tests.faults.ledger import records_of
from tests.faults.offsets import Offsets
from tests.faults.stage import Progress, Stage, end_offsets, stage

SESSION = 3.0
ALL = "[0, 1, 2, 3, 4, 5]."
REFUSED = re.compile(r"(UnknownMemberIdError|IllegalGenerationError) for \S+ in generation \d+")
BURST = 500


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """One broker that may be frozen."""
    with LocalKafka(tmp_path_factory.mktemp("frozen") / "kafka") as one:
        yield one


async def pair(on: Stage) -> tuple[Child, Child]:
    """Two routers that share the partitions: who will be the zombie, and its heir."""
    owner = await on.router()
    await owner.says(ALL, 60)
    heir = await on.router()
    await owner.says("Assigned in generation", 60, times=2)
    await heir.says("Assigned in generation", 60)
    return owner, heir


async def unsettled_seconds(router: Child) -> float:
    """How old the oldest batch is that a router has in work."""
    address = re.search(r"http://[0-9.:]*\d", router.output)
    assert address is not None, router.tail()
    async with aiohttp.ClientSession() as session, session.get(f"{address.group()}/metrics") as answer:
        return float(re.findall(r"^sluice_oldest_unsettled_seconds (\S+)", await answer.text(), re.MULTILINE)[0])


async def freeze_in_work(broker: LocalKafka, owner: Child, chance: random.Random) -> None:
    """Freeze a router that has sent, and has no answer: the broker takes what was sent while the router is frozen."""
    for _ in range(100):  # a router that keeps up is in work for a small part of the time
        broker.pause(0)
        try:
            await asyncio.sleep(0.25)
            if await unsettled_seconds(owner) > 0.15:
                owner.freeze()
                return
        finally:
            broker.resume(0)
        await asyncio.sleep(chance.uniform(0.05, 0.2))
    raise AssertionError("the router was never in work when its broker froze")


async def refused(zombie: Child, seconds: float = 30) -> str:
    """What the broker said to the zombie's commit."""
    await until(lambda: REFUSED.search(zombie.output) is not None, seconds, zombie.tail)
    found = REFUSED.search(zombie.output)
    assert found is not None
    return found.group(1)


async def written_late(on: Stage, ends: dict[str, dict[int, int]], settled: dict[int, int]) -> int:
    """How many routed records stand behind `ends` that had been settled by then: the zombie's, written after the heir's."""
    late = 0
    for topic in on.routed:
        async for partition, record in records_of(on.brokers, topic, ends[topic]):
            late += int(dict(record.headers)["sluice-id"].rpartition(b"/")[2]) < settled[partition]
    return late


async def ends_of(on: Stage) -> dict[str, dict[int, int]]:
    found = await end_offsets(
        on.brokers, [TopicPartition(topic, tp.partition) for topic in on.routed for tp in on.partitions]
    )
    return {topic: {tp.partition: at for tp, at in found.items() if tp.topic == topic} for topic in on.routed}


async def test_a_router_frozen_in_the_midst_of_a_produce_moves_no_offset_of_its_heir(
    broker: LocalKafka, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    async with (
        stage(tmp_path, broker.bootstrap, name, session=SESSION) as on,
        Progress(on.brokers, on.routed, len(on.partitions)) as progress,
    ):
        zombie, heir = await pair(on)
        devices = await on.devices(seconds(800, 2000), seed=chance.randrange(1000))
        await until(lambda: progress.total > 500, 60)
        await freeze_in_work(broker, zombie, chance)
        frozen = time.monotonic()
        await heir.says(ALL, SESSION + 30)
        taken = time.monotonic() - frozen
        await asyncio.sleep(max(0.0, frozen + seconds(8, 60) - time.monotonic()))
        async with Offsets(on.brokers, on.group) as offsets:
            await until(lambda: offsets.looks > 2)
            settled, ends = {tp.partition: at for tp, at in offsets.now.items()}, await ends_of(on)
            zombie.thaw()
            error = await refused(zombie)
            await zombie.says("Assigned in generation", 60, times=3)  # it has joined again
            pause = progress.longest_pause(frozen)
            await on.stop_devices(devices)
            await on.until_done()
        assert offsets.looks > 10
        assert not offsets.backward, offsets.backward
        late = await written_late(on, ends, settled)
        found = await on.judge()
    assert found.repeats > 0, "nothing of the zombie's work was done again"
    assert found.records >= seconds(5_000, 20_000)
    seen("F-12", f"SIGSTOP of {seconds(8, 60):.0f} s of a router with a produce in flight", found,
         f"its commit: {error}; {late} of its records written after its heir's; heir after {taken:.1f} s",
         pause)  # fmt: skip


async def test_a_router_frozen_before_its_commit_moves_no_offset_of_its_heir(
    broker: LocalKafka, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    async with (
        stage(tmp_path, broker.bootstrap, name, session=SESSION) as on,
        Progress(on.brokers, [*on.routed, f"{name}.dlq"], len(on.partitions)) as progress,
        Offsets(on.brokers, on.group) as offsets,
    ):
        zombie, heir = await pair(on)
        sent = 0
        for _ in range(20):
            devices = await on.devices(count=BURST, seed=chance.randrange(1000))
            assert await devices.ends(60) == 0
            sent += BURST
            await until(lambda sent=sent: progress.total >= sent, 60)  # type: ignore[misc]  # mypy and defaults
            zombie.freeze()
            looks = offsets.looks
            await until(lambda looks=looks: offsets.looks > looks + 1)  # type: ignore[misc]  # mypy and defaults
            owned = re.findall(r"Assigned in generation \d+: \S+ \[([\d, ]+)\]", zombie.output)[-1].split(", ")
            raw_ends = await end_offsets(on.brokers, on.partitions)
            if any(offsets.now.get(tp, 0) < end for tp, end in raw_ends.items() if str(tp.partition) in owned):
                break
            zombie.thaw()
        else:
            raise AssertionError("the router had always committed before it was frozen")
        frozen = time.monotonic()
        await heir.says(ALL, SESSION + 30)
        await on.until_done(30)  # the heir has done and committed all that there is
        await asyncio.sleep(max(0.0, frozen + seconds(6, 60) - time.monotonic()))
        settled, looks = dict(offsets.now), offsets.looks
        zombie.thaw()
        error = await refused(zombie)
        await zombie.says("Assigned in generation", 60, times=3)
        await until(lambda: offsets.looks > looks + 20)
        assert dict(offsets.now) == settled
        assert not offsets.backward, offsets.backward
        devices = await on.devices(count=int(seconds(3_000, 20_000)), seed=chance.randrange(1000))
        assert await devices.ends(60) == 0
        await on.until_done()
        found = await on.judge()
    assert found.repeats > 0, "nothing of the zombie's work was done again"
    seen("F-12", f"SIGSTOP of {seconds(6, 60):.0f} s of an idle router before its commit", found,
         f"its commit: {error}; {offsets.looks} looks at the offsets")  # fmt: skip
