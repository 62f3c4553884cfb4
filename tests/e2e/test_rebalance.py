"""A group that rebalances again and again while records come in loses nothing, and leaves no partition standing."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiokafka import TopicPartition

from stream.reader import Reader
from tests.e2e.processes import Child, children, produce, read, until_committed

WORKER = str(Path(__file__).with_name("echo_worker.py"))
PARTITIONS = 6
ROUNDS = 10
CHUNK = 5


async def test_workers_that_come_and_go_under_load_lose_nothing(
    kafka: str, topic_name: Callable[[str], str], new_topics: Callable[..., Awaitable[None]], tmp_path: Path
) -> None:
    raw, out, group = topic_name("raw"), topic_name("out"), topic_name("storm")
    await new_topics(raw, out, partitions=PARTITIONS)
    chance = random.Random(5)
    sent: dict[int, list[bytes]] = {p: [] for p in range(PARTITIONS)}
    going = asyncio.Event()

    async def devices() -> None:
        """Records all the time, so that every rebalance falls into a fetch."""
        while not going.is_set():
            chunk = {
                p: [b'{"p":%d,"n":%d,"pad":"%s"}' % (p, len(sent[p]) + n, b"x" * 200) for n in range(CHUNK)]
                for p in sent
            }
            await produce(kafka, raw, chunk)
            for p, values in chunk.items():
                sent[p].extend(values)
            await asyncio.sleep(chance.uniform(0, 0.2))  # with gaps, in which a fetch waits while the group goes on

    async with children(tmp_path) as start:
        steady: Child = await start("steady", WORKER, kafka, group, raw, out)
        await steady.says("assigned", times=PARTITIONS)
        producing = asyncio.create_task(devices())
        try:
            for number in range(ROUNDS):
                guest = await start(f"guest{number}", WORKER, kafka, group, raw, out)
                await guest.says("Assigned in generation")
                await asyncio.sleep(chance.uniform(0, 0.3))  # where in a fetch the next rebalance falls
                if number % 2:
                    guest.kill()
                    await guest.ends()
                else:
                    assert await guest.stop() == 0
        finally:
            going.set()
            with contextlib.suppress(asyncio.CancelledError):
                await producing
        ends = {TopicPartition(raw, p): len(values) for p, values in sent.items()}
        await until_committed(kafka, f"sluice.{group}", ends, seconds=60)
        assert await steady.stop() == 0
        assert steady.output.count("Assigned in generation") > ROUNDS, "the group did not rebalance: nothing was shown"
    found = await read(kafka, out)
    for partition, wanted in sent.items():
        reader = Reader()
        taken = [one.value for one in found[partition] if reader.take(out, partition, one) is not None]  # type: ignore[attr-defined]
        assert taken == wanted
