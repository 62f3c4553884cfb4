"""Promises: conditions say what they mean, never raise on any record, and are checked against the schema before they run."""

import re
import time
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType
from pydantic import ValidationError

from pipeline.conditions import Condition, check
from pipeline.matching import InvalidConditions, compile_conditions, compile_routes
from pipeline.paths import InvalidPath, parse, resolve, text
from pipeline.patterns import InvalidPattern, matcher
from schemas.codec import Codec
from schemas.structs import record_type
from schemas.subjects import load

Open = type("Open", (), {})
Money = type("Money", (Decimal,), {})


class Inner(msgspec.Struct):
    name: str | UnsetType | None = UNSET
    price: float | UnsetType | None = UNSET


class Outer(msgspec.Struct):
    text: str | UnsetType | None = UNSET
    count: int | UnsetType | None = UNSET
    cost: Money | UnsetType | None = UNSET  # type: ignore[valid-type]
    flag: bool | UnsetType | None = UNSET
    places: list[int | float | str] | UnsetType | None = UNSET
    any: Open | UnsetType | None = UNSET  # type: ignore[valid-type]
    inner: Inner | UnsetType | None = UNSET


def condition(field: str, op: str, *value: Any) -> Condition:
    return Condition.model_validate({"field": field, "op": op, **({"value": value[0]} if value else {})})


def holds(record: Outer, field: str, op: str, *value: Any) -> bool:
    result = compile_conditions([condition(field, op, *value)], Outer)(record)
    assert isinstance(result, bool)
    return result


@pytest.mark.parametrize(
    ("field", "op", "value", "yes", "no"),
    [
        (".text", "equal", "a", ["a"], ["A", "", None, UNSET]),
        (".text", "not_equal", "a", ["A", ""], ["a", None, UNSET]),
        (".text", "greater", "2024-01-01", ["2024-01-02"], ["2023", None, UNSET]),
        (".text", "contains", "PDP", ["a PDP b"], ["pdp", None, UNSET]),
        (".text", "starts_with", "ab", ["abc"], ["cab", "", None, UNSET]),
        (".text", "ends_with", "bc", ["abc"], ["bcd", "", None, UNSET]),
        (".text", "matches", "^a+$", ["aa"], ["ab", "", None, UNSET]),
        (".text", "matches", "b", ["abc"], ["ac", None, UNSET]),
        (".text", "in", ["a", "b"], ["a", "b"], ["c", None, UNSET]),
        (".text", "in_cidr", "10.0.0.0/8", ["10.1.2.3"], ["11.1.2.3", "10.1", "fe80::1", "x" * 99, None, UNSET]),
        (".text", "in_cidr", ["10.0.0.0/8", "fe80::/10"], ["10.1.2.3", "fe80::1"], ["::1", None, UNSET]),
        (".count", "equal", 1, [1], [0, None, UNSET]),
        (".count", "not_equal", 1, [0], [1, None, UNSET]),
        (".count", "greater", 1, [2], [1, 0, None, UNSET]),
        (".count", "greater_or_equal", 1.5, [2], [1, None, UNSET]),
        (".count", "less", 1, [0, -1], [1, None, UNSET]),
        (".count", "less_or_equal", 1, [0, 1], [2, None, UNSET]),
        (".count", "in", [1, 2], [1, 2], [3, None, UNSET]),
        (".cost", "equal", 0.1, [Decimal("0.1"), Decimal("0.10")], [Decimal("0.11"), None, UNSET]),
        (".cost", "less", 0.1, [Decimal("0.09")], [Decimal("0.1"), None, UNSET]),
        (".flag", "equal", True, [True], [False, None, UNSET]),
        (".flag", "not_equal", True, [False], [True, None, UNSET]),
        (".flag", "in", [False], [False], [True, None, UNSET]),
        (".text", "exists", (), ["", None], [UNSET]),
        (".text", "is_null", (), [None], ["", UNSET]),
        (".any", "is_number", (), [0, 1.5, Decimal(1)], [True, "1", None, UNSET, [], {}]),
        (".any", "is_string", (), [""], [1, None, UNSET]),
        (".any", "is_boolean", (), [True, False], [1, 0, "true", None, UNSET]),
        (".any", "equal", 1, [1, 1.0, Decimal(1)], [True, "1", [1], None, UNSET]),
        (".any", "equal", True, [True], [1, "true", None, UNSET]),
        (".any", "equal", "1", ["1"], [1, None, UNSET]),
        (".any", "greater", 0, [1], [True, "1", {}, None, UNSET]),
        (".any", "contains", "a", ["cat", ["a"]], ["dog", ["b", 1], {"a": 1}, None, UNSET]),
        (".any", "contains", 1, [[1], [1.0]], [[True], ["1"], 1, "1", None, UNSET]),
        (".any", "in", [1, "a", True], [1, 1.0, "a", True], [2, "b", False, [], {}, None, UNSET]),
        (".any", "in", [1], [1], [True, None, UNSET]),
        (".any", "in", [0.1], [Decimal("0.1"), 0.1], [0.2, None]),
        (".places", "contains", "Berlin", [[52.5, "Berlin"]], [[], ["berlin"], None, UNSET]),
        (".places", "exists", (), [[]], [UNSET]),
        (".inner", "exists", (), [Inner()], [UNSET]),
        (".places", "is_array", (), [[], [1]], [None, UNSET]),
        (".any", "is_array", (), [[]], [{}, "", None, UNSET]),
        (".inner", "is_object", (), [Inner()], [None, UNSET]),
        (".any", "is_object", (), [{}], [[], "", None, UNSET]),
        (".text", "is_empty", (), [""], [" ", None, UNSET]),
        (".places", "is_empty", (), [[]], [[1], None, UNSET]),
        (".inner", "is_empty", (), [Inner()], [Inner(name=None), None, UNSET]),
        (".any", "is_empty", (), [{}, [], ""], [0, False, [0], {"a": 1}, None, UNSET]),
    ],
)
def test_operators(field: str, op: str, value: Any, yes: list[Any], no: list[Any]) -> None:
    given_value = () if value == () else (value,)
    for expected, values in ((True, yes), (False, no)):
        for one in values:
            record = Outer(**{field[1:]: one})
            assert holds(record, field, op, *given_value) is expected, (op, value, one)


