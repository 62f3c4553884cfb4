"""Promise: a config's own tests fail when its pipelines do something else, say where, and show no value."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.keys import Key, Keys
from sluice.config import load
from sluice.golden import failures

KEYS = Keys([Key("k", "1", bytes(range(32))), Key("s", "1", bytes(range(1, 33)))])
CARD = "4111111111111111"
PIPELINE = {
    "from": "raw",
    "schema": "event",
    "enrich": [{"by": ".endpoint.id", "from": "endpoints", "into": ".endpoint"}],
    "drop": [".buffer"],
    "sample": {"one_in": 1000000, "by": ".id", "always": [{"field": ".event", "op": "exists"}]},
    "routes": {"sold": [{"field": ".transaction.result", "op": "equal", "value": True}]},
    "encrypt": [{"field": ".transaction.cc", "key": "k", "required_on": ["sold"]}],
}
SEARCHED = PIPELINE | {
    "encrypt": [{"field": ".user.username", "key": "k", "search_field": ".user.hash", "search_key": "s"}]
}
SOLD = {"event": "t", "buffer": "b", "transaction": {"result": "success", "cc": {"cc_number": CARD}}}


def failed(folder: Path, events: dict[str, Any] = PIPELINE, **test: Any) -> list[str]:
    settings = {
        "kafka": {"brokers": ["localhost:9092"]},
        "keys": {"provider": "file", "path": "keys.yaml"},
        "reference": {"endpoints": {"topic": "ref.endpoints"}},
        "pipelines": {"events": events},
        "tests": [{"pipeline": "events", **test}],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return list(failures(load(folder / "config.yaml"), KEYS))


@pytest.mark.parametrize(
    "test",
    [
        {"input": SOLD, "route": "sold"},
        {
            "input": SOLD,
            "route": "sold",
            "value": {"event": "t", "transaction": {"cc": {"cc_number": CARD}, "result": True}},
        },
        {"input": {"event": "x"}, "route": "unmatched", "value": {"event": "x"}},
        {"input": {"id": 1}, "route": None},
        {"input": "{no json", "route": "dead-letter", "error": {"reason": "not-json"}},
        {"input": {"event": "x", "id": "y"}, "route": "dead-letter", "error": {"reason": "wrong-type", "path": ".id"}},
        {
            "input": {"event": "x", "endpoint": {"id": 5}},
            "reference": {"endpoints": [{"id": 5, "name": "gate"}]},
            "route": "unmatched",
            "value": {"event": "x", "endpoint": {"id": 5, "name": "gate"}},
        },
    ],
)
def test_what_is_so_passes(tmp_path: Path, test: dict[str, Any]) -> None:
    assert failed(tmp_path, **test) == []


@pytest.mark.parametrize(
    ("test", "said"),
    [
        (
            {
                "input": {"event": "x", "endpoint": {"id": 5}},
                "reference": {"endpoints": [{"id": 5, "name": "gate"}, {"id": 5, "name": 6}]},
                "route": "unmatched",
                "value": {"event": "x", "endpoint": {"id": 5, "name": "gate"}},
            },
            ["tests[0]: reference.endpoints[1] holds a field of the wrong type, and a worker would ignore it"],
        ),
        ({"input": SOLD, "route": "unmatched"}, ["tests[0]: it takes the route sold, not unmatched"]),
        (
            {"input": {"id": "x", "event": "y"}, "route": "sold"},
            ["tests[0]: it takes the route dead-letter, not sold (wrong-type at .id)"],
        ),
        ({"input": {"id": 1}, "route": "sold"}, ["tests[0]: it takes the route none (left out), not sold"]),
        (
            {"input": {"event": "y", "id": "x"}, "route": "dead-letter", "error": {"reason": "not-json"}},
            ["tests[0]: it is refused as wrong-type at .id, not as not-json"],
        ),
        (
            {
                "input": SOLD,
                "route": "sold",
                "value": {"event": "t", "buffer": "b", "transaction": {"cc": {"cc_number": "4111111111111112"}}},
            },
            [
                "tests[0]: .buffer is missing",
                "tests[0]: .transaction.cc.cc_number is another than expected",
                "tests[0]: .transaction.result is there, and not expected",
            ],
        ),
        (
            {"pipeline": "evnts", "input": {}, "route": "sold"},
            ["tests[0]: there is no pipeline evnts; name one of events"],
        ),
    ],
)
def test_what_is_not_so_fails_where_it_differs(tmp_path: Path, test: dict[str, Any], said: list[str]) -> None:
    found = failed(tmp_path, **test)
    assert sorted(found) == said
    assert "4111" not in "".join(found)


def test_what_must_be_encrypted_is_looked_at_without_a_value_too(tmp_path: Path) -> None:
    test = {"input": SOLD, "route": "sold"}
    assert failed(tmp_path, **test, encrypted=[".transaction.cc"]) == []
    assert failed(tmp_path, **test, encrypted=[".event"]) == ["tests[0]: .event is not encrypted"]


def test_a_search_token_may_be_left_out_or_compared(tmp_path: Path) -> None:
    clear = {"event": "t", "user": {"username": "ann"}}
    test = {"input": clear, "route": "unmatched", "encrypted": [".user.username"]}
    assert failed(tmp_path, SEARCHED, **test, value=clear) == []
    wrong = {"event": "t", "user": {"username": "ann", "hash": "x"}}
    assert failed(tmp_path, SEARCHED, **test, value=wrong) == ["tests[0]: .user.hash is another than expected"]


def test_all_routes_that_a_record_takes_may_be_named(tmp_path: Path) -> None:
    routes = {name: [{"field": ".event", "op": "starts_with", "value": name}] for name in ("a", "ab", "b")}
    events = {"from": "raw", "schema": "event", "routes": routes, "match": "all"}
    for named in ("a", "ab", ["a", "ab"], ["ab", "a"]):
        assert failed(tmp_path, events, input={"event": "abc"}, route=named) == []
    for named, said in (("b", "b"), (["a"], "a"), (["a", "ab", "b"], "a and ab and b")):
        reason = f"tests[0]: it takes the route a and ab, not {said}"
        assert failed(tmp_path, events, input={"event": "abc"}, route=named) == [reason]
