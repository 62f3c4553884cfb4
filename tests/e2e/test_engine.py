"""The engine on a real Kafka: nothing is lost, nothing passes an unsettled record, and the partitions are shared."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from stream.commits import Commits, Committed, Fenced, Pin
from stream.reader import Reader
from tests.e2e.processes import Child, children, committed, produce, read, total, until, until_committed

WORKER = str(Path(__file__).with_name("echo_worker.py"))
PARTITIONS = 4


@pytest.fixture
async def names(topic_name: Callable[[str], str], new_topics: Callable[..., Awaitable[None]]) -> tuple[str, str, str]:
    raw, out, group = topic_name("raw"), topic_name("out"), topic_name("echo")
    await new_topics(raw, out, partitions=PARTITIONS)
    return group, raw, out


def values(count: int) -> dict[int, list[bytes]]:
    return {p: [b'{"p":%d,"n":%d,"pad":"%s"}' % (p, n, b"x" * 200) for n in range(count)] for p in range(PARTITIONS)}


async def every_record_once(kafka: str, out: str, expected: dict[int, list[bytes]]) -> int:
    """Assert that a reader takes all of `expected`, in order, in its partition. Returns how many repeats it dropped."""
    repeats = 0
    found = await read(kafka, out)
    for partition, wanted in expected.items():
        reader, records = Reader(), found[partition]
        taken = [one.value for one in records if reader.take(out, partition, one) is not None]
        assert taken == wanted
        repeats += len(records) - len(taken)
    return repeats


async def test_a_worker_that_is_killed_loses_nothing_and_its_repeats_are_recognised(
    kafka: str, names: tuple[str, str, str], tmp_path: Path
) -> None:
    group, raw, out = names
    expected = values(5000)
    await produce(kafka, raw, expected)
    async with children(tmp_path) as start:
        kills = 0
        for attempt in range(4):
            worker = await start(f"w{attempt}", WORKER, kafka, group, raw, out, "--slow", "0.1")
            await worker.says("assigned", times=PARTITIONS)
            before = await total(kafka, out)
            await _until_more_than(kafka, out, before + 200)
            worker.kill()
            await worker.ends()
            kills += 1
        assert await total(kafka, out) < PARTITIONS * 5000 * (kills + 1)
        last = await start("last", WORKER, kafka, group, raw, out)
        await _until_settled(kafka, f"sluice.{group}", raw, 5000, last)
        assert await last.stop() == 0
    assert await every_record_once(kafka, out, expected) > 0, "no kill hit work in flight: the test proved nothing"


async def test_a_worker_that_is_told_to_stop_settles_and_leaves_nothing_to_repeat(
    kafka: str, names: tuple[str, str, str], tmp_path: Path
) -> None:
    group, raw, out = names
    expected = values(5000)
    await produce(kafka, raw, expected)
    async with children(tmp_path) as start:
        first = await start("first", WORKER, kafka, group, raw, out, "--slow", "0.1")
        await first.says("assigned", times=PARTITIONS)
        await _until_more_than(kafka, out, 200)
        assert await first.stop() == 0
        assert "stopped" in first.output
        at_stop = await total(kafka, out)
        assert at_stop < PARTITIONS * 5000, "everything was done before the stop: the test proved nothing"
        second = await start("second", WORKER, kafka, group, raw, out)
        await _until_settled(kafka, f"sluice.{group}", raw, 5000, second)
        assert await second.stop() == 0
    assert await every_record_once(kafka, out, expected) == 0


async def test_four_workers_share_the_partitions_and_a_fifth_takes_over_from_one_that_is_killed(
    kafka: str, names: tuple[str, str, str], tmp_path: Path
) -> None:
    group, raw, out = names
    async with children(tmp_path) as start:
        workers: list[Child] = []
        for number in range(5):
            workers.append(await start(f"w{number}", WORKER, kafka, group, raw, out))
            await workers[-1].says("Assigned in generation")
        await until(lambda: all("generation" in one.output for one in workers))
        await _until_shared(workers, sorted([[0], [1], [2], [3], []]))
        idle = next(one for one in workers if _holds(one) == [])
        busy = next(one for one in workers if _holds(one) != [])
        busy.kill()
        await busy.ends()
        rest = [one for one in workers if one is not busy]
        await _until_shared(rest, [[0], [1], [2], [3]])
        assert _holds(idle) != []
        expected = values(50)
        await produce(kafka, raw, expected)
        await _until_settled(kafka, f"sluice.{group}", raw, 50, idle)
    assert await every_record_once(kafka, out, expected) == 0


async def test_an_exception_ends_the_process_and_nothing_is_committed_past_it(
    kafka: str, names: tuple[str, str, str], tmp_path: Path
) -> None:
    group, raw, out = names
    expected = values(300)
    await produce(kafka, raw, expected)
    async with children(tmp_path) as start:
        broken = await start("broken", WORKER, kafka, group, raw, out, "--fail-at", "100")
        assert await broken.ends() not in (0, None)
        assert "the test's own fault" in broken.output
        for offset, _ in (await committed(kafka, f"sluice.{group}")).values():
            assert offset <= 100
        mended = await start("mended", WORKER, kafka, group, raw, out)
        await _until_settled(kafka, f"sluice.{group}", raw, 300, mended)
    await every_record_once(kafka, out, expected)


async def test_a_frozen_worker_cannot_move_the_offsets_of_the_one_that_took_over(
    kafka: str, names: tuple[str, str, str], tmp_path: Path
) -> None:
    group, raw, out = names
    expected = values(3000)
    async with children(tmp_path) as start:
        zombie = await start("zombie", WORKER, kafka, group, raw, out, "--slow", "0.2")
        await zombie.says("assigned", times=PARTITIONS)
        await produce(kafka, raw, expected)
        await _until_more_than(kafka, out, 200)
        zombie.freeze()
        heir = await start("heir", WORKER, kafka, group, raw, out)
        await heir.says("assigned", times=PARTITIONS, seconds=30)
        await _until_settled(kafka, f"sluice.{group}", raw, 3000, heir)
        zombie.thaw()
        await zombie.says("abandoned", seconds=30)
        for tp, (offset, _) in (await committed(kafka, f"sluice.{group}")).items():
            assert offset == 3000, tp
    assert await every_record_once(kafka, out, expected) >= 0


async def test_a_commit_of_an_old_generation_is_refused(kafka: str, names: tuple[str, str, str]) -> None:
    group, raw, _ = names

    async def member() -> AIOKafkaConsumer:
        one = AIOKafkaConsumer(
            raw, bootstrap_servers=kafka, group_id=group, enable_auto_commit=False, auto_offset_reset="earliest",
            session_timeout_ms=6000, heartbeat_interval_ms=200,
        )  # fmt: skip
        await one.start()
        return one

    first = await member()
    try:
        commits, tp = Commits(first), TopicPartition(raw, 0)
        pin = commits.pin()
        await commits.commit(pin, {tp: Committed(0, "mine")})
        assert (await commits.fetch([tp]))[tp] == Committed(0, "mine")
        second = await member()
        try:
            async with asyncio.timeout(20):
                while first._coordinator.generation == pin.generation:
                    await asyncio.sleep(0.05)
            with pytest.raises(Fenced):
                await commits.commit(pin, {tp: Committed(5, "stale")})
            with pytest.raises(Fenced):
                await commits.commit(Pin(pin.generation + 7, pin.member), {tp: Committed(5, "stale")})
            assert (await commits.fetch([tp]))[tp] == Committed(0, "mine")
        finally:
            await second.stop()
    finally:
        await first.stop()


def _holds(worker: Child) -> list[int]:
    """The partitions of the last assignment that a worker logged."""
    lines = [line for line in worker.output.splitlines() if "Assigned in generation" in line]
    inside = lines[-1].rpartition("[")[2].rstrip("].") if lines and "[" in lines[-1] else ""
    return [int(one) for one in inside.split(",") if one.strip()]


async def _until_shared(workers: list[Child], expected: list[list[int]]) -> None:
    def shared() -> bool:
        return sorted(map(_holds, workers)) == sorted(expected)

    await until(shared, 30, lambda: str([_holds(one) for one in workers]))


async def _until_more_than(kafka: str, topic: str, count: int) -> None:
    async with asyncio.timeout(30):
        while await total(kafka, topic) <= count:
            await asyncio.sleep(0.05)


async def _until_settled(kafka: str, group: str, raw: str, count: int, worker: Child) -> None:
    """Wait until every partition's committed offset is at the end."""
    try:
        await until_committed(kafka, group, {TopicPartition(raw, p): count for p in range(PARTITIONS)})
    except AssertionError as error:
        raise AssertionError(f"{error}\n{worker.tail()}") from None
