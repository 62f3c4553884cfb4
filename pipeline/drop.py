"""Drop: fields that nobody needs, removed from all records of a batch."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from pipeline.paths import Loads, Names, compiled, resolve


def compile_drop(paths: Sequence[str], record: type[msgspec.Struct]) -> Callable[[Sequence[Any]], None]:
    """A function that removes these fields from each record it is given, in place. Raises InvalidPath.

    What a record lacks already is no error. JSON values of open fields are copied on the way, never changed.
    """
    locations = [resolve(path, record) for path in paths]
    if not locations:
        return lambda records: None
    loads = Loads([at.parent for at in locations if at.parent])
    constants: dict[str, Any] = {"without": _without}
    lines = ["def drop(records):", "    for r in records:", *(f"        {line}" for line in loads.lines)]
    for number, at in enumerate(locations):
        owner = loads.variables[at.parent.path] if at.parent else "r"
        guard = f"if {owner}: " if at.parent else ""
        value = "UNSET"
        if at.inside:
            constants[f"inside{number}"] = at.inside
            value = f"without({owner}.{at.name}, inside{number})"
        lines.append(f"        {guard}{owner}.{at.name} = {value}")
    drop: Callable[[Sequence[Any]], None] = compiled("drop", lines, constants)
    return drop


def _without(value: Any, keys: Names) -> Any:
    """A JSON value without what these keys lead to: a copy of what is on the way. What follows in a list moves up."""
    key, *below = keys
    if isinstance(key, int):
        if type(value) is not list or len(value) <= key:
            return value
        return [*value[:key], *([_without(value[key], tuple(below))] if below else []), *value[key + 1 :]]
    if type(value) is not dict or key not in value:
        return value
    if not below:
        return {other: item for other, item in value.items() if other != key}
    return {**value, key: _without(value[key], tuple(below))}
