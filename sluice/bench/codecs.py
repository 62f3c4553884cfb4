"""What it costs to take a record in and give it out again: by the codec, by orjson without any check, and by fastavro's check.

In pieces of 400, as a router does it; records of simulated devices, the same in each run. No broker is asked.
"""

import itertools
from collections.abc import Callable, Sequence

import fastavro.validation
import orjson

from agents.router import PIECE_RECORDS
from schemas.codec import Codec
from schemas.containers import avro_form
from schemas.drift import parsed
from schemas.subjects import load
from sluice.bench.meter import Meter, arguments, tune_gc
from sluice.devices import MIX, Fleet

Work = Callable[[Sequence[bytes]], list[bytes]]


def codec(subject: str) -> Work:
    """Decode, check, put right what drifts, and encode in schema order: what a pipeline does to a record at least."""
    made = Codec(load(subject))

    def work(values: Sequence[bytes]) -> list[bytes]:
        batch, _ = made.decode_batch(values)
        return list(map(made.encode, batch))

    return work


def untyped(subject: str) -> Work:
    """orjson in and out, without a look at what it is."""
    return lambda values: list(map(orjson.dumps, map(orjson.loads, values)))


def fastavro_check(subject: str) -> Work:
    """JSON in, fastavro's own check of the schema, JSON out. It puts no drift right, so it gets records without any."""
    version = load(subject).latest
    check = fastavro.validation.validate

    def work(values: Sequence[bytes]) -> list[bytes]:
        made = []
        for value in values:
            check(avro_form(version.fields, parsed(value)), version.parsed)
            made.append(orjson.dumps(orjson.loads(value)))
        return made

    return work


WORK: dict[str, Callable[[str], Work]] = {"codec": codec, "orjson": untyped, "fastavro": fastavro_check}


def records(subject: str) -> list[bytes]:
    """One piece of records of well-behaved devices."""
    fleet = Fleet(seed=1, devices=200, mix=MIX)
    source = fleet.events() if subject == "event" else fleet.usage()
    return [one.value for one in itertools.islice(source, PIECE_RECORDS) if one.value is not None]


def run(what: str, subject: str, count: int) -> None:
    """Take `count` records through, and report."""
    values, work = records(subject), WORK[what](subject)
    if what == "fastavro":
        values = codec(subject)(values)
    work(values)
    tune_gc()
    meter = Meter(0)
    meter.first_record()
    while meter.count < count:
        work(values)
        meter.count += len(values)
    meter.report()


if __name__ == "__main__":
    _given = arguments(__doc__, what=tuple(WORK), subject=("event", "usage"))
    run(_given.what, _given.subject, _given.count)
