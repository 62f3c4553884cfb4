"""What it takes to hold a reference: a router's process reads a topic of endpoints, with all that it has loaded besides."""

import asyncio
import time

from pipeline.keys import Keys
from sluice import worker as _worker  # noqa: F401  # what a worker has loaded besides takes memory too
from sluice.bench.load import PARTITIONS
from sluice.bench.meter import Meter, arguments, tune_gc
from sluice.config import Config
from sluice.wiring import wire
from stream.outbox import Outbox
from stream.reference import ReferenceReader

NAME = "reference"


async def run(brokers: str, topic: str, count: int) -> None:
    """Read the `count` endpoints of `topic` as a worker does before it is ready, and report."""
    config = Config.model_validate(
        {
            "kafka": {"brokers": brokers.split(","), "partitions": PARTITIONS, "replication": 1},
            "reference": {"endpoints": {"topic": topic}},
            "pipelines": {
                NAME: {
                    "from": f"{topic}-raw",
                    "schema": "event",
                    "enrich": [{"by": ".endpoint.id", "from": "endpoints", "into": ".endpoint"}],
                }
            },
        }
    )
    wired = wire(config, [NAME], Outbox(config.kafka, NAME), Keys.none())
    tune_gc()
    meter, began = Meter(count), time.perf_counter()
    meter.first_record()
    async with ReferenceReader(config.kafka, wired.references) as reader:
        await reader.catch_up()
        if (held := wired.tables.sizes()) != {"endpoints": count}:
            raise RuntimeError(f"expected {count} endpoints, and {held} were read")
        meter.report(seconds=round(time.perf_counter() - began, 2), records=count)


if __name__ == "__main__":
    _given = arguments(__doc__)
    asyncio.run(run(_given.brokers, _given.topic, _given.count))
