"""Conditions on a record, compiled into one Python function: which route it takes, which streams want it.

A comparison of unlike types is false, and counted; every comparison with what is null or absent is false, `not_equal` too:
write `not: {equal}` for "anything else". true and false are no numbers. `exists` is true for null, which is there. Texts
compare by code point; case counts unless `ignore_case` says otherwise. `is_empty` is true for a text, a list or an object
that holds nothing.
"""

import ipaddress
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pipeline.paths import InvalidPath, Kind, Location, Problem, canonical, described, resolve
from pipeline.patterns import InvalidPattern, matcher

Operator = Literal[
    "equal", "not_equal", "greater", "greater_or_equal", "less", "less_or_equal",
    "contains", "starts_with", "ends_with", "matches", "in", "in_cidr",
    "exists", "is_null", "is_number", "is_string", "is_boolean", "is_array", "is_object", "is_empty",
]  # fmt: skip

MOST_LEVELS = 20
"""Levels of any, all and not inside one another."""

UNMATCHED = "unmatched"
"""The route of a record that no other takes."""

Match = Literal["first", "all"]
Family = Literal["text", "number", "boolean"]

NO_VALUE = frozenset({"exists", "is_null", "is_number", "is_string", "is_boolean", "is_array", "is_object", "is_empty"})
TYPE_TESTS: Mapping[str, tuple[Kind, ...]] = {
    "is_number": ("integer", "double", "decimal"),
    "is_string": ("string",),
    "is_boolean": ("boolean",),
    "is_array": ("array",),
    "is_object": ("record",),
    "is_empty": ("string", "array", "record"),
}
"""What of a schema's kinds these may be true of."""
_CASELESS = frozenset({"equal", "not_equal", "contains", "starts_with", "ends_with", "matches", "in"})
_TEXT_ONLY = frozenset({"starts_with", "ends_with", "matches", "in_cidr"})
_FAMILY: dict[Kind, Family] = {
    "string": "text", "integer": "number", "double": "number", "decimal": "number", "boolean": "boolean"
}  # fmt: skip
_WORDS: dict[Family, str] = {"text": "text", "number": "a number", "boolean": "true or false"}


class Condition(BaseModel):
    """One condition on a record, or several: `{field, op, value}`, `{any: [...]}`, `{all: [...]}` or `{not: {...}}`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    field: Annotated[str, AfterValidator(canonical)] | None = Field(
        default=None, description="The field that is looked at, as a path: `.transaction.result`."
    )
    op: Operator | None = Field(default=None, description="How the field is compared.")
    value: Any = Field(
        default=None,
        description="What it is compared with: text, a number, true or false; a list for `in`, one or several for `in_cidr`.",
    )
    ignore_case: bool = Field(default=False, description="Whether A and a are the same, in a comparison of texts.")
    any: list["Condition"] | None = Field(default=None, min_length=1, description="True if one of these is.")
    all: list["Condition"] | None = Field(default=None, min_length=1, description="True if all of these are.")
    negated: "Condition | None" = Field(default=None, alias="not", description="True if this is false.")

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        forms = [form for form in ("any", "all") if getattr(self, form) is not None]
        forms += ["not"] if self.negated is not None else []
        plain = not self.model_fields_set.isdisjoint(("field", "op", "value", "ignore_case"))
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
        if self.op in NO_VALUE and given:
            raise ValueError(f"{self.op} takes no value; remove it, or write {{not: {{...}}}} for the opposite")
        if self.op not in NO_VALUE and not given:
            raise ValueError(f"{self.op} needs a value; add one")
        if given:
            _check_value(self.op or "", self.value)
        if self.ignore_case:
            texts = self.value if isinstance(self.value, list) else [self.value]
            if self.op not in _CASELESS or not all(isinstance(one, str) for one in texts):
                raise ValueError(f"ignore_case is for texts, with {', '.join(sorted(_CASELESS))}; remove it")


def check(conditions: Sequence[Condition], record: type[msgspec.Struct]) -> list[Problem]:
    """All that is wrong with conditions on records of this type: unknown fields, values that a field never holds."""
    return [problem for number, one in enumerate(conditions) for problem in _problems(one, record, (number,))]


def comparisons(conditions: Sequence[Condition]) -> Iterator[tuple[tuple[str | int, ...], Condition]]:
    """All that look at a field, whatever they stand in, each with its place."""
    for number, one in enumerate(conditions):
        yield from _leaves(one, (number,))


def fields(conditions: Sequence[Condition]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Each field that conditions look at, with its place in them."""
    return ((where, leaf.field or "") for where, leaf in comparisons(conditions))


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
    if op in _TEXT_ONLY:
        for item in items:
            _check_text(op, item)


def _check_text(op: str, text: str) -> None:
    """What a text is looked through for."""
    if text == "" and op != "in_cidr":
        raise ValueError(_EVERY_TEXT.format(op))
    if op == "matches":
        try:
            matcher(text)
        except InvalidPattern as error:
            raise ValueError(f"the pattern {error}") from None
    if op == "in_cidr":
        try:
            ipaddress.ip_network(text)
        except ValueError:
            raise ValueError(
                f"{text!r} is no network; write it like 10.0.0.0/8, with no bits set after the prefix"
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
    if leaf.op in NO_VALUE or at.kind == "open" or (leaf.op == "contains" and at.kind == "array"):
        return ""
    if family is None:
        return (
            f"{at.path} holds {described(at.kind)}, which {leaf.op} does not compare; name a field in it, or use exists"
        )
    if (leaf.op in _TEXT_ONLY or leaf.op == "contains") and family != "text":
        return f"{at.path} holds {_WORDS[family]}, and {leaf.op} looks at text; use equal or in"
    if leaf.op == "contains" and leaf.value == "":
        return _EVERY_TEXT.format(leaf.op)
    for value in leaf.value if isinstance(leaf.value, list) else [leaf.value]:
        if family_of(value) != family:
            return (
                f"{at.path} holds {_WORDS[family]}, and {_WORDS[family_of(value)]} never equals it; {_REMEDY[family]}"
            )
    return ""


_EVERY_TEXT = "{} with nothing is true of every text; write what to look for, or use is_string"
_REMEDY: dict[Family, str] = {
    "text": "put the value in quotes",
    "number": "write a number without quotes",
    "boolean": 'write true or false without quotes (the results "success" and "fail" are read as true and false)',
}


def family_of(value: Any) -> Family:
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number"
