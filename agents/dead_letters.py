"""Dead letters onto their topic: what could not be read or will never be taken, sealed, with origin and reason."""

from collections import Counter
from collections.abc import Iterable

from pipeline.dead_letters import Sealer, letter_headers

from schemas.refused import Refused
from stream import metrics
from stream.outbox import Outbox
from stream.records import Record


class DeadLetterDesk:
    """Sends the dead letters of one pipeline or stream to `NAME.dlq`, in the partition they came from."""

    def __init__(self, name: str, outbox: Outbox, sealer: Sealer) -> None:
        self._name = name
        self._topic = f"{name}.dlq"
        self._outbox = outbox
        self._sealer = sealer

    async def send(self, topic: str, partition: int, letters: Iterable[tuple[Record, Refused]], stage: str) -> None:
        """Seal and send; return when all are acknowledged. Raises KafkaError when the broker refuses them."""
        builder = self._outbox.batch()
        builders = [builder]
        reasons: Counter[str] = Counter()
        for record, refused in letters:
            headers = letter_headers(topic, partition, record, refused, stage)
            value = self._sealer.seal(record, self._outbox.max_record_bytes - 4096)
            if builder.append(timestamp=record.timestamp, key=None, value=value, headers=headers) is None:
                builder = self._outbox.batch()
                builders.append(builder)
                builder.append(timestamp=record.timestamp, key=None, value=value, headers=headers)
            reasons[refused.reason] += 1
        if reasons:
            await self._outbox.send(self._topic, partition, builders)
            for reason, count in reasons.items():
                metrics.DEAD_LETTERS.labels(self._name, reason).inc(count)
