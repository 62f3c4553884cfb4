"""The judge of the fault tests finds every way in which a router could spoil what it was given."""

import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson
import pytest
import yaml

from pipeline.dead_letters import Sealer, letter_headers
from pipeline.references import Tables
from sluice.config import load
from sluice.demo.configuration import write_keys
from sluice.keys import loaded
from sluice.wiring import make_pipeline
from stream.records import Headers
from tests.faults import ledger
from tests.faults.devices import messages
from tests.faults.stage import pipeline

NAME, RAW, PARTITIONS = "events", "raw", 2
PLAN = ("sluice-plan", b"1.aaaa")


@dataclass(frozen=True)
class Record:
    offset: int
    value: bytes | None
    key: bytes | None = None
    timestamp: int = 1_700_000_000_000
    headers: Headers = field(default=())


Topics = dict[str, list[tuple[int, Record]]]
"""Topic → partition and record, in the order of each partition."""


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Topics, Mapping[str, bytes]]:
    """What 6000 records of devices lead to: the raw topic and everything that the pipeline makes of it, and the keys."""
    folder = tmp_path_factory.mktemp("judge")
    keys = write_keys(folder / "keys.yaml")
    settings = {
        "kafka": {"brokers": ["localhost:9092"]},
        "keys": {"provider": "file", "path": "keys.yaml"},
        "pipelines": {NAME: pipeline(RAW)},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    config = load(folder / "config.yaml")
    made, sealer = make_pipeline(config, NAME, loaded(config), Tables()), Sealer(loaded(config))
    topics: Topics = defaultdict(list)
    for partition in range(PARTITIONS):
        sent = itertools.islice(messages(partition + 1, lambda: False), 3000)
        raw = [Record(offset, one.value, one.key, 1_700_000_000_000 + offset) for offset, one in enumerate(sent)]
        topics[RAW] += [(partition, one) for one in raw]
        done = made.process(raw)
        for position, route, value in zip(done.positions, done.routes, done.values, strict=True):
            record = replace(
                raw[position], value=value, headers=[("sluice-id", f"{RAW}/{partition}/{position}".encode()), PLAN]
            )
            topics[f"{NAME}.{route}"].append((partition, record))
        for position, why in done.dead:
            headers = letter_headers(RAW, partition, raw[position], why, "pipeline")
            letter = Record(0, sealer.seal(raw[position], 1_000_000), None, raw[position].timestamp, headers)
            topics[f"{NAME}.dlq"].append((partition, letter))
    return topics, keys


async def judged(
    monkeypatch: pytest.MonkeyPatch, topics: Topics, keys: Mapping[str, bytes], log: Path | None = None
) -> ledger.Judgement:
    async def records_of(brokers: str, topic: str, start: object = None) -> AsyncIterator[tuple[int, Record]]:
        for one in topics[topic]:
            yield one

    monkeypatch.setattr(ledger, "records_of", records_of)
    return await ledger.judge("nowhere", NAME, RAW, keys, [log] if log else [])


async def test_what_the_pipeline_makes_balances(
    monkeypatch: pytest.MonkeyPatch, routed: tuple[Topics, Mapping[str, bytes]]
) -> None:
    topics, keys = routed
    found = await judged(monkeypatch, topics, keys)
    assert found.records == 3000 * PARTITIONS
    assert found.dead_letters == len(topics[f"{NAME}.dlq"]) > 2
    assert found.repeats == 0
    assert all(len(topics[f"{NAME}.{route}"]) > 50 for route in ledger.ROUTES)


SUCCESS, DEAD = f"{NAME}.success", f"{NAME}.dlq"
At = tuple[int, Record]


def changed(at: At, **changes: object) -> At:
    return at[0], replace(at[1], **changes)  # type: ignore[arg-type]  # fields of a record


def with_field(at: At, *path: str, value: object) -> At:
    content = orjson.loads(at[1].value or b"")
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return changed(at, value=orjson.dumps(content))


MUTATIONS: dict[str, tuple[str, Callable[[list[At]], list[At]], str]] = {
    "lost": (SUCCESS, lambda all_: all_[:5] + all_[6:], "1 of .* records are missing"),
    "all of a topic lost": (SUCCESS, lambda all_: [], "records are missing"),
    "doubled under another plan": (
        SUCCESS,
        lambda all_: [*all_, changed(all_[-1], headers=[all_[-1][1].headers[0], ("sluice-plan", b"2.bbbb")])],
        "there again",
    ),
    "out of order": (
        SUCCESS,
        lambda all_: [changed(all_[1], headers=[all_[1][1].headers[0], ("sluice-plan", b"0.b")]), all_[0], *all_[2:]],
        "not in the order",
    ),
    "swapped": (SUCCESS, lambda all_: [all_[1], all_[0], *all_[2:]], "records are missing"),
    "of another partition": (SUCCESS, lambda all_: [(1 - all_[0][0], all_[0][1]), *all_[1:]], "is from raw/0/"),
    "another field": (
        SUCCESS,
        lambda all_: [with_field(all_[0], "transaction", "total_price", value=0.5), *all_[1:]],
        "1 records are not as they were sent",
    ),
    "a field that should be gone": (
        SUCCESS,
        lambda all_: [with_field(all_[0], "buffer", value="b"), *all_[1:]],
        "not as they were sent",
    ),
    "another key": (SUCCESS, lambda all_: [changed(all_[0], key=b"other"), *all_[1:]], "not as they were sent"),
    "another time": (SUCCESS, lambda all_: [changed(all_[0], timestamp=1), *all_[1:]], "not as they were sent"),
    "an unreadable card": (
        SUCCESS,
        lambda all_: [with_field(one, "transaction", "cc", "cc_exp", value="AAAA") for one in all_],
        "not as they were sent",
    ),
    "a dead letter lost": (DEAD, lambda all_: all_[1:], "1 are missing"),
    "a dead letter empty": (DEAD, lambda all_: [changed(all_[0], value=None), *all_[1:]], "do not hold what was sent"),
    "a dead letter of another": (
        DEAD,
        lambda all_: [changed(all_[0], value=all_[-1][1].value), *all_[1:]],
        "do not hold what was sent",
    ),
}


@pytest.mark.parametrize("what", MUTATIONS)
async def test_it_finds_what_is(
    monkeypatch: pytest.MonkeyPatch, routed: tuple[Topics, Mapping[str, bytes]], what: str
) -> None:
    topics, keys = routed
    topic, mutate, says = MUTATIONS[what]
    with pytest.raises(ledger.Unbalanced, match=says):
        await judged(monkeypatch, {**topics, topic: mutate(topics[topic])}, keys)


async def test_a_card_number_in_clear_is_found_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch, routed: tuple[Topics, Mapping[str, bytes]], tmp_path: Path
) -> None:
    topics, keys = routed
    raw = {(partition, record.offset): record for partition, record in topics[RAW]}
    sold, dead = topics[SUCCESS][3], topics[DEAD]
    paid = raw[sold[0], int(dict(sold[1].headers)["sluice-id"].rpartition(b"/")[2])]
    clear = orjson.loads(paid.value or b"")["transaction"]["cc"]["cc_number"]
    places: Topics = {**topics, SUCCESS: [with_field(topics[SUCCESS][0], "event", value=clear), *topics[SUCCESS][1:]]}
    with pytest.raises(ledger.Unbalanced, match="success: 1 card numbers are in clear"):
        await judged(monkeypatch, places, keys)
    refused = [raw[p, int(dict(one.headers)["sluice-id"].rpartition(b"/")[2])] for p, one in dead]
    spelt = next(one for one in refused if b'"cc_number"' in (one.value or b""))
    unsealed = [(p, replace(one, value=spelt.value)) for p, one in dead[:1]]
    with pytest.raises(ledger.Unbalanced, match=r"dlq: [1-9]\d* card numbers are in clear"):
        await judged(monkeypatch, {**topics, DEAD: [*unsealed, *dead[1:]]}, keys)
    log = tmp_path / "router-1.log"
    log.write_bytes(b"refused: " + (spelt.value or b""))
    with pytest.raises(ledger.Unbalanced, match=r"router-1.log: [1-9]\d* card numbers"):
        await judged(monkeypatch, topics, keys, log)
