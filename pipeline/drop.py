"""Drop: fields that nobody needs, removed from all records of a batch."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from pipeline.paths import Loads, compiled, resolve


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


def _without(value: Any, keys: tuple[str, ...]) -> Any:
    """A JSON value without what these keys lead to: a copy of the objects on the way."""
    if type(value) is not dict or keys[0] not in value:
        return value
    if len(keys) == 1:
        return {key: item for key, item in value.items() if key != keys[0]}
    return {**value, keys[0]: _without(value[keys[0]], keys[1:])}
