"""Schema ids of Avro records that nobody has asked for yet: the partition waits until the registry has said what they mean."""

import asyncio
import logging
import time
from collections.abc import Iterable

from agents.pauses import Pauses
from schemas.registry import Breaks, Registry, RegistryUnavailable
from schemas.writers import Writers
from stream.assignment import Partition

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 30.0
"""For an id that the registry does not have: a schema may reach one of its nodes after the record reached Kafka."""
FORGET_SECONDS = 60.0
"""Then it is asked for again, once, without that patience: else each record of a broken producer would cost 30 s."""


class SchemaIds:
    """What a pipeline knows of schema ids, and the registry that it learns them from."""

    def __init__(self, name: str, registry: Registry, writers: Writers) -> None:
        self._name = name
        self._registry = registry
        self._writers = writers
        self._given_up: set[int] = set()

    async def learn(self, partition: Partition, wanted: Iterable[int]) -> bool:
        """Ask until the registry has said of each id what it means, or that it does not have it. While the registry is away the
        partition waits; the others, and records with ids that are known, go on. False when the partition ended before.
        """
        for number in sorted(wanted):
            pauses, deadline = Pauses(), time.monotonic() + (0 if number in self._given_up else PATIENCE_SECONDS)
            while number in self._writers.unknown(wanted):
                try:
                    schema = await self._registry.schema(number)
                except (RegistryUnavailable, Breaks) as error:
                    if pauses.worth_saying():
                        log.warning("%s: %s/%d waits for schema %d: %s.", self._name, partition.topic, partition.number,
                                    number, error)  # fmt: skip
                else:
                    if schema is not None or time.monotonic() >= deadline:
                        self._settle(number, schema)
                        break
                if not await partition.pause(min(5.0, pauses.next())):
                    return False
        return True

    def _settle(self, number: int, schema: object) -> None:
        self._writers.learn(number, schema)
        if schema is None:
            if number not in self._given_up:
                log.warning(
                    "%s: schema %d is in no registry that was asked; its records are dead letters.", self._name, number
                )
            self._given_up.add(number)
            asyncio.get_running_loop().call_later(FORGET_SECONDS, self._writers.forget, number)
        else:
            self._given_up.discard(number)
