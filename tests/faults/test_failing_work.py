"""An exception in any stage of the router, on whatever record: the process ends uncommitted, and nothing is passed over."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sluice.exits import Exit
from tests.e2e.processes import until
from tests.faults.failing_router import STAGES
from tests.faults.stage import WORKER, Progress, background, stage

FAILING = ("-m", "tests.faults.failing_router")
WORKERS = 2
OUTSIDE_WORK = {"fetch", "commit"}
"""Stages whose failure is that of no partition's work."""


async def test_an_exception_in_any_stage_loses_nothing(
    kafka: str, name: str, tmp_path: Path, chance: random.Random, seconds: Callable[[float, float], float],
    seen: Callable[..., None],
) -> None:  # fmt: skip
    order = chance.sample(list(STAGES), int(seconds(6, len(STAGES)))) * int(seconds(1, 2))
    left: Iterator[Sequence[str]] = ((*FAILING, one, str(chance.randrange(10**6))) for one in order)

    async with stage(tmp_path, kafka, name) as on:
        routers = on.keep(WORKERS, lambda: next(left, WORKER))
        async with background(routers), Progress(kafka, on.routed, len(on.partitions)) as progress:
            devices = await on.devices(seconds(1000, 3000), seed=chance.randrange(1000))
            await until(lambda: len(on.ended) >= len(order), 20 * len(order), lambda: f"{len(on.ended)} of {order}")
            await on.stop_devices(devices)
            await on.until_done(60)
        raised = [line for child in on.children for line in child.output.splitlines() if line.startswith("raised in ")]
        found = await on.judge()
    assert {line.removeprefix("raised in ") for line in raised} == set(order), raised
    for child in on.children:
        stages = {stage for stage in STAGES if f"raised in {stage}\n" in child.output}
        if stages - OUTSIDE_WORK:
            assert f"In work, not settled: {on.raw}/" in child.output, child.tail()
    assert set(on.ended) == {Exit.INTERNAL}, on.ended
    assert found.repeats > 0, "nothing was done again: no exception fell between a produce and its commit"
    assert found.records >= seconds(3_000, 20_000)
    seen("F-04", f"an exception in each of {len(set(order))} stages, 2 routers", found, f"{len(raised)} exceptions, each exit 70",
         progress.longest_pause())  # fmt: skip
