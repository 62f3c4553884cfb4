"""The committed offsets of a group, looked at all the time: nobody may ever move one back."""

import asyncio
import contextlib
from collections.abc import Mapping

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

LOOK_SECONDS = 0.05


class Offsets:
    """Watches in the background, as an async context manager. `brokers`: a way that no fault of the test touches."""

    def __init__(self, brokers: str, group: str) -> None:
        self._brokers, self._group = brokers, group
        self.now: Mapping[TopicPartition, int] = {}
        self.looks = 0
        self.backward: list[str] = []

    async def __aenter__(self) -> "Offsets":
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _watch(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._brokers, request_timeout_ms=3000)
        await admin.start()
        try:
            while True:
                with contextlib.suppress(KafkaError):
                    found = await admin.list_consumer_group_offsets(self._group)
                    self._look({tp: at.offset for tp, at in found.items()})
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            await admin.close()

    def _look(self, found: Mapping[TopicPartition, int]) -> None:
        self.looks += 1
        for tp, before in self.now.items():
            if found.get(tp, -1) < before:
                self.backward.append(f"{tp.topic}/{tp.partition} from {before} to {found.get(tp)}")
        self.now = found
