"""`sluice start --from`: what it takes for a place, and how it says what it did."""

from datetime import UTC, datetime

import pytest
from aiokafka import TopicPartition

from sluice.exits import Exit, UserError
from sluice.start import lines, parsed_place
from stream.commits import Committed


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("beginning", "beginning"),
        ("end", "end"),
        ("2026-11-22", datetime(2026, 11, 22, tzinfo=UTC)),
        ("2026-11-22T10:30:00Z", datetime(2026, 11, 22, 10, 30, tzinfo=UTC)),
        ("2026-11-22 10:30:00+01:00", datetime(2026, 11, 22, 9, 30, tzinfo=UTC)),
        ("2026-11-22T10:30:00.250Z", datetime(2026, 11, 22, 10, 30, 0, 250_000, tzinfo=UTC)),
    ],
)
def test_a_place_is_a_word_or_a_moment(text: str, place: object) -> None:
    assert parsed_place(text) == place


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("2026-11-22T10:30:00", "write 2026-11-22T10:30:00Z for UTC"),
        ("2026-11-22 10:30", "which zone"),
        ("yesterday", "2026-11-22T10:00:00Z"),
        ("2026-13-01", "2026-11-22T10:00:00Z"),
        ("", "2026-11-22T10:00:00Z"),
        ("1700000000", "2026-11-22T10:00:00Z"),
    ],
)
def test_what_could_mean_two_moments_or_none_is_refused_with_a_remedy(text: str, remedy: str) -> None:
    with pytest.raises(UserError, match=remedy) as refused:
        parsed_place(text)
    assert refused.value.code == Exit.USAGE


def test_partitions_with_the_same_change_stand_on_one_line() -> None:
    before = {TopicPartition("raw", p): Committed(7, "") for p in (0, 1, 2)}
    after = {TopicPartition("raw", p): Committed(3, "") for p in (0, 1, 2, 3, 4)}
    after[TopicPartition("other", 0)] = Committed(9, "")
    assert list(lines(before, after)) == ["other/0: none → 9", "raw/0-2: 7 → 3", "raw/3-4: none → 3"]