@pytest.mark.parametrize(
    ("field", "op", "value", "yes", "no"),
    [
        (".text", "equal", "Straße", ["STRASSE", "straße"], ["Strase", None, UNSET]),
        (".text", "not_equal", "a", ["b"], ["A", None, UNSET]),
        (".text", "contains", "pdp", ["a PDP b"], ["p", None]),
        (".text", "starts_with", "AB", ["abc"], ["bab"]),
        (".text", "ends_with", "BC", ["abc"], ["bca"]),
        (".text", "matches", "^a+$", ["AA"], ["ab"]),
        (".text", "in", ["A", "b"], ["a", "B"], ["c", None]),
        (".any", "contains", "BER", [["ber"], "Berlin"], [["berlin"], 1]),
    ],
)
def test_operators_without_case(field: str, op: str, value: Any, yes: list[Any], no: list[Any]) -> None:
    matches = compile_conditions(
        [Condition.model_validate({"field": field, "op": op, "value": value, "ignore_case": True})], Outer
    )
    assert all(matches(Outer(**{field[1:]: one})) for one in yes)
    assert not any(matches(Outer(**{field[1:]: one})) for one in no)


@pytest.mark.parametrize(("op", "value"), [("greater", "a"), ("equal", 1), ("in", ["a", 1]), ("in_cidr", "10.0.0.0/8")])
def test_case_is_for_texts(op: str, value: Any) -> None:
    with pytest.raises(ValidationError, match="ignore_case is for texts"):
        Condition.model_validate({"field": ".any", "op": op, "value": value, "ignore_case": True})


@pytest.mark.parametrize(
    ("op", "value", "alike", "unlike"),
    [
        ("equal", 1, [2, 2.5], ["1", True, [], {}]),
        ("equal", "a", ["b"], [1, False, ["a"]]),
        ("equal", True, [False], [1, "true"]),
        ("greater", 1, [Decimal(0)], ["2", {}]),
        ("contains", "a", ["b", ["c"]], [1, {}]),
        ("contains", 1, [[2]], ["1", 1]),
        ("in", ["a", 1], ["b", 2], [True, []]),
        ("starts_with", "a", ["b"], [1]),
        ("matches", "a", ["b"], [1]),
        ("in_cidr", "10.0.0.0/8", ["x"], [1]),
    ],
)
def test_comparisons_of_unlike_types_are_counted(op: str, value: Any, alike: list[Any], unlike: list[Any]) -> None:
    counted: list[None] = []
    matches = compile_conditions([condition(".any", op, value)], Outer, lambda: counted.append(None))
    assert not any(matches(Outer(any=one)) for one in [*alike, None, UNSET])
    assert counted == []
    assert not any(matches(Outer(any=one)) for one in unlike)
    assert len(counted) == len(unlike)


