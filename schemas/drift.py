"""Normalisation: what producers are known to write differently, brought into the form of the contract and counted by kind."""

import math
import re
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal, get_args

import msgspec

from schemas.fields import Field
from schemas.refused import Refused
from schemas.settling import OUTCOMES, SEVERITIES, settle_quota, settled_timestamp
from schemas.values import DOUBLE_EXACT, LONG_MAX, LONG_MIN, NUMBER, fits, value_fault

parsed = msgspec.json.Decoder(float_hook=Decimal).decode
"""Any JSON, its fractions as Decimals, which keep the digits as they were written."""

DriftKind = Literal[
    "flag",  # true or false as 1 or 0
    "outcome",  # true or false as "success" or "fail"
    "severity",  # a severity in capitals
    "source-name",  # the description of an event's source under its old name
    "timestamp",  # a timestamp in another form, or with another offset than UTC's
    "timestamp-unread",  # a timestamp that has no known form: it goes as it came
    "number-text",  # a decimal, or the volume of a quota, as text
    "detail-text",  # an object as text
    "bare-text",  # in Avro, text where text that holds JSON belongs
    "camel-case",  # a key of a quota in camelCase
    "unknown-field",  # a key that no schema names: it is left out
]
"""What `sluice_drift_total` counts by. Part of the contract: kinds are added, never renamed."""

DRIFT_KINDS: tuple[DriftKind, ...] = get_args(DriftKind)

Convert = Callable[[Any], Any]

_BARE_TIMESTAMP = re.compile(r"(:\s*)(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z?)(?=\s*[,}])", re.ASCII)


class Normaliser:
    """Builds a record of a Struct type from a parsed JSON object, accepting every known drift.

    `drift` counts, by DriftKind, for records that are taken.
    """

    def __init__(self, record: type[msgspec.Struct], fields: tuple[Field, ...], drift: Counter[str]) -> None:
        self._total = drift
        self._drift: Counter[str] = Counter()
        self._build = self._record(record, {field.name: field for field in fields}, "", "")

    def __call__(self, value: Any) -> msgspec.Struct:
        """The record. Raises Refused for what is still wrong."""
        if type(value) is not dict:
            raise Refused("not-an-object")
        self._drift.clear()
        record: msgspec.Struct = self._build(value)
        self._total.update(self._drift)
        return record

    def _record(self, struct: type[msgspec.Struct], fields: dict[str, Field], path: str, drift: str) -> Convert:
        converts: dict[str, Convert] = {}
        attributes: dict[str, str] = {}
        for member in msgspec.structs.fields(struct):
            name = member.encode_name
            field, attributes[name] = fields.get(name), member.name
            converts[name] = self._field(field, member.type) if field else _text(f"{path}.{name}")
        count = self._drift

        def build(value: Any) -> Any:
            if type(value) is not dict:
                raise Refused("wrong-type", path)
            if drift == "source-name" and "name" in value and value.get("description") is None:
                named = {key: item for key, item in value.items() if key != "description"}
                value = {("description" if key == "name" else key): item for key, item in named.items()}
                count["source-name"] += 1
            taken = {}
            for key, item in value.items():
                convert = converts.get(key)
                if convert is None:
                    count["unknown-field"] += 1
                else:
                    taken[attributes[key]] = None if item is None else convert(item)
            return struct(**taken)

        return build

    def _field(self, field: Field, type_: Any) -> Convert:
        path = field.text_path
        make: dict[str, Callable[[], Convert]] = {
            "record": lambda: self._record(
                _struct_in(type_), {below.name: below for below in field.fields}, path, field.drift
            ),
            "string": lambda: self._severity(path) if field.drift == "severity" else _text(path),
            "timestamp": lambda: self._timestamp(path),
            "long": lambda: _long(path),
            "double": lambda: _double(path),
            "boolean": lambda: self._boolean(path, field.drift),
            "decimal": lambda: self._decimal(path, field.precision, field.scale),
            "array": lambda: _array(path, field.items),
            "object": lambda: self._detail(path),
            "json": lambda: _open(path),
        }
        return make[field.kind]()

    def _severity(self, path: str) -> Convert:
        def convert(value: Any) -> str:
            text: str = _text(path)(value)
            if text in SEVERITIES:
                self._drift["severity"] += 1
                return SEVERITIES[text]
            return text

        return convert

    def _timestamp(self, path: str) -> Convert:
        def convert(value: Any) -> str:
            text: str = _text(path)(value)
            return settled_timestamp(text, self._drift)

        return convert

    def _boolean(self, path: str, drift: str) -> Convert:
        def convert(value: Any) -> bool:
            if type(value) is bool:
                return value
            if drift == "flag" and type(value) is int and value in (0, 1):
                self._drift["flag"] += 1
                return value == 1
            if drift == "outcome" and type(value) is str and value in OUTCOMES:
                self._drift["outcome"] += 1
                return OUTCOMES[value]
            raise Refused("wrong-type", path)

        return convert

    def _decimal(self, path: str, precision: int, scale: int) -> Convert:
        def convert(value: Any) -> Decimal:
            if type(value) is str and NUMBER.fullmatch(value):
                number = Decimal(value)
                self._drift["number-text"] += 1
            elif type(value) is int or type(value) is Decimal:
                number = Decimal(value)
            else:
                raise Refused("wrong-type", path)
            if not fits(number, precision, scale):
                raise Refused("wrong-type", path)
            return number

        return convert

    def _detail(self, path: str) -> Convert:
        check = _open(path)

        def convert(value: Any) -> Any:
            if type(value) is str:
                value = _object_in(value)
                self._drift["detail-text"] += 1
            if type(value) is not dict:
                raise Refused("wrong-type", path)
            if "quota" in value:
                settle_quota(value, self._drift)
            return check(value)

        return convert


