"""Work that settles out of order, killed again and again: the committed offset never passes what was not settled."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from stream.reader import Reader
from tests.e2e.processes import Child, children, read, until_committed
from tests.faults.ledger import Judgement
from tests.faults.offsets import Offsets

SCATTERED = ("-m", "tests.faults.scattered_worker")
DEVICES = ("-m", "tests.faults.devices")
PARTITIONS = 4
WORKERS = 2


async def test_out_of_order_settlement_and_kills_lose_nothing(
    kafka: str, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    raw, out = f"raw-{name}", f"out-{name}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in (raw, out)])
    await admin.close()
    numbers, killed, workers = itertools.count(), 0, []
    async with children(tmp_path) as start, Offsets(kafka, f"sluice.{name}") as offsets:

        async def worker() -> Child:
            number = str(next(numbers))
            arguments = (kafka, name, raw, out, str(chance.randrange(10**6)))
            made: Child = await start(f"worker-{number}", *SCATTERED, *arguments)
            return made

        workers = [await worker() for _ in range(WORKERS)]
        everyone = list(workers)
        devices = await start(
            "devices", *DEVICES, f"--brokers={kafka}", f"--topic={raw}", f"--rate={seconds(800, 2000)}"
        )
        end = time.monotonic() + seconds(15, 60)
        while time.monotonic() < end:
            place = chance.randrange(WORKERS)
            await workers[place].says("Assigned in generation", 60)
            ahead = workers[place].output.count("ahead")
            await workers[place].says("ahead", 60, times=ahead + 1)
            await asyncio.sleep(chance.uniform(0, 2))
            workers[place].kill()
            await workers[place].ends()
            killed += 1
            workers[place] = await worker()
            everyone.append(workers[place])
        assert await devices.stop(60) == 0
        ends = {TopicPartition(raw, p): len(records) for p, records in (await read(kafka, raw)).items()}
        await until_committed(kafka, f"sluice.{name}", ends, seconds=60)
        for one in workers:
            await one.says("Assigned in generation", 60)
            assert await one.stop() == 0
        assert not offsets.backward, offsets.backward
        ahead = sum(one.output.count("ahead") for one in everyone)
    sent, copied, repeats = await read(kafka, raw), await read(kafka, out), 0
    for partition in range(PARTITIONS):
        reader, records = Reader(), copied[partition]
        taken = [one for one in records if reader.take(out, partition, one) is not None]  # type: ignore[arg-type]
        repeats += len(records) - len(taken)
        assert [one.value for one in taken] == [one.value for one in sent[partition]]  # type: ignore[attr-defined]
    count = sum(ends.values())
    assert killed >= 3
    assert ahead > 20
    assert repeats > 0, "nothing was done again: no kill fell between a send and its commit"
    assert count >= seconds(5_000, 20_000)
    seen("F-16", "spans settle out of order, kill -9", Judgement(count, 0, repeats, 1),
         f"{killed} kills, {ahead} spans settled before an earlier one")  # fmt: skip