def test_all_routes_that_match_are_taken() -> None:
    routes = {"big": [condition(".count", "greater", 5)], "odd": [condition(".count", "in", [1, 7, 9])]}
    records = [Outer(count=6), Outer(count=7), Outer(count=1), Outer(count=2), Outer()]
    assert compile_routes(routes, Outer, "all")(records) == ["big", "big+odd", "odd", "unmatched", "unmatched"]


def test_paths_through_what_is_not_there() -> None:
    for record in (Outer(), Outer(inner=None), Outer(inner=Inner()), Outer(inner=Inner(name=None))):
        assert not holds(record, ".inner.name", "equal", "a")
    assert holds(Outer(inner=Inner(name="a")), ".inner.name", "equal", "a")
    any_: Any = {"a": {"b": 1}}
    assert holds(Outer(any=any_), ".any.a.b", "equal", 1)
    others: list[Any] = [{"a": 1}, {"a": {}}, [], "a", None, UNSET]
    for other in others:
        assert not holds(Outer(any=other), ".any.a.b", "equal", 1)


def test_paths_to_odd_keys_and_into_lists() -> None:
    odd: Any = {"odd key": [{"x": 1}, 'a"b'], "": 2}
    record = Outer(any=odd, places=[5, "Berlin"])
    assert holds(record, '.any["odd key"][0].x', "equal", 1)
    assert holds(record, '.any["odd key"][1]', "equal", 'a"b')
    assert holds(record, '.any[""]', "equal", 2)
    assert holds(record, '["places"][1]', "equal", "Berlin")
    assert not holds(record, ".places[2]", "exists")
    assert not holds(record, ".any[0]", "exists")
    assert not holds(Outer(), ".places[0]", "exists")
    assert resolve('["any"]["a b"][3].c', Outer).path == '.any["a b"][3].c'
    for wrong in (".places.x", ".inner[0]", ".text[0]", ".places[0][1]["):
        with pytest.raises(InvalidPath):
            resolve(wrong, Outer)


@given(st.lists(st.one_of(st.text(max_size=5), st.integers(0, 99)), min_size=1, max_size=4))
def test_a_path_is_read_as_it_is_written(parts: list[str | int]) -> None:
    written = text(("any", *parts))
    assert parse(written) == ("any", *parts)


def test_nesting() -> None:
    conditions = [
        Condition.model_validate(
            {
                "any": [
                    {"field": ".text", "op": "equal", "value": "a"},
                    {
                        "all": [
                            {"field": ".count", "op": "greater", "value": 1},
                            {"not": {"field": ".flag", "op": "exists"}},
                        ]
                    },
                ]
            }
        ),
        Condition.model_validate({"not": {"field": ".inner.price", "op": "less", "value": 0}}),
    ]
    matches = compile_conditions(conditions, Outer)
    assert matches(Outer(text="a"))
    assert matches(Outer(count=2))
    assert not matches(Outer(count=2, flag=False))
    assert not matches(Outer(text="a", inner=Inner(price=-1.0)))
    assert matches(Outer(text="a", inner=Inner(price=None)))
    assert compile_conditions([], Outer)(Outer())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=5,
)
SCALAR = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
WITHOUT_VALUE = ["exists", "is_null", "is_number", "is_string", "is_boolean"]
ORDERED = ["greater", "greater_or_equal", "less", "less_or_equal"]


