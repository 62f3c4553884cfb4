"""Conditions, compiled into one Python function: which route a record takes, whether a stream wants it."""

import functools
import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from pipeline.conditions import NO_VALUE, UNMATCHED, Condition, Family, Match, check, family_of, fields
from pipeline.paths import Loads, Location, Problem, resolve
from pipeline.patterns import matcher
from schemas.compiling import compiled

SEVERAL = "+"
"""Between the labels of a record that takes several routes; no label holds it."""


Record = TypeVar("Record", bound=msgspec.Struct)

_ORDER = {
    "equal": "==",
    "not_equal": "!=",
    "greater": ">",
    "greater_or_equal": ">=",
    "less": "<",
    "less_or_equal": "<=",
}
_TESTS = {
    "exists": "{v} is not UNSET",
    "is_null": "{v} is None",
    "is_number": "type({v}) in NUMBERS",
    "is_string": "type({v}) is str",
    "is_boolean": "{v} is True or {v} is False",
    "is_array": "type({v}) is list",
    "is_object": "type({v}) is dict or isinstance({v}, Struct)",
    "is_empty": "empty({v})",
}
_OF_TEXT = {
    "contains": "{c} in {v}",
    "starts_with": "{v}.startswith({c})",
    "ends_with": "{v}.endswith({c})",
    "matches": "{c}({v})",
    "in_cidr": "{c}({v})",
}
_IS = {
    "text": "type({v}) is str",
    "number": "type({v}) in NUMBERS",
    "boolean": "({v} is True or {v} is False)",
    "list": "type({v}) is list",
}
_NUMBERS = frozenset({int, float, Decimal})


