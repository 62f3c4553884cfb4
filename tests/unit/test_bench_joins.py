"""The benchmark's joins by hand give records what the pipeline gives them, or the comparison would be of different work."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from pipeline.config import PipelineConfig
from pipeline.keys import Keys
from pipeline.pipeline import Pipeline
from pipeline.references import Tables
from sluice.bench.joins import JOINS, join_each
from sluice.bench.load import MIXES
from sluice.bench.router import data_streamer
from sluice.bench.stages import Raw
from sluice.devices import Fleet


class Entry(NamedTuple):
    key: bytes
    value: bytes


def test_both_ways_give_records_the_same() -> None:
    fleet = Fleet(seed=1, devices=50, mix=MIXES["platform"])
    raw = [Raw(one) for one in itertools.islice(fleet.events(), 3000)]
    references = fleet.references()
    tables = Tables()
    config = PipelineConfig.model_validate(data_streamer("localhost:1", "t", "p", Path())["pipelines"]["p"])
    pipeline = Pipeline("p", config, Keys.none(), tables)
    for name, entries in references.items():
        if name in JOINS.values():
            tables.apply(name, [Entry(key.encode(), orjson.dumps(one)) for key, one in entries.items()])
    by_hand = {name: {int(key): one for key, one in entries.items()} for name, entries in references.items()}
    done = pipeline.process(raw)
    joined = list(join_each([one.value or b"" for one in raw], by_hand))
    assert len(done.values) == len(joined) == 3000
    filled = 0
    for value, (_, expected), one in zip(done.values, joined, raw, strict=True):
        ours, came = orjson.loads(value), orjson.loads(one.value or b"")
        for name in JOINS:
            assert ours.get(name) == expected.get(name)
            held: Any = came.get(name)
            filled += held is not None and len(held) == 1 and len(ours[name]) > 1
    assert filled > 2000