@st.composite
def leaves(draw: Any) -> Condition:
    field = draw(st.sampled_from([".any", ".any.a", ".any.a.b"]))
    op = draw(
        st.sampled_from(
            ["equal", "not_equal", "contains", "in", "starts_with", "matches", "in_cidr", *ORDERED, *WITHOUT_VALUE]
        )
    )
    if op in WITHOUT_VALUE:
        return condition(field, op)
    if op == "in":
        return condition(field, op, draw(st.lists(SCALAR, min_size=1, max_size=4)))
    if op in ("starts_with", "matches", "in_cidr"):
        return condition(field, op, "10.0.0.0/8" if op == "in_cidr" else draw(st.sampled_from(["a", "^1", " "])))
    if op == "contains":
        return condition(field, op, draw(SCALAR.filter(lambda value: value != "")))
    return condition(field, op, draw(SCALAR if op in ("equal", "not_equal") else st.integers() | st.text(max_size=5)))


@settings(max_examples=300)
@given(st.lists(leaves(), max_size=5), JSON, JSON)
def test_conditions_never_raise(conditions: list[Condition], one: Any, other: Any) -> None:
    matches = compile_conditions(conditions, Outer)
    for value in (one, {"a": other}, {"a": {"b": one}}, UNSET):
        assert matches(Outer(any=value)) in (True, False)


def test_routes_take_the_first_match() -> None:
    routes = {
        "big": [condition(".count", "greater", 10)],
        "small": [condition(".count", "greater", 1)],
        "named": [condition(".inner.name", "exists")],
    }
    records = [Outer(count=11), Outer(count=5), Outer(count=0), Outer(count=0, inner=Inner(name="x")), Outer()]
    assert compile_routes(routes, Outer)(records) == ["big", "small", "unmatched", "named", "unmatched"]


