"""Drop, keep, set and rename: which fields records have, changed in place for all records of a batch."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from pipeline.paths import Loads, Location, Names, resolve
from schemas.compiling import compiled
from schemas.structs import decoding_hook

Shape = Callable[[Sequence[Any]], None]
"""Changes the records of a batch in place."""


def compile_drop(paths: Sequence[str], record: type[msgspec.Struct]) -> Shape:
    """Removes these fields from each record. Raises InvalidPath.

    What a record lacks already is no error. JSON values of open fields are copied on the way, never changed.
    """
    # The last places of a list first: what follows one that is removed moves up.
    locations = sorted((resolve(path, record) for path in paths), key=_places, reverse=True)
    loads = Loads([at.parent for at in locations if at.parent])
    constants: dict[str, Any] = {"without": _without}
    lines = []
    for number, at in enumerate(locations):
        owner = loads.variables[at.parent.path] if at.parent else "r"
        guard = f"if {owner}: " if at.parent else ""
        value = "UNSET"
        if at.inside:
            constants[f"inside{number}"] = at.inside
            value = f"without({owner}.{at.name}, inside{number})"
        lines.append(f"{guard}{owner}.{at.name} = {value}")
    return compile_shape("drop", loads, lines, constants)


def compile_keep(paths: Sequence[str], record: type[msgspec.Struct]) -> Shape:
    """Removes all fields but these, what is below them and the objects that they are in. Nothing is removed without any path.
    Raises InvalidPath.
    """
    locations = [resolve(path, record) for path in paths]
    kept = {at.names for at in locations if not at.inside}
    inside: dict[tuple[str, ...], list[Names]] = {}
    for at in locations:
        if at.inside and at.names not in kept:
            inside.setdefault(at.names, []).append(at.inside)
    on_the_way = {names[:depth] for names in (*kept, *inside) for depth in range(len(names))}
    owners: dict[tuple[str, ...], type[msgspec.Struct]] = {
        at.names[:depth]: type_ for at in locations for depth, type_ in enumerate(at.records)
    }
    partly = {
        names: type_ for names, type_ in owners.items() if not any(names[:n] in kept for n in range(1, len(names) + 1))
    }
    loads = Loads([at for at in (_record_at(names, record) for names in partly) if at is not None])
    constants: dict[str, Any] = {"only": _only}
    lines = []
    for names, type_ in partly.items():
        at = _record_at(names, record)
        owner = loads.variables[at.path] if at else "r"
        guard = f"if {owner}: " if at else ""
        gone = [
            member.name
            for member in msgspec.structs.fields(type_)
            if (*names, member.name) not in kept | on_the_way | inside.keys()
        ]
        if gone:
            lines.append(f"{guard}{' = '.join(f'{owner}.{name}' for name in gone)} = UNSET")
        for held, ways in inside.items():
            if held[:-1] == names:
                constant = f"ways{len(constants)}"
                constants[constant] = ways
                lines.append(f"{guard}{owner}.{held[-1]} = only({owner}.{held[-1]}, {constant})")
    return compile_shape("keep", loads, lines, constants) if paths else _nothing


def compile_set(values: Mapping[str, Any], record: type[msgspec.Struct]) -> Shape:
    """Gives fields these values, in every record that has the object they are in. Raises InvalidPath, and ValueError for a value
    that its field does not hold.
    """
    locations = {path: resolve(path, record) for path in values}
    loads = Loads([at.parent for at in locations.values() if at.parent])
    constants: dict[str, Any] = {}
    lines = []
    for number, (path, at) in enumerate(locations.items()):
        owner = loads.variables[at.parent.path] if at.parent else "r"
        constants[f"value{number}"] = fitting(values[path], at.type)
        lines.append(f"{f'if {owner}: ' if at.parent else ''}{owner}.{at.name} = value{number}")
    return compile_shape("set", loads, lines, constants)


def compile_rename(names: Mapping[str, str], record: type[msgspec.Struct]) -> Shape:
    """Moves what is in a field to another field of the same type, in every record that has the object that other is in; what was
    there is replaced. Raises InvalidPath.
    """
    pairs = [(resolve(old, record), resolve(new, record)) for old, new in names.items()]
    loads = Loads([at.parent for pair in pairs for at in pair if at.parent])
    lines = []
    for old, new in pairs:
        source, target = (loads.variables[at.parent.path] if at.parent else "r" for at in (old, new))
        there = " and ".join([owner for owner, at in ((source, old), (target, new)) if at.parent] or ["True"])
        lines.append(f"if {there} and {source}.{old.name} is not UNSET:")
        lines.append(f"    {target}.{new.name} = {source}.{old.name}; {source}.{old.name} = UNSET")
    return compile_shape("rename", loads, lines, {})


def fitting(value: Any, type_: Any) -> Any:
    """A value of a config, as a field of this type holds it; None stays None. Raises ValueError."""
    if type(value) is float and isinstance(type_, type) and issubclass(type_, Decimal):
        value = Decimal(repr(value))
    return None if value is None else msgspec.convert(value, type_, dec_hook=decoding_hook)


def _places(at: Location) -> list[tuple[int, str]]:
    """What sorts the places of one list by their numbers."""
    return [(part, "") if isinstance(part, int) else (-1, part) for part in (*at.names, *at.inside)]


def _record_at(names: tuple[str, ...], record: type[msgspec.Struct]) -> Any:
    return resolve("".join(f".{name}" for name in names), record) if names else None


def compile_shape(name: str, loads: Loads, lines: Sequence[str], constants: Mapping[str, Any]) -> Shape:
    """A stage of this name: the lines are done to each record `r`, after the loads."""
    if not lines:
        return _nothing
    body = [f"        {line}" for line in (*loads.lines, *lines)]
    shape: Shape = compiled(name, [f"def {name}(records):", "    for r in records:", *body], constants)
    return shape


def _nothing(records: Sequence[Any]) -> None:
    pass


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


def _only(value: Any, ways: Sequence[Names]) -> Any:
    """A JSON value with nothing but what these keys lead to, in its own order. What is not kept of a list is null there."""
    if () in ways:
        return value
    if type(value) is dict:
        below = {key: [way[1:] for way in ways if way[0] == key] for key in value}
        return {key: _only(item, below[key]) for key, item in value.items() if below[key]}
    if type(value) is list:
        last = max((way[0] for way in ways if isinstance(way[0], int)), default=-1)
        return [
            _only(item, [way[1:] for way in ways if way[0] == place]) for place, item in enumerate(value[: last + 1])
        ]
    return None if ways else value
