"""All devices together, as a process of its own: `python -m sluice.demo.sender` with its arguments as one JSON object."""

import asyncio
import gc
import itertools
import sys
from typing import Any

import orjson

from sluice.devices import Fleet
from sluice.generate import to_topic

USAGE_SHARE = 0.2
BAD_SHARE = 0.005
"""Of events that cannot be read or may not be delivered, as no device should send them."""


async def send(brokers: str, events: str, usage: str, seconds: int, rate: int, devices: int, seed: int) -> int:
    """Send `seconds * rate` records to the topics `events` and `usage`, evenly in time; return how many.

    All are acknowledged by the brokers when this returns. Raises KafkaError.
    """
    fleet = Fleet(seed, devices, bad=BAD_SHARE)
    of_usage = int(seconds * rate * USAGE_SHARE)
    of_events = seconds * rate - of_usage
    async with asyncio.TaskGroup() as group:
        parts = [
            group.create_task(to_topic(itertools.islice(messages, count), topic, brokers, count / seconds))
            for messages, count, topic in ((fleet.events(), of_events, events), (fleet.usage(), of_usage, usage))
            if count
        ]
    return sum(part.result() for part in parts)


def main(arguments: dict[str, Any]) -> None:
    gc.freeze()
    sent = asyncio.run(send(**arguments))
    sys.stderr.write(f"{sent} records sent\n")


if __name__ == "__main__":
    main(orjson.loads(sys.argv[1]))