def test_constants_are_data_and_not_source() -> None:
    for evil in ('") or __import__("os").abort() or ("', "'''\n raise SystemExit", "\\", "{v}", "{c}"):
        for op in ("equal", "contains", "starts_with"):
            assert holds(Outer(text=evil), ".text", op, evil)
            assert not holds(Outer(text="x"), ".text", op, evil)
    for path in (
        ".text or 1",
        ".any['x']",
        '.any["x]',
        '.any["x"]]',
        ".any[-1]",
        ".any[01]",
        "[0]",
        ".any.a b",
        ".any..a",
        "any",
        "",
        ".any.a'b",
        ".any.\u0430",
    ):
        with pytest.raises(InvalidPath):
            parse(path)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"field": ".text", "op": "equals", "value": 1}, "equal"),
        ({"field": ".text", "op": "equal"}, "needs a value"),
        ({"field": ".text", "op": "equal", "value": None}, "use is_null"),
        ({"field": ".text", "op": "exists", "value": True}, "takes no value"),
        ({"field": ".text", "op": "equal", "value": ["a"]}, "use in"),
        ({"field": ".text", "op": "in", "value": "a"}, "needs a list"),
        ({"field": ".text", "op": "in", "value": []}, "empty"),
        ({"field": ".text", "op": "greater", "value": True}, "use equal"),
        ({"field": ".text", "op": "starts_with", "value": 1}, "quotes"),
        ({"field": ".text", "op": "equal", "value": float("nan")}, "no value to compare"),
        ({"field": ".text", "op": "equal", "value": {"a": 1}}, "no value to compare"),
        ({"field": ".text", "op": "in_cidr", "value": "10.0.0.1/8"}, "no network"),
        ({"field": ".text", "op": "matches", "value": "("}, "no regular expression"),
        ({"field": ".text", "op": "matches", "value": ".{1000}"}, "too large"),
        ({"field": ".text"}, "op missing"),
        ({}, "must be either"),
        ({"any": []}, "at least 1"),
        ({"any": [{"field": ".a", "op": "exists"}], "field": ".b", "op": "exists"}, "must be either"),
        ({"field": ".text", "op": "equal", "value": 1, "valeu": 1}, "valeu"),
    ],
)
def test_wrong_forms_are_refused_with_a_remedy(raw: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Condition.model_validate(raw)


def test_what_does_not_fit_the_schema_is_all_named() -> None:
    event = record_type(load("event"))
    raw = [
        {"field": ".transaction.cc.cc_expiration", "op": "exists"},
        {
            "any": [
                {"field": ".cc_zip", "op": "exists"},
                {"not": {"field": ".transaction.result", "op": "equal", "value": "success"}},
            ]
        },
        {"field": ".transaction.total_price", "op": "greater", "value": "0"},
        {"field": ".transaction", "op": "equal", "value": "x"},
        {"field": ".id", "op": "contains", "value": "1"},
        {"field": ".description.length", "op": "exists"},
        {"field": ".detail.pdp_context.rat_type", "op": "equal", "value": 6},
    ]
    conditions = [Condition.model_validate(one) for one in raw]
    problems = check(conditions, event)
    assert [problem.where for problem in problems] == [
        (0, "field"),
        (1, "any", 0, "field"),
        (1, "any", 1, "not", "value"),
        (2, "value"),
        (3, "value"),
        (4, "value"),
        (5, "field"),
    ]
    said = " | ".join(problem.reason for problem in problems)
    for part in (
        "did you mean .transaction.cc.cc_exp?",
        "did you mean .transaction.cc.cc_zip?",
        "write true or false",
        "write a number",
    ):
        assert part in said
    with pytest.raises(InvalidConditions) as caught:
        compile_conditions(conditions, event)
    assert caught.value.problems == problems


def test_deep_nesting_is_refused_not_a_crash() -> None:
    raw: Any = {"field": ".text", "op": "exists"}
    for _ in range(40):
        raw = {"not": raw}
    with pytest.raises(InvalidConditions, match="nested more than 20"):
        compile_conditions([Condition.model_validate(raw)], Outer)


def test_kinds_of_the_real_schemas() -> None:
    event, usage = record_type(load("event")), record_type(load("usage"))
    kinds = {
        ".id": "integer",
        ".timestamp": "string",
        ".alert": "boolean",
        ".event_severity.description": "string",
        ".device.location": "array",
        ".transaction": "record",
        ".transaction.total_price": "double",
        ".detail": "open",
        ".detail.country.mcc": "open",
        ".endpoint.tags": "open",
    }
    assert {path: resolve(path, event).kind for path in kinds} == kinds
    assert resolve(".cost", usage).kind == resolve(".volume.total", usage).kind == "decimal"


def test_conditions_on_decoded_records() -> None:
    codec = Codec(load("usage"))
    record = codec.decode(b'{"volume":{"total":0.219933},"cost":0.0018851200,"imsi":"295050901064821"}')
    for field, op, value in (
        (".volume.total", "equal", 0.219933),
        (".cost", "less", 0.01),
        (".imsi", "starts_with", "29505"),
    ):
        assert compile_conditions([condition(field, op, value)], codec.type)(record)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(", r"missing \)"),
        (r"(a)\1", "invalid escape"),
        ("(?=a)", "invalid perl operator"),
        ("\ud800", "surrogates"),
        ("a{1001}", "repetition"),
        ("(a{1,1000}){1,6}", "repetition"),
        (".{0,1000}x", "too large"),
    ],
)
def test_patterns_that_are_refused(pattern: str, said: str) -> None:
    with pytest.raises(InvalidPattern, match=said):
        matcher(pattern)


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(a?){40}b", "a*a*a*a*a*b", "(?:a*)*b", ".*.*.*.*x"])
def test_no_pattern_takes_long_for_a_long_text(pattern: str) -> None:
    started = time.process_time()
    assert not matcher(pattern)("a" * 1_000_000)
    assert time.process_time() - started < 5


def test_a_long_text_is_searched_to_its_end() -> None:
    assert matcher("a.*b$")("x" * 1_000_000 + "a\u00e9" + "b" * 256)


@given(st.text(alphabet="ab\u00e9\u20ac\U0001f600\0 X", max_size=20))
def test_a_pattern_finds_what_python_finds(text: str) -> None:
    for pattern in ("^a+", "b.X", "[ab]{2,3}\u20ac", "a|\u00e9X", "\0", "\U0001f600$"):
        assert matcher(pattern)(text) == bool(re.search(pattern, text))
        assert matcher(pattern, ignore_case=True)(text) == bool(re.search(pattern, text, re.IGNORECASE))


@pytest.mark.parametrize(("op", "found"), [("equal", False), ("not_equal", True), ("less", True), ("greater", False)])
def test_a_number_beyond_any_double_is_compared_like_others(op: str, found: bool) -> None:
    record = Outer(count=1, cost=Decimal("1.5"), any=1.5, places=[1, 1.5])
    for field in (".count", ".cost", ".any"):
        assert holds(record, field, op, 10**400) is found
    assert not holds(record, ".places", "contains", 10**400)
