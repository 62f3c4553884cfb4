"""The router as a worker runs it: Faust, type checks, headers, metrics, pinned commits and all."""

import asyncio
import os
import tempfile
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from pipeline.pipeline import Pipeline, Processed
from sluice.bench.joins import DROPPED, JOINS, reference_topics
from sluice.bench.load import PARTITIONS
from sluice.bench.meter import Meter, arguments, tune_gc
from sluice.bench.work import FIELDS
from sluice.config import Config
from sluice.key_file import new_keys_file
from sluice.keys import loaded
from sluice.wiring import topic_specs, wire
from stream import metrics
from stream.app import Worker
from stream.outbox import Outbox
from stream.records import Record
from stream.reference import ReferenceReader
from stream.topics import Topics

NAME = "router"


def data_streamer(brokers: str, topic: str, name: str, keys: Path) -> dict[str, Any]:
    """A config with the pipeline of the data-streamer: four joins, and cards dropped."""
    beside = reference_topics(topic)
    return {
        "kafka": {"brokers": brokers.split(","), "partitions": PARTITIONS, "replication": 1},
        "metrics": {"listen": "127.0.0.1:0"},
        "keys": {"provider": "file", "path": str(keys)},
        "reference": {table: {"topic": source} for table, source in beside.items()},
        "pipelines": {
            name: {
                "from": topic,
                "schema": "event",
                "enrich": [{"by": f".{one}.id", "from": table, "into": f".{one}"} for one, table in JOINS.items()],
                "drop": [f".{field}" for field in DROPPED],
            }
        },
    }


def settings(brokers: str, topic: str, name: str, keys: Path) -> dict[str, Any]:
    """A config with the workshop's pipeline: drop the buffer, route by result and total, encrypt five card fields."""
    path, total = ".transaction.result", {"field": ".transaction.total_price", "op": "greater_or_equal", "value": 0}
    return {
        "kafka": {"brokers": brokers.split(","), "partitions": PARTITIONS, "replication": 1},
        "metrics": {"listen": "127.0.0.1:0"},
        "keys": {"provider": "file", "path": str(keys)},
        "pipelines": {
            name: {
                "from": topic,
                "schema": "event",
                "drop": [".buffer"],
                "routes": {
                    "success": [{"field": path, "op": "equal", "value": True}, total],
                    "fail": [{"field": path, "op": "equal", "value": False}, total],
                },
                "encrypt": [
                    {
                        "field": f".transaction.cc.{field}",
                        "key": field.replace("_", "-"),
                        "algorithm": "AES-256-CFB",
                        "iv_field": f".transaction.cc.{field}_iv",
                    }
                    for field in FIELDS
                ],
            }
        },
    }


def make_keys(folder: Path) -> Path:
    """A new key for each encrypted field, in a file of that folder."""
    keys = folder / "keys.yaml"
    new_keys_file(keys, [field.replace("_", "-") for field in FIELDS])
    return keys


PIPELINES = {"workshop": settings, "data-streamer": data_streamer}


async def run(brokers: str, topic: str, count: int, pipeline: str) -> None:
    """Work on the first `count` records of `topic`, and report."""
    with tempfile.TemporaryDirectory() as folder:
        name = f"{topic}-{NAME}-{os.getpid()}"
        config = Config.model_validate(PIPELINES[pipeline](brokers, topic, name, make_keys(Path(folder))))
        there = {topic, *reference_topics(topic).values()}
        async with Topics(config.kafka) as topics:
            await topics.create([one for one in topic_specs(config) if one.name not in there])
        outbox = Outbox(config.kafka, NAME)
        wired = wire(config, [name], outbox, loaded(config))
    if wired.references:
        async with ReferenceReader(config.kafka, wired.references) as reader:
            await reader.catch_up()
    await outbox.start()
    worker, meter = Worker(wired.workloads, config.kafka), Meter(count)
    _start_with_the_first_batch(meter)
    tune_gc()
    working = asyncio.create_task(worker.run())
    while _routed(name) < count and not working.done():
        if any(metric.samples for metric in metrics.DEAD_LETTERS.collect()):
            raise RuntimeError("there are dead letters: the input is not what the others work on")
        await asyncio.sleep(0.005)
    meter.count = _routed(name)
    meter.report()
    worker.stop()
    await working
    await outbox.stop()


def _start_with_the_first_batch(meter: Meter) -> None:
    process = Pipeline.process

    def measured(
        self: Pipeline, records: Sequence[Record], partition: int = 0, undelivered: Set[int] = frozenset()
    ) -> Processed:
        meter.first_record()
        return process(self, records, partition, undelivered)

    Pipeline.process = measured  # type: ignore[method-assign]  # in this process alone


def _routed(name: str) -> int:
    """How many records are acknowledged on the routed topics."""
    samples = (one for metric in metrics.RECORDS_OUT.collect() for one in metric.samples)
    return int(sum(one.value for one in samples if one.name.endswith("_total") and one.labels["pipeline"] == name))


if __name__ == "__main__":
    _given = arguments(__doc__, pipeline=tuple(PIPELINES))
    asyncio.run(run(_given.brokers, _given.topic, _given.count, _given.pipeline))
