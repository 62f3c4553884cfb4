"""Dead letters onto their topic: what could not be read or will never be taken, sealed, with origin and reason."""

from collections import Counter
from collections.abc import Sequence

from agents.key_outage import until_usable
from pipeline.dead_letters import Sealer, letter_headers
from schemas.refused import Refused
from stream import metrics
from stream.outbox import Outbox, Packed
from stream.records import Record

HEADER_BYTES = 4096
"""Room for a dead letter's headers."""


class DeadLetterDesk:
    """Sends the dead letters of one pipeline or stream to `NAME.dlq`, in the partition they came from."""

    def __init__(self, name: str, outbox: Outbox, sealer: Sealer) -> None:
        self._name = name
        self.topic = f"{name}.dlq"
        self._outbox = outbox
        self._sealer = sealer

    async def send(self, topic: str, partition: int, letters: Sequence[tuple[Record, Refused]], stage: str) -> None:
        """Seal and send; return when all are acknowledged. Raises ProduceRefused and KeysAway."""
        if not letters:
            return
        await until_usable(self._sealer.keys)
        largest = self._outbox.max_record_bytes - HEADER_BYTES
        packed: list[Packed] = [
            (
                record.timestamp,
                None,
                self._sealer.seal(record, largest),
                letter_headers(topic, partition, record, why, stage),
            )
            for record, why in letters
        ]
        await self._outbox.send(self.topic, partition, self._outbox.pack(packed))
        for reason, count in Counter(why.reason for _, why in letters).items():
            metrics.DEAD_LETTERS.labels(self._name, reason).inc(count)
