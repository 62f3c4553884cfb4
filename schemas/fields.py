"""The fields of an Avro record schema as a tree, with the marks that Sluice reads from the property `sluice`."""

import keyword
from collections.abc import Callable, Collection, Iterator, Mapping
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
_ITEMS: tuple[Kind, ...] = ("string", "long", "double")
_MARKS: dict[str, Callable[[Any], bool]] = {
    "type": lambda value: value in ("json", "timestamp"),
    "of": lambda value: value in list(_OPEN),
    "drift": lambda value: value in ("flag", "outcome", "severity", "source-name"),
    "sensitive": lambda value: isinstance(value, bool),
    "number_kind": lambda value: isinstance(value, str),
}
MAX_FIELDS = 10_000
MAX_PRECISION = 38


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
    as_written: bool = False
    """Of an object: it stays the text that it came as, as nothing looks into it."""

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
    """The fields of a record schema that is valid Avro, in order.

    Raises InvalidSchema for what has no form here: recursion, maps, enums, fixed, unions other than with null, fields whose
    default is not null, marks that are not known, more than 10,000 fields.
    """
    if not isinstance(schema, Mapping) or schema.get("type") != "record":
        raise InvalidSchema("the schema: it is no record; make it one")
    return _Reader().record(schema, (), ())


def sealed(fields: tuple[Field, ...], paths: Collection[tuple[str, ...]]) -> tuple[Field, ...]:
    """The fields as they are where those at these paths are encrypted: each of them is text."""
    made = []
    for field in fields:
        if field.path in paths:
            made.append(replace(field, kind="string", fields=(), items=(), drift="", number_kind=""))
        else:
            made.append(replace(field, fields=sealed(field.fields, paths)))
    return tuple(made)


def unparsed(fields: tuple[Field, ...], names: Collection[str]) -> tuple[Field, ...]:
    """The fields as they are where nothing looks into the open objects of these names."""
    return tuple(replace(one, as_written=True) if one.kind == "object" and one.name in names else one for one in fields)


class _Reader:
    """Follows names to the types they stand for; a type that is used twice has its fields twice."""

    def __init__(self) -> None:
        self._named: dict[str, Mapping[str, Any]] = {}
        self._count = 0

    def record(self, schema: Mapping[str, Any], path: tuple[str, ...], inside: tuple[str, ...]) -> tuple[Field, ...]:
        name = schema.get("name", "")
        if name in inside:
            raise InvalidSchema(
                f"{_at(path)}: record {name} contains itself; flatten it, or hold it as text of type json"
            )
        self._named[name] = schema
        return tuple(self._field(field, path, (*inside, name)) for field in schema["fields"])

    def _field(self, field: Mapping[str, Any], parent: tuple[str, ...], inside: tuple[str, ...]) -> Field:
        path = (*parent, field["name"])
        self._count += 1
        if self._count > MAX_FIELDS:
            raise InvalidSchema(f"{_at(path)}: more than {MAX_FIELDS} fields with those of types that are used again; "
                                "split the record, or hold rare keys as text of type json")  # fmt: skip
        if keyword.iskeyword(field["name"]) or field["name"].startswith("__"):
            raise InvalidSchema(f"{_at(path)}: the name means something to Python; choose another")
        marks = _marks(field, path)
        union = field["type"]
        if not (
            isinstance(union, list) and len(union) == 2 and union[0] == "null" and field.get("default", "") is None
        ):
            raise InvalidSchema(
                f'{_at(path)}: every field is optional here; write "type": ["null", TYPE], "default": null'
            )
        type_ = union[1]
        if isinstance(type_, str) and type_ in self._named:
            type_ = self._named[type_]
        kind, fields, items = self._kind(type_, path, marks, inside)
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
        self, type_: Any, path: tuple[str, ...], marks: Mapping[str, Any], inside: tuple[str, ...]
    ) -> tuple[Kind, tuple[Field, ...], tuple[Kind, ...]]:
        name = type_.get("type") if isinstance(type_, Mapping) else type_
        mark = marks.get("type")
        if name == "string" and mark == "json":
            return _OPEN[marks.get("of", "any")], (), ()
        if name == "string" and mark == "timestamp":
            return "timestamp", (), ()
        if isinstance(type_, Mapping) and name == "record":
            return "record", self.record(type_, path, inside), ()
        if isinstance(type_, Mapping) and name == "bytes" and type_.get("logicalType") == "decimal":
            if type_["precision"] > MAX_PRECISION:
                raise InvalidSchema(f"{_at(path)}: Parquet holds {MAX_PRECISION} digits; take a smaller precision")
            return "decimal", (), ()
        if isinstance(type_, Mapping) and name == "array":
            items = type_["items"] if isinstance(type_["items"], list) else [type_["items"]]
            if all(isinstance(item, str) and _PRIMITIVES.get(item) in _ITEMS for item in items):
                return "array", (), tuple(_PRIMITIVES[item] for item in items)
            raise InvalidSchema(
                f"{_at(path)}: an array holds {', '.join(_ITEMS)} here; hold others as text of type json"
            )
        if isinstance(name, str) and name in _PRIMITIVES:
            return _PRIMITIVES[name], (), ()
        raise InvalidSchema(f"{_at(path)}: type {name!r} has no JSON form here; use one of {', '.join(get_args(Kind))}")


def _marks(field: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    marks = field.get("sluice", {})
    if not isinstance(marks, Mapping):
        raise InvalidSchema(f'{_at(path)}: its marks are no object; write "sluice": {{MARK: VALUE}}')
    for name, value in marks.items():
        if name not in _MARKS or not _MARKS[name](value):
            raise InvalidSchema(f"{_at(path)}: the mark {name} is not known, or cannot be that; see docs/schemas.md")
    return marks


def _at(path: tuple[str, ...]) -> str:
    return "." + ".".join(path)
