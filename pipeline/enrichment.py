"""Enrichment: references held in memory, and joins that fill in what records lack."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from decimal import Decimal
from typing import Any, TypeAlias

import msgspec

from pipeline.config import EnrichRule
from pipeline.paths import Loads, Location, Names, compiled, parse, resolve
from schemas.drift import Normaliser
from schemas.fields import Field
from schemas.refused import Refused
from schemas.subjects import UnknownSubject, load

Convert = Callable[[Any], Any]
"""Makes a Struct of a JSON object; raises Refused."""

_read = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode


class Tables:
    """References by name: id as text → a JSON object, as compacted topics hold them. Not thread-safe.

    Entries are kept as bytes. What a join needs of one is made when a record first asks for it, and kept until it changes.
    """

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, bytes]] = {}
        self._views: dict[str, list[_View]] = {}
        self.bad_values: Counter[str] = Counter()
        """Values that were ignored because they are no JSON object, or hold fields of the wrong type; by table."""

    def apply(self, name: str, key: bytes | None, value: bytes | None) -> None:
        """Take one record of a table's topic; None deletes. A value that cannot be read is counted, and the old one stays."""
        try:
            id_ = (key or b"").decode()
            if value is not None:
                _read(value)
        except (ValueError, ArithmeticError, RecursionError):
            self.bad_values[name] += 1
            return
        entries = self._entries.setdefault(name, {})
        if value is None:
            entries.pop(id_, None)
        else:
            entries[id_] = value
        for view in self._views.get(name, ()):
            view.forget(id_)

    def size(self, name: str) -> int:
        """How many entries a table has."""
        return len(self._entries.get(name, ()))

    def view(self, name: str, convert: Convert, integers: bool) -> "_View":
        """The entries of a table as `convert` makes them, by id: an int if `integers`, else text. None for an unknown id."""
        view = _View(self._entries.setdefault(name, {}), convert, integers, lambda: self.bad_values.update([name]))
        self._views.setdefault(name, []).append(view)
        return view


class _View(dict[Any, Any]):
    """Entries as Structs, each made when it is first asked for. One that does not fit the schema is as good as unknown."""

    def __init__(self, entries: dict[str, bytes], convert: Convert, integers: bool, bad: Callable[[], None]) -> None:
        super().__init__()
        self._entries = entries
        self._convert = convert
        self._integers = integers
        self._bad = bad

    def __missing__(self, id_: Any) -> Any:
        value = self._entries.get(str(id_))
        if value is None:
            return None
        try:
            entry = self._convert(_read(value))
        except Refused:
            self._bad()
            entry = None
        self[id_] = entry
        return entry

    def forget(self, id_: str) -> None:
        """Drop what was made of an entry."""
        if not self._integers:
            self.pop(id_, None)
        elif id_.removeprefix("-").isdecimal() and len(id_) <= 20:
            self.pop(int(id_), None)


def _fields_at(names: Sequence[str], fields: Sequence[Field]) -> tuple[Field, ...]:
    for name in names:
        fields = next(field.fields for field in fields if field.name == name)
    return tuple(fields)


class Join:
    """One `enrich` rule over a table, for records of this type with these schema fields. Raises InvalidPath.

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
        self.table = rule.source
        by, into = resolve(rule.by, record), resolve(rule.into, record)
        # An entry may be written as freely as a record may: what is known to drift is normalised.
        held = _fields_at(into.names, fields)
        convert = Normaliser(into.type, held, Counter())
        view = tables.view(rule.source, convert, integers=by.kind == "integer")
        missing = _nulls(into.names, held, _provided(into.name, held), {by.names, *map(parse, encrypted)})
        self._fill: Callable[[Sequence[Any]], int] = _compile(by, into, view, missing)

    def __call__(self, records: Sequence[Any]) -> int:
        """Fill in the records of a batch, in place: null and absent fields that the reference has.

        Returns how many ids were unknown. In such a record the absent fields that a reference would have filled in are null;
        an object that is absent is null as a whole. A record whose id is null or absent stays as it is.
        """
        return self._fill(records)


_Nulls: TypeAlias = "dict[str, _Nulls]"
"""The fields that are null rather than absent when an id is unknown; those of an object that is there are listed below it."""


def _provided(name: str, held: Sequence[Field]) -> Sequence[Field]:
    """What a reference can fill in: the fields of the subject that is called as the object is; all of them without one."""
    try:
        return load(name).fields
    except UnknownSubject:
        return held


def _nulls(at: tuple[str, ...], held: Sequence[Field], provided: Sequence[Field], never: Collection[Names]) -> _Nulls:
    below = {field.name: field.fields for field in provided}
    return {
        field.name: _nulls((*at, field.name), field.fields, below[field.name], never)
        for field in held
        if field.name in below and (*at, field.name) not in never
    }


def _compile(by: Location, into: Location, view: _View, missing: _Nulls) -> Callable[[Sequence[Any]], int]:
    loads = Loads([by, into])
    key, target = loads.variables[by.path], loads.variables[into.path]
    constants: dict[str, Any] = {"view": view}
    lines = ["def fill(records):", "    unknown = 0", "    for r in records:"]
    lines += [f"        {line}" for line in loads.lines]
    lines += [f"        if {key} is UNSET or {key} is None: continue", f"        e = view[{key}]"]
    nulls = missing
    for name in reversed(into.names):
        nulls = {name: nulls}
    lines += ["        if e is None:", "            unknown += 1", *_nulling(nulls, "r", "            ")]
    lines += ["            continue"]
    if by.names[: len(into.names)] != into.names:  # otherwise it is there, as it holds the id
        lines += [f"        if not {target}:", *_making(into, constants), f"            {target} = o"]
    lines += _filling(into.type, target, "e", "        ", constants)
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
    record: type[msgspec.Struct], target: str, source: str, indent: str, constants: dict[str, Any]
) -> list[str]:
    """Source that copies each field that the target lacks; objects within are filled in likewise, never shared."""
    lines = []
    for member in msgspec.structs.fields(record):
        name = member.name
        nested = resolve(f".{name}", record)
        lacks = f"{target}.{name} is UNSET or {target}.{name} is None"
        if nested.kind == "record":
            maker, below, value = f"make{len(constants)}", f"{target}_{name}", f"{source}_{name}"
            constants[maker] = nested.type
            lines += [
                f"{indent}{value} = {source}.{name}",
                f"{indent}if {value}:",
                f"{indent}    if {lacks}: {target}.{name} = {maker}()",
                f"{indent}    {below} = {target}.{name}",
                *_filling(nested.type, below, value, indent + "    ", constants),
            ]
        else:
            has = f"{source}.{name} is not UNSET and {source}.{name} is not None"
            lines.append(f"{indent}if ({lacks}) and {has}: {target}.{name} = {source}.{name}")
    return lines
