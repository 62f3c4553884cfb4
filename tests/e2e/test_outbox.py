"""The outbox on a real cluster: what is refused, stuck, cancelled or gone, and what stands in the log then."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.producer.message_accumulator import BatchBuilder

from sluice.local_kafka import LocalKafka
from stream import outbox as outbox_module
from stream.connection import KafkaConfig
from stream.outbox import Outbox, ProduceRefused
from tests.e2e.processes import committed, produce, read, until
from tests.faults.devices import messages
from tests.faults.stage import end_offsets, stage

PATIENCE = 20.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    with LocalKafka(tmp_path_factory.mktemp("cluster") / "kafka", brokers=3) as three:
        yield three


@pytest.fixture
def config(cluster: LocalKafka) -> KafkaConfig:
    return KafkaConfig(brokers=cluster.bootstrap.split(","), replication=3)


@pytest.fixture
async def outbox(config: KafkaConfig) -> AsyncIterator[Outbox]:
    one = Outbox(config, "test")
    await one.start()
    yield one
    await one.stop()


@contextlib.asynccontextmanager
async def admin(cluster: LocalKafka) -> AsyncIterator[AIOKafkaAdminClient]:
    one = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    await one.start()
    try:
        yield one
    finally:
        await one.close()


async def make(cluster: LocalKafka, topic: str, leaders: Mapping[int, int] | None = None, **settings: str) -> None:
    """A topic whose partitions have one replica each: partition → broker; one on broker 0 without it."""
    placed = {partition: [broker] for partition, broker in (leaders or {0: 0}).items()}
    configs = {key.replace("_", "."): value for key, value in {"min_insync_replicas": "1", **settings}.items()}
    async with admin(cluster) as one:
        made = await one.create_topics([NewTopic(topic, -1, -1, placed, configs)])
        assert all(error[1] == 0 for error in made.topic_errors), made.topic_errors


async def change(cluster: LocalKafka, topic: str, settings: Mapping[str, str]) -> None:
    """Set the topic's settings to these, and no others."""
    async with admin(cluster) as one:
        (answer,) = await one.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=dict(settings))])
        assert answer.resources[0][0] == 0, answer


def packed(outbox: Outbox, *values: bytes) -> list[BatchBuilder]:
    """Each value as a batch of its own."""
    return [batch for value in values for batch in outbox.pack([(1, None, value, [])])]


async def stands(cluster: LocalKafka, topic: str, partition: int = 0) -> list[bytes]:
    """What the log of a partition holds, each value by its first ten bytes."""
    return [one.value[:10] for one in (await read(cluster.bootstrap, topic))[partition]]  # type: ignore[attr-defined]  # aiokafka is untyped


def numbered(count: int) -> list[bytes]:
    return [b"%010d" % number for number in range(count)]


BIG = b"too large " + b"x" * 30_000


async def test_aiokafka_itself_sends_what_is_behind_a_refused_batch(
    cluster: LocalKafka, topic_name: Callable[[str], str]
) -> None:
    """Why the outbox waits for each acknowledgement: order and completeness are not aiokafka's to promise."""
    topic = topic_name("refusing")
    await make(cluster, topic, max_message_bytes="10000")
    producer = AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, enable_idempotence=True, acks="all")
    await producer.start()
    try:
        futures = []
        for value in (BIG, b"behind"):
            batch = producer.create_batch()
            batch.append(timestamp=1, key=None, value=value)
            futures.append(await producer.send_batch(batch, topic, partition=0))
        found = await asyncio.gather(*futures, return_exceptions=True)
    finally:
        await producer.stop()
    assert isinstance(found[0], MessageSizeTooLargeError)
    assert await stands(cluster, topic) == [b"behind"]


