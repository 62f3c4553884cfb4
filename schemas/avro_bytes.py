"""Whether bytes are Avro of a schema to the letter (https://avro.apache.org/docs/1.11.1/specification/#binary-encoding).

fastavro reads more than that: -1 as the last branch of a union, 2 as true, a number in more bytes than it needs. No writer
makes such bytes, so they are damage, and what is read out of them is not what was written. Lists in several blocks, with or
without their sizes, are as good as in one.
"""

from collections.abc import Callable
from typing import Any

End = Callable[[bytes, int], int]
"""Where a value that begins at a place in some bytes ends: behind them if they are cut off. Raises ValueError, IndexError and
RecursionError for what is no value."""

_VARINT_BITS = 7


def compiled(schema: Any) -> End:
    """The function for values of a schema, as fastavro parses it. Raises KeyError and TypeError for what is no schema."""
    return _Compiler().type(schema)


class _Compiler:
    def __init__(self) -> None:
        self._named: dict[str, End] = {}

    def type(self, schema: Any) -> End:
        if isinstance(schema, list):
            return _union([self.type(branch) for branch in schema])
        if isinstance(schema, str):
            return _PLAIN.get(schema) or self._reference(schema)
        match schema["type"]:
            case "record" | "error":
                end = self._record(schema)
            case "enum":
                end = self._name(schema, _enum(len(schema["symbols"])))
            case "fixed":
                end = self._name(schema, _sized(schema["size"]))
            case "array":
                end = _blocks(self.type(schema["items"]))
            case "map":
                end = _blocks(_entry(self.type(schema["values"])))
            case kind:
                end = self.type(kind)
        return end

    def _reference(self, name: str) -> End:
        named = self._named
        if name in named:
            return named[name]
        raise KeyError(name)

    def _name(self, schema: Any, end: End) -> End:
        self._named[schema["name"]] = end
        return end

    def _record(self, schema: Any) -> End:
        members: list[End] = []

        def end(data: bytes, at: int) -> int:
            for member in members:
                at = member(data, at)
            return at

        self._name(schema, end)  # before its fields: one of them may hold such a record
        members += [self.type(field["type"]) for field in schema["fields"]]
        return end


def _number(data: bytes, at: int, bits: int = 64) -> tuple[int, int]:
    """A number in zigzag, and where it ends."""
    value = shift = 0
    while (byte := data[at]) > 0x7F:
        value |= (byte & 0x7F) << shift
        shift += _VARINT_BITS
        at += 1
        if shift > bits:
            raise ValueError
    value |= byte << shift
    if value >> bits or (shift and not byte):
        raise ValueError
    return (value >> 1) ^ -(value & 1), at + 1


def _long(data: bytes, at: int) -> int:
    return at + 1 if data[at] < 0x80 else _number(data, at)[1]


def _int(data: bytes, at: int) -> int:
    return _number(data, at, 32)[1]


def _boolean(data: bytes, at: int) -> int:
    if data[at] > 1:
        raise ValueError
    return at + 1


def _bytes(data: bytes, at: int) -> int:
    length, at = _number(data, at)
    if length < 0:
        raise ValueError
    return at + length


def _sized(size: int) -> End:
    return lambda data, at: at + size


_PLAIN: dict[str, End] = {
    "null": lambda data, at: at,
    "boolean": _boolean,
    "int": _int,
    "long": _long,
    "float": _sized(4),
    "double": _sized(8),
    "bytes": _bytes,
    "string": _bytes,
}


def _enum(count: int) -> End:
    def end(data: bytes, at: int) -> int:
        index, at = _number(data, at)
        if not 0 <= index < count:
            raise ValueError
        return at

    return end


def _union(branches: list[End]) -> End:
    def end(data: bytes, at: int) -> int:
        index, at = _number(data, at)
        if index < 0:
            raise ValueError
        return branches[index](data, at)

    return end


def _entry(value: End) -> End:
    return lambda data, at: value(data, _bytes(data, at))


def _blocks(item: End) -> End:
    """Arrays and maps: blocks of items, each with their count, which is negative where the size in bytes follows."""

    def end(data: bytes, at: int) -> int:
        while True:
            count, at = _number(data, at)
            if count == 0:
                return at
            until = None
            if count < 0:
                count = -count
                size, at = _number(data, at)
                until = at + size
            if count > len(data):  # items that take no bytes have no end
                raise ValueError
            for _ in range(count):
                at = item(data, at)
            if until not in (None, at):
                raise ValueError

    return end
