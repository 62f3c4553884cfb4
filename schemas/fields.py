"""The fields of an Avro record schema as a tree, with the marks that Sluice reads from the property `sluice`."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

Kind = Literal["string", "timestamp", "long", "double", "boolean", "decimal", "json", "object", "array", "record"]
"""How a field is held in JSON. `json` is any JSON value, `object` any JSON object; both are text that holds JSON in Avro.
`timestamp` is text, UTC, ISO 8601 with a Z."""

_PRIMITIVES: dict[str, Kind] = {
    "string": "string",
    "long": "long",
    "int": "long",
    "double": "double",
    "float": "double",
    "boolean": "boolean",
}
_OPEN: dict[str, Kind] = {"any": "json", "object": "object"}


class InvalidSchema(ValueError):
    """A schema file that Sluice cannot read: says which field, what was expected and what to do."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record, at any depth. `path` is its names from the top, `text_path` the same as `.a.b`."""

    path: tuple[str, ...]
    kind: Kind
    doc: str = ""
    fields: tuple["Field", ...] = ()
    items: tuple[Kind, ...] = ()
    precision: int = 0
    scale: int = 0
    drift: str = ""
    sensitive: bool = False
    number_kind: str = ""

    @property
    def name(self) -> str:
        return self.path[-1]

    @property
    def text_path(self) -> str:
        return "." + ".".join(self.path)

    def walk(self) -> Iterator["Field"]:
        """This field and all below it, in schema order."""
        yield self
        for field in self.fields:
            yield from field.walk()


def fields_of(schema: Mapping[str, Any]) -> tuple[Field, ...]:
    """The fields of a record schema, in order. Raises InvalidSchema for what has no JSON form here: recursion, maps, enums,
    fixed, unions other than with null, fields without null."""
    return _record(schema, (), {}, ())


def sealed(fields: tuple[Field, ...], paths: Collection[tuple[str, ...]]) -> tuple[Field, ...]:
    """The fields as they are where those at these paths are encrypted: each of them is text."""
    made = []
    for field in fields:
        if field.path in paths:
            made.append(replace(field, kind="string", fields=(), items=(), drift="", number_kind=""))
        else:
            made.append(replace(field, fields=sealed(field.fields, paths)))
    return tuple(made)


def _record(
    schema: Mapping[str, Any], path: tuple[str, ...], named: dict[str, Mapping[str, Any]], inside: tuple[str, ...]
) -> tuple[Field, ...]:
    name = schema.get("name", "")
    if name in inside:
        raise InvalidSchema(f"{_at(path)}: record {name} contains itself; flatten it, or hold it as text of type json")
    named[name] = schema
    return tuple(_field(field, path, named, (*inside, name)) for field in schema["fields"])


def _field(
    field: Mapping[str, Any], parent: tuple[str, ...], named: dict[str, Mapping[str, Any]], inside: tuple[str, ...]
) -> Field:
    path = (*parent, field["name"])
    marks = field.get("sluice", {})
    union = field["type"]
    if not (isinstance(union, list) and len(union) == 2 and union[0] == "null"):
        raise InvalidSchema(f'{_at(path)}: every field is optional here; write its type as ["null", TYPE]')
    type_ = union[1]
    if isinstance(type_, str) and type_ in named:
        type_ = named[type_]
    kind, fields, items = _kind(type_, path, marks, named, inside)
    plain = type_ if isinstance(type_, Mapping) else {}
    return Field(
        path=path,
        kind=kind,
        doc=field.get("doc", ""),
        fields=fields,
        items=items,
        precision=plain.get("precision", 0),
        scale=plain.get("scale", 0),
        drift=marks.get("drift", ""),
        sensitive=marks.get("sensitive", False),
        number_kind=marks.get("number_kind", ""),
    )


def _kind(
    type_: Any,
    path: tuple[str, ...],
    marks: Mapping[str, Any],
    named: dict[str, Mapping[str, Any]],
    inside: tuple[str, ...],
) -> tuple[Kind, tuple[Field, ...], tuple[Kind, ...]]:
    name = type_.get("type") if isinstance(type_, Mapping) else type_
    mark = marks.get("type")
    if name == "string" and mark == "json":
        return _OPEN[marks.get("of", "any")], (), ()
    if name == "string" and mark == "timestamp":
        return "timestamp", (), ()
    if isinstance(type_, Mapping) and name == "record":
        return "record", _record(type_, path, named, inside), ()
    if isinstance(type_, Mapping) and name == "bytes" and type_.get("logicalType") == "decimal":
        return "decimal", (), ()
    if isinstance(type_, Mapping) and name == "array":
        items = type_["items"] if isinstance(type_["items"], list) else [type_["items"]]
        if all(item in _PRIMITIVES for item in items):
            return "array", (), tuple(_PRIMITIVES[item] for item in items)
    if isinstance(name, str) and name in _PRIMITIVES:
        return _PRIMITIVES[name], (), ()
    raise InvalidSchema(f"{_at(path)}: type {name!r} has no JSON form here; use one of {', '.join(get_args(Kind))}")


def _at(path: tuple[str, ...]) -> str:
    return "." + ".".join(path)
