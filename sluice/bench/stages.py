"""What single stages of a pipeline cost, in batches as the router works on them. No broker is asked.

`gate`: the last look at what a router gives out, for a record. `cfb` and `gcm`: encrypting a field and writing what it becomes,
for a field.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from agents.router import PIECE_RECORDS
from pipeline.config import PipelineConfig
from pipeline.encryption import Encryption
from pipeline.gate import Gate
from pipeline.keys import Key, Keys
from schemas.codec import Codec
from schemas.subjects import load
from sluice.bench.load import MIXES
from sluice.bench.meter import arguments, report, tune_gc
from sluice.bench.work import FIELDS
from sluice.devices import Fleet, Message
from stream.records import Headers

ALGORITHMS = {"cfb": "AES-256-CFB", "gcm": "AES-256-GCM"}
Costs = Iterator[tuple[int, float]]
"""How many were worked on, and the CPU seconds that it took."""


class Raw:
    """A record as the consumer gives it."""

    offset = timestamp = 0
    headers: Headers = ()

    def __init__(self, message: Message) -> None:
        self.key: bytes | None = message.key
        self.value = message.value


def gate() -> Costs:
    """Records of all kinds, their cards encrypted."""
    subject, rules = load("event"), _rules("cfb")
    codec = Codec(subject, rules.extra_fields())
    encrypt, look = _encryption(rules, codec), Gate(codec.type, subject.fields, [])
    for raw in _pieces("devices"):
        batch = [codec.decode(one.value) for one in raw]
        encrypt(batch, ["success"] * len(batch))
        lines = codec.encode_lines(batch)
        yield len(raw), _seconds(look, raw, batch, lines)


def field(what: str) -> Costs:
    """Five card fields of each record: to encrypt them, and what the record costs more to encode after that."""
    rules = _rules(what)
    codec = Codec(load("event"), rules.extra_fields())
    encrypt = _encryption(rules, codec)
    for raw in _pieces("transactions"):
        batch, routes = [codec.decode(one.value) for one in raw], ["success"] * len(raw)
        seconds = -_seconds(list, map(codec.encode, batch))
        seconds += _seconds(encrypt, batch, routes)
        seconds += _seconds(list, map(codec.encode, batch))
        yield len(FIELDS) * len(raw), seconds


STAGES: dict[str, Callable[[], Costs]] = {
    "gate": gate,
    "cfb": lambda: field("cfb"),
    "gcm": lambda: field("gcm"),
}


def _rules(what: str) -> PipelineConfig:
    rules: list[dict[str, Any]] = [
        {"field": f".transaction.cc.{name}", "key": "card", "algorithm": ALGORITHMS[what], "required_on": []}
        | ({"iv_field": f".transaction.cc.{name}_iv"} if what == "cfb" else {})
        for name in FIELDS
    ]
    return PipelineConfig.model_validate({"from": "raw", "schema": "event", "encrypt": rules})


def _encryption(rules: PipelineConfig, codec: Codec) -> Encryption:
    return Encryption(rules.encrypt, codec.type, "bench", Keys([Key("card", "1", bytes(range(32)))]))


def _pieces(mix: str) -> Iterator[Sequence[Raw]]:
    """What simulated devices send, without end, as many at a time as a router works on."""
    messages = Fleet(seed=1, devices=200, mix=MIXES[mix]).events()
    while True:
        yield [Raw(one) for one in itertools.islice(messages, PIECE_RECORDS)]


def _seconds(work: Callable[..., Any], *given: Any) -> float:
    began = time.process_time()
    work(*given)
    return time.process_time() - began


def run(what: str, count: int) -> None:
    """Work on `count` records or fields, and report."""
    costs = STAGES[what]()
    next(costs)
    tune_gc()
    done, spent = 0, 0.0
    for some, seconds in costs:
        done, spent = done + some, spent + seconds
        if done >= count:
            break
    report(done, spent, spent)


if __name__ == "__main__":
    _given = arguments(__doc__, what=tuple(STAGES))
    run(_given.what, _given.count)
