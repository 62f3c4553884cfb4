"""Schema ids of Avro records that nobody has asked for yet: the partition waits until the registry has said what they mean."""

import asyncio
import logging
import time
from collections.abc import Iterable

from agents.pauses import Pauses
from schemas.registry import ANSWER_SECONDS, Breaks, Registry, RegistryUnavailable, Unusable
from schemas.writers import Writers
from stream.assignment import Partition

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 30.0
"""For ids that the registry does not have, all of a batch together: a schema may reach one of its nodes after the record
reached Kafka."""
MOST_GIVEN_UP = 10_000
"""A producer of something else than Avro may write as many ids as records."""
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
        """Ask until the registry has said of each id what it means, or that it has nothing that can be used. While it is away the
        partition waits; the others, and records with ids that are known, go on. False when the partition ended before.
        """
        pauses, deadline = Pauses(), time.monotonic() + PATIENCE_SECONDS
        while unknown := self._writers.unknown(wanted):
            try:
                for number in sorted(unknown):
                    partition.expect(ANSWER_SECONDS)
                    try:
                        schema = await self._registry.schema(number)
                    except Unusable as why:
                        self._give_up(number, str(why))
                        continue
                    if schema is None:
                        if number in self._given_up or time.monotonic() >= deadline:
                            self._give_up(number, "is in no registry that was asked")
                    elif self._writers.learn(number, schema):
                        self._given_up.discard(number)
                    else:
                        self._give_up(number, "is no valid Avro; correct and register it anew")
            except (RegistryUnavailable, Breaks) as error:
                if pauses.worth_saying():
                    log.warning("%s: %s/%d waits for schema %d: %s.", self._name, partition.topic, partition.number,
                                number, error)  # fmt: skip
            if not self._writers.unknown(wanted):
                break
            if not await partition.pause(min(5.0, pauses.next())):
                return False
        return True

    def _give_up(self, number: int, why: str) -> None:
        """Records with this id are dead letters until it is asked for again. Said once."""
        self._writers.learn(number, None)
        if number not in self._given_up:
            log.warning("%s: schema %d %s. Its records are dead letters.", self._name, number, why)
        if len(self._given_up) >= MOST_GIVEN_UP:
            self._given_up.clear()
        self._given_up.add(number)
        asyncio.get_running_loop().call_later(FORGET_SECONDS, self._writers.forget, number)
