"""Ids that a reference does not know yet: the partition waits until it does, or until a rule's patience is at its end."""

import logging
import time
from collections.abc import Sequence

from agents.pauses import Pauses
from pipeline.enrichment import Awaited
from stream.assignment import Partition

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""A reference is looked at again after so long at most, for what has come to it meanwhile."""


async def wait(name: str, partition: Partition, awaited: Sequence[Awaited]) -> bool:
    """Wait until each id is known, or was waited for as long as its rule says: then it is given up, and its records are refused
    for as long as the reference does not know it. The other partitions go on. False when the partition ended before.
    """
    pauses, began = Pauses(), time.monotonic()
    while True:
        waited = time.monotonic() - began
        missing: list[str] = []
        rest = LOOK_SECONDS
        for join, ids in awaited:
            unknown = join.awaited(ids)
            if unknown and waited >= join.wait_seconds:
                join.give_up(unknown)
                log.warning("%s: after %g s %s still lacks ids: %d; their records are dead letters.",
                            name, join.wait_seconds, join.source, len(unknown))  # fmt: skip
            elif unknown:
                missing.append(f"{join.source} {len(unknown)}")
                rest = min(rest, join.wait_seconds - waited)
        if not missing:
            return True
        if pauses.worth_saying():
            where = f"{partition.topic}/{partition.number}"
            log.warning("%s: %s waits for ids that references lack: %s.", name, where, ", ".join(missing))
        if not await partition.pause(min(rest, pauses.next())):
            return False
