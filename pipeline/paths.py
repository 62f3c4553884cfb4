"""Paths into a record (`.transaction.cc.cc_number`): parsed, resolved against its Struct type, compiled into Python source.

Stages compile their work on a path into straight-line Python, once, when a pipeline is built. Nothing of a config's text
gets into that source but field names that were found in the type (identifiers) and, inside open fields and lists, keys as
quoted literals and numbers; all constants are bound by name.
"""

import difflib
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import msgspec

from schemas.structs import attribute

Kind = Literal["string", "integer", "double", "decimal", "boolean", "array", "record", "open"]
"""What a field may hold, besides null. `open` is any JSON value."""

Names = tuple[str | int, ...]
"""A path in parts: names of fields and keys, and places in lists, from 0."""

_STEP = re.compile(r'\.([A-Za-z_][A-Za-z0-9_-]*)|\[(0|[1-9][0-9]{0,8})\]|\[("(?:[^"\\]|\\.)*")\]', re.ASCII)
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)
_KINDS: tuple[tuple[type, Kind], ...] = (
    (msgspec.Struct, "record"),
    (bool, "boolean"),
    (str, "string"),
    (int, "integer"),
    (float, "double"),
    (Decimal, "decimal"),
    (list, "array"),
)


class InvalidPath(ValueError):
    """A path that leads nowhere. The text says what to write instead."""


