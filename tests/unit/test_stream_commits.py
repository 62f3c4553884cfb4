"""A commit counts as got on when it is stored: one that is refused again and again stands still."""

import asyncio
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition, errors

from stream import commits
from stream.commits import Commits, Committed, Pin


class Coordinator:
    """Answers with these error codes, one commit after the other."""

    group_id, generation, member_id = "sluice.events", 3, "m"

    def __init__(self, codes: list[int]) -> None:
        self.codes = codes
        self.away = 0

    async def ensure_coordinator_known(self) -> None: ...

    def coordinator_dead(self) -> None:
        self.away += 1

    async def _send_req(self, request: Any) -> Any:
        return SimpleNamespace(topics=[("raw", [(0, self.codes.pop(0))])])


async def test_only_a_commit_that_is_stored_counts(monkeypatch: Any) -> None:
    monkeypatch.setattr(commits, "RETRY_SECONDS", 0.001)
    loading, missing = errors.GroupLoadInProgressError.errno, errors.NotCoordinatorForGroupError.errno
    coordinator = Coordinator([loading] * 50)
    made = Commits(SimpleNamespace(_coordinator=coordinator))
    task = asyncio.ensure_future(made.commit(Pin(3, "m"), {TopicPartition("raw", 0): Committed(5, "")}))
    async with asyncio.timeout(10):
        while len(coordinator.codes) > 20:
            await asyncio.sleep(0.001)
    assert made.stored == 0
    coordinator.codes[:] = [missing, 0]
    await asyncio.wait_for(task, 10)
    assert made.stored == 1
    assert coordinator.away == 1
