"""Puts the benchmark's input and output topics on a cluster."""

import itertools
import random
from collections.abc import Iterable, Mapping

import orjson
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import for_code

from sluice.bench.joins import reference_topics
from sluice.devices import MIX, Fleet, Kind, Message
from sluice.generate import references_to_topics, to_topic
from sluice.platform_events import draw_thing

PARTITIONS = 4
MIXES: Mapping[str, Mapping[Kind, float]] = {
    "devices": MIX,
    "transactions": {"transaction": 1.0},
    "platform": {"platform": 1.0},
}
_ALONE = {"min.insync.replicas": "1"}
_EXISTS = 36


async def make_topics(brokers: str, names: Iterable[str]) -> None:
    """Make these topics, of PARTITIONS partitions and one replica; those that are there stay as they are. Raises KafkaError."""
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(name, PARTITIONS, 1, topic_configs=_ALONE) for name in names])
        for topic, code, *_ in answer.topic_errors:
            if code not in (0, _EXISTS):
                raise for_code(code)(topic)
    finally:
        await admin.close()


async def load(brokers: str, topic: str, count: int, mix: str = "devices") -> None:
    """Make the topic and fill it with `count` records of 200 devices, the same in each run, none odd; beside it the references
    that know what records name by id alone (`joins.reference_topics`). Raises KafkaError."""
    fleet, beside = Fleet(seed=1, devices=200, mix=MIXES[mix]), reference_topics(topic)
    await make_topics(brokers, [topic, *beside.values()])
    await references_to_topics(fleet.references(), beside, brokers)
    await to_topic(itertools.islice(fleet.events(), count), topic, brokers)


async def load_endpoints(brokers: str, topic: str, count: int) -> None:
    """Make a reference topic and fill it with `count` endpoints, the same in each run. Raises KafkaError."""
    await make_topics(brokers, [topic])
    draw = random.Random(1)  # noqa: S311  a simulation
    things = (draw_thing(draw, number) for number in range(count))
    await to_topic(
        (Message(0, one.key, orjson.dumps(one.endpoint), "platform", None) for one in things), topic, brokers
    )
