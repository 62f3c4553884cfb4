"""A dead letter's headers say where it is from, why it is there and how often it was retried; and nothing of any record."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dead_letters import Origin, fed_again, letter_headers, mark, opened, retry_headers
from schemas.refused import REASONS, Refused
from stream.records import Headers

RAW = "raw.events"


class Raw(NamedTuple):
    offset: int
    headers: Headers = ()
    timestamp: int = 0
    key: bytes | None = None
    value: bytes | None = None


NO_JSON = Refused("not-json")


def letter(record: Raw, why: Refused = NO_JSON) -> list[tuple[str, bytes]]:
    return letter_headers(RAW, 3, record, why, "pipeline")


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("path", ["", ".transaction.cc.cc_number", '.detail["odd key"][0]'])
def test_what_a_router_writes_is_what_is_read(reason: str, path: str) -> None:
    found = opened(letter(Raw(17), Refused(reason, path)))  # type: ignore[arg-type]  # of the list
    assert found is not None
    assert (found.reason, found.path, found.stage) == (reason, path, "pipeline")
    assert (str(found.origin), found.first, found.retries, found.retried) == (f"{RAW}/3/17", found.origin, 0, "")


def test_each_time_a_record_is_fed_in_again_its_next_letter_tells_how_often() -> None:
    record, first = Raw(17, [("trace", b"1")]), Origin(RAW, 3, 17)
    for times in range(1, 12):
        envelope = opened(letter(record))
        assert envelope is not None
        assert (envelope.first, envelope.retries) == (first, times - 1)
        record = Raw(100 * times, fed_again(record.headers, envelope))
        assert record.headers == [
            ("trace", b"1"),
            ("sluice-retry", b"raw.events/3/17"),
            ("sluice-retries", b"%d" % times),
        ]


def test_a_mark_is_told_from_a_letter_and_has_its_id_and_reason() -> None:
    headers = letter(Raw(17), Refused("wrong-type", ".id"))
    found = opened(mark(headers, "2026-11-26T10:00:00+00:00"))
    assert found is not None
    assert (str(found.origin), found.reason, found.path) == (f"{RAW}/3/17", "wrong-type", ".id")
    assert found.retried == "2026-11-26T10:00:00+00:00"
    assert opened(mark(mark(headers, "x"), "y")) == opened(mark(headers, "y"))


PAN = b"4111111111111111"


@pytest.mark.parametrize(
    "headers",
    [
        [("sluice-retry", PAN), ("sluice-retries", b"1")],
        [("sluice-retry", b"raw.events/3/17"), ("sluice-retries", PAN)],
        [("sluice-retry", b"raw.events/3/" + PAN), ("sluice-retries", b"1")],
        [("sluice-retry", PAN + b"/3/17"), ("sluice-retries", b"1")],
        [("sluice-retry", b"raw.events/41111111/17"), ("sluice-retries", b"1")],
        [("sluice-retry", b"raw.events/3/17 " + PAN), ("sluice-retries", b"1")],
        [("sluice-retry", b"raw.events/3/17")],
        [("sluice-retries", b"1")],
        [("sluice-retry", None), ("sluice-retries", b"1")],
        [("sluice-retry", b"\xff/3/1"), ("sluice-retries", b"1")],
        [("sluice-retry", b"raw.events/3/17"), ("sluice-retries", b"0")],
        [("sluice-retry", b"raw.events/3/17\n"), ("sluice-retries", b"1\n")],
    ],
)
def test_what_a_producer_puts_into_our_headers_gets_into_no_letter(headers: Headers) -> None:
    assert retry_headers(headers, RAW, 3) == []
    assert letter(Raw(20, headers)) == letter(Raw(20))


@given(
    st.lists(st.tuples(st.sampled_from(["sluice-id", "sluice-reason", "sluice-retry", "x"]), st.none() | st.binary()))
)
def test_any_record_on_the_topic_is_a_letter_or_is_none(headers: list[tuple[str, bytes]]) -> None:
    assert opened(headers) is None


@pytest.mark.parametrize("message", ["not-json at \x1b[2J", "something else", "", "x" * 1000])
def test_a_message_that_is_not_of_ours_is_not_repeated(message: str) -> None:
    headers = [(name, value) for name, value in letter(Raw(1)) if name != "__connect.errors.exception.message"]
    found = opened([*headers, ("__connect.errors.exception.message", message.encode())])
    assert found is not None
    assert found.path == ""


@pytest.mark.parametrize(
    "text", ["", "raw/1", "raw/1/2/3", "raw/-1/2", "raw/1/x", "r w/1/2", "raw/1/2\n", "raw/1/1234567890123", "raw/١/2"]
)
def test_what_is_no_id_is_none(text: str) -> None:
    assert Origin.parsed(text) is None
    assert str(Origin.parsed("raw.events/0/0")) == "raw.events/0/0"
