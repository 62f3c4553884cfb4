"""Promise: looking at everything at once finds what looking at every place by itself would find, and says where it is."""

import random
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.card_search import _WINDOW, CardSearch, Found
from schemas.cards import is_card_number

VISA, AMEX, LONG = b"4111111111111111", b"378282246310005", b"4000000000000000006"
SEARCH = CardSearch()
SHAPES = [
    (4, 4, 4, 1), (4, 4, 4, 2), (4, 4, 4, 3), (4, 4, 4, 4), (4, 4, 4, 5), (4, 4, 4, 6), (4, 4, 4, 7),
    (4, 4, 4, 4, 1), (4, 4, 4, 4, 2), (4, 4, 4, 4, 3), (4, 6, 4), (4, 6, 5),
]  # fmt: skip


def every_place(text: bytes) -> set[tuple[int, bytes]]:
    """Where a number begins, and its digits, by plain patterns at every place. For texts without UUIDs and hashes."""
    patterns = [rb"[0-9]{13,19}"]
    patterns += [b"[ -]".join(rb"[0-9]{%d}" % size for size in shape) for shape in SHAPES]
    found = set()
    for pattern in patterns:
        for at in range(len(text)):
            match = re.compile(rb"(?<![0-9])" + pattern + rb"(?![0-9])").match(text, at)
            if match is None:
                continue
            digits = match[0].translate(None, b" -")
            fraction = len(digits) == len(match[0]) and re.search(rb"[0-9]\.\Z", text[:at])
            if is_card_number(digits) and not fraction:
                found.add((at, digits))
    return found


def search(texts: Sequence[bytes]) -> list[Found]:
    return list(SEARCH(texts))


pieces = st.sampled_from(
    [VISA, AMEX, LONG, b"4222222222222", b"4111 1111 1111 1111", b"3782-822463-10005", b"4111-1111", b" 1111"]
)
texts = st.lists(st.one_of(pieces, st.text(alphabet="0123456789 -.x\n", max_size=8).map(str.encode)), max_size=8).map(
    b"".join
)


@given(st.lists(texts, max_size=6))
def test_what_every_place_by_itself_shows_is_found(given_texts: list[bytes]) -> None:
    expected = {(number, at, digits) for number, text in enumerate(given_texts) for at, digits in every_place(text)}
    assert set(search(given_texts)) == expected


@given(st.lists(texts, max_size=4), st.lists(texts.filter(lambda text: b"\n" not in text), max_size=4))
def test_lines_are_looked_at_as_texts_are(beside: list[bytes], lines: list[bytes]) -> None:
    assert list(SEARCH(beside, b"".join(line + b"\n" for line in lines))) == search([*beside, *lines])


@pytest.mark.parametrize(
    "number", [VISA, AMEX, LONG, b"4111 1111 1111 1111", b"3782-822463-10005", b"4000-0000-0000-0000-006"]
)
def test_a_number_is_found_wherever_a_window_ends(number: bytes) -> None:
    digits = number.translate(None, b" -")
    for end in (_WINDOW, 2 * _WINDOW):
        for at in range(end - 60, end + 20):
            assert search([b"x" * at + number + b"x" * 100]) == [(0, at, digits)]
            assert search([b"x" * at, number, b"y"]) == [(1, 0, digits)]
            assert search([b"x" * at + number]) == [(0, at, digits)]


def test_a_number_that_goes_on_over_the_end_of_a_window_is_none() -> None:
    for at in range(_WINDOW - 60, _WINDOW + 20):
        assert search([b"x" * at + b"9" + VISA]) == []
        assert search([b"x" * at + b"9" * 40 + VISA]) == []


def test_many_texts_with_many_numbers_are_told_apart() -> None:
    chance = random.Random(5)
    given_texts = [b"x" * chance.randrange(400) + (VISA if chance.random() < 0.1 else b"") for _ in range(3000)]
    expected = [(number, len(text) - 16) for number, text in enumerate(given_texts) if text.endswith(VISA)]
    assert [(one.text, one.at) for one in search(given_texts)] == expected
    assert len(expected) > 200


def test_groups_that_may_be_read_as_two_numbers_give_both() -> None:
    found = [one.digits for one in search([b"6440-5512-1289-3249-9"])]
    assert found == [b"6440551212893249", b"64405512128932499"]


def test_of_data_in_hex_what_is_near_is_looked_at_however_long_it_is() -> None:
    assert search([b"4111111111111111a" * 20_000]) == []
    assert len(search([b"4111111111111111a" * 3 + b"x"])) == 3


def test_nothing_holds_nothing() -> None:
    assert search([]) == search([b""]) == search([b"", b"\n", b"4111"]) == []
