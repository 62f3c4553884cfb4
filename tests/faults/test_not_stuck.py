"""A process that only waits for others, or was frozen as a whole, is not taken for one that stands still."""

import asyncio
from pathlib import Path

from sluice.local_kafka import LocalKafka
from tests.e2e.processes import children, produce, until_committed
from tests.e2e.test_engine import values
from tests.faults.test_stuck_workers import FROZEN, ends, make

LIMIT = 4
"""Seconds after which the watchdog ends what stands still (frozen_worker.py)."""


async def test_a_destination_that_is_down_and_a_process_that_was_frozen_are_not_stuck(
    kafka: str, name: str, tmp_path: Path
) -> None:
    expected = values(300)

    async def wait(stage: str) -> None:
        group, raw, out = (f"{name}-{stage}{kind}" for kind in ("", "-raw", "-out"))
        await make(kafka, raw, out)
        file = tmp_path / stage
        file.touch()
        worker = await start(stage, *FROZEN, kafka, group, raw, out, stage, str(file))
        await worker.says("Assigned in generation")
        await produce(kafka, raw, expected)
        if stage == "stopped":
            await until_committed(kafka, f"sluice.{group}", ends(raw, 300))
            worker.freeze()
        await asyncio.sleep(2 * LIMIT)  # it is a time that must pass, with nothing happening
        if stage == "stopped":
            worker.thaw()
            await produce(kafka, raw, expected)
        file.unlink()
        await until_committed(kafka, f"sluice.{group}", ends(raw, 600 if stage == "stopped" else 300))
        assert "Stuck" not in worker.output
        assert await worker.stop() == 0

    async with children(tmp_path) as start:
        await asyncio.gather(wait("sink"), wait("stopped"))


async def test_brokers_that_do_not_answer_are_said_to_be_out_and_the_process_waits(tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "kafka") as cluster:
        await make(cluster.bootstrap, "raw", "out")
        await produce(cluster.bootstrap, "raw", values(300))
        async with children(tmp_path) as start:
            worker = await start("w", *FROZEN, cluster.bootstrap, "g", "raw", "out", "none", str(tmp_path / "none"))
            await until_committed(cluster.bootstrap, "sluice.g", ends("raw", 300))
            cluster.pause(0)
            try:
                await worker.says("no broker answers", seconds=60)
                await asyncio.sleep(LIMIT)
            finally:
                cluster.resume(0)
            await produce(cluster.bootstrap, "raw", values(300))
            await until_committed(cluster.bootstrap, "sluice.g", ends("raw", 600))
            assert "Stuck" not in worker.output
            assert await worker.stop() == 0
