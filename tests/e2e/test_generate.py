"""What the simulated devices send arrives on a real Kafka: all of it, in order for each key, evenly in time."""

import itertools
import time
from collections.abc import Awaitable, Callable

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from sluice.devices import Fleet
from sluice.generate import references_to_topics, to_topic


async def _read(brokers: str, topic: str, partitions: int = 4) -> list[ConsumerRecord[bytes, bytes]]:
    consumer = AIOKafkaConsumer(bootstrap_servers=brokers, auto_offset_reset="earliest")
    await consumer.start()
    parts = [TopicPartition(topic, number) for number in range(partitions)]
    consumer.assign(parts)
    missing = sum((await consumer.end_offsets(parts)).values())
    records: list[ConsumerRecord[bytes, bytes]] = []
    while len(records) < missing:
        for some in (await consumer.getmany(timeout_ms=1000)).values():
            records += some
    await consumer.stop()
    return records


async def test_every_message_arrives_once_and_in_order_for_its_key(
    kafka: str, topic_name: Callable[[str], str], new_topics: Callable[..., Awaitable[None]]
) -> None:
    await new_topics(topic := topic_name("raw"))
    messages = list(itertools.islice(Fleet(3, devices=20, bad=0.01).events(), 20_000))
    progress: list[int] = []
    assert await to_topic(messages, topic, kafka, progress=progress.append) == 20_000
    assert progress[-1] == 20_000
    arrived = await _read(kafka, topic)
    assert len(arrived) == 20_000
    for key in {message.key for message in messages}:
        assert [record.value for record in arrived if record.key == key] == [m.value for m in messages if m.key == key]


async def test_a_key_goes_where_other_kafka_clients_send_it(
    kafka: str, topic_name: Callable[[str], str], new_topics: Callable[..., Awaitable[None]]
) -> None:
    await new_topics(topic := topic_name("raw"))
    messages = list(itertools.islice(Fleet(3, devices=20).usage(), 200))
    await to_topic(messages, topic, kafka)
    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    await producer.start()
    for message in messages:
        await producer.send(topic, b"again", key=message.key)
    await producer.stop()
    places: dict[bytes | None, set[int]] = {}
    for record in await _read(kafka, topic):
        places.setdefault(record.key, set()).add(record.partition)
    assert {len(where) for where in places.values()} == {1}


async def test_the_rate_is_kept_evenly(
    kafka: str, topic_name: Callable[[str], str], new_topics: Callable[..., Awaitable[None]]
) -> None:
    await new_topics(topic := topic_name("raw"))
    messages = itertools.islice(Fleet(3).events(), 1500)
    start = time.monotonic()
    assert await to_topic(messages, topic, kafka, rate=1000) == 1500
    assert time.monotonic() - start >= 1.3
    stamps = sorted(record.timestamp for record in await _read(kafka, topic))
    assert stamps[-1] - stamps[0] >= 1300
    assert stamps[750] - stamps[0] >= 500  # not all at the end, and not all at once


async def test_references_arrive_under_their_ids(
    kafka: str, topic_name: Callable[[str], str], new_topics: Callable[..., Awaitable[None]]
) -> None:
    topics = {"endpoints": topic_name("ref.endpoints"), "operators": topic_name("ref.operators")}
    await new_topics(*topics.values(), config={"cleanup.policy": "compact"})
    tables = Fleet(3, devices=9).references()
    assert await references_to_topics(tables, topics, kafka) == 9 + 6
    for table, topic in topics.items():
        arrived = {
            (record.key or b"").decode(): orjson.loads(record.value or b"") for record in await _read(kafka, topic)
        }
        assert arrived == tables[table]