async def test_nothing_stands_behind_a_refused_batch(
    cluster: LocalKafka, outbox: Outbox, topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("refusing")
    await make(cluster, topic, max_message_bytes="10000")
    sends = [
        asyncio.create_task(outbox.send(topic, 0, packed(outbox, b"first", BIG, b"same send"))),
        asyncio.create_task(outbox.send(topic, 0, packed(outbox, b"queued"))),
    ]
    for found in await asyncio.gather(*sends, return_exceptions=True):
        assert isinstance(found, ProduceRefused)
        assert topic in str(found)
        assert "sluice topics" in str(found)
        assert "MessageSizeTooLarge" in str(found)
    with pytest.raises(ProduceRefused):
        await outbox.send(topic, 0, packed(outbox, b"later"))
    assert await stands(cluster, topic) == [b"first"]


async def test_one_request_never_grows_beyond_what_a_broker_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All partitions that a broker leads share a request; a broker closes the connection on one that is too large."""
    partitions, value, large = 12, b"x" * 700_000, b"x" * 1_900_000
    small_broker = LocalKafka(tmp_path / "kafka", properties={"socket.request.max.bytes": "3000000"})
    with small_broker as cluster:
        await make(cluster, "out", dict.fromkeys(range(partitions), 0), max_message_bytes="2500000")
        config = KafkaConfig(brokers=[cluster.bootstrap], replication=1, max_message_bytes=2_500_000)

        async def send(one: Outbox) -> None:
            async with asyncio.TaskGroup() as group:
                for partition in range(partitions):
                    group.create_task(
                        one.send("out", partition, packed(one, value, large if partition == 5 else value))
                    )

        unbounded = Outbox(config, "unbounded")
        await unbounded.start()
        monkeypatch.setattr(outbox_module, "REQUEST_BYTES", 1 << 30)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(send(unbounded), 5)
        await unbounded.stop()
        monkeypatch.setattr(outbox_module, "REQUEST_BYTES", 1_500_000)
        bounded = Outbox(config, "bounded")
        await bounded.start()
        await asyncio.wait_for(send(bounded), PATIENCE)
        await bounded.stop()
        found = await read(cluster.bootstrap, "out")
    for partition in range(partitions):
        sizes = [len(one.value) for one in found[partition]]  # type: ignore[attr-defined]  # aiokafka is untyped
        assert sizes[-2:] == [len(value), len(large if partition == 5 else value)]


async def test_more_records_than_a_sequence_number_counts(
    cluster: LocalKafka, outbox: Outbox, topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("counted")
    await make(cluster, topic)
    assert outbox._producer is not None
    outbox._producer._txn_manager._sequence_numbers[TopicPartition(topic, 0)] = 2**31 - 3
    for number in range(3):
        await outbox.send(topic, 0, outbox.pack([(1, None, b"%010d" % (5 * number + n), []) for n in range(5)]))
    assert await stands(cluster, topic) == numbered(15)


async def test_a_cancelled_send_that_was_refused_lets_nothing_through_either(
    cluster: LocalKafka, outbox: Outbox, topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("refusing")
    await make(cluster, topic, {0: 1}, max_message_bytes="10000")
    await outbox.send(topic, 0, packed(outbox, b"first"))
    await freeze(cluster, 1)
    try:
        await cancelled_in_flight(outbox, topic, packed(outbox, BIG))
        behind = asyncio.create_task(outbox.send(topic, 0, packed(outbox, b"behind")))
    finally:
        cluster.resume(1)
    with pytest.raises(ProduceRefused):
        await asyncio.wait_for(behind, PATIENCE)
    assert await stands(cluster, topic) == [b"first"]


async def freeze(cluster: LocalKafka, broker: int) -> None:
    """Freeze a broker, and wait until the last of its threads stands still."""
    cluster.pause(broker)
    threads = Path(f"/proc/{cluster.pids[broker]}/task")

    def still() -> bool:
        return all(one.read_text().rpartition(")")[2].split()[0] == "T" for one in threads.glob("*/stat"))

    await until(still, PATIENCE)


async def cancelled_in_flight(outbox: Outbox, topic: str, batches: list[BatchBuilder]) -> None:
    """Send to partition 0 whose leader is frozen, and cancel once the batch is on its way."""
    before = outbox._unacknowledged.get(TopicPartition(topic, 0))
    send = asyncio.create_task(outbox.send(topic, 0, batches))
    await until(lambda: outbox._unacknowledged.get(TopicPartition(topic, 0)) is not before, PATIENCE)
    send.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await send
    assert not outbox._unacknowledged[TopicPartition(topic, 0)].done(), "acknowledged by a frozen broker"


async def test_after_a_cancelled_send_the_next_one_waits_for_it(
    cluster: LocalKafka, outbox: Outbox, topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("cancelled")
    await make(cluster, topic, {0: 1})
    await outbox.send(topic, 0, packed(outbox, b"first"))
    await freeze(cluster, 1)
    try:
        await cancelled_in_flight(outbox, topic, packed(outbox, b"cancelled"))
        behind = asyncio.create_task(outbox.send(topic, 0, packed(outbox, b"behind")))
        _, waiting = await asyncio.wait([behind], timeout=0.5)
        assert waiting
    finally:
        cluster.resume(1)
    await asyncio.wait_for(behind, PATIENCE)
    assert await stands(cluster, topic) == [b"first", b"cancelled", b"behind"]


async def test_sends_of_many_tasks_to_one_partition_keep_their_order(
    cluster: LocalKafka, outbox: Outbox, topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("ordered")
    await make(cluster, topic)
    values = numbered(200)
    async with asyncio.TaskGroup() as group:
        for start in range(0, 200, 5):
            group.create_task(outbox.send(topic, 0, packed(outbox, *values[start : start + 5])))
    assert await stands(cluster, topic) == values


async def test_a_partition_whose_leader_is_frozen_does_not_hold_up_the_others(
    cluster: LocalKafka, outbox: Outbox, topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("frozen")
    await make(cluster, topic, {0: 0, 1: 1, 2: 2})
    for partition in range(3):
        await outbox.send(topic, partition, packed(outbox, b"first"))
    await freeze(cluster, 1)
    try:
        stuck = asyncio.create_task(outbox.send(topic, 1, packed(outbox, b"stuck")))
        for value in numbered(20):
            for partition in (0, 2):
                await asyncio.wait_for(outbox.send(topic, partition, packed(outbox, value)), PATIENCE)
        assert not stuck.done()
    finally:
        cluster.resume(1)
    await asyncio.wait_for(stuck, PATIENCE)
    assert await stands(cluster, topic, 0) == [b"first", *numbered(20)]
    assert await stands(cluster, topic, 1) == [b"first", b"stuck"]


async def test_a_batch_waits_for_a_leader_and_is_offered_again_without_standing_there_twice(
    cluster: LocalKafka, outbox: Outbox, topic_name: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    topic = topic_name("leaderless")
    await make(cluster, topic, {0: 2, 1: 0})
    await outbox.send(topic, 0, packed(outbox, b"first"))
    producer = outbox._started
    producer._request_timeout_ms = 500  # how long a batch is offered
    updates = count_updates(producer.client)
    await asyncio.to_thread(cluster.kill, 2)
    try:
        await until(lambda: leader(producer, topic) == -1, PATIENCE)
        before, begun = len(updates), time.monotonic()
        (foreign,) = packed(outbox, b"before")
        foreign.close()
        taken = await producer.send_batch(foreign, topic, partition=0)  # takes the only place in the queue
        send = asyncio.create_task(outbox.send(topic, 0, packed(outbox, b"again")))
        await until(lambda: caplog.text.count("offering it again") >= 3, PATIENCE)
        await outbox.send(topic, 1, packed(outbox, b"elsewhere"))
        rate = (len(updates) - before) / (time.monotonic() - begun)
        assert rate < 30, f"{rate:.0f} requests for metadata a second"
    finally:
        await asyncio.to_thread(cluster.restart, 2)
    await asyncio.wait_for(asyncio.gather(taken, send), 2 * PATIENCE)
    assert await stands(cluster, topic) == [b"first", b"before", b"again"]


def leader(producer: AIOKafkaProducer, topic: str) -> int | None:
    producer.client.force_metadata_update()
    found: int | None = producer.client.cluster.leader_for_partition(TopicPartition(topic, 0))
    return found


def count_updates(client: object) -> list[float]:
    """The times at which the client asks for metadata, from here on."""
    times: list[float] = []
    update = client.cluster.update_metadata  # type: ignore[attr-defined]  # aiokafka is untyped

    def counted(metadata: object) -> None:
        times.append(time.monotonic())
        update(metadata)

    client.cluster.update_metadata = counted  # type: ignore[attr-defined]  # aiokafka is untyped
    return times


async def test_a_topic_that_is_deleted_under_the_outbox_is_an_error_that_names_it(
    cluster: LocalKafka, outbox: Outbox, topic_name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = topic_name("deleted")
    monkeypatch.setattr("stream.outbox.REQUEST_SECONDS", 0.5)
    outbox._started.client._request_timeout_ms = 500  # how long a topic is looked for
    await make(cluster, topic)
    await outbox.send(topic, 0, packed(outbox, b"first"))
    async with admin(cluster) as one:
        await one.delete_topics([topic])
    with pytest.raises(ProduceRefused, match=rf"{topic}/0 .*UnknownTopicOrPartitionError"):
        await asyncio.wait_for(send_for_ever(outbox, topic), 3 * PATIENCE)


async def send_for_ever(outbox: Outbox, topic: str) -> None:
    while True:
        await outbox.send(topic, 0, packed(outbox, b"later"))


async def test_a_router_ends_when_a_topic_refuses_and_does_everything_once_the_topic_is_mended(
    cluster: LocalKafka, tmp_path: Path, topic_name: Callable[[str], str]
) -> None:
    name = topic_name("mended")
    async with stage(tmp_path, cluster.bootstrap, name, partitions=2, replication=3) as on:
        router = await on.router()
        first = await on.devices(count=1000)
        await first.ends()
        await router.says("Assigned in generation")
        await on.until_done(60)
        before = await on.settled()
        await change(cluster, f"{name}.success", {"max.message.bytes": "2000", "min.insync.replicas": "2"})
        await (await on.devices(count=2000, seed=2)).ends()
        assert await router.ends(60) == 69
        assert f"{name}.success/" in router.tail()
        assert "sluice topics FILE --compare" in router.tail()
        assert "Traceback" not in router.output
        assert await on.settled() < before + 2000
        found = await committed(on.brokers, on.group)
        assert all(found[tp][0] < end for tp, end in (await end_offsets(on.brokers, on.partitions)).items()), found
        settings = {"min.insync.replicas": "2", "max.message.bytes": str(on.config.kafka.max_message_bytes)}
        settings["message.timestamp.after.max.ms"] = str(2**63 - 1)
        await change(cluster, f"{name}.success", settings)
        await on.router()
        await on.until_done(60)
        assert (await on.judge()).records == 3000


async def test_a_record_that_cannot_fit_is_a_dead_letter_and_its_neighbours_are_routed(
    cluster: LocalKafka, tmp_path: Path, topic_name: Callable[[str], str]
) -> None:
    name = topic_name("large")
    values = [
        one.value
        for one in messages(3, lambda: False, 200, 0)
        if one.oddity is None and b"transaction" in (one.value or b"")
    ]
    small = [one for one in values if one is not None][:20]
    large = small[10][:-1] + b',"description":"%s"}' % (b"x" * (65_300 - len(small[10])))
    async with stage(tmp_path, cluster.bootstrap, name, partitions=1, kafka={"max_message_bytes": 65_536}) as on:
        await produce(on.brokers, on.raw, {0: [*small[:10], large, *small[11:]]})
        router = await on.router()
        await router.says("Assigned in generation")
        await on.until_done(60)
        assert await router.stop() == 0
        (letter,) = (await read(on.brokers, f"{name}.dlq"))[0]
        headers = dict(letter.headers)  # type: ignore[attr-defined]  # aiokafka is untyped
        assert headers["sluice-id"] == f"{on.raw}/0/10".encode()
        assert b"too-large" in headers.values(), sorted(headers)
        assert sum([len((await read(on.brokers, topic))[0]) for topic in on.routed]) == len(small) - 1