def _struct_in(union: Any) -> type[msgspec.Struct]:
    return next(member for member in union.__args__ if isinstance(member, type) and issubclass(member, msgspec.Struct))


def _object_in(text: str) -> dict[str, Any]:
    for candidate in (text, _BARE_TIMESTAMP.sub(r'\1"\2"', text)):
        try:
            value = parsed(candidate)
        except (ValueError, ArithmeticError, RecursionError):
            continue
        if type(value) is dict:
            return value
    return {"text": text}


def _text(path: str) -> Convert:
    def convert(value: Any) -> str:
        if type(value) is not str:
            raise Refused("wrong-type", path)
        return value

    return convert


def _long(path: str) -> Convert:
    def convert(value: Any) -> int:
        if type(value) is not int or not LONG_MIN <= value <= LONG_MAX:
            raise Refused("wrong-type", path)
        return value

    return convert


def _double(path: str) -> Convert:
    def convert(value: Any) -> float:
        if type(value) not in (int, float, Decimal):
            raise Refused("wrong-type", path)
        try:
            number = float(value)
        except (OverflowError, ValueError):
            number = math.inf
        if not math.isfinite(number) or (type(value) is not float and _loses_digits(number, value)):
            raise Refused("wrong-type", path)
        return number

    return convert


def _loses_digits(number: float, value: int | Decimal) -> bool:
    """Whether the double that came of a number is one where not even the whole part is sure, and is written otherwise."""
    return abs(number) >= DOUBLE_EXACT and Decimal(repr(number)) != value


def _array(path: str, items: tuple[str, ...]) -> Convert:
    makers = {"string": _text(path), "long": _long(path), "double": _double(path)}
    allowed = [makers[item] for item in items]

    def convert(value: Any) -> list[Any]:
        if type(value) is not list:
            raise Refused("wrong-type", path)
        return [one(item) for item in value]

    def one(item: Any) -> Any:
        for maker in allowed:
            try:
                return maker(item)
            except Refused:
                continue
        raise Refused("wrong-type", path)

    return convert


def _open(path: str) -> Convert:
    depth = path.count(".")

    def convert(value: Any) -> Any:
        fault = value_fault([value], depth)
        if fault:
            raise Refused(fault, path)
        return value

    return convert
