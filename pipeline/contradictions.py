"""Conditions that exclude each other: a route that asks for both never takes a record."""

import operator
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.conditions import Condition, family_of
from pipeline.patterns import matcher

_ABSENT = {"is_null"}
"""Operators that a value which anything else compares with never meets."""
_TYPES = {
    "is_number": (int, float),
    "is_string": (str,),
    "is_boolean": (bool,),
    "is_array": (),
    "is_object": (),
}

_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "not_equal": operator.ne,
    "greater": operator.gt,
    "greater_or_equal": operator.ge,
    "less": operator.lt,
    "less_or_equal": operator.le,
}
_TEXT_TESTS: Mapping[str, Callable[[str, str], bool]] = {
    "starts_with": str.startswith,
    "ends_with": str.endswith,
    "contains": str.__contains__,
}
_OF_TEXTS = (*_TEXT_TESTS, "matches")


def contradiction(conditions: Sequence[Condition]) -> str:
    """Two conditions, in words, that no record meets both; "" if none are seen. Only what all must meet is looked at, so a
    contradiction within `any` or `not` goes unseen.
    """
    by_field: dict[str, list[Condition]] = defaultdict(list)
    for one in demanded(conditions):
        if one.field is not None:
            by_field[one.field].append(one)
    for listed in by_field.values():
        for number, one in enumerate(listed):
            for other in listed[:number]:
                if _exclude(one, other) or _exclude(other, one):
                    return f"{_words(other)} and {_words(one)}"
    return ""


def demanded(conditions: Sequence[Condition]) -> Iterator[Condition]:
    """What a record must meet to meet all of these: conditions on fields, `any` and `not`."""
    for one in conditions:
        if one.all is not None:
            yield from demanded(one.all)
        else:
            yield one


def _exclude(one: Condition, other: Condition) -> bool:
    """Whether no value meets both. May be False where none does."""
    if one.op in _ABSENT:
        return other.op not in _ABSENT and other.op != "exists"
    is_known = not other.ignore_case or other.op in _OF_TEXTS
    if one.op in ("equal", "in") and not one.ignore_case and is_known:
        values = one.value if isinstance(one.value, list) else [one.value]
        return not any(_meets(value, other) for value in values)
    return _below(one, other)


def _below(one: Condition, other: Condition) -> bool:
    """Whether the first wants less than the second wants at least."""
    if one.op not in ("less", "less_or_equal") or other.op not in ("greater", "greater_or_equal"):
        return False
    if isinstance(one.value, str) != isinstance(other.value, str):
        return True
    if one.op == "less_or_equal" and other.op == "greater_or_equal":
        return bool(one.value < other.value)
    return bool(one.value <= other.value)


def _meets(value: Any, other: Condition) -> bool:
    """Whether a record that holds this value may meet a condition; True where it is not known."""
    op, wanted = other.op or "", other.value
    if op in _TYPES:
        return isinstance(value, _TYPES[op]) and (op != "is_number" or not isinstance(value, bool))
    if op in ("equal", "in"):
        return any(_same(value, one) for one in (wanted if isinstance(wanted, list) else [wanted]))
    if op in _OF_TEXTS:
        return isinstance(value, str) and isinstance(wanted, str) and _is_found(value, other)
    if op in _COMPARISONS:
        return family_of(value) == family_of(wanted) and bool(_COMPARISONS[op](value, wanted))
    return True


def _is_found(value: str, other: Condition) -> bool:
    """Whether a test of texts is true of this one."""
    if other.op == "matches":
        return matcher(other.value, other.ignore_case)(value)
    wanted = other.value
    if other.ignore_case:
        value, wanted = value.casefold(), wanted.casefold()
    return _TEXT_TESTS[other.op or ""](value, wanted)


def _same(one: Any, other: Any) -> bool:
    return family_of(one) == family_of(other) and bool(one == other)


def _words(one: Condition) -> str:
    return f"{one.field} {one.op}{'' if one.value is None else f' {one.value!r}'}"
