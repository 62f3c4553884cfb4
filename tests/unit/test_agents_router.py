"""Promise: in pieces or in one go, a batch leads to the same; and what is worked on in vain is not counted."""

import json
from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder

from agents.dead_letters import DeadLetterDesk
from agents.router import PIECE_RECORDS, Router, _Outgoing
from agents.schema_ids import SchemaIds
from pipeline.config import PipelineConfig
from pipeline.keys import Keys
from pipeline.pipeline import Pipeline
from pipeline.references import Tables
from stream import metrics
from stream.assignment import Partition
from stream.connection import KafkaConfig
from stream.outbox import Outbox
from stream.records import Headers, RecordBatch

KAFKA = KafkaConfig(brokers=["localhost:1"])


class Raw:
    """A record as the consumer gives it."""

    key = b"k"
    headers: Headers = ()

    def __init__(self, offset: int, record: dict[str, Any]) -> None:
        self.offset, self.timestamp, self.value = offset, 1000 + offset, json.dumps(record).encode()


class Desk:
    topic = "p.dlq"


class Producer:
    @staticmethod
    def create_batch() -> BatchBuilder:
        return BatchBuilder(900_000, 0)


class GivenAway:
    """A partition that was given away: nothing can be waited for."""

    tp = TopicPartition("raw", 0)
    topic, number = tp

    async def pause(self, seconds: float) -> bool:
        return False


def router(name: str, **settings: Any) -> tuple[Router, Outbox]:
    config = PipelineConfig.model_validate({"from": "raw", "schema": "event", **settings})
    outbox = Outbox(KAFKA, "test")
    outbox._producer = cast(Any, Producer)
    made = Pipeline(name, config, Keys.none(), Tables(live=True))
    desk, ids = cast(DeadLetterDesk, Desk()), cast(SchemaIds, None)
    return Router(name, KAFKA, made, outbox, desk, ids, Keys.none()), outbox


async def process(one: Router, records: list[Raw]) -> _Outgoing | None:
    batch = RecordBatch("raw", 0, records, 0, len(records))
    return await one._process(cast(Partition, GivenAway()), batch, b"1.plan")


def counted(name: str, metric: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(f"sluice_{metric}_total", {"pipeline": name, **labels}) or 0.0


@pytest.mark.parametrize("count", [1, PIECE_RECORDS, PIECE_RECORDS + 1, 3 * PIECE_RECORDS + 7])
async def test_pieces_are_packed_behind_each_other_in_order(count: int) -> None:
    one, _ = router("pieces", routes={"even": [{"field": ".alert", "op": "equal", "value": True}]})
    records = [Raw(at, {"id": at, "alert": at % 2 == 0}) for at in range(count)]
    outgoing = await process(one, records)
    assert outgoing is not None
    routed = {route: sum(batch.record_count() for batch in batches) for route, batches in outgoing.routed.items()}
    assert routed == {route: share for route, share in (("even", (count + 1) // 2), ("unmatched", count // 2)) if share}
    assert all(len(batches) == 1 for batches in outgoing.routed.values())


async def test_what_is_given_away_in_the_midst_is_not_counted() -> None:
    waits = [{"by": ".sim.id", "from": "sims", "into": ".sim", "on_missing": "wait"}]
    one, _ = router("midst", enrich=waits)
    records = [Raw(at, {"id": at, "alert": 1}) for at in range(2 * PIECE_RECORDS)]
    assert await process(one, [*records, Raw(len(records), {"sim": {"id": 5}})]) is None
    assert counted("midst", "drift", kind="flag") == 0
    assert await process(one, records) is not None
    assert counted("midst", "drift", kind="flag") == len(records)


@pytest.mark.parametrize("others", [0, 1, PIECE_RECORDS])
async def test_a_record_that_fits_no_topic_does_not_take_the_place_of_the_good_one(others: int) -> None:
    one, outbox = router("large", deduplicate={"by": [".id"]})
    large = Raw(0, {"id": 1, "description": "d" * outbox.max_record_bytes})
    outgoing = await process(one, [large, *(Raw(at, {"id": at}) for at in range(2, others + 2)), Raw(9999, {"id": 1})])
    assert outgoing is not None
    assert [(record.offset, why.reason) for record, why in outgoing.letters] == [(0, "too-large")]
    assert sum(batch.record_count() for batch in outgoing.routed["success"]) == others + 1


async def test_a_record_that_fits_no_topic_is_one_dead_letter_for_all_its_routes() -> None:
    small = {"field": ".id", "op": "less", "value": 10}
    one, outbox = router("copies", match="all", routes={"some": [small], "more": [small]})
    large = Raw(1, {"id": 1, "description": "d" * outbox.max_record_bytes})
    outgoing = await process(one, [Raw(0, {"id": 0}), large])
    assert outgoing is not None
    assert [(record.offset, why.reason) for record, why in outgoing.letters] == [(1, "too-large")]
    assert {route: sum(batch.record_count() for batch in batches) for route, batches in outgoing.routed.items()} == {
        "some": 1,
        "more": 1,
    }
