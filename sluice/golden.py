"""The `tests` of a config: records, and what its pipelines make of them, looked at without Kafka."""

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from pipeline.keys import Keys, UnknownKey
from pipeline.paths import parse, text
from pipeline.pipeline import Pipeline
from pipeline.references import Tables
from sluice.config import Config, GoldenTest
from sluice.decrypt import Decryption, at, take_away
from sluice.trial import Line

_read = msgspec.json.Decoder(float_hook=Decimal).decode


def failures(config: Config, keys: Keys) -> Iterator[str]:
    """What is not as the tests say, a sentence each; never a value."""
    for number, test in enumerate(config.tests):
        place = f"tests[{number}]"
        if test.pipeline not in config.pipelines:
            yield f"{place}: there is no pipeline {test.pipeline}; name one of {', '.join(config.pipelines)}"
            continue
        try:
            yield from (f"{place}: {reason}" for reason in _failures(config, test, keys))
        except UnknownKey as error:
            yield f"{place}: {error}"


def _failures(config: Config, test: GoldenTest, keys: Keys) -> Iterator[str]:
    tables = Tables()
    made = Pipeline(test.pipeline, config.pipelines[test.pipeline], keys, tables)
    for name, entries in test.reference.items():
        if name not in config.reference:
            yield f"there is no reference {name}; known: {', '.join(config.reference) or 'none'}"
        lines = [Line(n, _bytes(entry), key=str(entry.get("id")).encode()) for n, entry in enumerate(entries)]
        for line in lines:
            if tables.apply(name, [line]):
                yield f"reference.{name}[{line.offset}] holds a field of the wrong type, and a worker would ignore it"
    done = made.process([Line(0, _bytes(test.input))])
    routes: list[str | None] = [*done.routes] or (["dead-letter"] if done.dead else [None])
    if not _are_meant(test.route, routes):
        wanted = test.route if isinstance(test.route, list) else [test.route]
        yield f"it takes the route {_said(routes)}, not {_said(wanted)}{_why(done.dead)}"
        return
    if test.error is not None:
        refused = done.dead[0][1] if done.dead else None
        found = {"reason": refused.reason, "path": refused.path} if refused else {}
        if any(found.get(name) != wanted for name, wanted in test.error.items()):
            yield f"it is refused as {refused or 'nothing'}, not as {' at '.join(test.error.values())}"
    value, clear = _read(done.values[0]) if done.values else {}, _clear(test)
    for path in test.encrypted:
        if at(value, parse(path)) == at(clear, parse(path)):
            yield f"{path} is not encrypted"
    if test.value is not None:
        yield from Decryption(config, test.pipeline, keys)(value)
        for rule in config.pipelines[test.pipeline].encrypt:
            # A search token depends on the key, which a test need not know.
            if rule.search_field and at(clear, parse(rule.search_field)) is None:
                take_away(value, parse(rule.search_field))
        yield from _differences(value, clear, ())


def _are_meant(wanted: str | list[str] | None, routes: Sequence[str | None]) -> bool:
    """Whether a list names all routes of a record, or one name one of them."""
    return sorted(wanted) == sorted(filter(None, routes)) if isinstance(wanted, list) else wanted in routes


def _clear(test: GoldenTest) -> Any:
    """The record with its fields in clear."""
    try:
        return _read(_bytes(test.input if test.value is None else test.value))
    except (ValueError, ArithmeticError, RecursionError):
        return None


def _differences(found: Any, wanted: Any, names: tuple[str | int, ...]) -> Iterator[str]:
    """Where two JSON values differ. The order of keys is the schema's, and not looked at."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in wanted.keys() - found.keys():
            yield f"{text((*names, name))} is missing"
        for name in found.keys() - wanted.keys():
            yield f"{text((*names, name))} is there, and not expected"
        for name in wanted.keys() & found.keys():
            yield from _differences(found[name], wanted[name], (*names, name))
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
            yield from _differences(one, other, (*names, place))
    elif isinstance(found, bool) != isinstance(wanted, bool) or found != wanted:
        yield f"{text(names)} is another than expected"


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else json.dumps(value, default=str).encode()


def _said(routes: Sequence[str | None]) -> str:
    return " and ".join(route or "none (left out)" for route in routes)


def _why(dead: list[Any]) -> str:
    return f" ({dead[0][1]})" if dead else ""