class Problem(NamedTuple):
    """Something wrong with a config: where (`("routes", "fail", 0, "field")`), and what to do about it."""

    where: tuple[str | int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Location:
    """Where a path leads in a Struct type.

    `names` lead through records; `inside` are keys and places below an open field or a list. `records` are the Struct types
    on the way, the record's own first, one for each name.
    """

    names: tuple[str, ...]
    records: tuple[type[msgspec.Struct], ...]
    kind: Kind
    type: Any
    """The Struct type of a record; otherwise the field's annotation without None and UNSET."""
    inside: Names = ()

    @property
    def path(self) -> str:
        return text((*self.names, *self.inside))

    @property
    def name(self) -> str:
        """The field's own name in its parent."""
        return self.names[-1]

    @property
    def attribute(self) -> str:
        """What it is called in the parent's Struct."""
        return attribute(self.name)

    @property
    def parent(self) -> "Location | None":
        """The record that the field is in; None if that is the whole record."""
        return Location(self.names[:-1], self.records[:-1], "record", self.records[-1]) if len(self.names) > 1 else None


def parse(path: str) -> Names:
    """The parts of a path: `.a.b`, `["odd key"]`, `[0]`. Raises InvalidPath."""
    parts: list[str | int] = []
    at = 0
    while at < len(path) and (step := _STEP.match(path, at)):
        name, place, quoted = step.groups()
        try:
            parts.append(name or (int(place) if place else json.loads(quoted)))
        except ValueError:
            break
        at = step.end()
    if not parts or at < len(path) or isinstance(parts[0], int):
        raise InvalidPath(
            f"{path!r} is no path; write the names of fields with a dot before each, like .transaction.result, other keys as "
            f'["odd key"], places in lists as [0]'
        )
    return tuple(parts)


def canonical(path: str) -> str:
    """A path as `text` writes it; what is no path, as it is."""
    try:
        return text(parse(path))
    except InvalidPath:
        return path


def parts(path: str) -> Names:
    """The parts of a path; of one that is none, a name that nothing has."""
    try:
        return parse(path)
    except InvalidPath:
        return (path,)


def touches(one: Names, other: Names) -> bool:
    """Whether one path leads into the other, or is the same."""
    return is_within(one, other) or is_within(other, one)


def is_within(names: Names, outer: Names) -> bool:
    """Whether a path is the outer one, or leads below it."""
    return names[: len(outer)] == outer


def text(names: Iterable[str | int]) -> str:
    """The path of these parts."""
    return "".join(map(_step, names))


def _step(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if _PLAIN.fullmatch(part) else f"[{json.dumps(part, ensure_ascii=False)}]"


def resolve(path: str, record: type[msgspec.Struct]) -> Location:
    """Where a path leads. Raises InvalidPath, with the nearest field there is."""
    names = parse(path)
    records: list[type[msgspec.Struct]] = []
    way: list[str] = []
    here = record
    for depth, name in enumerate(names):
        fields = _fields(here)
        if not isinstance(name, str) or name not in fields:
            raise InvalidPath(_unknown(names, depth, record, fields))
        records.append(here)
        way.append(name)
        kind, type_ = fields[name]
        below = names[depth + 1 :]
        if not below:
            return Location(tuple(way), tuple(records), kind, type_)
        if kind == "open" or (kind == "array" and isinstance(below[0], int)):
            return Location(tuple(way), tuple(records), "open", object, below)
        if kind != "record":
            more = "; places in it are written [0], [1]" if kind == "array" else ""
            raise InvalidPath(f"{path} goes below {text(way)}, which holds {described(kind)}; end it there{more}")
        here = type_
    raise AssertionError("a path has at least one name")


def described(kind: Kind) -> str:
    """What a kind is called in messages."""
    return {
        "string": "text",
        "array": "a list",
        "record": "an object",
        "boolean": "true or false",
        "open": "any value",
    }.get(kind, "a number")


def _fields(record: type[msgspec.Struct]) -> dict[str, tuple[Kind, Any]]:
    """The fields that rules may name: without Raw ones, which no rule names."""
    members = msgspec.structs.fields(record)
    return {one.encode_name: _kind(one.type) for one in members if one.type is not msgspec.Raw}


def _kind(annotation: Any) -> tuple[Kind, Any]:
    """The kind of an annotation `T | None | UnsetType`, and T."""
    members = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    # A Literal beside a type is a form of it that the codec has settled before anybody looks.
    held = [
        member
        for member in members
        if member not in (type(None), msgspec.UnsetType) and typing.get_origin(member) is not typing.Literal
    ]
    if len(held) != 1:
        return "open", object
    (type_,) = held
    plain = typing.get_args(type_)[0] if typing.get_origin(type_) is typing.Annotated else type_
    plain = typing.get_origin(plain) or plain
    for known, kind in _KINDS:
        if isinstance(plain, type) and issubclass(plain, known):
            return kind, type_
    return "open", type_


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _unknown(names: Names, depth: int, record: type[msgspec.Struct], fields: Mapping[str, Any]) -> str:
    wrong = str(names[depth])
    starts = sorted((name for name in fields if wrong.startswith(name)), key=len, reverse=True)
    near = [(*names[:depth], name) for name in starts or difflib.get_close_matches(wrong, fields, 1)]
    elsewhere = [known for known in _all_paths(record, ()) if known[-1] == names[-1]]
    hint = f"did you mean {text((near or elsewhere)[0])}?" if near or elsewhere else f"known are {', '.join(fields)}"
    return f"{text(names)} names no field of the schema; {hint}"


def _all_paths(record: type[msgspec.Struct], above: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    for name, (kind, type_) in _fields(record).items():
        yield (*above, name)
        if kind == "record":
            yield from _all_paths(type_, (*above, name))


class Loads:
    """Source that loads the values of several locations into local variables, each record on the way only once.

    `lines` are statements on the record `r`; afterwards the variable `variables[path]` holds the value, or UNSET where the
    record lacks it. Records are never falsy, UNSET and None always.
    """

    def __init__(self, locations: Iterable[Location]) -> None:
        self.variables: dict[str, str] = {}
        self.lines: list[str] = []
        self._count = 0
        tree: dict[Any, Any] = {}
        for location in locations:
            here = tree
            for name in location.names:
                here = here.setdefault(name, {})
            for key in location.inside:
                here = here.setdefault((key,), {})
            here.setdefault(None, []).append(location)
        self._emit(tree, "r", "")

    def _emit(self, tree: dict[Any, Any], parent: str, indent: str) -> list[str]:
        """Write the loads below a parent; return the variables that they set."""
        set_here: list[str] = []
        for name, below in tree.items():
            if name is None:
                continue
            self._count += 1
            variable = f"v{self._count}"
            inside = isinstance(name, tuple)
            source = _inside(parent, name[0]) if inside else f"{parent}.{attribute(name)}"
            self.lines.append(f"{indent}{variable} = {source}")
            for location in below.get(None, ()):
                self.variables[location.path] = variable
            set_here.append(variable)
            if any(isinstance(key, tuple) for key in below):
                set_here += self._emit(below, variable, indent)
            elif len(below) > (None in below):
                self.lines.append(f"{indent}if {variable}:")
                set_below = self._emit(below, variable, indent + "    ")
                self.lines += [f"{indent}else:", f"{indent}    {' = '.join(set_below)} = UNSET"]
                set_here += set_below
        return set_here


def _inside(parent: str, key: str | int) -> str:
    """What a JSON value holds under a key, or at a place of a list."""
    if isinstance(key, int):
        return f"{parent}[{key}] if type({parent}) is list and len({parent}) > {key} else UNSET"
    return f"{parent}.get({key!r}, UNSET) if type({parent}) is dict else UNSET"
