"""The work as one writes it in stock Faust: an agent, an event at a time, a cipher object for each field.

Faust's producer is idempotent only within transactions, so here it is not; acks=all, partition kept. Offsets are committed
by Faust.
"""

import asyncio
import os
import shutil
import sys
import tempfile
import warnings

import faust
import orjson

from sluice.bench.load import make_topics
from sluice.bench.meter import Meter, arguments, tune_gc
from sluice.bench.work import ROUTES, transform_one


def make_app(brokers: str, topic: str, count: int, directory: str) -> faust.App:
    """An app that works on the first `count` records of `topic`, reports, and ends its process."""
    name = f"{topic}.stock-faust"
    app = faust.App(
        f"{name}.{os.getpid()}",
        broker=";".join(f"kafka://{broker}" for broker in brokers.split(",")),
        datadir=directory,
        web_enabled=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        producer_max_batch_size=500_000,
        producer_linger=0.02,
    )
    raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    source = app.topic(topic, **raw)
    outputs = [app.topic(f"{name}.{route}", **raw) for route in ROUTES]
    meter = Meter(count)

    @app.agent(source)  # type: ignore[untyped-decorator]  # Faust has no usable types
    async def route_and_encrypt(stream: faust.Stream[bytes]) -> None:
        done = 0
        async for event in stream.events():
            meter.first_record()
            route, result = transform_one(event.value)
            message = event.message
            await outputs[route].send(key=message.key, value=orjson.dumps(result), partition=message.partition)
            done += 1
            if done == count:
                await app.producer.flush()
                meter.report()
                shutil.rmtree(directory, ignore_errors=True)
                os._exit(0)  # a figure is all that is wanted; an orderly end of a Faust worker takes seconds

    @app.on_after_configured.connect  # type: ignore[untyped-decorator]  # as above
    def when_configured(app: faust.App, **_: object) -> None:
        tune_gc()

    return app


if __name__ == "__main__":
    warnings.filterwarnings("ignore")  # of Faust's and its libraries' own
    _given = arguments(__doc__)
    asyncio.run(make_topics(_given.brokers, [f"{_given.topic}.stock-faust.{route}" for route in ROUTES]))
    with tempfile.TemporaryDirectory() as _directory:
        _app = make_app(_given.brokers, _given.topic, _given.count, _directory)
        sys.argv = [sys.argv[0], "worker", "--without-web", "--loglevel", "error"]
        _app.main()
