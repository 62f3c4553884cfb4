"""Enrichment: joins that give records what references know of their ids."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import msgspec

from pipeline.config import EnrichRule
from pipeline.paths import Loads, Location, Names, parse, resolve
from pipeline.references import Id, Table, Tables, id_of
from schemas.compiling import compiled
from schemas.fields import Field
from schemas.refused import Refused
from schemas.subjects import UnknownSubject, load

MOST_GIVEN_UP = 10_000
"""A producer may make up as many ids as it sends records."""


class Join:
    """One `enrich` rule over a reference, for records of this type with these schema fields. Raises InvalidPath.

    `encrypted` are the paths of fields that are encrypted later; an unknown id leaves those absent, as null cannot be
    encrypted.
    """

    def __init__(
        self,
        rule: EnrichRule,
        record: type[msgspec.Struct],
        fields: Sequence[Field],
        tables: Tables,
        encrypted: Collection[str] = (),
    ) -> None:
        self.source = rule.source
        self.wait_seconds = rule.wait_seconds
        by, into = resolve(rule.by, record), resolve(rule.into, record)
        held = _fields_at(into.names, fields)
        provided = _provided(into.name, held)
        self._table = tables.table(rule.source, into.type, provided)
        self._waits = rule.on_missing == "wait" and tables.live
        self._given_up: set[Id] = set()
        self.refused = None if rule.on_missing == "null" else Refused("reference-missing", by.path)
        """Why a record is refused whose id is unknown; None if it is not."""
        nulls = None
        if self.refused is None:
            nulls = _nulls(into.names, provided, {by.names, *map(parse, encrypted)})
        self._fill = _compile(by, into, self._table, nulls, overwrite=rule.mode == "overwrite")

    def __call__(self, records: Sequence[Any]) -> dict[int, Id]:
        """Put what the reference knows into the records of a batch, in place. Returns the ids that it does not know, by position.

        In such a record the absent fields that an entry would have filled in are null, and an object that is absent is null as a
        whole; unless it is refused. A record whose id is null or absent stays as it is.
        """
        return self._fill(records)

    def awaited(self, ids: Iterable[Id]) -> set[Id]:
        """Those of these ids that are unknown and worth waiting for."""
        if not self._waits:
            return set()
        return {id_ for id_ in ids if id_of(str(id_)) not in self._table.entries} - self._given_up

    def give_up(self, ids: Collection[Id]) -> None:
        """Wait no more for these ids: their records are refused for as long as the reference does not know them."""
        if len(self._given_up) + len(ids) > MOST_GIVEN_UP:
            self._given_up.clear()
        self._given_up.update(ids)


class Awaited(NamedTuple):
    """Ids that a join's reference does not know yet, and that are worth waiting for."""

    join: Join
    ids: Collection[Id]


def _fields_at(names: Sequence[str], fields: Sequence[Field]) -> tuple[Field, ...]:
    for name in names:
        fields = next(field.fields for field in fields if field.name == name)
    return tuple(fields)


def _provided(name: str, held: Sequence[Field]) -> tuple[Field, ...]:
    """What of an object a reference provides: the fields of the subject that is called as the object is; all without one."""
    try:
        return _common(load(name).fields, held)
    except UnknownSubject:
        return tuple(held)


def _common(provided: Sequence[Field], held: Sequence[Field]) -> tuple[Field, ...]:
    there = {field.name: field for field in held}
    return tuple(
        replace(there[one.name], fields=_common(one.fields, there[one.name].fields))
        for one in provided
        if one.name in there
    )


_Nulls: TypeAlias = "dict[str, _Nulls]"
"""The fields that are null rather than absent when an id is unknown; those of an object that is there are listed below it."""


def _nulls(at: tuple[str, ...], fields: Sequence[Field], never: Collection[Names]) -> _Nulls:
    return {
        field.name: _nulls((*at, field.name), field.fields, never) for field in fields if (*at, field.name) not in never
    }


