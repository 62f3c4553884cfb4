"""What the Avro specification says of a schema and fastavro's parser lets pass: names, unions, defaults, decimals
(https://avro.apache.org/docs/1.11.1/specification/). It looks at schemas as `compatibility.resolved` gives them."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_NAMED = ("record", "error", "enum", "fixed")
_PLAIN: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "int": lambda value: type(value) is int and -(2**31) <= value < 2**31,
    "long": lambda value: type(value) is int and -(2**63) <= value < 2**63,
    "float": lambda value: type(value) in (int, float),
    "double": lambda value: type(value) in (int, float),
    "string": lambda value: isinstance(value, str),
    "bytes": lambda value: isinstance(value, str) and all(ord(one) < 256 for one in value),
    "fixed": lambda value: isinstance(value, str) and all(ord(one) < 256 for one in value),
}
"""Whether a JSON value can be the default of a type that holds no others."""

_MISSING = object()


def faults(schema: Any) -> Iterator[str]:
    """What is wrong, each with its place. A type that is used in several places is looked at in the first."""
    yield from _type(schema, "", set())


def _type(schema: Any, path: str, seen: set[int]) -> Iterator[str]:
    if isinstance(schema, list):
        yield from _union(schema, path, seen)
        return
    if id(schema) in seen:
        return
    seen.add(id(schema))
    kind, at = schema["type"], path or "the schema"
    if kind in _NAMED:
        if not all(_NAME.fullmatch(part) for part in schema["name"].split(".")):
            yield f"{at}: {schema['name']} is no name; use letters, digits and _"
        yield from _aliases(schema, f"the type of {path}" if path else at)
    if kind in ("record", "error"):
        for field in schema["fields"]:
            yield from _field(field, f"{path}.{field['name']}", seen)
    elif kind == "enum":
        yield from _enum(schema, at)
    elif kind == "array":
        yield from _type(schema["items"], f"{path}[]", seen)
    elif kind == "map":
        yield from _type(schema["values"], f"{path}{{}}", seen)
    if schema.get("logicalType") == "decimal" and type(schema.get("precision")) is not int:
        yield f"{at}: a decimal needs a precision"


def _field(field: Mapping[str, Any], path: str, seen: set[int]) -> Iterator[str]:
    if not _NAME.fullmatch(field["name"]):
        yield f"{path} is no name; use letters, digits and _"
    yield from _aliases(field, path)
    if "default" in field and not _fits(field["default"], field["type"]):
        first = " (of a union the first branch counts)" if isinstance(field["type"], list) else ""
        yield f"{path}: its default is no value of its type{first}"
    yield from _type(field["type"], path, seen)


def _aliases(holder: Mapping[str, Any], at: str) -> Iterator[str]:
    aliases = holder.get("aliases", [])
    if not isinstance(aliases, list) or not all(isinstance(one, str) for one in aliases):
        yield f"{at}: its aliases are no list of names"


def _union(branches: list[Any], path: str, seen: set[int]) -> Iterator[str]:
    kinds = []
    for branch in branches:
        if isinstance(branch, list):
            yield f"{path or 'the schema'}: a union directly in a union"
            continue
        kinds.append(branch["name"] if branch["type"] in _NAMED else branch["type"])
        yield from _type(branch, path, seen)
    for kind in sorted({kind for kind in kinds if kinds.count(kind) > 1}):
        yield f"{path or 'the schema'}: a union with {kind} twice"


def _enum(schema: Mapping[str, Any], at: str) -> Iterator[str]:
    symbols = schema["symbols"]
    if len(set(symbols)) < len(symbols) or not all(isinstance(one, str) and _NAME.fullmatch(one) for one in symbols):
        yield f"{at}: symbols are names, each once"
    if "default" in schema and schema["default"] not in symbols:
        yield f"{at}: its default is none of its symbols"


def _fits(value: Any, type_: Any) -> bool:
    """Whether a JSON value can be the default of a type."""
    if isinstance(type_, list):
        return bool(type_) and _fits(value, type_[0])
    kind = type_["type"]
    if kind in _PLAIN:
        return _PLAIN[kind](value)
    if kind == "enum":
        return value in type_["symbols"]
    if kind == "array":
        return isinstance(value, list) and all(_fits(one, type_["items"]) for one in value)
    if kind == "map":
        return isinstance(value, dict) and all(_fits(one, type_["values"]) for one in value.values())
    return isinstance(value, dict) and all(
        _fits(value.get(field["name"], _MISSING), field["type"])
        for field in type_["fields"]
        if field["name"] in value or "default" not in field
    )