class InvalidConditions(ValueError):
    """Conditions that do not fit the schema. `problems` has all that is wrong."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.reason for problem in problems))
        self.problems = problems


def compile_conditions(
    conditions: Sequence[Condition], record: type[Record], unlike: Callable[[], None] = lambda: None
) -> Callable[[Record], bool]:
    """A function that says whether a record meets all conditions. It never raises, but for what `unlike` does.

    `unlike` is called for each comparison of unlike types. Raises InvalidConditions.
    """
    source = _Source({"": conditions}, record, unlike)
    lines = ["def matches(r):", *(f"    {line}" for line in source.loads.lines), f"    return {source.tests['']}"]
    matches: Callable[[Record], bool] = compiled("matches", lines, source.constants)
    return matches


def compile_routes(
    routes: Mapping[str, Sequence[Condition]],
    record: type[Record],
    match: Match = "first",
    unlike: Callable[[], None] = lambda: None,
) -> Callable[[Sequence[Record]], list[str]]:
    """A function that names the route of each record: the first whose conditions it meets, else "unmatched"; with `match` all,
    all that it meets, joined by SEVERAL.

    `unlike` as in `compile_conditions`. Raises InvalidConditions.
    """
    source = _Source(routes, record, unlike)
    lines = ["def routes(records):", "    labels = []", "    add = labels.append", "    for r in records:"]
    lines += [f"        {line}" for line in source.loads.lines]
    constants = dict(source.constants)
    if match == "all":
        lines.append("        met = []")
    for number, (label, test) in enumerate(source.tests.items()):
        constants[f"label{number}"] = label
        if match == "all":
            lines.append(f"        if {test}: met.append(label{number})")
        else:
            lines.append(f"        {'elif' if number else 'if'} {test}: add(label{number})")
    lines.append("        add(several.join(met) or unmatched)" if match == "all" else "        else: add(unmatched)")
    lines.append("    return labels")
    constants |= {"unmatched": UNMATCHED, "several": SEVERAL}
    chosen: Callable[[Sequence[Record]], list[str]] = compiled("routes", lines, constants)
    return chosen


class _Source:
    """The Python source of groups of conditions: what to load, and an expression for each group."""

    def __init__(
        self, groups: Mapping[str, Sequence[Condition]], record: type[msgspec.Struct], unlike: Callable[[], None]
    ) -> None:
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

        def is_unlike(value: Any) -> bool:
            if value is not UNSET and value is not None:
                unlike()
            return False

        self.constants: dict[str, Any] = {
            "NUMBERS": _NUMBERS, "Struct": msgspec.Struct, "empty": _empty, "unlike": is_unlike
        }  # fmt: skip
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
        if op in NO_VALUE:
            return _TESTS[op].format(v=v)
        if op in _ORDER:
            return self._compare(leaf, at, v)
        if op == "in":
            return self._in(leaf, at, v)
        if op == "contains":
            tests = {"list": f"{self._constant(_holder(value, leaf.ignore_case))}({v})"}
            if isinstance(value, str):
                tests |= {"text": self._of_text(leaf, v)}
            return self._by_type(at, v, tests)
        return self._by_type(at, v, {"text": self._of_text(leaf, v)})

    def _of_text(self, leaf: Condition, v: str) -> str:
        op, value = leaf.op or "", leaf.value
        if op == "matches":
            value = matcher(value, leaf.ignore_case)
        elif op == "in_cidr":
            value = _in_networks(value)
        elif leaf.ignore_case:
            value, v = value.casefold(), f"{v}.casefold()"
        return _OF_TEXT[op].format(v=v, c=self._constant(value))

    def _compare(self, leaf: Condition, at: Location, v: str) -> str:
        value, sign = leaf.value, _ORDER[leaf.op or ""]
        if isinstance(value, bool):
            return self._by_type(at, v, {"boolean": f"{v} is {value if leaf.op == 'equal' else not value}"})
        if isinstance(value, str):
            read = f"{v}.casefold()" if leaf.ignore_case else v
            wanted = self._constant(value.casefold() if leaf.ignore_case else value)
            return self._by_type(at, v, {"text": f"{read} {sign} {wanted}"})
        if at.kind in ("integer", "double"):
            return f"{v} is not UNSET and {v} is not None and {v} {sign} {self._constant(value)}"
        if leaf.op in (
            "equal",
            "not_equal",
        ):  # a fraction is a Decimal or a float, and these two never equal each other
            among = "in" if leaf.op == "equal" else "not in"
            return self._by_type(at, v, {"number": f"{v} {among} {self._constant(_as_any(value))}"})
        return self._by_type(at, v, {"number": f"{v} {sign} {self._constant(_exact(value))}"})

    def _in(self, leaf: Condition, at: Location, v: str) -> str:
        by_family: dict[Family, list[Any]] = {}
        for one in leaf.value:
            by_family.setdefault(family_of(one), []).append(one)
        tests: dict[str, str] = {}
        for family, values in by_family.items():
            if family == "text":
                texts = frozenset(one.casefold() if leaf.ignore_case else one for one in values)
                tests[family] = f"{v}.casefold() in" if leaf.ignore_case else f"{v} in"
                tests[family] += f" {self._constant(texts)}"
            elif family == "number":
                tests[family] = f"{v} in {self._constant(frozenset().union(*map(_as_any, values)))}"
            else:
                tests[family] = f"{v} in {self._constant(frozenset(values))}"
        return self._by_type(at, v, tests)

    def _by_type(self, at: Location, v: str, tests: Mapping[str, str]) -> str:
        """For each type that a value may have, the test of it. In open fields it may have any: what has another is counted."""
        if at.kind == "open":
            cases = [f"{test} if {_IS[type_].format(v=v)} else" for type_, test in tests.items()]
            return f"{' '.join(cases)} unlike({v})"
        return " or ".join(f"{_IS[type_].format(v=v)} and {test}" for type_, test in tests.items())

    def _constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name


def _exact(value: float) -> int | Decimal:
    """A number as it was written in the config, to compare with decimals."""
    return value if isinstance(value, int) else Decimal(repr(value))


def _as_any(value: float) -> frozenset[Any]:
    """A number in every type that may hold it."""
    exact = _exact(value)
    try:
        return frozenset({exact, float(value)})
    except OverflowError:  # no float holds it
        return frozenset({exact})


def _empty(value: Any) -> bool:
    if isinstance(value, msgspec.Struct):
        return all(getattr(value, name) is UNSET for name in value.__struct_fields__)
    return isinstance(value, str | list | dict) and not value


def _holder(wanted: Any, ignore_case: bool) -> Callable[[list[Any]], bool]:
    """Whether a list holds a value of the same family."""
    family = family_of(wanted)
    if ignore_case:
        folded = wanted.casefold()
        return lambda items: any(isinstance(item, str) and item.casefold() == folded for item in items)
    wanted_in = _as_any(wanted) if family == "number" else frozenset({wanted})
    return lambda items: any(
        isinstance(item, str | int | float | Decimal) and family_of(item) == family and item in wanted_in
        for item in items
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
