"""Devices as a process of their own: they send until SIGTERM, or `--count` records, and say how many were acknowledged.

    python -m tests.faults.devices --brokers B --topic T [--rate R] [--count N] [--seed S] [--bytes N]

Values come from a pool of simulated records, each sent with an `id` of its own: cheap enough to load two cores.
"""

import argparse
import asyncio
import itertools
import signal
from collections.abc import Callable, Iterator

from sluice.devices import MIX, Fleet, Message
from sluice.generate import to_topic

POOL = 3000
BAD = 0.002
"""Share of records that nobody can read, or whose card fields are not as they must be: they go to the dead letters."""


def messages(seed: int, stopped: Callable[[], bool], count: int | None = None, size: int = 0) -> Iterator[Message]:
    """Records without end, or `count`, or until `stopped`; each value at least `size` bytes, if it is readable."""
    pool = []
    for one in itertools.islice(Fleet(seed=seed, devices=200, mix=MIX, bad=BAD).events(), POOL):
        before, mark, after = (one.value or b"").partition(b'"id":%d' % one.id)
        pad = max(0, size - len(one.value or b""))
        if mark and pad and one.oddity is None:
            after = after[:-1] + b',"description":"%s"}' % (b"x" * pad)
        pool.append((one, before, after if mark else None))
    for number in itertools.count(1) if count is None else range(1, count + 1):
        if stopped():
            return
        one, before, after = pool[number % POOL]
        yield one if after is None else one._replace(id=number, value=b'%s"id":%d%s' % (before, number, after))


async def main(given: argparse.Namespace) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    source = messages(given.seed, stopping.is_set, given.count, given.bytes)
    sent = await to_topic(source, given.topic, given.brokers, given.rate, progress=lambda n: print(n, flush=True))
    print(f"sent {sent}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bytes", type=int, default=0)
    asyncio.run(main(parser.parse_args()))
