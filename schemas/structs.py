"""Struct types generated from an Avro schema: what makes decoding, checking and ordering one pass in C."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

from schemas.fields import Field
from schemas.subjects import Subject

Path = tuple[str, ...]

LONG = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
# `2021-10-27T08:38:02Z` with up to milliseconds. The older forms are shorter or longer, and so take the way through drift.py.
TIMESTAMP = Annotated[str, Meta(min_length=20, max_length=24)]
# `INFO` and `WARN` take the way through drift.py.
SEVERITY = Annotated[str, Meta(pattern="^(?![A-Z]+$)")]


class _AnyObject(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, dict)


class OpenObject(metaclass=_AnyObject):
    """The type of a field that holds any JSON object: a plain dict, which `codec.py` checks for depth and number size."""


class _AnyValue(type):
    def __instancecheck__(cls, value: object) -> bool:
        return True


class OpenValue(metaclass=_AnyValue):
    """The type of a field that holds any JSON value, checked like OpenObject."""


_TYPES: dict[str, Any] = {
    "string": str,
    "timestamp": TIMESTAMP,
    "long": LONG,
    "double": float,
    "boolean": bool,
    "decimal": Decimal,
    "json": OpenValue,
    "object": OpenObject,
}


def record_type(subject: Subject, extra: Iterable[Path] = ()) -> type[msgspec.Struct]:
    """The Struct type of a subject's newest version: fields in schema order, each `T | None | UnsetType`, absent by default.

    `extra` are paths of further text fields, appended to the records that they name (`("transaction", "cc", "number_iv")`);
    paths that are there already are left as they are. Raises ValueError if a path leads through what is no record.
    """
    added = list(dict.fromkeys(tuple(path) for path in extra))
    for path in added:
        _check_extra(subject, path)
    return _struct(subject.name.capitalize(), subject.fields, (), added)


def _struct(name: str, fields: tuple[Field, ...], path: Path, extra: list[Path]) -> type[msgspec.Struct]:
    typed = [(field.name, _optional(_type(field, extra))) for field in fields]
    known = {field.name for field in fields}
    typed += [(last, _optional(str)) for *parent, last in extra if tuple(parent) == path and last not in known]
    members = [(key, type_, UNSET) for key, type_ in typed]
    return msgspec.defstruct(name, members, module=__name__, gc=False, forbid_unknown_fields=True)


def _type(field: Field, extra: list[Path]) -> Any:
    if field.kind == "record":
        name = "".join(part.title().replace("_", "") for part in field.path)
        return _struct(name, field.fields, field.path, extra)
    if field.kind == "array":
        return list[functools.reduce(operator.or_, (_TYPES[item] for item in field.items))]  # type: ignore[misc]  # built at run time
    if field.drift == "severity":
        return SEVERITY
    return _TYPES[field.kind]


def _optional(type_: Any) -> Any:
    return Union[type_, None, UnsetType]  # noqa: UP007 - a value, and `|` is not defined for Annotated


def _check_extra(subject: Subject, path: Path) -> None:
    fields: tuple[Field, ...] = subject.fields
    for depth, name in enumerate(path[:-1], 1):
        found = next((field for field in fields if field.name == name), None)
        if found is None or found.kind != "record":
            at = "." + ".".join(path[:depth])
            raise ValueError(
                f"cannot add .{'.'.join(path)} to {subject.latest}: {at} is no record there; use an existing one"
            )
        fields = found.fields
    if not path or not path[-1].isidentifier():
        raise ValueError(f"cannot add .{'.'.join(path)} to {subject.latest}: a field name is letters, digits and _")
