"""Conditions on a record, compiled into one Python function: which route it takes, which streams want it.

A comparison of unlike types is false, and so is every comparison with what is null or absent, `not_equal` too: write
`not: {equal}` for "anything else". true and false are no numbers. `exists` is true for null, which is there. Texts compare
by code point, case counts.
"""

import functools
import ipaddress
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, Self, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.paths import InvalidPath, Kind, Loads, Location, Problem, compiled, described, resolve
from pipeline.patterns import InvalidPattern, longest, matcher

Operator = Literal[
    "equal", "not_equal", "greater", "greater_or_equal", "less", "less_or_equal",
    "contains", "starts_with", "ends_with", "matches", "in", "in_cidr",
    "exists", "is_null", "is_number", "is_string", "is_boolean",
]  # fmt: skip

MOST_LEVELS = 20
"""Levels of any, all and not inside one another."""

UNMATCHED = "unmatched"
"""The route of a record that no other takes."""

Record = TypeVar("Record", bound=msgspec.Struct)
Family = Literal["text", "number", "boolean"]

_NO_VALUE = frozenset({"exists", "is_null", "is_number", "is_string", "is_boolean"})
_ORDER = {
    "equal": "==",
    "not_equal": "!=",
    "greater": ">",
    "greater_or_equal": ">=",
    "less": "<",
    "less_or_equal": "<=",
}
_TEXT_ONLY = frozenset({"starts_with", "ends_with", "matches", "in_cidr"})
_FAMILY: dict[Kind, Family] = {
    "string": "text", "integer": "number", "double": "number", "decimal": "number", "boolean": "boolean"
}  # fmt: skip
_WORDS: dict[Family, str] = {"text": "text", "number": "a number", "boolean": "true or false"}
_TESTS = {
    "exists": "{v} is not UNSET",
    "is_null": "{v} is None",
    "is_number": "type({v}) in NUMBERS",
    "is_string": "type({v}) is str",
    "is_boolean": "{v} is True or {v} is False",
    "contains": "type({v}) is list and holds({v}, {c})",
    "contains_text": "type({v}) is str and {c} in {v} or type({v}) is list and holds({v}, {c})",
    "starts_with": "type({v}) is str and {v}.startswith({c})",
    "ends_with": "type({v}) is str and {v}.endswith({c})",
    "matches": "type({v}) is str and {c}({v})",
    "in_cidr": "type({v}) is str and {c}({v})",
}
_NUMBERS = frozenset({int, float, Decimal})


class Condition(BaseModel):
    """One condition on a record, or several: `{field, op, value}`, `{any: [...]}`, `{all: [...]}` or `{not: {...}}`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    field: str | None = Field(
        default=None, description="The field that is looked at, as a path: `.transaction.result`."
    )
    op: Operator | None = Field(default=None, description="How the field is compared.")
    value: Any = Field(
        default=None,
        description="What it is compared with: text, a number, true or false; a list for `in`, one or several for `in_cidr`.",
    )
    any: list["Condition"] | None = Field(default=None, min_length=1, description="True if one of these is.")
    all: list["Condition"] | None = Field(default=None, min_length=1, description="True if all of these are.")
    negated: "Condition | None" = Field(default=None, alias="not", description="True if this is false.")

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        forms = [form for form in ("any", "all") if getattr(self, form) is not None]
        forms += ["not"] if self.negated is not None else []
        plain = self.field is not None or self.op is not None or "value" in self.model_fields_set
        if len(forms) + plain != 1:
            raise ValueError(
                "must be either {field, op, value} or one of {any: [...]}, {all: [...]}, {not: {...}}; split it"
            )
        if plain:
            self._check_plain()
        return self

    def _check_plain(self) -> None:
        missing = [name for name in ("field", "op") if getattr(self, name) is None]
        if missing:
            raise ValueError(f"{' and '.join(missing)} missing; write {{field: .a.b, op: equal, value: 1}}")
        given = "value" in self.model_fields_set
        if self.op in _NO_VALUE and given:
            raise ValueError(f"{self.op} takes no value; remove it, or write {{not: {{...}}}} for the opposite")
        if self.op not in _NO_VALUE and not given:
            raise ValueError(f"{self.op} needs a value; add one")
        if given:
            _check_value(self.op or "", self.value)


class InvalidConditions(ValueError):
    """Conditions that do not fit the schema. `problems` has all that is wrong."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.reason for problem in problems))
        self.problems = problems


def check(conditions: Sequence[Condition], record: type[msgspec.Struct]) -> list[Problem]:
    """All that is wrong with conditions on records of this type: unknown fields, values that a field never holds."""
    return [problem for number, one in enumerate(conditions) for problem in _problems(one, record, (number,))]


