"""References that do not come end the wait for them: a worker that never gets ready is started again, and says why."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaTimeoutError

from stream import reference
from stream.connection import KafkaConfig
from stream.reference import ReferenceReader

TP = TopicPartition("ref.endpoints", 0)


class Silent:
    """A consumer of one partition with 100 offsets, of which `comes` come at once, and then none."""

    def __init__(self, comes: int) -> None:
        self._position, self._comes = 0, comes
        self._client = SimpleNamespace(_wait_on_metadata=self._nothing)
        self._fetcher: Any = SimpleNamespace(_fetch_task=asyncio.get_running_loop().create_future())

    async def _nothing(self, *_: Any) -> None: ...

    start = stop = _nothing

    def partitions_for_topic(self, topic: str) -> set[int]:
        return {0}

    def assign(self, partitions: Any) -> None: ...

    async def end_offsets(self, partitions: Any) -> dict[TopicPartition, int]:
        return {TP: 100}

    async def beginning_offsets(self, partitions: Any) -> dict[TopicPartition, int]:
        return {TP: 0}

    async def getmany(self, **_: Any) -> dict[TopicPartition, list[Any]]:
        await asyncio.sleep(0.01)
        self._position = min(self._position + 1, self._comes)
        return {}

    async def position(self, tp: TopicPartition) -> int:
        return self._position


def reader(consumer: Silent) -> ReferenceReader:
    made = ReferenceReader(KafkaConfig(brokers=["127.0.0.1:1"]), {TP.topic: lambda records: None})
    made._consumer = consumer  # type: ignore[assignment]  # a stand-in
    return made


async def test_what_stops_coming_is_named_after_a_while_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "SILENT_SECONDS", 0.2)
    seen: list[int] = []
    with pytest.raises(KafkaTimeoutError, match=r"ref.endpoints/0 for 0 s"):
        await reader(Silent(comes=60)).catch_up(lambda read, total: seen.append(read))
    assert seen[-1] == 60, "it gave up while records still came"
    await reader(Silent(comes=100)).catch_up()


async def test_a_fetcher_that_has_ended_by_itself_is_seen() -> None:
    consumer = Silent(comes=100)
    consumer._fetcher._fetch_task.set_exception(OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        await reader(consumer).follow()
