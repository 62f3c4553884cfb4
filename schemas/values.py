"""What JSON values of open form may hold: limits of depth and number size, and the forms of a quota."""

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

import orjson

MAX_DEPTH = 99
"""Levels of nesting that are taken; the record itself is the first."""

LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1
DOUBLE_EXACT = 2.0**53
"""Below it, in size, a double holds every whole number; from here on it has no fractions and leaves whole numbers out."""

NUMBER = re.compile(r"-?\d{1,20}(\.\d{1,20})?", re.ASCII)
"""A number as text that is taken for the number."""
_TOGETHER = 16
"""So many objects are looked at in one go: few enough that all their brackets are mostly fewer than MAX_DEPTH."""
_CAMEL_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

Fault = Literal["", "too-deep", "wrong-type"]


def open_fault(containers: Sequence[Any], depth: int) -> Fault:
    """What is wrong with one of these JSON arrays and objects, each of which lies inside `depth` others; "" if nothing is.

    Numbers beyond 64 bits or a double are a wrong type. Numbers that are not whole are Decimals, as our decoders make them.
    """
    for start in range(0, len(containers), _TOGETHER):
        some = containers[start : start + _TOGETHER]
        if not _are_plain(some, depth) and (fault := _fault_within(some, depth)):
            return fault
    return ""


def _are_plain(containers: Sequence[Any], depth: int) -> bool:
    """Whether one look in C tells that nothing is wrong: numbers of 53 bits at most, and too few brackets to lie too deep."""
    try:
        text = orjson.dumps(containers, _finite, orjson.OPT_STRICT_INTEGER)
    except TypeError:
        return False
    return text.count(b"{") + text.count(b"[") - len(containers) + depth <= MAX_DEPTH


def _finite(number: Any) -> None:
    if not (type(number) is Decimal and math.isfinite(number)):
        raise TypeError


def _fault_within(containers: Sequence[Any], depth: int) -> Fault:
    while containers:
        if depth >= MAX_DEPTH:
            return "too-deep"
        below = []
        for container in containers:
            for value in container.values() if type(container) is dict else container:
                kind = type(value)
                if kind is str or value is None:
                    continue
                if kind is int:
                    if not LONG_MIN <= value <= LONG_MAX:
                        return "wrong-type"
                elif kind is dict or kind is list:
                    below.append(value)
                elif (kind is float or kind is Decimal) and not math.isfinite(value):
                    return "wrong-type"
        containers, depth = below, depth + 1
    return ""


def value_fault(values: Sequence[Any], depth: int) -> Fault:
    """The same of JSON values of any kind."""
    return "" if set(map(type, values)) <= {str} else _fault_within([values], depth - 1)


def too_deep(value: Any, depth: int = 0) -> bool:
    """Whether a parsed JSON value that lies inside `depth` others is nested beyond MAX_DEPTH."""
    if type(value) is dict:
        value = value.values()
    elif type(value) is not list:
        return False
    return depth >= MAX_DEPTH or any(too_deep(item, depth + 1) for item in value)


def fits(number: Decimal, precision: int, scale: int) -> bool:
    """Whether a decimal of this precision and scale holds the number exactly."""
    if not number.is_finite():
        return False
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    if number == 0:
        return True
    while digits[-1] == 0:
        digits, exponent = digits[:-1], exponent + 1
    return -exponent <= scale and len(digits) + exponent <= precision - scale


def camel_keys(quota: dict[str, Any]) -> dict[str, str]:
    """The keys of a quota in camelCase that are normalised, each with its new name. One whose name is taken stays as it is."""
    names: dict[str, str] = {}
    for key in quota:
        name = _CAMEL_HUMP.sub("_", key)
        if name != key and (name := name.lower()) not in quota and name not in names.values():
            names[key] = name
    return names
