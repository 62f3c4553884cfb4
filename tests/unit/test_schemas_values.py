"""Objects of open form are looked at many at a time: that must find what a look at each of them finds."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.values import LONG_MAX, LONG_MIN, MAX_DEPTH, open_fault, value_fault

NUMBERS = (
    st.integers(LONG_MIN - 2, LONG_MAX + 2)
    | st.sampled_from([2**53 - 1, 2**53, LONG_MIN - 1, LONG_MIN, LONG_MAX, LONG_MAX + 1, 2**64, 10**30])
    | st.sampled_from([Decimal("1.10"), Decimal("1e308"), Decimal("1e400"), Decimal("-1e400")])
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.text(max_size=5) | NUMBERS,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=3), below, max_size=4),
    max_leaves=12,
)
OBJECTS = st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=4), max_size=40)


def nested(levels: int) -> dict[str, Any]:
    """An object that lies `levels` deep, itself the first."""
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@given(OBJECTS, st.integers(1, MAX_DEPTH + 2))
def test_many_are_refused_exactly_when_one_of_them_is(objects: list[dict[str, Any]], depth: int) -> None:
    alone = [value_fault([one], depth) for one in objects]

    assert bool(open_fault(objects, depth)) == any(alone)
    assert open_fault(objects, depth) in ("", *alone)


@pytest.mark.parametrize("beside", [0, 1, 20])
def test_the_deepest_that_is_taken_is_taken_among_others(beside: int) -> None:
    others = [nested(3) for _ in range(beside)]

    assert open_fault([*others, nested(MAX_DEPTH - 1)], 1) == ""
    assert open_fault([*others, nested(MAX_DEPTH)], 1) == "too-deep"


@pytest.mark.parametrize("levels", [MAX_DEPTH, 200, 300, 900])
def test_what_is_too_deep_for_any_reader_is_refused_too(levels: int) -> None:
    assert open_fault([nested(levels)], 1) == "too-deep"


def test_brackets_in_text_do_no_harm() -> None:
    assert open_fault([{"text": "[{" * 200}], 1) == ""
