"""Sends records to a topic evenly, or as fast as it goes: small batches, each record with the time of its making."""

import argparse
import asyncio
import itertools
import time

from aiokafka import AIOKafkaProducer

from sluice.bench.load import PARTITIONS
from sluice.devices import Fleet

TICK_SECONDS = 0.002
"""Each partition in turn gets a batch: one every 8 ms."""
BATCH_RECORDS = 500
DIFFERENT = 20_000
"""So many records are made beforehand and sent again and again: making them costs more than sending."""


async def run(brokers: str, topic: str, count: int, rate: float | None) -> None:
    """Send `count` records, `rate` a second. Raises KafkaError."""
    messages = itertools.cycle(list(itertools.islice(Fleet(seed=1, devices=200).events(), DIFFERENT)))
    producer = AIOKafkaProducer(
        bootstrap_servers=brokers, acks="all", enable_idempotence=True, max_batch_size=1_000_000, linger_ms=0
    )
    await producer.start()
    sending, sent, start = set[asyncio.Future[object]](), 0, time.monotonic()
    for partition in itertools.cycle(range(PARTITIONS)):
        due = min(BATCH_RECORDS, count - sent)
        if rate is not None:
            await asyncio.sleep(max(0.0, start + sent / rate + TICK_SECONDS - time.monotonic()))
            due = min(due, int((time.monotonic() - start) * rate) - sent)
        if due > 0:
            batch, now = producer.create_batch(), int(time.time() * 1000)
            for message in itertools.islice(messages, due):
                batch.append(timestamp=now, key=message.key, value=message.value)
            sending.add(await producer.send_batch(batch, topic, partition=partition))
            sent += due
        if sent >= count:
            break
        sending = {one for one in sending if not one.done()}
    await asyncio.gather(*sending)
    await producer.stop()


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description=__doc__)
    _parser.add_argument("--brokers", required=True, help="host:port, comma-separated")
    _parser.add_argument("--topic", required=True, help="an existing topic")
    _parser.add_argument("--count", required=True, type=int, help="how many records")
    _parser.add_argument("--rate", type=float, help="records a second; as fast as it goes without it")
    _given = _parser.parse_args()
    asyncio.run(run(_given.brokers, _given.topic, _given.count, _given.rate))
