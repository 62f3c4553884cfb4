"""Topic ids (KIP-516): what tells a topic from another one that was made later under the same name."""

from collections.abc import Iterable

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import IncompatibleBrokerVersion

from stream.metadata import describe


async def topic_ids(client: AIOKafkaClient, topics: Iterable[str]) -> dict[str, str]:
    """Topic → its id, as Kafka's own tools print it. What is not there, or has no id (a broker before 2.8), is left out.

    Raises KafkaError when no broker answers.
    """
    try:
        described = await describe(client, topics)
    except IncompatibleBrokerVersion:
        return {}
    return {name: one.id for name, one in described.items() if one.error == 0 and one.id}
