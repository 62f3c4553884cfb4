"""Enrichment: joins that give records what references know of their ids."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import msgspec

from pipeline.config import EnrichRule
from pipeline.paths import Loads, Location, Names, compiled, parse, resolve
from pipeline.references import Table, Tables, id_of
from schemas.fields import Field
from schemas.subjects import UnknownSubject, load


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
        by, into = resolve(rule.by, record), resolve(rule.into, record)
        held = _fields_at(into.names, fields)
        provided = _provided(into.name, held)
        table = tables.table(rule.source, into.type, provided)
        nulls = _nulls(into.names, provided, {by.names, *map(parse, encrypted)})
        self._fill = _compile(by, into, table, nulls)

    def __call__(self, records: Sequence[Any]) -> int:
        """Fill in the records of a batch, in place: null and absent fields that the reference has.

        Returns how many ids were unknown. In such a record the absent fields that an entry would have filled in are null, and an
        object that is absent is null as a whole. A record whose id is null or absent stays as it is.
        """
        return self._fill(records)


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


def _compile(by: Location, into: Location, table: Table, nulls: _Nulls) -> Callable[[Sequence[Any]], int]:
    loads = Loads([by, into])
    key, target = loads.variables[by.path], loads.variables[into.path]
    constants: dict[str, Any] = {"entries": table.entries, "read": table.read, "id_of": id_of}
    id_ = key if by.kind == "integer" else f"id_of({key})"
    lines = ["def fill(records):", "    unknown = 0", "    for r in records:"]
    lines += [f"        {line}" for line in loads.lines]
    lines += [f"        if {key} is UNSET or {key} is None: continue", f"        found = entries.get({id_})"]
    for name in reversed(into.names):
        nulls = {name: nulls}
    lines += ["        if found is None:", "            unknown += 1", *_nulling(nulls, "r", "            ")]
    lines += ["            continue"]
    within = by.names[: len(into.names)] == into.names
    if not within:  # otherwise it is there, as it holds the id
        lines += [f"        if not {target}:", *_making(into, constants), f"            {target} = o"]
    lines += ["        e = read(found)", *_filling(into.type, table.fields, target, "e", "        ", constants)]
    fill: Callable[[Sequence[Any]], int] = compiled("fill", [*lines, "    return unknown"], constants)
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
) -> list[str]:
    """Source that copies those of these fields that the target lacks; objects within are filled in likewise, never shared."""
    lines = []
    for field in fields:
        name = field.name
        lacks = f"{target}.{name} is UNSET or {target}.{name} is None"
        if field.kind == "record":
            maker, below, value = f"make{len(constants)}", f"{target}_{name}", f"{source}_{name}"
            constants[maker] = type_ = resolve(f".{name}", record).type
            lines += [
                f"{indent}{value} = {source}.{name}",
                f"{indent}if {value}:",
                f"{indent}    if {lacks}: {target}.{name} = {maker}()",
                f"{indent}    {below} = {target}.{name}",
                *_filling(type_, field.fields, below, value, indent + "    ", constants),
            ]
        else:
            has = f"{source}.{name} is not None"
            lines.append(f"{indent}if ({lacks}) and {has}: {target}.{name} = {source}.{name}")
    return lines