def fields(conditions: Sequence[Condition]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Each field that conditions look at, with its place in them."""
    for number, one in enumerate(conditions):
        for where, leaf in _leaves(one, (number,)):
            yield where, leaf.field or ""


def compile_conditions(conditions: Sequence[Condition], record: type[Record]) -> Callable[[Record], bool]:
    """A function that says whether a record meets all conditions. It never raises.

    `matches` gives up, and is false, on texts so long that the pattern could take long (see pipeline/patterns.py).
    Raises InvalidConditions.
    """
    source = _Source({"": conditions}, record)
    lines = ["def matches(r):", *(f"    {line}" for line in source.loads.lines), f"    return {source.tests['']}"]
    matches: Callable[[Record], bool] = compiled("matches", lines, source.constants)
    return matches


def compile_routes(
    routes: Mapping[str, Sequence[Condition]], record: type[Record]
) -> Callable[[Sequence[Record]], list[str]]:
    """A function that names the route of each record: the first whose conditions it meets, else "unmatched".

    Raises InvalidConditions.
    """
    source = _Source(routes, record)
    lines = ["def routes(records):", "    labels = []", "    add = labels.append", "    for r in records:"]
    lines += [f"        {line}" for line in source.loads.lines]
    constants = dict(source.constants)
    for number, (label, test) in enumerate(source.tests.items()):
        constants[f"label{number}"] = label
        lines.append(f"        {'elif' if number else 'if'} {test}: add(label{number})")
    lines += ["        else: add(unmatched)", "    return labels"]
    chosen: Callable[[Sequence[Record]], list[str]] = compiled("routes", lines, {**constants, "unmatched": UNMATCHED})
    return chosen


def _check_value(op: str, value: Any) -> None:
    listed = isinstance(value, list)
    items = value if listed else [value]
    if op == "in" and not listed:
        raise ValueError("in needs a list of values; write value: [a, b]")
    if listed and op not in ("in", "in_cidr"):
        raise ValueError(f"{op} takes one value, not a list; use in, or any: [...]")
    if not items:
        raise ValueError("the list of values is empty; add one")
    if any(item is None for item in items):
        raise ValueError("null is no value to compare with; use is_null")
    if not all(isinstance(item, str | int) or (isinstance(item, float) and math.isfinite(item)) for item in items):
        raise ValueError("is no value to compare with; write text in quotes, a number, true or false")
    if op in _TEXT_ONLY and not all(isinstance(item, str) for item in items):
        raise ValueError(f"{op} compares with text; put the value in quotes")
    if op in ("greater", "greater_or_equal", "less", "less_or_equal") and isinstance(value, bool):
        raise ValueError(f"{op} compares numbers or texts, not true and false; use equal")
    if op == "matches":
        try:
            longest(value)
        except InvalidPattern as error:
            raise ValueError(f"the pattern {error}") from None
    if op == "in_cidr":
        for item in items:
            try:
                ipaddress.ip_network(item)
            except ValueError:
                raise ValueError(
                    f"{item!r} is no network; write it like 10.0.0.0/8, with no bits set after the prefix"
                ) from None


def _leaves(condition: Condition, where: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Condition]]:
    for form in ("any", "all"):
        for number, one in enumerate(getattr(condition, form) or ()):
            yield from _leaves(one, (*where, form, number))
    if condition.negated is not None:
        yield from _leaves(condition.negated, (*where, "not"))
    if condition.field is not None:
        yield where, condition


def _problems(condition: Condition, record: type[msgspec.Struct], where: tuple[str | int, ...]) -> Iterator[Problem]:
    for place, leaf in _leaves(condition, where):
        if sum(isinstance(part, str) for part in place) > MOST_LEVELS:
            yield Problem(where, f"any, all and not are nested more than {MOST_LEVELS} deep; flatten it")
            return
        try:
            at = resolve(leaf.field or "", record)
        except InvalidPath as error:
            yield Problem((*place, "field"), str(error))
        else:
            reason = _misfit(leaf, at)
            if reason:
                yield Problem((*place, "value"), reason)


def _misfit(leaf: Condition, at: Location) -> str:
    """Why a comparison could never be true; "" if it could."""
    family = _FAMILY.get(at.kind)
    if leaf.op in _NO_VALUE or at.kind == "open" or (leaf.op == "contains" and at.kind == "array"):
        return ""
    if family is None:
        return (
            f"{at.path} holds {described(at.kind)}, which {leaf.op} does not compare; name a field in it, or use exists"
        )
    if (leaf.op in _TEXT_ONLY or leaf.op == "contains") and family != "text":
        return f"{at.path} holds {_WORDS[family]}, and {leaf.op} looks at text; use equal or in"
    for value in leaf.value if isinstance(leaf.value, list) else [leaf.value]:
        if _family(value) != family:
            return f"{at.path} holds {_WORDS[family]}, and {_WORDS[_family(value)]} never equals it; {_REMEDY[family]}"
    return ""


_REMEDY: dict[Family, str] = {
    "text": "put the value in quotes",
    "number": "write a number without quotes",
    "boolean": 'write true or false without quotes (the results "success" and "fail" are read as true and false)',
}


def _family(value: Any) -> Family:
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number"


class _Source:
    """The Python source of groups of conditions: what to load, and an expression for each group."""

    def __init__(self, groups: Mapping[str, Sequence[Condition]], record: type[msgspec.Struct]) -> None:
        problems = [
            problem._replace(where=(*([name] if name else []), *problem.where))
            for name, conditions in groups.items()
            for problem in check(conditions, record)
        ]
        if problems:
            raise InvalidConditions(problems)
        everything = [one for conditions in groups.values() for one in conditions]
        self._at = {path: resolve(path, record) for _, path in fields(everything)}
        self.loads = Loads(self._at.values())
        self.constants: dict[str, Any] = {"NUMBERS": _NUMBERS, "holds": _holds}
        self.tests = {name: self._every(conditions) for name, conditions in groups.items()}

    def _every(self, conditions: Iterable[Condition]) -> str:
        return f"({' and '.join(map(self._test, conditions)) or 'True'})"

    def _test(self, condition: Condition) -> str:
        if condition.any is not None:
            return f"({' or '.join(map(self._test, condition.any))})"
        if condition.all is not None:
            return self._every(condition.all)
        if condition.negated is not None:
            return f"(not {self._test(condition.negated)})"
        at = self._at[condition.field or ""]
        return f"({self._leaf(condition, at, self.loads.variables[at.path])})"

    def _leaf(self, leaf: Condition, at: Location, v: str) -> str:
        op, value = leaf.op or "", leaf.value
        if op in _ORDER:
            return self._compare(op, value, at, v)
        if op == "in":
            return self._in(value, v)
        test = _TESTS["contains_text" if op == "contains" and isinstance(value, str) else op]
        if op == "matches":
            value = matcher(value)
        elif op == "in_cidr":
            value = _in_networks(value)
        return test.format(v=v, c=self._constant(value))

    def _compare(self, op: str, value: Any, at: Location, v: str) -> str:
        if isinstance(value, bool):
            return f"{v} is {value if op == 'equal' else not value}"
        sign = _ORDER[op]
        if isinstance(value, str):
            return f"type({v}) is str and {v} {sign} {self._constant(value)}"
        if at.kind in ("integer", "double"):
            return f"{v} is not UNSET and {v} is not None and {v} {sign} {self._constant(value)}"
        return f"type({v}) in NUMBERS and {v} {sign} {self._constant(_exact(value))}"

    def _in(self, values: Sequence[Any], v: str) -> str:
        texts = frozenset(value for value in values if _family(value) == "text")
        numbers: frozenset[Any] = frozenset(_exact(value) for value in values if _family(value) == "number")
        tests = [f"{v} is {value}" for value in (True, False) if any(value is one for one in values)]
        if texts:
            tests.append(f"type({v}) is str and {v} in {self._constant(texts)}")
        if numbers:
            numbers |= {float(one) for one in numbers}
            tests.append(f"type({v}) in NUMBERS and {v} in {self._constant(numbers)}")
        return " or ".join(tests)

    def _constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name


def _exact(value: float) -> int | Decimal:
    """A number as it was written in the config, to compare with decimals."""
    return value if isinstance(value, int) else Decimal(repr(value))


def _holds(items: list[Any], wanted: Any) -> bool:
    """Whether a list holds a value of the same family."""
    family = _family(wanted)
    return any(
        isinstance(item, str | int | float | Decimal) and _family(item) == family and item == wanted for item in items
    )


def _in_networks(networks: str | Sequence[str]) -> Callable[[str], bool]:
    """Whether an IP address, as text, lies in one of these networks. Addresses repeat, so results are remembered."""
    known = [ipaddress.ip_network(one) for one in ([networks] if isinstance(networks, str) else networks)]

    @functools.lru_cache(maxsize=16384)
    def within(address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in known)

    return lambda address: len(address) <= 45 and within(address)