def _compile(
    by: Location, into: Location, table: Table, nulls: "_Nulls | None", *, overwrite: bool
) -> Callable[[Sequence[Any]], dict[int, Id]]:
    loads = Loads([by, into])
    key, target = loads.variables[by.path], loads.variables[into.path]
    constants: dict[str, Any] = {"entries": table.entries, "read": table.read, "id_of": id_of}
    id_ = key if by.kind == "integer" else f"id_of({key})"
    lines = ["def fill(records):", "    unknown = {}", "    for at, r in enumerate(records):"]
    lines += [f"        {line}" for line in loads.lines]
    lines += [f"        if {key} is UNSET or {key} is None: continue", f"        found = entries.get({id_})"]
    lines += ["        if found is None:", f"            unknown[at] = {key}"]
    if nulls is not None:
        for name in reversed(into.names):
            nulls = {name: nulls}
        lines += _nulling(nulls, "r", "            ")
    lines += ["            continue"]
    within = by.names[: len(into.names)] == into.names
    if not within:  # otherwise it is there, as it holds the id
        lines += [f"        if not {target}:", *_making(into, constants), f"            {target} = o"]
    never = by.names[len(into.names) :] if within else ()
    lines.append("        e = read(found)")
    lines += _filling(into.type, table.fields, target, "e", "        ", constants, overwrite, never)
    fill: Callable[[Sequence[Any]], dict[int, Id]] = compiled("fill", [*lines, "    return unknown"], constants)
    return fill


def _nulling(nulls: _Nulls, target: str, indent: str) -> list[str]:
    """Source that makes absent fields null, in the objects that are there."""
    lines = []
    for name, below in nulls.items():
        lines.append(f"{indent}if {target}.{name} is UNSET: {target}.{name} = None")
        if below:
            inner = f"{target}_{name}"
            lines += [f"{indent}elif {target}.{name}:", f"{indent}    {inner} = {target}.{name}"]
            lines += _nulling(below, inner, indent + "    ")
    return lines


def _making(into: Location, constants: dict[str, Any]) -> list[str]:
    """Source that makes the object to fill in, and those around it, where they are not there."""
    lines = ["            o = r"]
    for name, type_ in zip(into.names, (*into.records[1:], into.type), strict=True):
        maker = f"make{len(constants)}"
        constants[maker] = type_
        lines += [f"            if not o.{name}: o.{name} = {maker}()", f"            o = o.{name}"]
    return lines


def _filling(
    record: type[msgspec.Struct],
    fields: Sequence[Field],
    target: str,
    source: str,
    indent: str,
    constants: dict[str, Any],
    overwrite: bool,
    never: Sequence[str],
) -> list[str]:
    """Source that copies what the source has of these fields, but the id that was looked up (`never`): to where the target lacks
    them or, `overwrite`, everywhere. Objects within likewise, never shared."""
    lines = []
    for field in fields:
        name = field.name
        if (name,) == tuple(never):
            continue
        lacks = f"{target}.{name} is UNSET or {target}.{name} is None"
        if field.kind == "record":
            maker, below, value = f"make{len(constants)}", f"{target}_{name}", f"{source}_{name}"
            constants[maker] = type_ = resolve(f".{name}", record).type
            inner = never[1:] if tuple(never[:1]) == (name,) else ()
            lines += [
                f"{indent}{value} = {source}.{name}",
                f"{indent}if {value}:",
                f"{indent}    if {lacks}: {target}.{name} = {maker}()",
                f"{indent}    {below} = {target}.{name}",
                *_filling(type_, field.fields, below, value, indent + "    ", constants, overwrite, inner),
            ]
        else:
            wanted = f"{source}.{name} is not None" if overwrite else f"({lacks}) and {source}.{name} is not None"
            lines.append(f"{indent}if {wanted}: {target}.{name} = {source}.{name}")
    return lines
