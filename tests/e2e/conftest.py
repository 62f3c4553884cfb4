"""One real Kafka for all end-to-end tests of a run, and topics of one's own on it."""

import itertools
import os
from collections.abc import Awaitable, Callable, Iterator

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from sluice import local_kafka

_numbers = itertools.count()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a cluster that all tests share: use names of your own (`topic_name`)."""
    with local_kafka.kafka(tmp_path_factory.mktemp("kafka")) as bootstrap:
        yield bootstrap


@pytest.fixture
def topic_name() -> Callable[[str], str]:
    """`topic_name("raw")` is a name that no other test has: for topics, groups and pipelines."""

    def name(stem: str = "topic") -> str:
        return f"{stem}-{os.getpid()}-{next(_numbers)}"

    return name


@pytest.fixture
def new_topics(kafka: str) -> Callable[..., Awaitable[None]]:
    """`await new_topics("a", "b", partitions=4, config={...})` makes topics with exactly these names."""

    async def make(*names: str, partitions: int = 4, config: dict[str, str] | None = None) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
        await admin.start()
        try:
            made = await admin.create_topics(
                [NewTopic(name, partitions, 1, topic_configs=config or {}) for name in names]
            )
            assert all(error[1] == 0 for error in made.topic_errors), made.topic_errors
        finally:
            await admin.close()

    return make
